//! `engram produce`: JSON lines in, Avro records out. Every line is checked against the topic's schema; wrong ones are
//! reported by number and left out, the others are written.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal as _, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use engram_connectors::events::{self, Encoded, JsonEncoder, Of};
use engram_pipeline::log::partitioner::partition_for;
use engram_pipeline::log::{Cleanup, LogError, NewRecord, Producer, ProducerOptions, TopicSpec};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use engram_schemas::Subject;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::stop_flag;
use crate::cli::{Global, Produce};
use crate::output::{self, Usage};
use crate::values::rfc3339;
use crate::wire::{Access, Connection};

/// Lines between two flushes: what is reported as written is in the log.
const FLUSH_LINES: u64 = 10_000;
/// Or so many bytes of them: fewer than a producer writes of its own accord.
const FLUSH_BYTES: usize = 4 << 20;
const INPUT_BYTES: usize = 1 << 20;
/// Longest line.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Wrong lines that are reported one by one.
const REPORTED_MAX: u64 = 20;

/// What an event needs to become a record.
struct Target {
    encoder: JsonEncoder,
    partitions: i32,
}

pub fn run(global: &Global, args: &Produce) -> anyhow::Result<()> {
    let input: Box<dyn Read> = match &args.file {
        Some(path) => Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => Box::new(std::io::stdin()),
    };
    let mut input = BufReader::with_capacity(INPUT_BYTES, input);
    let size = args.file.as_ref().and_then(|path| path.metadata().ok()).map_or(0, |metadata| metadata.len());
    let subject = events::subject(Of::Inputs, &args.topic, args.event_type.as_deref())
        .map_err(|error| Usage(error.to_string()))?;
    let connection = Connection::open(global, Access::Write)?;
    let mut target = prepare(&connection, subject)?;
    let options = ProducerOptions { client_id: "engram-produce".to_owned(), transactional_id: None };
    let mut producer = connection.log.producer(&options)?;
    let stop = stop_flag()?;
    let bar = progress(size);
    let (mut number, mut written, mut wrong) = (0_u64, 0_u64, 0_u64);
    // The last line before which everything is in the log, and the bytes that are not known to be.
    let (mut flushed, mut unflushed_bytes) = (0_u64, 0_usize);
    let mut line = Vec::new();
    while wait_for_input(&input, args.file.is_none(), &stop)
        && let Some(outcome) = read_line(&mut input, &mut line).context("cannot read the input")?
    {
        number += 1;
        bar.inc(line.len() as u64 + 1);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match outcome.and_then(|()| write_line(&mut *producer, &mut target, &line)) {
            Ok(()) => written += 1,
            Err(WriteError::Line(reason)) => {
                wrong += 1;
                if wrong <= REPORTED_MAX {
                    bar.suspend(|| crate::output::say(format_args!("engram: line {number}: {reason}")));
                }
            }
            Err(WriteError::Log(error)) => return Err(interrupted(flushed, number, error)),
        }
        unflushed_bytes += line.len();
        // What has come by a pipe is not kept waiting for what is yet to come.
        let is_drained = input.buffer().is_empty();
        if is_drained || number - flushed >= FLUSH_LINES || unflushed_bytes >= FLUSH_BYTES {
            producer.flush().map_err(|error| interrupted(flushed, number, error))?;
            (flushed, unflushed_bytes) = (number, 0);
        }
    }
    producer.flush().map_err(|error| interrupted(flushed, number, error))?;
    bar.finish_and_clear();
    if global.json {
        output::json(&json!({"topic": args.topic, "written": written, "wrong": wrong}))?;
    } else {
        println!("{written} events written to {}", args.topic);
    }
    anyhow::ensure!(wrong == 0, "{wrong} of {number} lines were wrong and were left out; mend and produce only those");
    Ok(())
}

fn prepare(connection: &Connection, subject: &'static Subject) -> anyhow::Result<Target> {
    let known = connection.log.topics()?;
    let mut partitions = known.iter().find(|topic| topic.name == subject.topic).map(|topic| topic.partitions);
    if partitions.is_none() {
        connection.log.create_topics(&[TopicSpec {
            name: subject.topic.to_owned(),
            partitions: connection.config.partitions.0,
            cleanup: Cleanup::Keep,
            max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
        }])?;
        partitions = Some(connection.config.partitions.0);
    }
    let encoder = JsonEncoder::new(&connection.registry, subject)?;
    Ok(Target { encoder, partitions: partitions.expect("set above") })
}

enum WriteError {
    Line(String),
    Log(LogError),
}

/// What a user has to know to go on where it broke off.
fn interrupted(flushed: u64, number: u64, error: LogError) -> anyhow::Error {
    let first = flushed + 1;
    anyhow::Error::from(error).context(format!(
        "lines before {first} are written, lines after {number} are not, and those between may be: look with 'engram \
         consume' before you produce them again"
    ))
}

/// Waits until there is something to read, or the input has ended; false once `stop` is set.
///
/// SUBTLE: a read that waits for a silent pipe goes on after a signal, so that Ctrl-C would not be heard.
fn wait_for_input(input: &BufReader<Box<dyn Read>>, is_stdin: bool, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::Relaxed) {
        if !is_stdin || !input.buffer().is_empty() {
            return true;
        }
        let mut stdin = libc::pollfd { fd: libc::STDIN_FILENO, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd for the time of the call.
        if unsafe { libc::poll(&raw mut stdin, 1, 100) } > 0 {
            return true;
        }
    }
    false
}

/// The next line without its end, `None` after the last. One that is too long is an error of that line, and its rest is
/// left out.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<Result<(), WriteError>>> {
    line.clear();
    if input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > LINE_BYTES_MAX {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(WriteError::Line(format!("longer than {LINE_BYTES_MAX} bytes")))));
    }
    Ok(Some(Ok(())))
}

fn write_line(producer: &mut dyn Producer, target: &mut Target, line: &[u8]) -> Result<(), WriteError> {
    let Encoded { id, key, value } = target.encoder.encode(line).map_err(WriteError::Line)?;
    let Subject { topic, name, .. } = *target.encoder.subject;
    let now_ms = engram_pipeline::clock::now_ms();
    let written_at = rfc3339(now_ms);
    let record = NewRecord {
        topic,
        partition: partition_for(key.as_bytes(), target.partitions),
        timestamp_ms: Some(now_ms),
        key: Some(key.as_bytes()),
        value: Some(&value),
        headers: &[
            ("ce_specversion", Some(b"1.0")),
            ("ce_id", Some(id.as_bytes())),
            ("ce_type", Some(name.as_bytes())),
            ("ce_source", Some(b"engram/produce")),
            ("ce_time", Some(written_at.as_bytes())),
        ],
    };
    producer.write(&record, false).map_err(|error| match error {
        LogError::Refused(reason) | LogError::TooLarge(reason) => WriteError::Line(reason),
        error => WriteError::Log(error),
    })
}

fn progress(size: u64) -> ProgressBar {
    if size == 0 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}").expect("a constant that parses");
    ProgressBar::new(size).with_style(style)
}
