//! The GPU's way from columns to margins. One binary has it and runs where there is no GPU and no CUDA as well: the driver is
//! looked for when a device is opened.
//!
//! ```text
//! Model -> forest, network: an Image in the device's memory
//! columns -> pinned: a batch in memory that the device copies from -> owner: one thread for each device, three slots
//!         -> upload, kernels, download of each slot at once with the others' -> margins
//! ```
//!
//! INVARIANT: kernels are those of `models/kernels`; their bodies are checked against the reference on the host, and
//! `Device::load` checks nothing more: what it gives is compared by whoever puts it into service (`guard`).

pub mod abi;
pub mod forest;
pub mod image;
pub mod kernels;
pub mod nearest;
pub mod network;
pub mod plain;
