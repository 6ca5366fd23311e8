//! Records that could not be processed, and those of them that were sent back. The fields are described in the `.avsc` file.

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
    #[serde(default = "whole")]
    pub whole: bool,
}

fn whole() -> bool {
    true
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

/// A dead letter whose record was sent back to its topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterReplayed {
    pub letter_partition: i32,
    pub letter_offset: i64,
    pub topic: String,
    pub partition: i32,
    pub mended: bool,
    pub time: i64,
}

impl Event for LetterReplayed {
    const NAME: &'static str = "engram.pipeline.LetterReplayed";
    const SCHEMA: &'static str = include_str!("../avsc/engram.pipeline.LetterReplayed.avsc");
}
