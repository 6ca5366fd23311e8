//! Devices against the reference: the kernels' bodies on the host, and a device that fails.

mod guard;
mod logic;
mod random;
