//! Memory of the host from which a device copies without help of its CPU. Arrow arrays built in it are uploaded as they are.
//!
//! INVARIANT: blocks are allocated by this process and only registered with the driver, so that they stay valid if the device
//! is lost. Where registering fails a block is plain memory: copies from it are slower and otherwise the same.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::Float32Array;
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};

/// Registers memory with a driver.
pub trait Pin: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// Whether a device copies from it directly now.
    fn pin(&self, start: NonNull<u8>, bytes: usize) -> bool;

    /// Only what was pinned, and before it is freed.
    fn unpin(&self, start: NonNull<u8>);
}

/// Registers nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unpinned;

/// Blocks that are used again and again: registering is slow.
pub struct Pool {
    pin: Box<dyn Pin>,
    blocks: Mutex<Blocks>,
    /// Bytes that are kept for later, all together.
    kept_max: usize,
}

#[derive(Default)]
struct Blocks {
    /// Free ones, by their size.
    free: BTreeMap<usize, Vec<Memory>>,
    free_bytes: usize,
    /// All that are pinned, by their start: their size.
    pinned: BTreeMap<usize, usize>,
}

/// A block that is written. Its owner is the only one who has it.
pub struct Block {
    memory: Option<Memory>,
    pool: Arc<Pool>,
}

struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    is_pinned: bool,
}

// SAFETY: it is memory that its owner alone has, of no thread in particular.
unsafe impl Send for Memory {}
// SAFETY: a shared reference gives no way of changing it.
unsafe impl Sync for Memory {}

/// A page; arrow and the copies ask for less.
const ALIGNMENT: usize = 4096;

impl Pin for Unpinned {
    fn pin(&self, _: NonNull<u8>, _: usize) -> bool {
        false
    }

    fn unpin(&self, _: NonNull<u8>) {}
}

impl Pool {
    pub fn new(pin: Box<dyn Pin>, kept_max: usize) -> Arc<Self> {
        Arc::new(Self { pin, blocks: Mutex::default(), kept_max })
    }

    /// A block of at least so many bytes. What is in it is anything.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Block {
        let bytes = bytes.max(1).next_power_of_two().max(ALIGNMENT);
        let mut blocks = self.lock();
        let free = blocks.free.get_mut(&bytes).and_then(Vec::pop);
        let memory = if let Some(memory) = free {
            blocks.free_bytes -= bytes;
            memory
        } else {
            // Registering takes long: others need not wait for it.
            drop(blocks);
            self.allocate(bytes)
        };
        Block { memory: Some(memory), pool: Arc::clone(self) }
    }

    /// Whether all of it is pinned.
    pub fn is_pinned(&self, bytes: &[u8]) -> bool {
        let start = bytes.as_ptr() as usize;
        let blocks = self.lock();
        let block = blocks.pinned.range(..=start).next_back();
        block.is_some_and(|(of, size)| start + bytes.len() <= of + size)
    }

    fn allocate(&self, bytes: usize) -> Memory {
        let layout = layout(bytes);
        // SAFETY: the layout has a size above 0.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        let is_pinned = self.pin.pin(start, bytes);
        if is_pinned {
            self.lock().pinned.insert(start.as_ptr() as usize, bytes);
        }
        Memory { start, bytes, is_pinned }
    }

    fn give_back(&self, memory: Memory) {
        let mut blocks = self.lock();
        if blocks.free_bytes + memory.bytes <= self.kept_max {
            blocks.free_bytes += memory.bytes;
            blocks.free.entry(memory.bytes).or_default().push(memory);
            return;
        }
        drop(blocks);
        self.release(memory);
    }

    fn release(&self, memory: Memory) {
        if memory.is_pinned {
            self.lock().pinned.remove(&(memory.start.as_ptr() as usize));
            self.pin.unpin(memory.start);
        }
        // SAFETY: it was allocated by `allocate` with this layout, and its owner gave it up.
        unsafe { dealloc(memory.start.as_ptr(), layout(memory.bytes)) };
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let free = std::mem::take(&mut self.lock().free);
        free.into_values().flatten().for_each(|memory| self.release(memory));
    }
}

impl Block {
    pub fn bytes(&self) -> &[u8] {
        let memory = self.memory();
        // SAFETY: the block has as many bytes, all of which have been written to, and they change only by `bytes_mut`.
        unsafe { std::slice::from_raw_parts(memory.start.as_ptr(), memory.bytes) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let memory = self.memory();
        // SAFETY: as above, and the block is borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), memory.bytes) }
    }

    /// As f32.
    pub fn values_mut(&mut self) -> &mut [f32] {
        let memory = self.memory();
        // SAFETY: it is aligned to pages, any bits are an f32, and the block is borrowed.
        unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr().cast(), memory.bytes / 4) }
    }

    /// The first bytes as a buffer of arrow. The block goes back to the pool with the last of the buffer's clones and slices.
    pub fn into_buffer(self, bytes: usize) -> Buffer {
        let memory = self.memory();
        assert!(bytes <= memory.bytes, "{bytes} bytes of a block of {}", memory.bytes);
        let start = memory.start;
        // SAFETY: the block has as many bytes, and lives for as long as the buffer does, since that owns it.
        unsafe { Buffer::from_custom_allocation(start, bytes, Arc::new(self)) }
    }

    /// The first values as an array.
    pub fn into_array(self, rows: usize, nulls: Option<NullBuffer>) -> Float32Array {
        Float32Array::new(ScalarBuffer::new(self.into_buffer(rows * 4), 0, rows), nulls)
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("only dropping takes it")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT).expect("a power of two that there is memory for")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts what is pinned; refuses more than `max` blocks.
    struct Counted(Arc<AtomicUsize>, usize);

    impl Pin for Counted {
        fn pin(&self, _: NonNull<u8>, _: usize) -> bool {
            let is_more = self.0.load(Ordering::Relaxed) < self.1;
            self.0.fetch_add(usize::from(is_more), Ordering::Relaxed);
            is_more
        }

        fn unpin(&self, _: NonNull<u8>) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn arrays_lie_in_pinned_blocks_that_come_back() {
        let pinned = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(Box::new(Counted(Arc::clone(&pinned), 1)), 1 << 20);
        let mut block = pool.take(5000);
        block.values_mut()[..1000].fill(2.5);
        let start = block.bytes().as_ptr();
        let array = block.into_array(1000, None);
        assert_eq!(array.values().as_ptr().cast(), start, "nothing is copied");
        let part = array.slice(990, 10);
        drop(array);
        assert_eq!(part.value(9), 2.5);
        assert!(pool.is_pinned(part.values().inner().as_slice()));
        let other = pool.take(5000);
        assert!(!pool.is_pinned(other.bytes()), "no more could be pinned");
        drop(part);
        assert_eq!(pool.take(4097).bytes().as_ptr(), start, "the block is used again");
        drop(other);
        drop(pool);
        assert_eq!(pinned.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn no_more_is_kept_than_said() {
        let pinned = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(Box::new(Counted(Arc::clone(&pinned), 9)), 8192);
        let blocks: Vec<_> = (0..4).map(|_| pool.take(4096)).collect();
        assert_eq!(pinned.load(Ordering::Relaxed), 4);
        drop(blocks);
        assert_eq!(pinned.load(Ordering::Relaxed), 2);
    }
}
