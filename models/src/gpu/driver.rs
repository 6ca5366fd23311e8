//! What is asked of a GPU's driver, and nothing else: memory, copies, kernels, and whether they are done.
//!
//! `cuda` implements it. A test implements it on the host, with the kernels compiled as C++, so that all that stands above it
//! runs without a GPU.

use std::ffi::c_void;

use crate::device::DeviceError;

/// A kernel's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    pub kernel: &'static str,
    /// Blocks, in x and y.
    pub grid: (u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that are not the kernel's own.
    pub shared: u32,
}

/// A GPU, on the one thread that owns it. What is asked of one stream is done in order; streams are independent. Addresses are
/// the device's.
///
/// Errors: `OutOfMemory` from `allocate` changes nothing; after `Sticky` from anything, everything fails until `revive`.
pub trait Driver {
    fn name(&self) -> String;

    /// Bytes of memory that it has.
    fn memory_total(&self) -> usize;

    /// Blocks that it can run at a time, of the forest's kernels.
    fn blocks(&self) -> u32;

    fn allocate(&mut self, bytes: usize) -> Result<u64, DeviceError>;

    /// # Safety
    /// The address is of `allocate`, and nothing that is under way uses it.
    unsafe fn free(&mut self, address: u64);

    /// Starts a copy to the device.
    ///
    /// # Safety
    /// `from` stays as it is until the stream is done, and there is room for it at `to`.
    unsafe fn upload(&mut self, stream: usize, to: u64, from: &[u8]) -> Result<(), DeviceError>;

    /// Starts a copy from the device.
    ///
    /// # Safety
    /// `to` is touched by nobody until the stream is done, and `from` has as many bytes.
    unsafe fn download(&mut self, stream: usize, to: &mut [u8], from: u64) -> Result<(), DeviceError>;

    /// Starts a kernel. The arguments are copied.
    ///
    /// # Safety
    /// `args` points to the kernel's argument of `abi`, and all addresses in it have the memory that the kernel uses.
    unsafe fn launch(&mut self, stream: usize, launch: &Launch, args: *const c_void) -> Result<(), DeviceError>;

    /// Ends what was asked of a stream so far: `is_done` tells of it.
    fn end(&mut self, stream: usize) -> Result<(), DeviceError>;

    /// Whether all that was asked before the last `end` is done.
    fn is_done(&mut self, stream: usize) -> Result<bool, DeviceError>;

    /// Starts anew after a sticky error. All memory is lost, all streams are idle.
    fn revive(&mut self) -> Result<(), DeviceError>;
}

/// Streams of a driver: one for each slot.
pub const STREAMS: usize = 3;
