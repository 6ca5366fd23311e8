//! Edits that wait on the disk for the log to come back.
//!
//! ```text
//! record   length: u32, little endian | XXH3 (64 bits) of what follows: u64 | JSON
//! ```
//!
//! INVARIANT: what `append` has counted is on the disk. A record that a crash has torn is the last, and was never counted.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::writer::Record;

const PREFIX_BYTES: usize = 12;

/// A record as it is spooled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spooled {
    pub topic: String,
    pub partition: i32,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Spooled {
    pub fn record(&self) -> Record<'_> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice()))).collect();
        Record { topic: &self.topic, partition: self.partition, key: &self.key, value: &self.value, headers }
    }
}

/// A file of records.
pub struct Spool {
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl Spool {
    /// Opens the file, or makes it. A torn end is cut off.
    pub fn open(path: &Path, bytes_max: u64) -> std::io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut spool = Self { file, bytes: 0, bytes_max };
        let (_, whole) = spool.scan()?;
        spool.file.set_len(whole)?;
        spool.bytes = whole;
        Ok(spool)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends records, as many as there is room for, and returns how many: they are on the disk.
    pub fn append(&mut self, records: &[Spooled]) -> std::io::Result<usize> {
        let mut buffer = Vec::new();
        let mut kept = 0;
        for record in records {
            let body = serde_json::to_vec(record)?;
            let size = (buffer.len() + PREFIX_BYTES + body.len()) as u64;
            if self.bytes + size > self.bytes_max {
                break;
            }
            buffer.extend_from_slice(&(body.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&xxh3_64(&body).to_le_bytes());
            buffer.extend_from_slice(&body);
            kept += 1;
        }
        self.file.seek(SeekFrom::Start(self.bytes))?;
        self.file.write_all(&buffer)?;
        self.file.sync_data()?;
        self.bytes += buffer.len() as u64;
        Ok(kept)
    }

    /// All records, in order.
    pub fn read(&mut self) -> std::io::Result<Vec<Spooled>> {
        Ok(self.scan()?.0)
    }

    /// Empties it.
    pub fn clear(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_data()?;
        self.bytes = 0;
        Ok(())
    }

    /// The whole records and where they end.
    fn scan(&mut self) -> std::io::Result<(Vec<Spooled>, u64)> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        let (mut records, mut rest) = (Vec::new(), bytes.as_slice());
        while let Some((record, after)) = split(rest) {
            records.push(record);
            rest = after;
        }
        Ok((records, (bytes.len() - rest.len()) as u64))
    }
}

fn split(bytes: &[u8]) -> Option<(Spooled, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<8>()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    if xxh3_64(body) != u64::from_le_bytes(*checksum) {
        return None;
    }
    Some((serde_json::from_slice(body).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u8) -> Spooled {
        Spooled {
            topic: "t".to_owned(),
            partition: 1,
            key: vec![number],
            value: vec![number; 10],
            headers: vec![("h".to_owned(), vec![number])],
        }
    }

    #[test]
    fn records_outlive_their_process_and_a_torn_one_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("spool").join("edits");
        let mut spool = Spool::open(&path, 1 << 20).expect("opened");
        assert!(spool.is_empty());
        assert_eq!(spool.append(&[record(1), record(2)]).expect("written"), 2);
        drop(spool);
        let whole = std::fs::read(&path).expect("read");
        for torn in 1..whole.len() / 2 {
            std::fs::write(&path, &whole[..whole.len() - torn]).expect("written");
            let mut spool = Spool::open(&path, 1 << 20).expect("opened");
            assert_eq!(spool.read().expect("read"), [record(1)], "{torn}");
            assert_eq!(spool.append(&[record(3)]).expect("written"), 1);
            assert_eq!(spool.read().expect("read"), [record(1), record(3)]);
        }
        let mut spool = Spool::open(&path, 1 << 20).expect("opened");
        spool.clear().expect("emptied");
        assert_eq!((spool.is_empty(), spool.read().expect("read")), (true, vec![]));
    }

    #[test]
    fn it_takes_no_more_than_it_may() {
        let folder = tempfile::tempdir().expect("a folder");
        let size = PREFIX_BYTES + serde_json::to_vec(&record(1)).expect("JSON").len();
        let mut spool = Spool::open(&folder.path().join("edits"), size as u64 * 2).expect("opened");
        assert_eq!(spool.append(&[record(1), record(2), record(3)]).expect("written"), 2);
        assert_eq!(spool.append(&[record(3)]).expect("written"), 0);
        assert_eq!(spool.read().expect("read"), [record(1), record(2)]);
    }
}
