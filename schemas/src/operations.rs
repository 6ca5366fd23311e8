//! The processes that run services. The fields are described in the `.avsc` file.

use serde::{Deserialize, Serialize};

use crate::event::Event;

/// A process that runs a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstance {
    pub service: String,
    pub instance: String,
    #[serde(default)]
    pub http: Option<String>,
    #[serde(default)]
    pub build: String,
    pub started: i64,
    pub time: i64,
    #[serde(default)]
    pub workers: Vec<WorkerTasks>,
}

/// What one worker of the process holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerTasks {
    #[serde(default)]
    pub tasks: Vec<i32>,
    #[serde(default)]
    pub standbys: Vec<i32>,
}

impl Event for ServiceInstance {
    const NAME: &'static str = "engram.operations.ServiceInstance";
    const SCHEMA: &'static str = include_str!("../avsc/engram.operations.ServiceInstance.avsc");
}
