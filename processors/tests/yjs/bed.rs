//! The collaboration service, with edits written to it and its outputs read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engram_pipeline::driver::Driver;
use engram_pipeline::log::partitioner::partition_for;
use engram_processors::collaboration::documents::DocumentsConfig;
use engram_processors::collaboration::{self, DOCUMENT_EDITS, DOCUMENT_STATE};
use engram_schemas::Event;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::document::{DocumentState, Edit};
use rand::RngExt as _;
use rand::rngs::StdRng;

const PARTITIONS: i32 = 2;

pub struct Bed {
    pub driver: Driver,
    edits: Encoder<Edit>,
    written: usize,
}

impl Bed {
    pub fn new(config: DocumentsConfig) -> Self {
        let driver = Driver::of(Arc::new(collaboration::service(config)), PARTITIONS).expect("the service starts");
        let edits = Encoder::register(&*driver.registry(), DOCUMENT_EDITS).expect("registered");
        Self { driver, edits, written: 0 }
    }

    /// Writes an edit. Its id is how many were written before.
    pub fn write(&mut self, document: &str, update: &[u8]) -> usize {
        let number = self.written;
        self.written += 1;
        let edit = Edit {
            id: number.to_string(),
            time: 1_700_000_000_000 + number as i64,
            document: document.to_owned(),
            actor: "somebody".to_owned(),
            session: String::new(),
            update: update.to_vec(),
            source: String::new(),
            purpose: String::new(),
        };
        let mut value = Vec::new();
        self.edits.encode(&edit, &mut value).expect("an edit");
        let partition = partition_for(document.as_bytes(), PARTITIONS);
        self.driver.write(DOCUMENT_EDITS, partition, Some(document.as_bytes()), Some(&value), edit.time);
        number
    }

    /// Processes what was written; then it is committed, or the service fails in some way before.
    pub fn process(&mut self, random: &mut StdRng) {
        let driver = &mut self.driver;
        driver.process().expect("processed");
        match random.random_range(0..20) {
            0..12 => driver.commit().expect("committed"),
            12 => driver.abort().expect("aborted"),
            13 => driver.restart().expect("restarted"),
            14 => driver.restart_elsewhere().expect("restarted with the changelogs"),
            15 => driver.advance_wall_clock(Duration::from_secs(1)).expect("timers fire"),
            _ => {}
        }
    }

    pub fn commit(&mut self) {
        self.driver.process().expect("processed");
        self.driver.commit().expect("committed");
    }

    pub fn read<E: Event>(&self, topic: &str) -> Vec<E> {
        let mut decoder = Decoder::new(self.driver.registry());
        let decode = |value: Option<&[u8]>| decoder.decode(value.expect("a value")).expect("an event");
        self.driver.records(topic).iter().map(|record| record.value.as_deref()).map(decode).collect()
    }

    /// The last state that was told of each document, once all timers have fired.
    pub fn states(&mut self) -> BTreeMap<String, DocumentState> {
        self.commit();
        self.driver.advance_wall_clock(Duration::from_secs(60)).expect("timers fire");
        self.commit();
        self.read::<DocumentState>(DOCUMENT_STATE).into_iter().map(|state| (state.document.clone(), state)).collect()
    }

    pub fn replays(&self) {
        let verified = self.driver.replay(None).expect("a replay");
        assert!(verified.difference.is_none(), "{:?}", verified.difference);
    }
}
