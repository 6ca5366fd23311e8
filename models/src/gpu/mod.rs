//! The GPU's way from columns to margins. One binary has it and runs where there is no GPU and no CUDA as well: the driver is
//! looked for when a device is opened.
//!
//! ```text
//! Model -> forest, network: an Image for the device's memory
//! columns -> pinned: arrays in memory that the device copies from
//!         -> device: the queue -> owner: one thread for each device, three slots
//!         -> slot: upload, kernels, download of a chunk of rows while the others' go on -> margins
//! ```
//!
//! INVARIANT: margins are the reference's, bit for bit. The kernels and everything but `cuda` are compared with it where there
//! is no GPU; the rest is compared by whoever puts a model into service (`guard`).

pub mod abi;
mod accounts;
pub mod cuda;
mod desk;
pub mod device;
pub mod driver;
pub mod forest;
pub mod image;
pub mod kernels;
pub mod nearest;
pub mod network;
mod owner;
pub mod pinned;
pub mod program;
pub mod series;
mod slot;

pub use device::{GpuDevice, Settings};
