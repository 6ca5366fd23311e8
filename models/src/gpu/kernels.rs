//! The kernels' PTX, embedded. `models/kernels/compile.py` makes it from the sources beside it; a test compares the two.

/// The kernels of a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ptx {
    /// The source's name, without `.cu`.
    pub name: &'static str,
    pub text: &'static str,
    /// What it exports.
    pub kernels: &'static [&'static str],
}

/// All of it.
pub const ALL: [Ptx; 5] = [
    Ptx {
        name: "forest",
        text: include_str!("../../kernels/ptx/forest.ptx"),
        kernels: &["forest_compact_f32", "forest_compact_f64", "forest_general_f32", "forest_general_f64"],
    },
    Ptx {
        name: "nearest",
        text: include_str!("../../kernels/ptx/nearest.ptx"),
        kernels: &["nearest_norms", "nearest_keys", "nearest_top"],
    },
    Ptx {
        name: "network",
        text: include_str!("../../kernels/ptx/network.ptx"),
        kernels: &["network_dense", "network_activation"],
    },
    Ptx {
        name: "series",
        text: include_str!("../../kernels/ptx/series.ptx"),
        kernels: &["series_robust_z", "series_weighted_mean", "series_holt_winters"],
    },
    Ptx { name: "validity", text: include_str!("../../kernels/ptx/validity.ptx"), kernels: &["validity_expand"] },
];
