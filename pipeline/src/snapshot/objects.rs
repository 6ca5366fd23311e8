//! The object store as the snapshots use it: blocking calls, keys under one prefix, checksums on the way.
//!
//! `object_store` is asynchronous. Its runtime lives here and runs only inside these calls, on the caller's thread, which is
//! never a worker's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path as DiskPath;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    ClientOptions, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::Xxh3;

use super::SnapshotError;

/// Parts of a file that is uploaded in several, and how many are on their way at a time.
const PART_BYTES: usize = 8 << 20;
const PARTS_MAX: usize = 4;
/// Of the disk reads and writes here.
const BUFFER_BYTES: usize = 1 << 20;
/// Largest object that is read into memory: a descriptor of some 100,000 files.
const SMALL_BYTES_MAX: u64 = 16 << 20;
/// How long a request is tried again, within the library: a restore that cannot reach its snapshots goes on without.
const RETRY: (usize, Duration) = (4, Duration::from_secs(20));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a byte.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// One prefix of an object store.
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    runtime: Runtime,
}

/// An object as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Below the prefix.
    pub key: String,
    pub size: u64,
    /// By the object store's clock, ms since the epoch.
    pub modified_ms: i64,
}

impl Objects {
    /// `url` is a folder, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`. `options` are the
    /// library's own, such as `aws_endpoint`; what they leave open comes from the environment (`AWS_ACCESS_KEY_ID`, ...).
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self, SnapshotError> {
        let refused = |error: object_store::Error| {
            SnapshotError::Refused(format!("cannot use snapshots.url {url:?}: {}", first_line(&error)))
        };
        let Some((scheme, rest)) = url.split_once("://") else {
            std::fs::create_dir_all(url).map_err(SnapshotError::disk(format!("create the folder {url}")))?;
            let folder = LocalFileSystem::new_with_prefix(url).map_err(refused)?.with_fsync(true);
            return Self::new(Arc::new(folder), Path::default(), url);
        };
        let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
        let prefix = Path::parse(prefix).map_err(|error| refused(error.into()))?;
        let retry = RetryConfig { max_retries: RETRY.0, retry_timeout: RETRY.1, ..RetryConfig::default() };
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_read_timeout(READ_TIMEOUT)
            .with_allow_http(options.iter().any(|(name, value)| name.ends_with("allow_http") && value == "true"));
        macro_rules! cloud {
            ($builder:expr) => {{
                let mut builder = $builder.with_client_options(client).with_url(url).with_retry(retry);
                for (name, value) in options {
                    let key = name.parse().map_err(refused)?;
                    builder = builder.with_config(key, value);
                }
                Arc::new(builder.build().map_err(refused)?)
            }};
        }
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" | "s3a" => {
                // One is deleted at a time, and not every compatible server knows how to delete several.
                cloud!(AmazonS3Builder::from_env().with_config(AmazonS3ConfigKey::DisableBulkDelete, "true"))
            }
            "gs" => cloud!(GoogleCloudStorageBuilder::from_env()),
            "az" | "azure" | "abfs" | "abfss" => cloud!(MicrosoftAzureBuilder::from_env()),
            _ => {
                return Err(SnapshotError::Refused(format!(
                    "snapshots.url is {url:?}: it must be a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, \
                     az://CONTAINER/PREFIX, or none"
                )));
            }
        };
        Self::new(store, prefix, url)
    }

    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Result<Self, SnapshotError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(SnapshotError::disk("start a runtime for snapshots"))?;
        Ok(Self { store, prefix, url: url.to_owned(), runtime })
    }

    /// Writes a small object; it is there as a whole or not at all.
    pub fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), SnapshotError> {
        let path = self.path(key);
        let put = self.store.put(&path, PutPayload::from(bytes));
        self.runtime.block_on(put).map(drop).map_err(self.failed("write", key))
    }

    /// Uploads a file; it is there as a whole or not at all.
    pub fn put_file(&self, key: &str, path: &DiskPath, size: u64) -> Result<(), SnapshotError> {
        let reading = || SnapshotError::disk(format!("read {}", path.display()));
        if size <= PART_BYTES as u64 {
            return self.put(key, std::fs::read(path).map_err(reading())?);
        }
        let mut file = File::open(path).map_err(reading())?;
        self.runtime.block_on(async {
            let upload = self.store.put_multipart(&self.path(key)).await.map_err(self.failed("write", key))?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                let read = match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(error) => {
                        let _ = parts.abort().await;
                        return Err(reading()(error));
                    }
                };
                if let Err(error) = parts.wait_for_capacity(PARTS_MAX).await {
                    let _ = parts.abort().await;
                    return Err(self.failed("write", key)(error));
                }
                parts.write(&buffer[..read]);
            }
            parts.finish().await.map(drop).map_err(self.failed("write", key))
        })
    }

    /// A small object; `None` if it is not there.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, SnapshotError> {
        self.runtime.block_on(async {
            let found = match self.store.get(&self.path(key)).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                found => found.map_err(self.failed("read", key))?,
            };
            if found.meta.size > SMALL_BYTES_MAX {
                let reason = format!("{} bytes are more than {SMALL_BYTES_MAX}", found.meta.size);
                return Err(SnapshotError::Corrupt { what: self.name(key), reason });
            }
            Ok(Some(found.bytes().await.map_err(self.failed("read", key))?.to_vec()))
        })
    }

    /// Downloads an object into a new file, which is on disk when this returns, and returns the checksum of its bytes.
    /// `seen` is told of bytes as they come, and ends the download by returning false.
    pub fn get_file(
        &self,
        key: &str,
        path: &DiskPath,
        mut seen: impl FnMut(u64) -> bool,
    ) -> Result<u128, SnapshotError> {
        let writing = || SnapshotError::disk(format!("write {}", path.display()));
        let stopped = || SnapshotError::Refused("told to stop".to_owned());
        let mut to = BufWriter::with_capacity(BUFFER_BYTES, File::create_new(path).map_err(writing())?);
        let mut digest = Xxh3::new();
        let mut take = |bytes: &[u8]| {
            digest.update(bytes);
            to.write_all(bytes).map_err(writing())?;
            if seen(bytes.len() as u64) { Ok(()) } else { Err(stopped()) }
        };
        self.runtime.block_on(async {
            let found = self.store.get(&self.path(key)).await.map_err(self.failed("read", key))?;
            match found.payload {
                GetResultPayload::File(mut from, _) => {
                    let mut buffer = vec![0; BUFFER_BYTES];
                    loop {
                        match from.read(&mut buffer) {
                            Ok(0) => return Ok(()),
                            Ok(read) => take(&buffer[..read])?,
                            Err(error) => return Err(SnapshotError::disk(format!("read {}", self.name(key)))(error)),
                        }
                    }
                }
                GetResultPayload::Stream(mut stream) => {
                    while let Some(bytes) = stream.next().await {
                        take(&bytes.map_err(self.failed("read", key))?)?;
                    }
                    Ok(())
                }
            }
        })?;
        let file = to.into_inner().map_err(|error| writing()(error.into_error()))?;
        // Renamed into place later, it must not turn out to be empty after a power cut.
        file.sync_all().map_err(writing())?;
        Ok(digest.digest128())
    }

    /// All objects below a prefix, ordered by key.
    pub fn list(&self, prefix: &str) -> Result<Vec<Object>, SnapshotError> {
        let path = self.path(prefix);
        let listed: Vec<_> =
            self.runtime.block_on(self.store.list(Some(&path)).try_collect()).map_err(self.failed("list", prefix))?;
        let mut objects: Vec<Object> = listed
            .into_iter()
            .map(|meta: object_store::ObjectMeta| Object {
                key: self.key(&meta.location),
                size: meta.size,
                modified_ms: meta.last_modified.timestamp_millis(),
            })
            .collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// The names of the folders directly below a prefix.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>, SnapshotError> {
        let path = self.path(prefix);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&path)));
        let folders = listed.map_err(self.failed("list", prefix))?.common_prefixes;
        Ok(folders.iter().filter_map(|folder| folder.filename().map(str::to_owned)).collect())
    }

    /// Deletes an object; it need not be there.
    pub fn delete(&self, key: &str) -> Result<(), SnapshotError> {
        match self.runtime.block_on(self.store.delete(&self.path(key))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key)(error)),
        }
    }

    /// An object's place, for messages.
    pub fn name(&self, key: &str) -> String {
        format!("{}/{key}", self.url.trim_end_matches('/'))
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn key(&self, path: &Path) -> String {
        let parts = path.prefix_match(&self.prefix).into_iter().flatten();
        parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
    }

    fn failed(&self, verb: &str, key: &str) -> impl FnOnce(object_store::Error) -> SnapshotError {
        let doing = format!("{verb} {}", self.name(key));
        |source| SnapshotError::ObjectStore { doing, source }
    }
}

fn first_line(error: &object_store::Error) -> String {
    crate::worker::chain(error).lines().next().unwrap_or_default().to_owned()
}
