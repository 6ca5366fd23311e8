//! A driver whose device is the host: the kernels compiled as C++, blocks and threads and all, and streams that do what they are asked as late as
//! they may, so that memory which is used again too early shows.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_char, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use engram_models::device::DeviceError;
use engram_models::gpu::abi::{DenseArgs, ForestArgs, LengthsArgs, NearestArgs, SeriesArgs, TopArgs, ValidityArgs};
use engram_models::gpu::driver::{Driver, Launch, STREAMS};
use engram_models::gpu::pinned::Pin;
use libloading::Library;

use crate::logic::compile;

/// What the test decides, and sees, while the device works.
#[derive(Default)]
pub struct Control {
    /// Nothing is ever done.
    pub hangs: AtomicBool,
    /// Everything fails, until it is revived.
    pub is_lost: AtomicBool,
    /// Copies and kernels that other streams had under way when one of a stream was asked for, at most.
    pub overlap_max: AtomicUsize,
    /// Names of the kernels that ran.
    pub kernels: Mutex<Vec<&'static str>>,
    /// A part of the host's memory, and how many bytes were uploaded from it.
    pub watched: AtomicUsize,
    pub watched_bytes: AtomicUsize,
    pub direct_bytes: AtomicUsize,
}

pub struct HostDriver {
    control: Arc<Control>,
    memory: HashMap<u64, Vec<u128>>,
    streams: [VecDeque<Work>; STREAMS],
    /// Times that each stream has been asked whether it is done.
    asked: [u32; STREAMS],
}

/// The kernels, if there is a compiler. The lock: they run on memory of their own.
pub static EMULATED: LazyLock<Option<Mutex<Library>>> = LazyLock::new(|| compile("emulate.cpp").map(Mutex::new));

fn emulate(launch: &Launch, args: &[u64]) {
    let library = EMULATED.as_ref().expect("a test that gets here has one");
    let library = library.lock().unwrap_or_else(PoisonError::into_inner);
    let name = CString::new(launch.kernel).expect("names have no zero byte");
    // SAFETY: the kernel takes a pointer to its arguments, which were copied whole; the memory that they name is allocated.
    let status = unsafe {
        type Emulate = unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, *const c_void) -> i32;
        let emulate = library.get::<Emulate>("emulate").expect("it is there");
        emulate(name.as_ptr(), launch.grid.0, launch.grid.1, launch.threads, launch.shared, args.as_ptr().cast())
    };
    assert_eq!(status, 0, "a GPU would refuse {launch:?}");
}

enum Work {
    Upload { to: u64, from: *const u8, bytes: usize },
    Download { to: *mut u8, from: u64, bytes: usize },
    Launch { launch: Launch, args: Vec<u64> },
}

/// Says that all is pinned.
pub struct AllPinned;

impl Pin for AllPinned {
    fn pin(&self, _: NonNull<u8>, _: usize) -> bool {
        true
    }

    fn unpin(&self, _: NonNull<u8>) {}
}

impl HostDriver {
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, memory: HashMap::new(), streams: Default::default(), asked: [0; STREAMS] }
    }

    fn check(&self) -> Result<(), DeviceError> {
        let is_lost = self.control.is_lost.load(Ordering::Relaxed);
        if is_lost { Err(DeviceError::Sticky("lost".to_owned())) } else { Ok(()) }
    }

    fn push(&mut self, stream: usize, work: Work) -> Result<(), DeviceError> {
        self.check()?;
        let others = (0..STREAMS).filter(|other| *other != stream && !self.streams[*other].is_empty()).count();
        self.control.overlap_max.fetch_max(others, Ordering::Relaxed);
        self.streams[stream].push_back(work);
        Ok(())
    }

    fn run(&self, work: &Work) {
        match work {
            // SAFETY: whoever asked says that the host's memory is alive and as long; the device's is checked.
            Work::Upload { to, from, bytes } => unsafe {
                self.room(*to, *bytes);
                std::ptr::copy_nonoverlapping(*from, *to as *mut u8, *bytes);
            },
            // SAFETY: as above.
            Work::Download { to, from, bytes } => unsafe {
                self.room(*from, *bytes);
                std::ptr::copy_nonoverlapping(*from as *const u8, *to, *bytes);
            },
            Work::Launch { launch, args } => {
                self.control.kernels.lock().unwrap_or_else(PoisonError::into_inner).push(launch.kernel);
                emulate(launch, args);
            }
        }
    }

    /// Fails if the memory of one allocation does not have all of it.
    fn room(&self, address: u64, bytes: usize) {
        let has_room = self
            .memory
            .iter()
            .any(|(start, memory)| address >= *start && address + bytes as u64 <= *start + memory.len() as u64 * 16);
        assert!(has_room, "a copy of {bytes} bytes beyond an allocation");
    }
}

impl Driver for HostDriver {
    fn name(&self) -> String {
        "host".to_owned()
    }

    fn memory_total(&self) -> usize {
        1 << 30
    }

    fn blocks(&self) -> u32 {
        4
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        self.check()?;
        let mut memory = vec![u128::MAX; bytes.div_ceil(16)];
        let address = memory.as_mut_ptr() as u64;
        self.memory.insert(address, memory);
        Ok(address)
    }

    unsafe fn free(&mut self, address: u64) {
        self.memory.remove(&address).expect("it was allocated, and not freed before");
    }

    unsafe fn upload(&mut self, stream: usize, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        let at = (from.as_ptr() as usize).wrapping_sub(self.control.watched.load(Ordering::Relaxed));
        if at < self.control.watched_bytes.load(Ordering::Relaxed) {
            self.control.direct_bytes.fetch_add(from.len(), Ordering::Relaxed);
        }
        self.push(stream, Work::Upload { to, from: from.as_ptr(), bytes: from.len() })
    }

    unsafe fn download(&mut self, stream: usize, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        self.push(stream, Work::Download { to: to.as_mut_ptr(), from, bytes: to.len() })
    }

    unsafe fn launch(&mut self, stream: usize, launch: &Launch, args: *const c_void) -> Result<(), DeviceError> {
        let size = match launch.kernel {
            "nearest_lengths" => size_of::<LengthsArgs>(),
            "nearest_keys" => size_of::<NearestArgs>(),
            "nearest_top" => size_of::<TopArgs>(),
            "validity_expand" => size_of::<ValidityArgs>(),
            kernel if kernel.starts_with("series") => size_of::<SeriesArgs>(),
            kernel if kernel.starts_with("network") => size_of::<DenseArgs>(),
            _ => size_of::<ForestArgs>(),
        };
        // SAFETY: the kernel's arguments are as large, and all multiples of 8 bytes.
        let args = unsafe { std::slice::from_raw_parts(args.cast::<u64>(), size / 8) }.to_vec();
        self.push(stream, Work::Launch { launch: *launch, args })
    }

    fn end(&mut self, stream: usize) -> Result<(), DeviceError> {
        self.asked[stream] = 0;
        self.check()
    }

    fn is_done(&mut self, stream: usize) -> Result<bool, DeviceError> {
        self.check()?;
        self.asked[stream] += 1;
        if self.control.hangs.load(Ordering::Relaxed) || self.asked[stream] < 5 {
            return Ok(false);
        }
        while let Some(work) = self.streams[stream].pop_front() {
            self.run(&work);
        }
        Ok(true)
    }

    fn revive(&mut self) -> Result<(), DeviceError> {
        self.streams = Default::default();
        self.memory.clear();
        self.check()
    }
}
