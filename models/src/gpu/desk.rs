//! Work on a device that is done from end to end before anything else is begun: what is loaded, and what is not a model's
//! batch. It shares the first slot's stream.

use std::ffi::c_void;
use std::time::Duration;

use super::accounts::{Accounts, Allocation};
use super::driver::{Driver, Launch};
use super::pinned::Pool;
use crate::clock::Clock;
use crate::device::DeviceError;

/// The device, for one task.
pub struct Desk<'a> {
    pub driver: &'a mut dyn Driver,
    pub accounts: &'a Accounts,
    pub pool: &'a std::sync::Arc<Pool>,
    pub clock: &'a dyn Clock,
    pub timeout: Duration,
    /// How often the device has been started anew: memory of another life is gone.
    pub life: u64,
}

/// Memory of a device, for as long as that is not started anew.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    allocation: Allocation,
    life: u64,
}

/// Bytes that are copied at once.
const PIECE: usize = 4 << 20;
const STREAM: usize = 0;

impl Held {
    pub fn address(&self) -> u64 {
        self.allocation.address
    }
}

impl Desk<'_> {
    pub fn allocate(&mut self, bytes: usize) -> Result<Held, DeviceError> {
        Ok(Held { allocation: self.accounts.allocate(self.driver, bytes)?, life: self.life })
    }

    /// # Safety
    /// Nothing that is under way uses it.
    pub unsafe fn free(&mut self, held: Held) {
        if held.life == self.life {
            // SAFETY: the caller's.
            unsafe { self.accounts.free(self.driver, held.allocation) };
        }
    }

    /// Whether the memory is there still.
    pub fn check(&self, held: &Held) -> Result<(), DeviceError> {
        if held.life == self.life { Ok(()) } else { Err(DeviceError::Gone) }
    }

    /// Copies to the device, by pieces, through a block that it can copy from.
    pub fn write(&mut self, held: &Held, offset: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.check(held)?;
        assert!(offset + bytes.len() <= held.allocation.bytes, "{} bytes at {offset}: {held:?}", bytes.len());
        let mut block = self.pool.take(PIECE.min(bytes.len()));
        for (number, piece) in bytes.chunks(PIECE).enumerate() {
            block.bytes_mut()[..piece.len()].copy_from_slice(piece);
            let to = held.address() + (offset + number * PIECE) as u64;
            // SAFETY: the allocation has room for it, and the block stays as it is until the stream is done.
            let started = unsafe { self.driver.upload(STREAM, to, &block.bytes()[..piece.len()]) };
            if let Err(error) = started.and_then(|()| self.wait()) {
                // SUBTLE: a copy may be under way for ever; the block must never be used again.
                std::mem::forget(block);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Copies from the device.
    pub fn read(&mut self, held: &Held, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.check(held)?;
        assert!(bytes.len() <= held.allocation.bytes, "{} bytes of {held:?}", bytes.len());
        let mut block = self.pool.take(PIECE.min(bytes.len()));
        for (number, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let from = held.address() + (number * PIECE) as u64;
            let to = &mut block.bytes_mut()[..piece.len()];
            // SAFETY: the allocation has as many bytes, and nobody looks at the block until the stream is done.
            let started = unsafe { self.driver.download(STREAM, to, from) };
            if let Err(error) = started.and_then(|()| self.wait()) {
                // SUBTLE: as above.
                std::mem::forget(block);
                return Err(error);
            }
            piece.copy_from_slice(&block.bytes()[..piece.len()]);
        }
        Ok(())
    }

    /// Starts a kernel. A copy that is asked for later is made when it is done.
    ///
    /// # Safety
    /// See `Driver::launch`.
    pub unsafe fn launch<Args>(&mut self, launch: &Launch, args: &Args) -> Result<(), DeviceError> {
        // SAFETY: the caller's.
        unsafe { self.driver.launch(STREAM, launch, std::ptr::from_ref(args).cast::<c_void>()) }
    }

    /// Until all is done that was asked of the stream.
    pub fn wait(&mut self) -> Result<(), DeviceError> {
        self.driver.end(STREAM)?;
        let started = self.clock.now();
        while !self.driver.is_done(STREAM)? {
            if self.clock.now().saturating_sub(started) > self.timeout {
                let after_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
                return Err(DeviceError::Timeout { after_ms });
            }
            std::hint::spin_loop();
        }
        Ok(())
    }
}
