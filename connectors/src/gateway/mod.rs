//! The gateway: how people and programs take part over the network. `auth` says who a caller is and what they may do, `limits`
//! how much of it.

pub mod auth;
pub mod limits;
