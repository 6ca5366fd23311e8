//! `engram consume`: a topic's committed records, partition by partition in offset order.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use engram_pipeline::changelog;
use engram_pipeline::log::{RecordRef, TopicPartition};
use engram_pipeline::replay::OutputId;
use engram_schemas::codec::Decoder;
use serde_json::{Value, json};

use super::stop_flag;
use crate::cli::{Consume, Format, Global};
use crate::output::{self, Usage};
use crate::past::{OutputsAt, PastService};
use crate::queries;
use crate::reading;
use crate::values::{When, rfc3339};
use crate::wire::{self, Access, Connection};

/// Rows of a table are held back to align its columns, so many at a time.
const TABLE_ROWS: usize = 500;

pub fn run(global: &Global, args: &Consume) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let topics = connection.log.topics()?;
    let topic = topics
        .iter()
        .find(|topic| topic.name == args.topic)
        .with_context(|| format!("there is no topic {:?}; 'engram topics' shows what there is", args.topic))?;
    let format = args.format.unwrap_or(if global.json { Format::Ndjson } else { Format::Table });
    let mut printer = Printer {
        decoder: Decoder::new(connection.registry.clone()),
        format,
        key: args.key.clone(),
        last: args.last,
        rows: VecDeque::new(),
        latest: BTreeMap::new(),
        header: None,
    };
    let stop = stop_flag()?;
    if let Some(when) = &args.as_of {
        as_of(&connection, &args.topic, topic.partitions, when, &stop, &mut printer)?;
        return printer.flush();
    }
    let spans = reading::spans(&*connection.log, topic, args.from, (!args.follow).then_some(args.to))?;
    reading::read(&*connection.log, &spans, &stop, |found| match found {
        Some((partition, record)) => printer.add(partition, record),
        None if args.follow => printer.flush(),
        None => Ok(()),
    })?;
    printer.flush()
}

/// What there was at a moment.
fn as_of(
    connection: &Connection,
    topic: &str,
    partitions: i32,
    when: &When,
    stop: &AtomicBool,
    printer: &mut Printer,
) -> anyhow::Result<()> {
    let log = &*connection.log;
    let writer = wire::ALL_SERVICES.iter().find(|name| {
        let service = wire::service(name, &connection.config, &connection.data);
        let runs = queries::partitions(&log.topics().unwrap_or_default(), name) > 0;
        runs && service.is_ok_and(|service| service.outputs.iter().any(|output| output.topic == topic))
    });
    let until = match writer {
        Some(name) => {
            let service = PastService::open(connection, name)?;
            let tasks = service.tasks(when)?.map(|task| Ok((task, service.outputs_at(task, when)?)));
            let tasks: BTreeMap<i32, OutputsAt> = tasks.collect::<anyhow::Result<_>>()?;
            Some((service, tasks, *name))
        }
        None => None,
    };
    for number in 0..partitions {
        let partition = TopicPartition::new(topic, number);
        let range = log.offsets(std::slice::from_ref(&partition))?[0];
        let end = match (&until, when) {
            (Some((service, _, name)), _) => {
                anyhow::ensure!(
                    service.keeps(topic) && range.first == 0,
                    "topic {topic} has lost records to compaction or retention: 'engram replay {name} --out DIR --to TIME' \
                     makes them again"
                );
                range.stable
            }
            (None, When::Time(ms)) => log.offset_at(&partition, ms.saturating_add(1))?.unwrap_or(range.stable),
            (None, When::Record { .. }) => {
                anyhow::bail!(Usage(format!("no service writes topic {topic}: give --as-of a TIME, or --to an offset")))
            }
        };
        changelog::read_batches(log, &partition, range.first, end, |batch, at| -> anyhow::Result<()> {
            anyhow::ensure!(!stop.load(Ordering::Relaxed), "stopped");
            let record = batch.record(at);
            let was_there = match &until {
                None => record.offset < end,
                Some((_, tasks, name)) => OutputId::of(batch, at)
                    .is_some_and(|id| id.service == **name && tasks.get(&id.task).is_some_and(|until| until.has(&id))),
            };
            if was_there { printer.add(&partition, record) } else { Ok(()) }
        })?;
    }
    Ok(())
}

struct Printer {
    decoder: Decoder,
    format: Format,
    key: Option<String>,
    last: Option<usize>,
    rows: VecDeque<Row>,
    /// Where only the last are wanted: by time of writing, partition and offset.
    latest: BTreeMap<(i64, i32, i64), Row>,
    /// The columns of the table that was begun.
    header: Option<Vec<String>>,
}

enum Row {
    Table(Vec<String>, Vec<String>),
    Line(Vec<u8>),
}

impl Printer {
    fn add(&mut self, partition: &TopicPartition, record: RecordRef<'_>) -> anyhow::Result<()> {
        let key = record.key.map(|key| String::from_utf8_lossy(key).into_owned());
        if self.key.is_some() && self.key != key {
            return Ok(());
        }
        let row = match self.format {
            Format::Raw => Row::Line(record.value.unwrap_or_default().to_vec()),
            Format::Ndjson => Row::Line(serde_json::to_vec(&json!({
                "partition": partition.partition, "offset": record.offset, "timestamp": rfc3339(record.timestamp_ms),
                "key": key, "value": output::value(&mut self.decoder, record.value)?
            }))?),
            Format::Table => {
                let (mut names, mut cells) = (
                    vec!["partition".to_owned(), "offset".to_owned()],
                    vec![partition.partition.to_string(), record.offset.to_string()],
                );
                match output::value(&mut self.decoder, record.value)? {
                    Value::Object(fields) => {
                        for (name, value) in fields {
                            cells.push(cell(&name, value));
                            names.push(name);
                        }
                    }
                    other => {
                        names.extend(["key".to_owned(), "value".to_owned()]);
                        cells.extend([key.unwrap_or_default(), cell("", other)]);
                    }
                }
                Row::Table(names, cells)
            }
        };
        let Some(last) = self.last else {
            self.rows.push_back(row);
            return if self.rows.len() >= TABLE_ROWS { self.flush() } else { Ok(()) };
        };
        self.latest.insert((record.timestamp_ms, partition.partition, record.offset), row);
        if self.latest.len() > last {
            self.latest.pop_first();
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.rows.extend(std::mem::take(&mut self.latest).into_values());
        let mut table: Vec<Vec<String>> = Vec::new();
        for row in std::mem::take(&mut self.rows) {
            match row {
                Row::Line(line) => {
                    let mut out = std::io::stdout().lock();
                    out.write_all(&line)?;
                    out.write_all(b"\n")?;
                }
                Row::Table(names, cells) => {
                    if self.header.as_ref() != Some(&names) {
                        self.print_table(std::mem::take(&mut table))?;
                        self.header = Some(names);
                    }
                    table.push(cells);
                }
            }
        }
        self.print_table(table)
    }

    fn print_table(&self, rows: Vec<Vec<String>>) -> anyhow::Result<()> {
        if let (Some(header), false) = (&self.header, rows.is_empty()) {
            let header: Vec<&str> = header.iter().map(String::as_str).collect();
            output::table(&header, rows)?;
        }
        Ok(())
    }
}

/// Times are stored in ms; people read RFC 3339.
fn cell(name: &str, value: Value) -> String {
    let is_time = matches!(name, "time" | "timestamp")
        || name.ends_with("_ts")
        || name.starts_with("window_")
        || name.starts_with("session_");
    match value {
        Value::Number(number) if is_time => number.as_i64().map_or_else(|| number.to_string(), rfc3339),
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
