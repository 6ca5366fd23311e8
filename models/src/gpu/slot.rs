//! A third of what is under way on a device: memory of the device and of the host for one chunk of rows, and a stream. While
//! one slot's chunk is uploaded, another's is computed and a third's comes back.

use std::rc::Rc;
use std::time::Duration;

use arrow::array::{Array as _, Float32Array};

use super::abi::NO_BITMAP;
use super::accounts::{Accounts, Allocation};
use super::desk::Held;
use super::driver::Driver;
use super::pinned::{Block, Pool};
use super::program::{Arena, Program};
use crate::device::DeviceError;

/// A model in the device's memory.
#[derive(Debug)]
pub struct Loaded {
    pub program: Program,
    pub image: Held,
}

/// The slot of a stream.
pub struct Slot {
    stream: usize,
    memory: Allocation,
    /// As large as `memory`, and laid out alike.
    staging: Block,
    flight: Option<Flight>,
}

/// A chunk of a batch, under way. What is being copied or read is kept here until the device is done.
pub struct Flight {
    pub job: u64,
    pub first_row: usize,
    pub started: Duration,
    arena: Arena,
    loaded: Rc<Loaded>,
    /// Never looked at: the device may be copying from it.
    _columns: Rc<[Float32Array]>,
}

/// Bytes of a column from which on it is copied by itself, where it is: a copy's call has its price.
const DIRECT_MIN: usize = 16 << 10;

impl Slot {
    pub fn new(
        stream: usize,
        driver: &mut dyn Driver,
        accounts: &Accounts,
        pool: &std::sync::Arc<Pool>,
        bytes: usize,
    ) -> Result<Self, DeviceError> {
        let memory = accounts.allocate(driver, bytes)?;
        Ok(Self { stream, memory, staging: pool.take(bytes), flight: None })
    }

    pub fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// Starts a chunk: `rows` rows of the columns from `flight.first_row` on. The slot is busy, also after an error.
    pub fn start(
        &mut self,
        driver: &mut dyn Driver,
        pool: &Pool,
        (loaded, columns): (&Rc<Loaded>, &Rc<[Float32Array]>),
        (job, first_row, rows): (u64, usize, usize),
        now: Duration,
    ) -> Result<(), DeviceError> {
        debug_assert!(self.flight.is_none(), "the slot is free");
        let arena = loaded.program.arena(rows);
        debug_assert!(arena.bytes <= self.memory.bytes, "the chunk fits");
        self.flight = Some(Flight {
            job,
            first_row,
            started: now,
            arena,
            loaded: Rc::clone(loaded),
            _columns: Rc::clone(columns),
        });
        let started = self.upload(driver, pool, columns, first_row, &arena).and_then(|has_nulls| {
            let places = (loaded.image.address(), self.memory.address);
            let program = &loaded.program;
            // SAFETY: the model is loaded and kept by the flight; what it reads was uploaded by this stream before.
            unsafe { program.launch(driver, self.stream, places, &arena, has_nulls) }?;
            let margins = program.margins(&arena);
            let bytes = program.outputs() * arena.stride * program.margin_bytes();
            let to = &mut self.staging.bytes_mut()[margins..margins + bytes];
            // SAFETY: nobody looks at the staging memory until the stream is done, and the margins are as long.
            unsafe { driver.download(self.stream, to, self.memory.address + margins as u64) }
        });
        // Also of what was begun before an error: the device may be at it.
        started.and(driver.end(self.stream))
    }

    /// Starts the copies of a chunk. Returns whether there are nulls.
    fn upload(
        &mut self,
        driver: &mut dyn Driver,
        pool: &Pool,
        columns: &[Float32Array],
        first_row: usize,
        arena: &Arena,
    ) -> Result<bool, DeviceError> {
        let has_nulls = columns.iter().any(|column| column.null_count() > 0);
        if has_nulls {
            stage_validity(columns, first_row, arena, self.staging.bytes_mut());
            self.upload_staged(driver, 0..arena.columns)?;
        }
        let mut staged = arena.columns..arena.columns;
        for (number, column) in columns.iter().enumerate() {
            let values = &column.values()[first_row..][..arena.rows];
            let bytes = bytes_of(values);
            let at = arena.columns + number * arena.stride * 4;
            if bytes.len() >= DIRECT_MIN && pool.is_pinned(bytes) {
                self.upload_staged(driver, staged)?;
                // SAFETY: the flight keeps the array, which nobody writes to; the arena has room for the column.
                unsafe { driver.upload(self.stream, self.memory.address + at as u64, bytes)? };
                staged = at + arena.stride * 4..at + arena.stride * 4;
            } else {
                self.staging.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
                staged.end = at + bytes.len();
            }
        }
        self.upload_staged(driver, staged)?;
        Ok(has_nulls)
    }

    fn upload_staged(&self, driver: &mut dyn Driver, part: std::ops::Range<usize>) -> Result<(), DeviceError> {
        if part.is_empty() {
            return Ok(());
        }
        let to = self.memory.address + part.start as u64;
        // SAFETY: this part of the staging memory is not written to until the slot is free; the arena is as large.
        unsafe { driver.upload(self.stream, to, &self.staging.bytes()[part]) }
    }

    /// Takes what is done: its margins go to `margins`, the whole batch's, row by row. Returns how many rows it had.
    ///
    /// # Safety
    /// The stream is done.
    pub unsafe fn finish(&mut self, margins: Option<&mut [f64]>) -> usize {
        let Some(flight) = self.flight.take() else { return 0 };
        let (arena, program) = (flight.arena, &flight.loaded.program);
        if let Some(margins) = margins {
            let outputs = program.outputs();
            let from = &self.staging.bytes()[program.margins(&arena)..];
            let rows = &mut margins[flight.first_row * outputs..][..arena.rows * outputs];
            let is_double = program.margin_bytes() == 8;
            for (row, row_margins) in rows.chunks_exact_mut(outputs).enumerate() {
                for (output, margin) in row_margins.iter_mut().enumerate() {
                    *margin = margin_at(from, output * arena.stride + row, is_double);
                }
            }
        }
        arena.rows
    }

    /// Gives its memory of the device up.
    pub fn into_memory(self) -> Allocation {
        debug_assert!(self.flight.is_none(), "the device is done with it");
        self.memory
    }
}

fn margin_at(bytes: &[u8], number: usize, is_double: bool) -> f64 {
    if is_double {
        let bytes = bytes[number * 8..][..8].try_into().expect("8 bytes");
        f64::from_ne_bytes(bytes)
    } else {
        let bytes = bytes[number * 4..][..4].try_into().expect("4 bytes");
        f64::from(f32::from_ne_bytes(bytes))
    }
}

/// Where each column's bits start, and the bits: whole bytes of arrow's bitmaps, so that a start is within a byte.
fn stage_validity(columns: &[Float32Array], first_row: usize, arena: &Arena, staging: &mut [u8]) {
    for (number, column) in columns.iter().enumerate() {
        let start = match column.nulls().filter(|nulls| nulls.null_count() > 0) {
            None => NO_BITMAP,
            Some(nulls) => {
                let first_bit = nulls.offset() + first_row;
                let bytes = &nulls.validity()[first_bit / 8..(first_bit + arena.rows).div_ceil(8)];
                let word = number * arena.words_stride;
                let at = arena.words + word * 4;
                staging[at..at + bytes.len()].copy_from_slice(bytes);
                (word * 32 + first_bit % 8) as u32
            }
        };
        staging[number * 4..][..4].copy_from_slice(&start.to_ne_bytes());
    }
}

fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: f32 has no padding, and u8 any alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
