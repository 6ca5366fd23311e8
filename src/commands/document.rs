//! `engram document`: a document as it is or was, its edits and who wrote what, from the log; and the edits that are made of
//! its history, which go into the log like any other.

use std::sync::Arc;

use anyhow::Context as _;
use engram_connectors::gateway::{Blame, DocumentRefusal, Histories as _, Made, Undone};
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{NewRecord, ProducerOptions, partitions_of};
use engram_processors::collaboration::DOCUMENT_EDITS;
use engram_schemas::Event as _;
use engram_schemas::codec::Encoder;
use engram_schemas::document::{Edit, split_document_key};
use serde_json::{Value, json};

use super::stop_flag;
use crate::cli::{Document as Command, Global};
use crate::histories::Histories;
use crate::output;
use crate::values::rfc3339;
use crate::wire::{Access, Connection};

pub fn run(global: &Global, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Show { id, at } => show(global, id, at.as_deref()),
        Command::History { id, limit } => history(global, id, *limit),
        Command::Blame { id } => blame(global, id),
        Command::Rollback { id, actor, since, seq, by } => {
            let undone = match (actor, seq) {
                (_, Some((from_seq, to_seq))) => Undone::Range { from_seq: *from_seq, to_seq: *to_seq },
                (actor, None) => {
                    Undone::Actor { actor: actor.clone().expect("one of them is given"), since_ms: *since }
                }
            };
            let edit = new_edit();
            let histories = open(global, Access::Write)?;
            let made = histories.rollback(id, &undone, &edit).map_err(explained)?;
            write(global, &histories.connection, id, edit, &by.by, made)
        }
        Command::Branch { id, new_id, at, by } => {
            let histories = open(global, Access::Write)?;
            let made = histories.branch(id, new_id, at.as_deref()).map_err(explained)?;
            write(global, &histories.connection, new_id, new_edit(), &by.by, Some(made))
        }
        Command::Merge { id, from, by } => {
            let histories = open(global, Access::Write)?;
            let made = histories.merge(id, from).map_err(explained)?;
            write(global, &histories.connection, id, new_edit(), &by.by, made)
        }
    }
}

fn open(global: &Global, access: Access) -> anyhow::Result<Histories> {
    Ok(Histories { connection: Arc::new(Connection::open(global, access)?), stop: stop_flag()? })
}

fn new_edit() -> String {
    format!("cli-{:032x}", rand::random::<u128>())
}

fn explained(refusal: DocumentRefusal) -> anyhow::Error {
    let (DocumentRefusal::NotFound(reason)
    | DocumentRefusal::Wrong(reason)
    | DocumentRefusal::Conflict(reason)
    | DocumentRefusal::TooLarge(reason)
    | DocumentRefusal::Unavailable(reason)) = refusal;
    anyhow::anyhow!(reason)
}

fn show(global: &Global, id: &str, at: Option<&str>) -> anyhow::Result<()> {
    let state = open(global, Access::Read)?.state(id, at).map_err(explained)?;
    let roots: Value = serde_json::from_str(&state.roots)?;
    let position = format!("{}:{}", state.partition, state.offset);
    if global.json {
        let (seq, time, hash) = (state.seq, rfc3339(state.time), state.hash);
        let shown = json!({"id": id, "position": position, "seq": seq, "time": time, "hash": hash, "roots": roots});
        return Ok(output::json(&shown)?);
    }
    output::line(format_args!("{id}: edit {} at {position}, {}", state.seq, rfc3339(state.time)))?;
    Ok(output::line(serde_json::to_string_pretty(&roots)?)?)
}

fn history(global: &Global, id: &str, limit: usize) -> anyhow::Result<()> {
    let history = open(global, Access::Read)?.read(id).map_err(explained)?;
    let newest = &history.edits()[history.edits().len().saturating_sub(limit)..];
    let place = |partition: i32, offset: i64| format!("{partition}:{offset}");
    if global.json {
        for edit in newest {
            output::json(&json!({
                "seq": edit.seq, "time": rfc3339(edit.time), "actor": edit.actor,
                "position": place(edit.partition, edit.offset), "purpose": edit.purpose, "source": edit.source,
                "bytes": edit.update.len(), "id": edit.id
            }))?;
        }
        return Ok(());
    }
    let rows = newest.iter().map(|edit| {
        let position = place(edit.partition, edit.offset);
        let bytes = edit.update.len().to_string();
        vec![edit.seq.to_string(), rfc3339(edit.time), edit.actor.clone(), position, edit.purpose.clone(), bytes]
    });
    Ok(output::table(&["seq", "time", "actor", "position", "purpose", "bytes"], rows)?)
}

fn blame(global: &Global, id: &str) -> anyhow::Result<()> {
    let Blame { ranges, .. } = open(global, Access::Read)?.blame(id).map_err(explained)?;
    if global.json {
        for range in ranges {
            let mut shown = serde_json::to_value(&range)?;
            shown["time"] = rfc3339(range.time).into();
            output::json(&shown)?;
        }
        return Ok(());
    }
    let rows = ranges.into_iter().map(|range| {
        let text = range.text.replace('\n', "\\n");
        let (place, edit) = (format!("{} {}..{}", range.root, range.from, range.to), range.seq.to_string());
        vec![place, range.actor, rfc3339(range.time), edit, range.position, text]
    });
    Ok(output::table(&["where", "actor", "time", "seq", "position", "text"], rows)?)
}

/// Writes an edit and waits until it is in the log.
fn write(
    global: &Global,
    connection: &Connection,
    document: &str,
    id: String,
    actor: &str,
    made: Option<Made>,
) -> anyhow::Result<()> {
    let Some(Made { update, purpose, source }) = made else {
        if global.json {
            return Ok(output::json(&json!({"id": document, "changed": false}))?);
        }
        return Ok(output::line(format_args!("{document}: nothing would change"))?);
    };
    let (bytes, time) = (update.len(), engram_pipeline::clock::now_ms());
    let written_at = rfc3339(time);
    let (document, actor) = (document.to_owned(), actor.to_owned());
    let edit = Edit { id, time, document, actor, session: String::new(), update, source, purpose: purpose.to_owned() };
    let partitions = partitions_of(&connection.log.topics()?, DOCUMENT_EDITS);
    anyhow::ensure!(partitions > 0, "there is no topic {DOCUMENT_EDITS} yet: start the services with 'engram up'");
    let mut value = Vec::new();
    Encoder::register(&*connection.registry, DOCUMENT_EDITS)?.encode(&edit, &mut value)?;
    let options = ProducerOptions { client_id: "engram-document".to_owned(), transactional_id: None };
    let mut producer = connection.log.producer(&options)?;
    let record = NewRecord {
        topic: DOCUMENT_EDITS,
        partition: partition_for(edit.document.as_bytes(), partitions),
        timestamp_ms: Some(time),
        key: Some(edit.document.as_bytes()),
        value: Some(&value),
        headers: &[
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(edit.id.as_bytes())),
            ("ce_type", Some(Edit::NAME.as_bytes())),
            ("ce_source", Some(b"engram/document")),
            ("ce_time", Some(written_at.as_bytes())),
            ("tenant", Some(split_document_key(&edit.document).0.as_bytes())),
            ("actor", Some(edit.actor.as_bytes())),
        ],
    };
    producer.write(&record, false).and_then(|()| producer.flush().map(drop)).context("the edit cannot be written")?;
    if global.json {
        return Ok(output::json(&json!({"id": edit.document, "changed": true, "edit": edit.id, "bytes": bytes}))?);
    }
    Ok(output::line(format_args!("{}: edit {} written ({bytes} bytes)", edit.document, edit.id))?)
}
