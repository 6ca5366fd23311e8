//! NVIDIA's driver. It is loaded when a device is opened: without one that says so, and nothing else here is ever called.
//!
//! INVARIANT: a device has a context of its own, so that a lost one can be thrown away without touching anybody else's.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUevent, CUfunction, CUresult, CUstream};

use super::device::{GpuDevice, Opener, Settings};
use super::driver::{Driver, Launch, STREAMS};
use super::kernels;
use super::pinned::Pin;
use crate::clock::Clock;
use crate::device::DeviceError;

/// A device of the driver, on the thread that opened it.
pub struct Cuda {
    device: CUdevice,
    name: String,
    context: Arc<Context>,
    functions: HashMap<&'static str, CUfunction>,
    streams: Vec<CUstream>,
    events: Vec<CUevent>,
    sources: Option<PathBuf>,
}

/// The context, for those who register memory from other threads.
#[derive(Default)]
struct Context {
    /// A `CUcontext`; 0 while there is none.
    handle: Mutex<usize>,
}

/// Registers memory with the context that there is.
struct CudaPin(Arc<Context>);

/// What the PTX is made for.
const CAPABILITY_MIN: i32 = 8;
/// Blocks of the forest's kernels on a multiprocessor, as their launch bounds say.
const BLOCKS: i32 = 6;

/// Opens a device by its number. `sources` is for the development of kernels: the folder whose sources are compiled by NVRTC
/// in place of the embedded PTX. Errors: there is no driver, no such device, or it is too old.
pub fn open(
    ordinal: i32,
    settings: Settings,
    clock: Arc<dyn Clock>,
    sources: Option<PathBuf>,
) -> Result<GpuDevice, DeviceError> {
    let opener: Opener = Box::new(move || {
        let cuda = Cuda::open(ordinal, sources)?;
        let pin = CudaPin(Arc::clone(&cuda.context));
        Ok((Box::new(cuda), Box::new(pin)))
    });
    GpuDevice::start(settings, clock, opener)
}

/// The driver's version, as (major, minor), and how many devices there are. Errors: there is no driver.
pub fn probe() -> Result<((i32, i32), i32), DeviceError> {
    // SAFETY: it looks for the library, whose initializers are the driver's own.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::Absent("NVIDIA's driver (libcuda) is not installed".to_owned()));
    }
    result::init().map_err(absent)?;
    let mut version = 0;
    // SAFETY: it writes a number to where it is told.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(absent)?;
    let count = result::device::get_count().map_err(absent)?;
    Ok(((version / 1000, version % 1000 / 10), count))
}

impl Cuda {
    pub fn open(ordinal: i32, sources: Option<PathBuf>) -> Result<Self, DeviceError> {
        let (version, count) = probe()?;
        if ordinal < 0 || ordinal >= count {
            return Err(DeviceError::Absent(format!("device {ordinal} of {count}")));
        }
        let device = result::device::get(ordinal).map_err(absent)?;
        let mut cuda = Self {
            device,
            name: format!("{} ({ordinal})", result::device::get_name(device).map_err(absent)?),
            context: Arc::default(),
            functions: HashMap::new(),
            streams: Vec::new(),
            events: Vec::new(),
            sources,
        };
        let major = cuda.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        if major < CAPABILITY_MIN {
            let (driver, _) = version;
            let wanted = format!("its compute capability is {major}, {CAPABILITY_MIN} is needed (driver {driver})");
            return Err(DeviceError::Absent(wanted));
        }
        cuda.start()?;
        Ok(cuda)
    }

    /// Makes the context and all that is in it.
    fn start(&mut self) -> Result<(), DeviceError> {
        let mut context: CUcontext = std::ptr::null_mut();
        let flags = sys::CUctx_flags::CU_CTX_SCHED_AUTO as u32;
        // SAFETY: the device is one of the driver's. The context is current on this thread from here on.
        unsafe { sys::cuCtxCreate_v2(&raw mut context, flags, self.device) }
            .result()
            .map_err(|error| failed(&error))?;
        *self.context.lock() = context as usize;
        for _ in 0..STREAMS {
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
            self.streams.push(stream.map_err(|error| failed(&error))?);
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
            self.events.push(event.map_err(|error| failed(&error))?);
        }
        for ptx in kernels::ALL {
            let text = match &self.sources {
                Some(folder) => kernels::compile(folder, ptx.name)?,
                None => ptx.text.to_owned(),
            };
            let text = CString::new(text).map_err(|_| DeviceError::Absent("PTX with a zero byte".to_owned()))?;
            // SAFETY: it is PTX and ends in a zero byte.
            let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(absent)?;
            for kernel in ptx.kernels {
                let name = CString::new(*kernel).expect("names have no zero byte");
                // SAFETY: the module is loaded, and stays for as long as the context does.
                let function = unsafe { result::module::get_function(module, name) }.map_err(absent)?;
                self.functions.insert(kernel, function);
            }
        }
        Ok(())
    }

    /// Destroys the context, and with it streams, events, modules and memory.
    fn stop(&mut self) {
        self.functions.clear();
        self.streams.clear();
        self.events.clear();
        let mut handle = self.context.lock();
        let context = std::mem::take(&mut *handle) as CUcontext;
        if !context.is_null() {
            // SAFETY: it is the context that `start` made, and nobody has it after this. An error is one of a lost device.
            let _ = unsafe { sys::cuCtxDestroy_v2(context) };
        }
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> i32 {
        // SAFETY: the device is one of the driver's.
        unsafe { result::device::get_attribute(self.device, attribute) }.unwrap_or(0)
    }
}

impl Driver for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn memory_total(&self) -> usize {
        // SAFETY: the device is one of the driver's.
        unsafe { result::device::total_mem(self.device) }.unwrap_or(0)
    }

    fn blocks(&self) -> u32 {
        let multiprocessors = self.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
        (multiprocessors * BLOCKS).max(1) as u32
    }

    fn allocate(&mut self, bytes: usize) -> Result<u64, DeviceError> {
        // SAFETY: what is in the memory is anything, and nothing reads it before it is written.
        unsafe { result::malloc_sync(bytes) }.map_err(|error| match failed(&error) {
            DeviceError::OutOfMemory { free, .. } => DeviceError::OutOfMemory { asked: bytes, free },
            error => error,
        })
    }

    unsafe fn free(&mut self, address: u64) {
        // SAFETY: the caller's. An error is one of a lost device, whose memory is gone.
        let _ = unsafe { result::free_sync(address) };
    }

    unsafe fn upload(&mut self, stream: usize, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller's.
        unsafe { result::memcpy_htod_async(to, from, self.streams[stream]) }.map_err(|error| failed(&error))
    }

    unsafe fn download(&mut self, stream: usize, to: &mut [u8], from: u64) -> Result<(), DeviceError> {
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtoh_async(to, from, self.streams[stream]) }.map_err(|error| failed(&error))
    }

    unsafe fn launch(&mut self, stream: usize, launch: &Launch, args: *const c_void) -> Result<(), DeviceError> {
        let Some(function) = self.functions.get(launch.kernel) else {
            return Err(DeviceError::Unsupported(format!("there is no kernel {}", launch.kernel)));
        };
        let (grid, threads) = ((launch.grid.0, launch.grid.1, 1), (launch.threads, 1, 1));
        let mut args = [args.cast_mut()];
        // SAFETY: the kernel has one argument, which the driver copies; for what it names the caller answers.
        unsafe { result::launch_kernel(*function, grid, threads, launch.shared, self.streams[stream], &mut args) }
            .map_err(|error| failed(&error))
    }

    fn end(&mut self, stream: usize) -> Result<(), DeviceError> {
        // SAFETY: both are of the context that there is.
        unsafe { result::event::record(self.events[stream], self.streams[stream]) }.map_err(|error| failed(&error))
    }

    fn is_done(&mut self, stream: usize) -> Result<bool, DeviceError> {
        // SAFETY: as above.
        match unsafe { result::event::query(self.events[stream]) } {
            Ok(()) => Ok(true),
            Err(DriverError(CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(failed(&error)),
        }
    }

    fn revive(&mut self) -> Result<(), DeviceError> {
        self.stop();
        self.start()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Context {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the context current on this thread, which has its own again afterwards; false if there is none.
    fn with(&self, call: impl FnOnce() -> bool) -> bool {
        // SUBTLE: held throughout, so that the context is not destroyed meanwhile.
        let handle = self.lock();
        let context = *handle as CUcontext;
        // SAFETY: it is the context that `start` made last, and `stop` has not destroyed it.
        if context.is_null() || unsafe { sys::cuCtxPushCurrent_v2(context) }.result().is_err() {
            return false;
        }
        let done = call();
        let mut popped: CUcontext = std::ptr::null_mut();
        // SAFETY: it is the one that was pushed.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
        done
    }
}

impl Pin for CudaPin {
    fn pin(&self, start: NonNull<u8>, bytes: usize) -> bool {
        self.0.with(|| {
            // SAFETY: the memory is the caller's, and is unregistered before it is freed.
            let registered =
                unsafe { sys::cuMemHostRegister_v2(start.as_ptr().cast(), bytes, sys::CU_MEMHOSTREGISTER_PORTABLE) };
            registered.result().is_ok()
        })
    }

    fn unpin(&self, start: NonNull<u8>) {
        self.0.with(|| {
            // SAFETY: it is a start that was registered; if it was with a context that is gone, that is an error and no more.
            unsafe { sys::cuMemHostUnregister(start.as_ptr().cast()) }.result().is_ok()
        });
    }
}

/// What the driver says, as what the caller does about it. All errors but a lack of memory are taken for sticky: many are, a
/// new context ends the others as well, and none is expected.
fn failed(error: &DriverError) -> DeviceError {
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            DeviceError::OutOfMemory { asked: 0, free }
        }
        code => DeviceError::Sticky(format!("{code:?}")),
    }
}

fn absent(error: DriverError) -> DeviceError {
    DeviceError::Absent(format!("{:?}", error.0))
}
