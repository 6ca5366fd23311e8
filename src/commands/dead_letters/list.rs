//! `engram dead-letters list`: a line for each letter.

use std::collections::BTreeMap;

use engram_schemas::dead_letter::DeadLetter;
use serde_json::json;

use super::letters::Letters;
use super::marks;
use crate::cli::{Global, LetterFilter};
use crate::commands::stop_flag;
use crate::output;
use crate::values::{Place, rfc3339};
use crate::wire::{Access, Connection};

pub fn run(global: &Global, filter: &LetterFilter, limit: usize) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let stop = stop_flag()?;
    let marks = marks::read(&connection)?;
    // By time, without their records: those may be large.
    let mut newest: BTreeMap<(i64, Place), DeadLetter> = BTreeMap::new();
    let (mut found, mut others) = (0_u64, 0);
    if let Some(mut letters) = Letters::open(&connection)? {
        others = letters.each(filter, &stop, |place, letter| {
            found += 1;
            newest.insert((letter.time, place), DeadLetter { value: None, headers: Vec::new(), ..letter });
            if newest.len() > limit {
                newest.pop_first();
            }
            Ok(())
        })?;
    }
    let mut rows = Vec::new();
    for ((_, place), letter) in &newest {
        let key = letter.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
        let replayed = marks.get(place).map(|mark| rfc3339(mark.time));
        if global.json {
            output::json(&json!({
                "place": place.to_string(), "time": rfc3339(letter.time), "service": letter.service,
                "cause": letter.cause, "detail": letter.detail, "topic": letter.topic, "partition": letter.partition,
                "offset": letter.offset, "key": key, "whole": letter.whole, "replayed": replayed
            }))?;
        }
        rows.push(vec![
            place.to_string(),
            rfc3339(letter.time),
            letter.service.clone(),
            letter.cause.clone(),
            format!("{}/{}/{}", letter.topic, letter.partition, letter.offset),
            key.unwrap_or_default(),
            replayed.unwrap_or_default(),
            letter.detail.clone(),
        ]);
    }
    if !global.json {
        output::table(&["place", "time", "service", "cause", "record", "key", "replayed", "detail"], rows)?;
    }
    if found > newest.len() as u64 {
        output::say(format_args!("engram: the newest {} of {found} are shown; --limit shows more", newest.len()));
    }
    if others > 0 {
        output::say(format_args!("engram: {others} records of the topic dead-letters are no dead letters"));
    }
    Ok(())
}
