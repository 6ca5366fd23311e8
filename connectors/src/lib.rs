//! How the world reaches the log: `git` reads a repository's history into it, `http` serves what is in it, and through the
//! `gateway` people and programs take part. `events` are what they write as JSON.

pub mod events;
pub mod gateway;
pub mod git;
pub mod http;
