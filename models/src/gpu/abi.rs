//! What the kernels are called with: the structures of `models/kernels/*.cuh`, field by field. Pointers are the device's
//! addresses; a test calls the same code on the host with its own.

/// Threads of a block of the forest's kernels, as their launch bounds say.
pub const FOREST_THREADS: u32 = 256;
/// Threads of a block of every other kernel but `nearest_top`.
pub const THREADS: u32 = 128;
/// Threads of a block of `nearest_top`.
pub const TOP_THREADS: u32 = 512;
/// `NO_BITMAP`: a column without nulls.
pub const NO_BITMAP: u32 = u32::MAX;
/// `SORT_KEYS`: keys that one block of `nearest_top` sorts.
pub const SORT_KEYS: usize = 4096;
/// `NEAREST_QUERIES`: queries of a thread.
pub const NEAREST_QUERIES: usize = 8;
/// `DENSE_OUTPUTS`: outputs of a thread.
pub const DENSE_OUTPUTS: usize = 8;
/// `WINDOW_MAX`: values that a series' window may have.
pub const WINDOW_MAX: usize = 4096;

pub const FOREST_STARTS: u32 = 1;
pub const FOREST_ENDS: u32 = 2;
pub const FOREST_BASE_LAST: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct ForestArgs {
    pub columns: u64,
    pub margins: u64,
    pub nodes: u64,
    pub trees: u64,
    pub groves: u64,
    pub leaves: u64,
    pub sets: u64,
    pub base: u64,
    pub stride: u64,
    pub divisor: f64,
    pub rows: u32,
    pub grove_first: u32,
    pub grove_count: u32,
    pub outputs: u32,
    pub missing: u32,
    pub flags: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct DenseArgs {
    pub x: u64,
    pub y: u64,
    pub weights: u64,
    pub bias: u64,
    pub stride: u64,
    pub rows: u32,
    pub inputs: u32,
    pub outputs: u32,
    pub activation: u32,
    pub alpha: f32,
    pub unused: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct ValidityArgs {
    pub columns: u64,
    pub words: u64,
    pub starts: u64,
    pub stride: u64,
    pub rows: u32,
    pub columns_count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct LengthsArgs {
    pub matrix: u64,
    pub lengths: u64,
    pub rows: u32,
    pub width: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct NearestArgs {
    pub matrix: u64,
    pub queries: u64,
    pub lengths: u64,
    pub keys: u64,
    pub rows: u32,
    pub width: u32,
    pub queries_count: u32,
    pub row_first: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct TopArgs {
    pub keys: u64,
    pub least: u64,
    pub count: u64,
    pub runs: u32,
    pub k: u32,
    pub queries_count: u32,
    pub unused: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct SeriesArgs {
    pub values: u64,
    pub starts: u64,
    pub slots: u64,
    pub scores: u64,
    pub state: u64,
    pub counts: u64,
    pub series: u32,
    pub window: u32,
    pub warm_up: u32,
    pub unused: u32,
    pub alpha: f64,
    pub beta: f64,
    pub gamma: f64,
    pub deviation_min: f64,
}
