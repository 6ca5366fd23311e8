//! What a process beside the log asks of its owner, as bytes. Both are the same program, or nearly so: another version
//! is refused.
//!
//! ```text
//! request:  version u8 | kind u8 | ...
//! answer:   0 | epoch u64 | tracked u32 | (topic, partition u32, offset i64) ...
//!           error u8, not 0 | text | text
//! ```

use super::buffer::{Buffer, Records};
use super::bytes::{Input, put_bytes, put_text};
use super::view::{PARTITIONS_MAX, cleanup_byte, cleanup_of};
use crate::log::{CommitError, LogError, TopicPartition, TopicSpec};

const VERSION: u8 = 1;

/// The right to write under a transactional id: the id and its epoch.
pub type Epoch = (String, u64);

pub enum Request {
    CreateTopics(Vec<TopicSpec>),
    DeleteTopics(Vec<String>),
    DeleteGroup(String),
    /// A transactional id that is to have a new producer.
    Fence(String),
    /// Records to be committed at once.
    Write {
        epoch: Option<Epoch>,
        buffer: Buffer,
    },
}

/// What the owner answers; what was not asked for is empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub epoch: u64,
    /// For each partition with tracked records, the offset after the last.
    pub tracked: Vec<(TopicPartition, i64)>,
}

impl Request {
    pub fn encode(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::CreateTopics(topics) => {
                out.push(1);
                put_count(&mut out, topics.len());
                for topic in topics {
                    put_text(&mut out, &topic.name);
                    out.extend(topic.partitions.to_be_bytes());
                    out.push(cleanup_byte(topic.cleanup));
                    out.extend((topic.max_message_bytes as u64).to_be_bytes());
                }
            }
            Self::DeleteTopics(names) => {
                out.push(2);
                put_count(&mut out, names.len());
                names.iter().for_each(|name| put_text(&mut out, name));
            }
            Self::DeleteGroup(name) => {
                out.push(3);
                put_text(&mut out, &name);
            }
            Self::Fence(id) => {
                out.push(4);
                put_text(&mut out, &id);
            }
            Self::Write { epoch, buffer } => {
                out.reserve(buffer.bytes() + 1024);
                out.push(5);
                out.push(u8::from(epoch.is_some()));
                if let Some((id, epoch)) = epoch {
                    put_text(&mut out, &id);
                    out.extend(epoch.to_be_bytes());
                }
                for (partition, records) in buffer.into_partitions() {
                    put_text(&mut out, &partition.topic);
                    out.extend(partition.partition.to_be_bytes());
                    put_count(&mut out, records.tracked.unwrap_or(0));
                    put_count(&mut out, records.ends.len());
                    records.ends.iter().for_each(|end| put_count(&mut out, *end));
                    put_bytes(&mut out, Some(&records.payloads));
                }
            }
        }
        out
    }

    /// `None` if this is no request that this program knows.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        if input.u8()? != VERSION {
            return None;
        }
        let request = match input.u8()? {
            1 => {
                let count = input.u32()?;
                Self::CreateTopics((0..count).map(|_| topic(&mut input)).collect::<Option<_>>()?)
            }
            2 => {
                let count = input.u32()?;
                Self::DeleteTopics((0..count).map(|_| input.text()).collect::<Option<_>>()?)
            }
            3 => Self::DeleteGroup(input.text()?),
            4 => Self::Fence(input.text()?),
            5 => {
                let epoch = match input.u8()? {
                    0 => None,
                    _ => Some((input.text()?, input.u64()?)),
                };
                let mut buffer = Buffer::default();
                while !input.is_at_end() {
                    let (partition, records) = records(&mut input)?;
                    buffer.insert(&partition, records);
                }
                Self::Write { epoch, buffer }
            }
            _ => return None,
        };
        input.is_at_end().then_some(request)
    }
}

pub fn encode_answer(answer: &Result<Answer, CommitError>) -> Vec<u8> {
    let (kind, first, second) = match answer {
        Ok(answer) => return encode_success(answer),
        Err(CommitError::Aborted(reason)) => (1, reason.clone(), String::new()),
        Err(CommitError::Fenced(reason)) => (2, reason.clone(), String::new()),
        Err(CommitError::Unknown(reason)) => (3, reason.clone(), String::new()),
        Err(CommitError::Log(error)) => match error {
            LogError::Unreachable { address, reason } => (4, address.clone(), reason.clone()),
            LogError::Refused(reason) => (5, reason.clone(), String::new()),
            LogError::Fenced(reason) => (6, reason.clone(), String::new()),
            LogError::Full(dir) => (7, dir.clone(), String::new()),
            LogError::Corrupt { what, reason } => (8, what.clone(), reason.clone()),
            LogError::Failed { doing, source } => (9, doing.clone(), source.to_string()),
            LogError::TooLarge(reason) => (10, reason.clone(), String::new()),
        },
    };
    let mut out = vec![kind];
    put_text(&mut out, &first);
    put_text(&mut out, &second);
    out
}

pub fn decode_answer(bytes: &[u8]) -> Result<Answer, CommitError> {
    let unknown = || CommitError::Unknown("the log's owner answers with what this program does not know".to_owned());
    let mut input = Input::new(bytes);
    let kind = input.u8().ok_or_else(unknown)?;
    if kind == 0 {
        return decode_success(&mut input).ok_or_else(unknown);
    }
    let (first, second) = input.text().zip(input.text()).ok_or_else(unknown)?;
    Err(match kind {
        1 => CommitError::Aborted(first),
        2 => CommitError::Fenced(first),
        3 => CommitError::Unknown(first),
        4 => LogError::Unreachable { address: first, reason: second }.into(),
        5 => LogError::Refused(first).into(),
        6 => LogError::Fenced(first).into(),
        7 => LogError::Full(first).into(),
        8 => LogError::Corrupt { what: first, reason: second }.into(),
        9 => LogError::failed(first, second).into(),
        10 => LogError::TooLarge(first).into(),
        _ => unknown(),
    })
}

fn encode_success(answer: &Answer) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(answer.epoch.to_be_bytes());
    put_count(&mut out, answer.tracked.len());
    for (partition, offset) in &answer.tracked {
        put_text(&mut out, &partition.topic);
        out.extend(partition.partition.to_be_bytes());
        out.extend(offset.to_be_bytes());
    }
    out
}

fn decode_success(input: &mut Input<'_>) -> Option<Answer> {
    let (epoch, count) = (input.u64()?, input.u32()?);
    let tracked = (0..count).map(|_| Some((partition(input)?, input.i64()?))).collect::<Option<_>>()?;
    Some(Answer { epoch, tracked })
}

fn topic(input: &mut Input<'_>) -> Option<TopicSpec> {
    Some(TopicSpec {
        name: input.text()?,
        partitions: input.u32()?.cast_signed(),
        cleanup: cleanup_of(input.u8()?)?,
        max_message_bytes: usize::try_from(input.u64()?).ok()?,
    })
}

fn partition(input: &mut Input<'_>) -> Option<TopicPartition> {
    Some(TopicPartition::new(input.text()?, input.u32()?.cast_signed()))
}

fn records(input: &mut Input<'_>) -> Option<(TopicPartition, Records)> {
    let partition = partition(input)?;
    let tracked = Some(input.u32()? as usize).filter(|count| *count > 0);
    let count = input.u32()?;
    let ends = (0..count).map(|_| input.u32().map(|end| end as usize)).collect::<Option<_>>()?;
    let records = Records { payloads: input.bytes()??.to_vec(), ends, tracked };
    let known = (0..PARTITIONS_MAX).contains(&partition.partition);
    (known && records.is_sound()).then_some((partition, records))
}

/// Counts and places within what is below `TRANSACTION_BYTES_MAX`.
fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend((count as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Cleanup, NewRecord};

    #[test]
    fn requests_come_back() {
        let spec = TopicSpec { name: "t".to_owned(), partitions: 3, cleanup: Cleanup::Keep, max_message_bytes: 9 };
        let request = Request::decode(&Request::CreateTopics(vec![spec.clone()]).encode());
        assert!(matches!(request, Some(Request::CreateTopics(topics)) if topics[0] == spec));
        let mut buffer = Buffer::default();
        let record =
            NewRecord { topic: "t", partition: 2, timestamp_ms: Some(1), key: None, value: Some(b"v"), headers: &[] };
        buffer.push(&record, true);
        buffer.push(&record, false);
        let bytes = Request::Write { epoch: Some(("id".to_owned(), 7)), buffer }.encode();
        let Some(Request::Write { epoch, buffer }) = Request::decode(&bytes) else { panic!("not a write") };
        assert_eq!(epoch, Some(("id".to_owned(), 7)));
        let (partition, records) = buffer.into_partitions().next().unwrap();
        assert_eq!(partition.to_string(), "t/2");
        assert_eq!((records.ends.len(), records.tracked), (2, Some(1)));
        for length in 0..bytes.len() {
            // Nothing that was cut short may pass, but for a write that ends before its first partition.
            let cut = Request::decode(&bytes[..length]);
            let empty = matches!(&cut, Some(Request::Write { buffer, .. }) if buffer.is_empty());
            assert!(cut.is_none() || empty, "{length}");
        }
    }

    #[test]
    fn answers_come_back() {
        let answer = Answer { epoch: 3, tracked: vec![(TopicPartition::new("t", 1), 9)] };
        assert_eq!(
            decode_answer(&encode_answer(&Ok(Answer { epoch: 3, tracked: answer.tracked.clone() }))).unwrap(),
            answer
        );
        let error = decode_answer(&encode_answer(&Err(LogError::Full("dir".to_owned()).into())));
        assert!(matches!(error, Err(CommitError::Log(LogError::Full(dir))) if dir == "dir"));
        assert!(matches!(decode_answer(b"nonsense"), Err(CommitError::Unknown(_))));
    }
}
