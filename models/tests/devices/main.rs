//! Devices against the reference: the kernels' bodies on the host, the path to them, and a device that fails.

mod guard;
mod host_driver;
mod logic;
mod pipeline;
mod random;
