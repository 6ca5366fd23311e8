//! Records that could not be processed. The fields are described in the `.avsc` file.

use serde::{Deserialize, Serialize};

use crate::event::Event;

/// A record with its place, and why it could not be processed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub service: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    #[serde(default, with = "apache_avro::serde::bytes_opt")]
    pub key: Option<Vec<u8>>,
    #[serde(default, with = "apache_avro::serde::bytes_opt")]
    pub value: Option<Vec<u8>>,
    #[serde(default)]
    pub headers: Vec<Header>,
    pub cause: String,
    pub detail: String,
    pub time: i64,
}

/// A header of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub key: String,
    #[serde(default, with = "apache_avro::serde::bytes_opt")]
    pub value: Option<Vec<u8>>,
}

impl Event for DeadLetter {
    const NAME: &'static str = "engram.pipeline.DeadLetter";
    const SCHEMA: &'static str = include_str!("../avsc/engram.pipeline.DeadLetter.avsc");
}
