//! The registry as a pure function of the records in the compacted topic `_schemas`, and the records that change it.
//!
//! Whoever registers plans a record ([`State::plan_register`]), appends it, reads the topic to its end, and plans again
//! until the answer is an id.
//!
//! Confluent's records are read as Confluent reads them, the last one of a key deciding:
//!
//! ```text
//! key                                                           value
//! {"keytype":"SCHEMA","subject":S,"version":V,"magic":1}        {"subject","version","id","schema","deleted"} or null
//! {"keytype":"CONFIG","subject":S or null,"magic":0}            {"compatibilityLevel"} or null
//! {"keytype":"DELETE_SUBJECT","subject":S,"magic":0}            {"subject","version"}: all up to version are deleted
//! {"keytype":"NOOP","magic":0}                                  ignored
//! ```
//!
//! Engram's own are NOOPs with one more field, which Confluent's registry skips:
//!
//! ```text
//! {"keytype":"NOOP","magic":0,"engram":{"claim":{"subject","version","id","nonce"}}}          {"schema"}
//! {"keytype":"NOOP","magic":0,"engram":{"delete":{"subject","version","permanent","id"}}}     {}
//! ```
//!
//! INVARIANT: what a version or an id means is the same for every reader, before and after every compaction.
//!
//! SUBTLE: two writers that plan at once choose the same version, so the same SCHEMA key. Were the first such record to
//! win, compaction would drop it and leave the loser; were the last to win, the first writer would already have written
//! data with its id. So the log decides between *claims* instead: the first claim of a free version with an id that is
//! free or means this schema wins, and is the registration. Each claim has a key of its own (the nonce), is written
//! once and never deleted; compaction keeps the order of what it keeps; so every reader sees all claims in the same
//! order and decides alike. A SCHEMA record is then published for Confluent's readers, by the winner, or by whoever
//! next registers that schema if the winner died; its content follows from the claim, so it does not matter who writes
//! it, how often, or which one compaction keeps. For the same reason deletions are records of their own, not tombstones
//! of claims: were a winner to vanish, a loser would take its place. Permanent deletion hides a schema; the claim's
//! text stays in the topic.
//!
//! Confluent's registry has one writer at a time and may have written before Engram, or after it, but not at once with
//! it.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::sync::Arc;

use apache_avro::Schema;
use apache_avro::schema::ResolvedSchema;
use serde::{Deserialize, Serialize};

use super::{RegisteredSchema, RegistryError, Version, canonical};
use crate::SchemaId;
use crate::compatibility::{self, Level};

/// Largest schema.
pub const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Largest key and value together: the topic's `max.message.bytes` of 1 MiB, less a batch's own bytes.
const RECORD_BYTES_MAX: usize = (1 << 20) - 512;

/// A record to append to the topic; without a value, a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// What there is to do to register a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: this is its id.
    Existing(SchemaId),
    /// Append this, read to the topic's end, and plan again.
    Append(Append),
}

/// All schemas, as of some position in the topic.
#[derive(Debug, Default)]
pub struct State {
    subjects: BTreeMap<String, Subject>,
    ids: BTreeMap<u32, Meaning>,
    level: Option<Level>,
    /// No new id is below this or at it.
    id_floor: u32,
}

#[derive(Debug, Default)]
struct Subject {
    /// Deleted ones included.
    versions: BTreeMap<u32, Entry>,
    /// Versions up to these are deleted: by Engram's records, by Confluent's, and for good.
    deleted_to: u32,
    deleted_to_by_confluent: u32,
    erased_to: u32,
    level: Option<Level>,
}

#[derive(Debug)]
struct Entry {
    id: u32,
    schema: Arc<str>,
    canonical: Arc<str>,
    /// Stands by a claim, which no later record changes.
    claimed: bool,
    /// There is a SCHEMA record of it.
    published: bool,
    /// By its SCHEMA record.
    deleted: bool,
}

/// What an id means. Kept for ever, so that the id is not given to another schema.
#[derive(Debug)]
struct Meaning {
    schema: Arc<str>,
    canonical: Arc<str>,
    claimed: bool,
    /// Versions that have it and are not deleted for good.
    users: BTreeSet<(String, u32)>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "keytype")]
enum Key {
    // SUBTLE: the order of fields is Confluent's, so that its records and these have the same bytes, and compact
    // together.
    #[serde(rename = "SCHEMA")]
    Schema { subject: String, version: u32, magic: u8 },
    #[serde(rename = "CONFIG")]
    Config { subject: Option<String>, magic: u8 },
    #[serde(rename = "DELETE_SUBJECT")]
    DeleteSubject { subject: String, magic: u8 },
    #[serde(rename = "NOOP")]
    Noop {
        magic: u8,
        #[serde(default)]
        engram: Option<Own>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Own {
    Claim {
        subject: String,
        version: u32,
        id: u32,
        nonce: String,
    },
    /// Of all versions up to `version`; no new id is `id` or below.
    Delete {
        subject: String,
        version: u32,
        permanent: bool,
        id: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct SchemaValue {
    subject: String,
    version: u32,
    id: u32,
    schema: String,
    #[serde(default)]
    deleted: bool,
}

#[derive(Serialize, Deserialize)]
struct ClaimValue {
    schema: String,
}

#[derive(Serialize, Deserialize)]
struct ConfigValue {
    #[serde(rename = "compatibilityLevel")]
    level: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct DeleteSubjectValue {
    subject: String,
    version: u32,
}

impl State {
    /// Takes the topic's next record. What cannot be read is ignored, as Confluent's registry ignores it.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Ok(key) = serde_json::from_slice::<Key>(key) else { return };
        match key {
            Key::Schema { subject, version, .. } => match value.map(parse::<SchemaValue>) {
                Some(Some(value)) => self.apply_schema(subject, version, &value),
                Some(None) => {}
                None => self.apply_schema_tombstone(&subject, version),
            },
            Key::Config { subject, .. } => {
                let level = value.and_then(parse::<ConfigValue>).and_then(|value| value.level?.parse().ok());
                match subject.filter(|subject| !subject.is_empty()) {
                    Some(subject) => self.subjects.entry(subject).or_default().level = level,
                    None => self.level = level,
                }
            }
            Key::DeleteSubject { subject, .. } => {
                let deleted_to = match value.map(parse::<DeleteSubjectValue>) {
                    Some(Some(value)) => value.version,
                    Some(None) => return,
                    None => 0,
                };
                self.subjects.entry(subject).or_default().deleted_to_by_confluent = deleted_to;
            }
            Key::Noop { engram: Some(Own::Claim { subject, version, id, .. }), .. } => {
                if let Some(value) = value.and_then(parse::<ClaimValue>) {
                    self.apply_claim(subject, version, id, &value.schema);
                }
            }
            Key::Noop { engram: Some(Own::Delete { subject, version, permanent, id }), .. } if value.is_some() => {
                self.apply_delete(subject, version, permanent, id);
            }
            Key::Noop { .. } => {}
        }
    }

    fn apply_claim(&mut self, subject: String, version: u32, id: u32, schema: &str) {
        let canonical: Arc<str> = canonical(schema).into();
        let taken = self.subjects.get(&subject).is_some_and(|subject| subject.versions.contains_key(&version));
        let bound = self.ids.get(&id).is_some_and(|meaning| meaning.canonical != canonical);
        if taken || bound || version == 0 || id == 0 {
            return;
        }
        let schema: Arc<str> = schema.into();
        let entry = Entry { id, schema, canonical, claimed: true, published: false, deleted: false };
        self.insert(subject, version, entry);
    }

    fn apply_schema(&mut self, subject: String, version: u32, value: &SchemaValue) {
        let canonical: Arc<str> = canonical(&value.schema).into();
        let known = self.subjects.get_mut(&subject).and_then(|subject| subject.versions.get_mut(&version));
        if let Some(entry) = known
            && entry.claimed
        {
            if entry.id == value.id && entry.canonical == canonical {
                entry.published = true;
                entry.deleted = value.deleted;
            }
            return;
        }
        let bound = self.ids.get(&value.id).is_some_and(|meaning| meaning.claimed && meaning.canonical != canonical);
        if bound || version == 0 || value.id == 0 {
            return;
        }
        let schema: Arc<str> = value.schema.as_str().into();
        let entry = Entry { id: value.id, schema, canonical, claimed: false, published: true, deleted: value.deleted };
        self.insert(subject, version, entry);
    }

    fn insert(&mut self, name: String, version: u32, entry: Entry) {
        let subject = self.subjects.entry(name.clone()).or_default();
        let erased = version <= subject.erased_to;
        let meaning = self.ids.entry(entry.id).or_insert_with(|| Meaning {
            schema: Arc::clone(&entry.schema),
            canonical: Arc::clone(&entry.canonical),
            claimed: entry.claimed,
            users: BTreeSet::new(),
        });
        if meaning.canonical != entry.canonical {
            meaning.schema = Arc::clone(&entry.schema);
            meaning.canonical = Arc::clone(&entry.canonical);
        }
        meaning.claimed |= entry.claimed;
        if !erased {
            meaning.users.insert((name.clone(), version));
        }
        let id = entry.id;
        if let Some(before) = subject.versions.insert(version, entry)
            && before.id != id
            && let Some(meaning) = self.ids.get_mut(&before.id)
        {
            meaning.users.remove(&(name, version));
        }
    }

    /// A claim outlives its SCHEMA record: after a compaction the tombstone is gone too, and must not have meant
    /// anything.
    fn apply_schema_tombstone(&mut self, name: &str, version: u32) {
        let Some(subject) = self.subjects.get_mut(name) else { return };
        let Some(entry) = subject.versions.get_mut(&version) else { return };
        if entry.claimed {
            entry.published = false;
            entry.deleted = false;
            return;
        }
        let user = (name.to_owned(), version);
        if let Some(meaning) = self.ids.get_mut(&entry.id) {
            meaning.users.remove(&user);
        }
        subject.versions.remove(&version);
    }

    fn apply_delete(&mut self, name: String, version: u32, permanent: bool, id: u32) {
        self.id_floor = self.id_floor.max(id);
        let subject = self.subjects.entry(name.clone()).or_default();
        subject.deleted_to = subject.deleted_to.max(version);
        if !permanent {
            return;
        }
        subject.erased_to = subject.erased_to.max(version);
        for (&version, entry) in subject.versions.range(..=version) {
            if let Some(meaning) = self.ids.get_mut(&entry.id) {
                meaning.users.remove(&(name.clone(), version));
            }
        }
    }

    /// The next step to register `schema` under `subject`; see [`Plan`].
    ///
    /// # Errors
    /// [`RegistryError::InvalidSchema`]; [`RegistryError::Incompatible`] with the subject's versions at its level;
    /// [`RegistryError::Refused`] for a schema over [`SCHEMA_BYTES_MAX`] or the topic's largest record, for a subject
    /// without a name, and when numbers have run out.
    pub fn plan_register(&self, subject: &str, schema: &str) -> Result<Plan, RegistryError> {
        if subject.is_empty() || subject.chars().any(char::is_control) {
            return Err(RegistryError::Refused("a subject must have a name, without control characters".to_owned()));
        }
        let canonical = validate(schema)?;
        if let Some((version, entry)) = self.find(subject, &canonical) {
            if entry.published {
                return Ok(Plan::Existing(SchemaId(entry.id)));
            }
            return Ok(Plan::Append(publish(subject, version, entry)));
        }
        let earlier: Vec<&str> = self.live(subject).map(|(_, entry)| &*entry.schema).collect();
        let reasons = compatibility::check(self.compatibility(Some(subject)), schema, &earlier).map_err(invalid)?;
        if !reasons.is_empty() {
            return Err(RegistryError::Incompatible { subject: subject.to_owned(), reasons });
        }
        let version = self.subjects.get(subject).map_or(0, Subject::version_max).checked_add(1);
        let same = self.ids.iter().find(|(_, meaning)| *meaning.canonical == *canonical).map(|(&id, _)| id);
        let id = same.or_else(|| self.id_max().checked_add(1));
        let (Some(version), Some(id)) = (version, id) else {
            return Err(RegistryError::Refused("there are no more versions or ids".to_owned()));
        };
        let claim = claim(subject, version, id, schema);
        let published = Entry {
            id,
            schema: schema.into(),
            canonical: canonical.into(),
            claimed: true,
            published: false,
            deleted: false,
        };
        let bytes = claim.bytes().max(publish(subject, version, &published).bytes());
        if bytes > RECORD_BYTES_MAX {
            let message = format!("a record of {bytes} bytes is too large for the topic, {RECORD_BYTES_MAX} at most");
            return Err(RegistryError::Refused(message));
        }
        Ok(Plan::Append(claim))
    }

    /// The schema of an id, while a version has it that is not deleted for good.
    pub fn schema(&self, id: SchemaId) -> Option<&str> {
        self.ids.get(&id.0).filter(|meaning| !meaning.users.is_empty()).map(|meaning| &*meaning.schema)
    }

    /// Those that have a version, in order of name.
    pub fn subjects(&self) -> Vec<String> {
        self.subjects.keys().filter(|name| self.live(name).next().is_some()).cloned().collect()
    }

    /// Ascending; empty where there is no such subject.
    pub fn versions(&self, subject: &str) -> Vec<u32> {
        self.live(subject).map(|(version, _)| version).collect()
    }

    /// As [`State::versions`], with the deleted ones that a permanent deletion would still delete.
    pub fn retained_versions(&self, subject: &str) -> Vec<u32> {
        let Some(subject) = self.subjects.get(subject) else { return Vec::new() };
        subject.versions.keys().copied().filter(|version| *version > subject.erased_to).collect()
    }

    /// One version that is not deleted.
    pub fn version(&self, subject: &str, version: Version) -> Option<RegisteredSchema> {
        let (version, entry) = match version {
            Version::Latest => self.live(subject).next_back()?,
            Version::Number(wanted) => self.live(subject).find(|(version, _)| *version == wanted)?,
        };
        Some(registered(subject, version, entry))
    }

    /// The version of `subject` that holds this schema.
    ///
    /// # Errors
    /// [`RegistryError::InvalidSchema`], and [`RegistryError::Refused`] for one that is too large.
    pub fn lookup(&self, subject: &str, schema: &str) -> Result<Option<RegisteredSchema>, RegistryError> {
        let canonical = validate(schema)?;
        Ok(self.find(subject, &canonical).map(|(version, entry)| registered(subject, version, entry)))
    }

    /// Why `schema` does not go with a version at the subject's level. `Latest` asks whether it could be the next
    /// version, so looks at all that the level looks at.
    ///
    /// # Errors
    /// As [`State::lookup`], and [`RegistryError::NotFound`] for a version's number that does not exist.
    pub fn check(&self, subject: &str, version: Version, schema: &str) -> Result<Vec<String>, RegistryError> {
        let canonical = validate(schema)?;
        let earlier: Vec<&str> = match version {
            Version::Latest if self.find(subject, &canonical).is_some() => Vec::new(),
            Version::Latest => self.live(subject).map(|(_, entry)| &*entry.schema).collect(),
            Version::Number(number) => match self.live(subject).find(|(version, _)| *version == number) {
                Some((_, entry)) => vec![&*entry.schema],
                None => return Err(RegistryError::NotFound { subject: subject.to_owned(), version: number }),
            },
        };
        compatibility::check(self.compatibility(Some(subject)), schema, &earlier).map_err(invalid)
    }

    /// The level in force.
    pub fn compatibility(&self, subject: Option<&str>) -> Level {
        let own = subject.and_then(|subject| self.subjects.get(subject)?.level);
        own.or(self.level).unwrap_or_default()
    }

    /// Sets a subject's level, or the one of all that have none of their own.
    pub fn plan_compatibility(&self, subject: Option<&str>, level: Level) -> Append {
        let key = Key::Config { subject: subject.map(str::to_owned), magic: 0 };
        Append::new(&key, Some(&ConfigValue { level: Some(level.to_string()) }))
    }

    /// Deletes all versions there are: nothing to append if there are none. `permanent` includes those deleted before.
    ///
    /// # Errors
    /// None so far.
    pub fn plan_delete(&self, name: &str, permanent: bool) -> Result<Vec<Append>, RegistryError> {
        let retained = self.retained_versions(name);
        let Some((&version, subject)) = retained.last().zip(self.subjects.get(name)) else { return Ok(Vec::new()) };
        let delete = |permanent| {
            let own = Own::Delete { subject: name.to_owned(), version, permanent, id: self.id_max() };
            Append::new(&Key::Noop { magic: 0, engram: Some(own) }, Some(&serde_json::json!({})))
        };
        let mut records = Vec::new();
        if self.live(name).next().is_some() {
            records.push(delete(false));
            let key = Key::DeleteSubject { subject: name.to_owned(), magic: 0 };
            records.push(Append::new(&key, Some(&DeleteSubjectValue { subject: name.to_owned(), version })));
        }
        if permanent {
            records.push(delete(true));
            for version in retained {
                let key = Key::Schema { subject: name.to_owned(), version, magic: 1 };
                records.push(Append::new(&key, None::<&()>));
            }
            if subject.level.is_some() {
                let key = Key::Config { subject: Some(name.to_owned()), magic: 0 };
                records.push(Append::new(&key, None::<&()>));
            }
        }
        Ok(records)
    }

    /// Versions that are not deleted, ascending.
    fn live(&self, subject: &str) -> impl DoubleEndedIterator<Item = (u32, &Entry)> {
        let subject = self.subjects.get(subject);
        let entries = subject.into_iter().flat_map(|subject| {
            let from = subject.deleted_to.max(subject.deleted_to_by_confluent).max(subject.erased_to);
            subject.versions.iter().filter(move |(version, entry)| **version > from && !entry.deleted)
        });
        entries.map(|(version, entry)| (*version, entry))
    }

    fn find(&self, subject: &str, canonical: &str) -> Option<(u32, &Entry)> {
        self.live(subject).find(|(_, entry)| *entry.canonical == *canonical)
    }

    fn id_max(&self) -> u32 {
        self.ids.keys().next_back().copied().unwrap_or(0).max(self.id_floor)
    }
}

impl Subject {
    /// Versions are not given twice, not even after a permanent deletion.
    fn version_max(&self) -> u32 {
        let highest = self.versions.keys().next_back().copied().unwrap_or(0);
        highest.max(self.deleted_to).max(self.deleted_to_by_confluent).max(self.erased_to)
    }
}

impl Append {
    fn new(key: &Key, value: Option<&impl Serialize>) -> Self {
        let bytes = |json: serde_json::Result<Vec<u8>>| json.expect("strings and numbers become JSON");
        Self { key: bytes(serde_json::to_vec(key)), value: value.map(|value| bytes(serde_json::to_vec(value))) }
    }

    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

fn claim(subject: &str, version: u32, id: u32, schema: &str) -> Append {
    // A new `RandomState` has other keys than all before it in this process and, all but surely, in any other. The
    // nonce decides nothing: it only keeps two claims from compacting into one, which would take the later one's place.
    let nonce = format!("{:016x}", RandomState::new().hash_one((subject, version, id)));
    let own = Own::Claim { subject: subject.to_owned(), version, id, nonce };
    Append::new(&Key::Noop { magic: 0, engram: Some(own) }, Some(&ClaimValue { schema: schema.to_owned() }))
}

fn publish(subject: &str, version: u32, entry: &Entry) -> Append {
    let key = Key::Schema { subject: subject.to_owned(), version, magic: 1 };
    let value = SchemaValue {
        subject: subject.to_owned(),
        version,
        id: entry.id,
        schema: entry.schema.as_ref().to_owned(),
        deleted: false,
    };
    Append::new(&key, Some(&value))
}

fn registered(subject: &str, version: u32, entry: &Entry) -> RegisteredSchema {
    RegisteredSchema {
        subject: subject.to_owned(),
        version,
        id: SchemaId(entry.id),
        schema: entry.schema.as_ref().to_owned(),
    }
}

/// The schema's text for comparison.
fn validate(schema: &str) -> Result<String, RegistryError> {
    if schema.len() > SCHEMA_BYTES_MAX {
        let message = format!("a schema of {} bytes is too large, {SCHEMA_BYTES_MAX} at most", schema.len());
        return Err(RegistryError::Refused(message));
    }
    let parsed = Schema::parse_str(schema).map_err(invalid)?;
    // The parser lets a name be defined twice; nothing could read such a schema's records.
    ResolvedSchema::new(&parsed).map_err(invalid)?;
    Ok(canonical(schema))
}

fn invalid(error: apache_avro::Error) -> RegistryError {
    RegistryError::InvalidSchema(Box::new(error))
}

fn parse<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of optional fields: any two of these are compatible both ways.
    fn optional(field: usize) -> String {
        format!(
            r#"{{"type": "record", "name": "R", "fields": [{{"name": "f{field}", "type": ["null", "int"], "default": null}}]}}"#
        )
    }

    type Log = Vec<(u64, Append)>;

    fn append(log: &mut Log, record: Append) {
        let offset = log.last().map_or(0, |(offset, _)| offset + 1);
        log.push((offset, record));
    }

    /// As Kafka's log cleaner, up to a position; tombstones go as well.
    fn compact(log: &mut Log, to: usize) {
        let keys: Vec<Vec<u8>> = log.iter().map(|(_, record)| record.key.clone()).collect();
        let mut index = 0;
        log.retain(|(_, record)| {
            let at = index;
            index += 1;
            at >= to || (!keys[at + 1..to].contains(&record.key) && record.value.is_some())
        });
    }

    fn read(state: &mut State, log: &Log, from: u64) -> u64 {
        for (_, record) in log.iter().filter(|(offset, _)| *offset >= from) {
            state.apply(&record.key, record.value.as_deref());
        }
        log.last().map_or(0, |(offset, _)| offset + 1)
    }

    fn replay(log: &Log) -> State {
        let mut state = State::default();
        read(&mut state, log, 0);
        state
    }

    /// All that a user can see.
    fn view(state: &State) -> String {
        let mut lines = Vec::new();
        for (name, subject) in &state.subjects {
            lines.push(format!("{name} {:?} {:?}", state.retained_versions(name), state.compatibility(Some(name))));
            for &version in subject.versions.keys() {
                lines.push(format!("{:?}", state.version(name, Version::Number(version))));
            }
        }
        for id in 1..=state.id_max() {
            lines.push(format!("{id} {:?}", state.schema(SchemaId(id)).map(canonical)));
        }
        lines.join("\n")
    }

    fn register(log: &mut Log, subject: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        loop {
            match replay(log).plan_register(subject, schema)? {
                Plan::Existing(id) => return Ok(id),
                Plan::Append(record) => append(log, record),
            }
        }
    }

    fn delete(log: &mut Log, subject: &str, permanent: bool) {
        for record in replay(log).plan_delete(subject, permanent).unwrap() {
            append(log, record);
        }
    }

    fn raw(log: &mut Log, key: &str, value: Option<&str>) {
        append(log, Append { key: key.into(), value: value.map(Into::into) });
    }

    fn planned(state: &State, subject: &str, schema: &str) -> Append {
        match state.plan_register(subject, schema).unwrap() {
            Plan::Append(record) => record,
            Plan::Existing(id) => panic!("{subject} has it as {id:?}"),
        }
    }

    #[test]
    fn versions_follow_each_other_and_ids_are_shared() {
        let mut log = Log::new();
        assert_eq!(register(&mut log, "a-value", &optional(1)).unwrap(), SchemaId(1));
        assert_eq!(register(&mut log, "a-value", &optional(2)).unwrap(), SchemaId(2));
        assert_eq!(register(&mut log, "a-value", &optional(1).replace(' ', "")).unwrap(), SchemaId(1));
        assert_eq!(register(&mut log, "b-value", &optional(2)).unwrap(), SchemaId(2));
        let state = replay(&log);
        assert_eq!(state.subjects(), ["a-value", "b-value"]);
        assert_eq!(state.versions("a-value"), [1, 2]);
        assert_eq!(state.version("a-value", Version::Latest).unwrap().schema, optional(2));
        assert_eq!(state.lookup("a-value", &optional(1)).unwrap().unwrap().version, 1);
        assert_eq!(state.lookup("b-value", &optional(1)).unwrap(), None);
        assert_eq!(state.schema(SchemaId(1)), Some(optional(1).as_str()));
        assert_eq!(state.schema(SchemaId(3)), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let mut log = Log::new();
        register(&mut log, "s", r#""int""#).unwrap();
        let Err(RegistryError::Incompatible { subject, reasons }) = register(&mut log, "s", r#""string""#) else {
            panic!("a string is not an int");
        };
        assert_eq!(subject, "s");
        assert!(reasons[0].contains("reader wants string, writer has int"), "{reasons:?}");
        let state = replay(&log);
        assert_eq!(state.check("s", Version::Latest, r#""string""#).unwrap(), reasons);
        assert!(matches!(
            state.check("s", Version::Number(9), r#""int""#),
            Err(RegistryError::NotFound { version: 9, .. })
        ));
        append(&mut log, state.plan_compatibility(Some("s"), Level::None));
        register(&mut log, "s", r#""string""#).unwrap();
        assert!(matches!(register(&mut log, "s", "{"), Err(RegistryError::InvalidSchema(_))));
        let large = optional(1).replace("f1", &"f".repeat(SCHEMA_BYTES_MAX));
        assert!(matches!(register(&mut log, "s", &large), Err(RegistryError::Refused(_))));
        assert!(matches!(register(&mut log, "", r#""int""#), Err(RegistryError::Refused(_))));
    }

    #[test]
    fn levels_of_a_subject_and_of_all() {
        let mut log = Log::new();
        assert_eq!(replay(&log).compatibility(None), Level::FullTransitive);
        raw(&mut log, r#"{"keytype":"CONFIG","subject":null,"magic":0}"#, Some(r#"{"compatibilityLevel":"BACKWARD"}"#));
        append(&mut log, State::default().plan_compatibility(Some("s"), Level::Forward));
        let state = replay(&log);
        assert_eq!(state.compatibility(Some("other")), Level::Backward);
        assert_eq!(state.compatibility(Some("s")), Level::Forward);
        assert_eq!(log[1].1.key, br#"{"keytype":"CONFIG","subject":"s","magic":0}"#);
    }

    #[test]
    fn confluents_records_are_read_and_continued() {
        let mut log = Log::new();
        raw(&mut log, r#"{"keytype":"NOOP","magic":0}"#, None);
        raw(&mut log, "garbage", Some("garbage"));
        for (version, id) in [(1, 7), (2, 9)] {
            let key = format!(r#"{{"keytype":"SCHEMA","subject":"s","version":{version},"magic":1}}"#);
            let text = serde_json::to_string(&optional(version)).unwrap();
            let value = format!(r#"{{"subject":"s","version":{version},"id":{id},"schema":{text},"deleted":false}}"#);
            raw(&mut log, &key, Some(&value));
        }
        assert_eq!(register(&mut log, "s", &optional(1)).unwrap(), SchemaId(7));
        assert_eq!(register(&mut log, "s", &optional(3)).unwrap(), SchemaId(10));
        // Published under the very bytes that Confluent's registry would write.
        assert_eq!(log.last().unwrap().1.key, br#"{"keytype":"SCHEMA","subject":"s","version":3,"magic":1}"#);
        raw(
            &mut log,
            r#"{"keytype":"DELETE_SUBJECT","subject":"s","magic":0}"#,
            Some(r#"{"subject":"s","version":2}"#),
        );
        assert_eq!(replay(&log).versions("s"), [3]);
    }

    /// In either order: the first claim stays what it is, and the loser finds another version.
    #[test]
    fn of_two_writers_the_first_wins_before_and_after_compaction() {
        for order in [[1, 2], [2, 1]] {
            let mut log = Log::new();
            let state = State::default();
            for field in order {
                append(&mut log, planned(&state, "s", &optional(field)));
            }
            let winner = SchemaId(1);
            // The loser does not know yet that it lost, and nothing is published.
            assert_eq!(replay(&log).schema(winner), Some(optional(order[0]).as_str()));
            assert_eq!(register(&mut log, "s", &optional(order[0])).unwrap(), winner);
            assert_eq!(register(&mut log, "s", &optional(order[1])).unwrap(), SchemaId(2));
            let before = view(&replay(&log));
            for to in 0..=log.len() {
                let mut compacted = log.clone();
                compact(&mut compacted, to);
                assert_eq!(view(&replay(&compacted)), before, "compacted to {to}");
            }
        }
    }

    #[test]
    fn an_id_is_not_given_to_two_subjects_schemas() {
        let mut log = Log::new();
        let state = State::default();
        append(&mut log, planned(&state, "a", &optional(1)));
        append(&mut log, planned(&state, "b", &optional(2)));
        let state = replay(&log);
        assert_eq!(state.versions("b"), Vec::<u32>::new());
        assert_eq!(register(&mut log, "b", &optional(2)).unwrap(), SchemaId(2));
        assert_eq!(register(&mut log, "a", &optional(1)).unwrap(), SchemaId(1));
    }

    #[test]
    fn a_deleted_subject_resolves_by_id_until_it_is_deleted_for_good() {
        let mut log = Log::new();
        register(&mut log, "s", &optional(1)).unwrap();
        register(&mut log, "s", &optional(2)).unwrap();
        delete(&mut log, "s", false);
        let state = replay(&log);
        assert_eq!((state.subjects(), state.versions("s")), (vec![], vec![]));
        assert_eq!(state.retained_versions("s"), [1, 2]);
        assert!(state.schema(SchemaId(2)).is_some());
        assert!(state.plan_delete("s", false).unwrap().is_empty());
        delete(&mut log, "s", true);
        let state = replay(&log);
        assert_eq!(state.schema(SchemaId(2)), None);
        assert!(state.plan_delete("s", true).unwrap().is_empty());
        assert!(state.plan_delete("unknown", true).unwrap().is_empty());
        // Neither the number of a version nor an id comes back with another meaning.
        let to = log.len();
        compact(&mut log, to);
        assert_eq!(register(&mut log, "s", &optional(3)).unwrap(), SchemaId(3));
        assert_eq!(register(&mut log, "s", &optional(1)).unwrap(), SchemaId(1));
        assert_eq!(replay(&log).versions("s"), [3, 4]);
    }

    #[test]
    fn ids_that_confluent_gave_do_not_come_back_after_a_permanent_deletion() {
        let mut log = Log::new();
        let text = serde_json::to_string(&optional(1)).unwrap();
        let value = format!(r#"{{"subject":"s","version":1,"id":7,"schema":{text},"deleted":false}}"#);
        raw(&mut log, r#"{"keytype":"SCHEMA","subject":"s","version":1,"magic":1}"#, Some(&value));
        delete(&mut log, "s", true);
        let to = log.len();
        compact(&mut log, to);
        assert_eq!(register(&mut log, "s", &optional(2)).unwrap(), SchemaId(8));
    }

    /// Splitmix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
        }
    }

    #[derive(Default)]
    struct Writer {
        state: State,
        position: u64,
        /// Planned and not yet appended, while others append.
        held: Vec<Append>,
    }

    /// Writers interleave at every step, and the cleaner runs at any time. Whatever id a writer was told means that
    /// schema to everyone, and all readers agree, whichever compaction they started from.
    #[test]
    fn interleaved_writers_agree() {
        for seed in 0..150 {
            let mut random = Random(seed);
            let (mut full, mut log) = (Log::new(), Log::new());
            let mut writers: Vec<Writer> = (0..3).map(|_| Writer::default()).collect();
            let mut told: BTreeMap<u32, String> = BTreeMap::new();
            for _ in 0..120 {
                let subject = ["a", "b"][random.below(2)];
                let schema = optional(random.below(4));
                let index = random.below(writers.len());
                let writer = &mut writers[index];
                match random.below(20) {
                    0..10 if writer.held.is_empty() => {
                        writer.position = read(&mut writer.state, &log, writer.position).max(writer.position);
                        match writer.state.plan_register(subject, &schema).unwrap() {
                            Plan::Append(record) => writer.held.push(record),
                            Plan::Existing(id) => {
                                let before = told.insert(id.0, canonical(&schema));
                                assert!(
                                    before.is_none_or(|before| before == canonical(&schema)),
                                    "seed {seed}: {id:?}"
                                );
                            }
                        }
                    }
                    10 if writer.held.is_empty() => {
                        writer.position = read(&mut writer.state, &log, writer.position).max(writer.position);
                        writer.held = writer.state.plan_delete(subject, random.below(2) == 0).unwrap();
                    }
                    11 => {
                        let to = random.below(log.len() + 1);
                        // The last record stays, as in Kafka's active segment.
                        compact(&mut log, to.saturating_sub(1));
                    }
                    _ => {
                        for record in writer.held.drain(..) {
                            append(&mut full, record.clone());
                            append(&mut log, record);
                        }
                    }
                }
            }
            let expected = replay(&full);
            for (id, schema) in &told {
                let means = expected.ids.get(id).map(|meaning| meaning.canonical.to_string());
                assert_eq!(means.as_ref(), Some(schema), "seed {seed}: id {id}");
            }
            let expected = view(&expected);
            assert_eq!(view(&replay(&log)), expected, "seed {seed}: compacted");
            for writer in &mut writers {
                read(&mut writer.state, &log, writer.position);
                assert_eq!(view(&writer.state), expected, "seed {seed}: a writer");
            }
        }
    }

    /// The parser takes a name that is defined twice; nobody could read such a schema's records.
    #[test]
    fn a_name_that_is_defined_twice_is_refused() {
        let schema = r#"{"type": "record", "name": "R", "fields": [
            {"name": "a", "type": {"type": "fixed", "name": "F", "size": 1}},
            {"name": "b", "type": {"type": "fixed", "name": "F", "size": 2}}]}"#;
        let planned = State::default().plan_register("s", schema);
        assert!(matches!(planned, Err(RegistryError::InvalidSchema(_))), "{planned:?}");
    }
}
