//! The kernels' PTX, embedded. `models/kernels/compile.py` makes it from the sources beside it; a test compares the two.

use std::path::Path;

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

use crate::device::DeviceError;

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
        kernels: &["nearest_lengths", "nearest_keys", "nearest_top"],
    },
    Ptx {
        name: "network",
        text: include_str!("../../kernels/ptx/network.ptx"),
        kernels: &["network_dense", "network_scale", "network_activation"],
    },
    Ptx {
        name: "series",
        text: include_str!("../../kernels/ptx/series.ptx"),
        kernels: &["series_robust_z", "series_weighted_mean", "series_holt_winters"],
    },
    Ptx { name: "validity", text: include_str!("../../kernels/ptx/validity.ptx"), kernels: &["validity_expand"] },
];

/// Compiles a source of `folder` by NVRTC, as `compile.py` does: for the development of kernels. Errors: there is no NVRTC, or
/// the source does not compile; the text is its log.
pub fn compile(folder: &Path, name: &str) -> Result<String, DeviceError> {
    // SAFETY: it looks for the library, whose initializers are NVRTC's own.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(DeviceError::Absent("NVRTC is not installed".to_owned()));
    }
    let file = folder.join(name).with_extension("cu");
    let absent = |what: String| DeviceError::Absent(format!("{}: {what}", file.display()));
    let source = std::fs::read_to_string(&file).map_err(|error| absent(error.to_string()))?;
    let options = CompileOptions {
        ftz: Some(false),
        prec_sqrt: Some(true),
        prec_div: Some(true),
        fmad: Some(false),
        options: vec!["--std=c++17".to_owned(), "--restrict".to_owned()],
        include_paths: vec![folder.display().to_string()],
        arch: Some("compute_80"),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options).map(|ptx| ptx.to_src()).map_err(|error| match error {
        CompileError::CompileError { log, .. } => absent(log.to_string_lossy().into_owned()),
        error => absent(format!("{error:?}")),
    })
}
