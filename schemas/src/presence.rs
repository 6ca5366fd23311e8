//! Events of who is at which document. The fields are described in the `.avsc` files.

use serde::{Deserialize, Serialize};

use crate::event::{Event, Invalid, check_filled, check_time};

/// A session has joined, or is still there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSeen {
    pub document: String,
    pub time: i64,
    pub session: String,
    pub actor: String,
    pub role: String,
    #[serde(default = "nothing")]
    pub state: String,
}

impl Event for SessionSeen {
    const NAME: &'static str = "engram.presence.SessionSeen";
    const SCHEMA: &'static str = include_str!("../avsc/engram.presence.SessionSeen.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("document", &self.document)?;
        check_time("time", self.time)?;
        check_filled("session", &self.session)
    }
}

/// A session has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLeft {
    pub document: String,
    pub time: i64,
    pub session: String,
    pub actor: String,
    pub reason: String,
}

impl Event for SessionLeft {
    const NAME: &'static str = "engram.presence.SessionLeft";
    const SCHEMA: &'static str = include_str!("../avsc/engram.presence.SessionLeft.avsc");

    fn check(&self) -> Result<(), Invalid> {
        check_filled("document", &self.document)?;
        check_time("time", self.time)?;
        check_filled("session", &self.session)
    }
}

/// Who is at a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub document: String,
    pub session: String,
    pub actor: String,
    pub role: String,
    pub joined: i64,
    pub seen: i64,
    #[serde(default = "nothing")]
    pub state: String,
}

fn nothing() -> String {
    "{}".to_owned()
}

impl Event for Presence {
    const NAME: &'static str = "engram.presence.Presence";
    const SCHEMA: &'static str = include_str!("../avsc/engram.presence.Presence.avsc");
}
