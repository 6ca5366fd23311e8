//! A model in a device's memory, and what a slot's memory is for while it scores a chunk of rows:
//!
//! ```text
//! starts | validity words | columns | margins of a forest, or two widths of a network by turns
//! ```
//!
//! Every part but the first two has a column after the other, `stride` values apart.

use std::ffi::c_void;

use super::abi::{FOREST_THREADS, THREADS, ValidityArgs};
use super::driver::{Driver, Launch};
use super::forest::{ForestImage, GROVE_BYTES, Rows};
use super::image::Image;
use super::network::NetworkImage;
use crate::device::DeviceError;
use crate::model::{Kind, Model};

/// How a model is run.
#[derive(Debug, Clone, PartialEq)]
pub enum Program {
    Forest(ForestImage),
    Network(NetworkImage),
}

/// Where the parts of a slot's memory are, in bytes from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arena {
    /// Rows of the chunk.
    pub rows: usize,
    /// Values from a column to the next.
    pub stride: usize,
    /// Words of a column's validity.
    pub words_stride: usize,
    pub words: usize,
    pub columns: usize,
    /// Two; a forest has its margins in the first.
    results: [usize; 2],
    pub bytes: usize,
}

/// Groves of a launch: one lasts no longer than some milliseconds, so that others have their turn.
const GROVES_MAX: u32 = 256;
/// Of each part, and of a column: a GPU's cache line.
const ALIGNMENT: usize = 128;

impl Program {
    /// Lays the model out. Errors: the kernels cannot run it as the reference does.
    pub fn new(model: &Model) -> Result<Self, DeviceError> {
        Ok(match &model.kind {
            Kind::Forest(forest) => Self::Forest(ForestImage::new(forest)?),
            Kind::Network(network) => Self::Network(NetworkImage::new(network)),
        })
    }

    /// Takes the image: it is needed on the device alone.
    pub fn take_image(&mut self) -> Image {
        std::mem::take(match self {
            Self::Forest(forest) => &mut forest.image,
            Self::Network(network) => &mut network.image,
        })
    }

    pub fn features(&self) -> usize {
        match self {
            Self::Forest(forest) => forest.features,
            Self::Network(network) => network.inputs,
        }
    }

    pub fn outputs(&self) -> usize {
        match self {
            Self::Forest(forest) => forest.outputs,
            Self::Network(network) => network.outputs,
        }
    }

    /// Bytes of a margin.
    pub fn margin_bytes(&self) -> usize {
        match self {
            Self::Forest(forest) => forest.margin_bytes(),
            Self::Network(_) => 4,
        }
    }

    /// The memory of a chunk of so many rows.
    pub fn arena(&self, rows: usize) -> Arena {
        let stride = rows.next_multiple_of(ALIGNMENT / 4);
        let words_stride = (rows + 7).div_ceil(32) + 1;
        let mut bytes = 0;
        let mut part = |size: usize| {
            let at = bytes;
            bytes = (bytes + size).next_multiple_of(ALIGNMENT);
            at
        };
        let features = self.features();
        let [first, second] = match self {
            Self::Forest(forest) => [forest.outputs * stride * forest.margin_bytes(), 0],
            Self::Network(network) => [network.width_max * stride * 4; 2],
        };
        part(features * 4);
        let (words, columns) = (part(features * words_stride * 4), part(features * stride * 4));
        let results = [part(first), part(second)];
        Arena { rows, stride, words_stride, words, columns, results, bytes }
    }

    /// The most rows of a chunk that fit so many bytes.
    pub fn rows_max(&self, bytes: usize) -> usize {
        let (mut low, mut high) = (0, bytes / 4 + 1);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if self.arena(middle).bytes <= bytes {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Where a chunk's margins are when it is done, output by output.
    pub fn margins(&self, arena: &Arena) -> usize {
        match self {
            Self::Forest(_) => arena.results[0],
            Self::Network(network) => arena.results[(network.steps.len() - 1) % 2],
        }
    }

    /// Starts the kernels for a chunk.
    ///
    /// # Safety
    /// The image is at `image` and stays, the chunk's columns are in the slot's memory at `slot` or on their way there by this
    /// stream, and so are its validity words if `has_nulls`.
    pub unsafe fn launch(
        &self,
        driver: &mut dyn Driver,
        stream: usize,
        (image, slot): (u64, u64),
        arena: &Arena,
        has_nulls: bool,
    ) -> Result<(), DeviceError> {
        let at = |part: usize| slot + part as u64;
        let blocks = arena.rows.div_ceil(THREADS as usize) as u32;
        if has_nulls {
            let args = ValidityArgs {
                columns: at(arena.columns),
                words: at(arena.words),
                starts: slot,
                stride: arena.stride as u64,
                rows: arena.rows as u32,
                columns_count: self.features() as u32,
            };
            let launch = plain("validity_expand", (blocks, grid_y(self.features())));
            // SAFETY: the parts of the arena have room for these columns, words and starts.
            unsafe { driver.launch(stream, &launch, (&raw const args).cast::<c_void>())? };
        }
        match self {
            Self::Forest(forest) => {
                let rows = Rows {
                    columns: at(arena.columns),
                    margins: at(arena.results[0]),
                    stride: arena.stride,
                    count: arena.rows,
                };
                let grid = (arena.rows.div_ceil(FOREST_THREADS as usize) as u32).min(driver.blocks().max(1));
                let launch = Launch {
                    kernel: forest.kernel(),
                    grid: (grid, 1),
                    threads: FOREST_THREADS,
                    shared: GROVE_BYTES as u32,
                };
                for first in (0..forest.groves).step_by(GROVES_MAX as usize) {
                    let args = forest.args(image, rows, first..forest.groves.min(first + GROVES_MAX));
                    // SAFETY: the image is one of this forest, and the arena has its columns and margins.
                    unsafe { driver.launch(stream, &launch, (&raw const args).cast::<c_void>())? };
                }
            }
            Self::Network(network) => {
                let mut x = at(arena.columns);
                for (number, step) in network.steps.iter().enumerate() {
                    let y = at(arena.results[number % 2]);
                    let args = step.args(image, x, y, arena.stride, arena.rows);
                    let launch = plain(step.kernel(), (blocks, grid_y(step.blocks())));
                    // SAFETY: as above; results have room for the widest step, and no step writes what it reads.
                    unsafe { driver.launch(stream, &launch, (&raw const args).cast::<c_void>())? };
                    x = y;
                }
            }
        }
        Ok(())
    }
}

/// Blocks of a grid in y for so many columns: a grid has no more than these, and the kernels go round.
fn grid_y(columns: usize) -> u32 {
    columns.min(65_535) as u32
}

fn plain(kernel: &'static str, grid: (u32, u32)) -> Launch {
    Launch { kernel, grid, threads: THREADS, shared: 0 }
}
