//! How much of a device's memory is taken: every allocation is entered before it is made.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::driver::Driver;
use crate::device::{DeviceError, Memory};

/// A limit, and what is taken of it.
#[derive(Debug)]
pub struct Accounts {
    limit: usize,
    used: AtomicUsize,
}

/// Memory of a device.
#[derive(Debug, PartialEq, Eq)]
pub struct Allocation {
    pub address: u64,
    pub bytes: usize,
}

impl Accounts {
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    pub fn memory(&self) -> Memory {
        Memory { limit: self.limit, used: self.used.load(Ordering::Relaxed) }
    }

    /// Errors: it would be more than the limit, or the device has no more.
    pub fn allocate(&self, driver: &mut dyn Driver, bytes: usize) -> Result<Allocation, DeviceError> {
        let bytes = bytes.max(1);
        // One thread allocates; others only look.
        let used = self.used.load(Ordering::Relaxed);
        let free = self.limit.saturating_sub(used);
        if bytes > free {
            return Err(DeviceError::OutOfMemory { asked: bytes, free });
        }
        let address = driver.allocate(bytes)?;
        self.used.store(used + bytes, Ordering::Relaxed);
        Ok(Allocation { address, bytes })
    }

    /// # Safety
    /// Nothing that is under way uses it.
    pub unsafe fn free(&self, driver: &mut dyn Driver, allocation: Allocation) {
        // SAFETY: it is of `allocate`; for the rest the caller answers.
        unsafe { driver.free(allocation.address) };
        self.used.fetch_sub(allocation.bytes, Ordering::Relaxed);
    }

    /// The device has lost all of it.
    pub fn forget(&self) {
        self.used.store(0, Ordering::Relaxed);
    }
}
