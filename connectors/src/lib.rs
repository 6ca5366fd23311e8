//! How the world reaches the log: `git` reads a repository's history into it, `http` serves what is in it.

pub mod gateway;
pub mod git;
pub mod http;
