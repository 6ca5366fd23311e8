//! Documents for the gateway: as they are, from the task that has them, here or in another process; and as they were.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use engram_connectors::gateway::DocumentRefusal;
use engram_connectors::http::{DOCUMENT_PATH, SECRET_HEADER};
use engram_pipeline::directory::Directory;
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::service::Running;
use engram_processors::collaboration::documents::stored;
use engram_processors::collaboration::{DOCUMENT_EDITS, NAME};
use engram_schemas::document::DocumentState;

use crate::commands::lock;
use crate::past::PastService;
use crate::queries::{self, agent, owns};
use crate::values::When;
use crate::wire::Connection;

/// How long the lists of topics and processes are believed.
const FRESH: Duration = Duration::from_secs(1);
/// How long a task may take to be opened, and how often it is looked for.
const OPENED_WITHIN: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

/// Where documents are asked for.
pub struct Documents {
    pub connection: Arc<Connection>,
    pub services: Arc<Mutex<Vec<Running>>>,
    pub directory: Arc<Directory>,
    pub instance: String,
    pub secret: Option<String>,
    /// Set when this process is to stop.
    pub stop: Arc<AtomicBool>,
}

impl Documents {
    /// A document of a task of this process; `None` outside if its task is elsewhere.
    pub fn own(&self, key: &str) -> anyhow::Result<Option<Option<DocumentState>>> {
        let partition = self.partition(key)?;
        let files = lock(&self.services)
            .iter()
            .filter(|running| running.name() == NAME)
            .flat_map(Running::files)
            .find(|(task, _)| *task == partition);
        let Some((_, files)) = files else { return Ok(None) };
        let mut pinned = files.pin();
        Ok(Some(stored(&mut pinned, partition, key)?))
    }

    /// A document from wherever its task is; `None` if it has no edit yet. A task that is just being opened, here or by
    /// whoever takes it over, is waited for.
    pub fn load(&self, key: &str) -> anyhow::Result<Option<DocumentState>> {
        let until = Instant::now() + OPENED_WITHIN;
        loop {
            let loaded = self.load_now(key);
            if loaded.is_ok() || Instant::now() >= until || self.stop.load(Ordering::Relaxed) {
                return loaded;
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn load_now(&self, key: &str) -> anyhow::Result<Option<DocumentState>> {
        if let Some(state) = self.own(key)? {
            return Ok(state);
        }
        let partition = self.partition(key)?;
        let view = self.directory.view(FRESH)?;
        let owner = view
            .instances
            .iter()
            .find(|other| other.service == NAME && other.instance != self.instance && owns(other, [partition]));
        let http = owner.and_then(|owner| owner.http.as_deref());
        let http = http.with_context(|| format!("task {partition} of {NAME} has no owner at present"))?;
        let mut request = agent().get(format!("http://{http}{DOCUMENT_PATH}")).query("key", key);
        if let Some(secret) = &self.secret {
            request = request.header(SECRET_HEADER, secret);
        }
        let mut response = request.call().with_context(|| format!("the process at {http} does not answer"))?;
        Ok(response.body_mut().with_config().limit(u64::MAX).read_json()?)
    }

    /// A document as it is, or was at a time or right after a record.
    pub fn at(&self, key: &str, at: Option<&str>) -> Result<DocumentState, DocumentRefusal> {
        let Some(at) = at else {
            return self.load(key).map_err(|error| unavailable(key, &error))?.ok_or_else(no_document);
        };
        as_of(&self.connection, key, at, &self.stop)
    }

    fn partition(&self, key: &str) -> anyhow::Result<i32> {
        let view = self.directory.view(FRESH)?;
        let partitions = queries::partitions(&view.topics, NAME);
        anyhow::ensure!(partitions > 0, "service {NAME} has not run on this log yet: start it with 'engram up'");
        Ok(partition_for(key.as_bytes(), partitions))
    }
}

/// A document as it was at a time or right after a record. Nothing that runs is disturbed.
pub fn as_of(
    connection: &Connection,
    key: &str,
    at: &str,
    stop: &Arc<AtomicBool>,
) -> Result<DocumentState, DocumentRefusal> {
    let when: When = at.parse().map_err(|reason: String| DocumentRefusal::Wrong(reason))?;
    let past = PastService::open_until(connection, NAME, Arc::clone(stop)).map_err(|error| unavailable(key, &error))?;
    let partition = partition_for(key.as_bytes(), past.partitions);
    if let When::Record { topic, place } = &when
        && (place.partition != partition || topic.as_deref().is_some_and(|topic| topic != DOCUMENT_EDITS))
    {
        let reason = format!("the document's edits are in partition {partition} of {DOCUMENT_EDITS}");
        return Err(DocumentRefusal::Wrong(reason));
    }
    let mut task = past.at(partition, &when).map_err(|error| DocumentRefusal::Wrong(format!("{error:#}")))?;
    let state = stored(&mut task.rerun, partition, key).map_err(|error| unavailable(key, &error.into()))?;
    state.ok_or_else(no_document)
}

pub fn no_document() -> DocumentRefusal {
    DocumentRefusal::NotFound("there is no such document, or was none at that moment".to_owned())
}

pub fn unavailable(key: &str, error: &anyhow::Error) -> DocumentRefusal {
    tracing::warn!(error = format!("{error:#}"), key, "a document cannot be told");
    DocumentRefusal::Unavailable("the document cannot be told at present: try again".to_owned())
}
