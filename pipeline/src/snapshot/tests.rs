//! Snapshots under fire: an object store that fails at any operation, files that were tampered with, pruning beside uploads.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path as DiskPath;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use super::{Objects, Policy, Snapshots};
use crate::clock::Clock;
use crate::manifest::LastCommit;
use crate::progress::Progress;
use crate::store::{Budget, Changes, Files};

/// A folder whose operations fail from some number on; `i64::MAX` never. Before each, something else may happen.
struct Failing {
    inner: LocalFileSystem,
    left: Arc<AtomicI64>,
    meanwhile: Option<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failing")
    }
}

impl Failing {
    fn step(&self) -> Result<()> {
        if let Some(meanwhile) = &self.meanwhile {
            meanwhile();
        }
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(object_store::Error::Generic { store: "failing", source: "out of order".into() })
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.step()?;
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.step()?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.step()?;
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.step() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.step() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures_util::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.step()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.step()?;
        self.inner.copy_opts(from, to, options).await
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// One machine with its disk, and an object store that it shares with others.
struct Bed {
    folder: tempfile::TempDir,
    left: Arc<AtomicI64>,
    budget: Budget,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("objects")).expect("created");
        Self { folder, left: Arc::new(AtomicI64::new(i64::MAX)), budget: Budget::new(16 << 20) }
    }

    fn objects(&self) -> std::path::PathBuf {
        self.folder.path().join("objects")
    }

    fn snapshots(&self, machine: &str, policy: Policy) -> Snapshots {
        self.snapshots_while(machine, policy, None)
    }

    fn snapshots_while(
        &self,
        machine: &str,
        policy: Policy,
        meanwhile: Option<Box<dyn Fn() + Send + Sync>>,
    ) -> Snapshots {
        let inner = LocalFileSystem::new_with_prefix(self.objects()).expect("it is a folder");
        let store = Arc::new(Failing { inner, left: Arc::clone(&self.left), meanwhile });
        let objects = Objects::new(store, Path::default(), "memory").expect("made");
        let stores = self.stores(machine);
        std::fs::create_dir_all(&stores).expect("created");
        Snapshots::new(Arc::new(objects), "log", "service", vec!["all".to_owned()], stores, policy, Clock::default())
    }

    fn stores(&self, machine: &str) -> std::path::PathBuf {
        self.folder.path().join(machine)
    }

    fn open(&self, machine: &str) -> Arc<Files> {
        Arc::new(Files::open(&self.stores(machine).join("0"), &self.budget, &Clock::default()).expect("opened"))
    }

    /// The sequence that a machine with an empty disk gets.
    fn restore(&self, machine: &str, changelog_end: i64) -> Option<i64> {
        let snapshots = self.snapshots(machine, Policy::default());
        let found = snapshots.restore(0, changelog_end, &Progress::new("service", 0), &AtomicBool::new(false));
        found.map(|descriptor| descriptor.sequence)
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        paths(&self.objects().join("log/service/0/files"))
    }

    fn descriptors(&self) -> Vec<std::path::PathBuf> {
        paths(&self.objects().join("log/service/0/snapshots"))
    }
}

fn paths(folder: &DiskPath) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("read").path());
    // The library's staged uploads end in `#` and a number; they are no objects.
    let mut paths: Vec<_> = entries.filter(|path| !path.to_string_lossy().contains('#')).collect();
    paths.sort();
    paths
}

/// A commit of random changes; its changelog position is ten times its sequence.
fn commit(files: &Files, model: &mut Model, sequence: i64, random: &mut StdRng) {
    let mut changes = Changes::default();
    for _ in 0..20 {
        let key = vec![1, random.random_range(0..60)];
        if random.random_bool(0.2) {
            changes.set(&key, None);
            model.remove(&key);
        } else {
            let mut value = vec![0; random.random_range(1..2_000)];
            random.fill_bytes(&mut value);
            changes.set(&key, Some(&value));
            model.insert(key, value);
        }
    }
    let commit = LastCommit { sequence, digest: [sequence as u8; 16], stream_time: 0 };
    changes.set(LastCommit::KEY, Some(&commit.to_bytes()));
    changes.set_inputs(sequence, [("input", sequence * 3)].into_iter());
    files.apply(changes, sequence * 10).expect("applied");
}

fn content(files: &Files) -> Model {
    files.all(1).map(|entry| entry.map(|(key, value)| (key.into_vec(), value.into_vec())).expect("read")).collect()
}

#[test]
fn what_is_restored_is_what_was_committed() {
    let bed = Bed::new();
    let snapshots = bed.snapshots("a", Policy::default());
    let files = bed.open("a");
    snapshots.watch(0, &files);
    let mut random = StdRng::seed_from_u64(1);
    let (mut model, mut models) = (Model::new(), Vec::new());
    for sequence in 1..=30 {
        commit(&files, &mut model, sequence, &mut random);
        if sequence % 10 == 0 {
            let taken = snapshots.take(0).expect("taken").expect("there is something new");
            assert_eq!(taken.sequence, sequence);
            models.push(model.clone());
        }
    }
    assert_eq!(snapshots.take(0).expect("taken"), None, "nothing was committed since");
    let newest = snapshots.of(0).newest_first().expect("listed");
    let newest = snapshots.of(0).read(&newest[0]).expect("read").expect("it is there");
    assert_eq!((newest.changelog_position, newest.inputs["input"]), (300, 90));

    assert_eq!(bed.restore("b", 300), Some(30));
    let restored = bed.open("b");
    assert_eq!((content(&restored), restored.position().expect("read")), (models[2].clone(), 300));
    drop(restored);
    // What is there is never replaced, though the snapshot may be newer.
    let before = std::fs::metadata(bed.stores("b").join("0")).expect("there").modified().expect("known");
    assert_eq!(bed.restore("b", 300), None);
    assert_eq!(std::fs::metadata(bed.stores("b").join("0")).expect("there").modified().expect("known"), before);
    // Of a changelog that ends before it, it is another history's: the one before is used.
    assert_eq!(bed.restore("c", 299), Some(20));
    assert_eq!(content(&bed.open("c")), models[1]);
    assert_eq!(bed.restore("d", 99), None);
}

#[test]
fn files_are_uploaded_once() {
    let bed = Bed::new();
    let snapshots = bed.snapshots("a", Policy::default());
    let files = bed.open("a");
    snapshots.watch(0, &files);
    let (mut random, mut model) = (StdRng::seed_from_u64(2), Model::new());
    for sequence in 1..=50 {
        commit(&files, &mut model, sequence, &mut random);
    }
    let first = snapshots.take(0).expect("taken").expect("new");
    let mut changes = Changes::default();
    changes.set(LastCommit::KEY, Some(&LastCommit { sequence: 51, digest: [51; 16], stream_time: 0 }.to_bytes()));
    files.apply(changes, 510).expect("applied");
    let second = snapshots.take(0).expect("taken").expect("new");
    assert!(second.uploaded_bytes < first.uploaded_bytes / 2, "{second:?} after {first:?}");
    // Another process, which knows nothing of what was uploaded.
    let again = bed.snapshots("a", Policy::default());
    again.watch(0, &files);
    let mut changes = Changes::default();
    changes.set(LastCommit::KEY, Some(&LastCommit { sequence: 52, digest: [52; 16], stream_time: 0 }.to_bytes()));
    files.apply(changes, 520).expect("applied");
    let third = again.take(0).expect("taken").expect("new");
    assert!(third.uploaded_bytes < first.uploaded_bytes / 2, "{third:?} after {first:?}");
}

/// Wherever an upload breaks off, what can be restored is the snapshot before it, whole.
#[test]
fn half_a_snapshot_is_never_seen() {
    let mut operations = 0;
    loop {
        let bed = Bed::new();
        let snapshots = bed.snapshots("a", Policy::default());
        let files = bed.open("a");
        snapshots.watch(0, &files);
        let (mut random, mut model) = (StdRng::seed_from_u64(3), Model::new());
        commit(&files, &mut model, 1, &mut random);
        snapshots.take(0).expect("taken");
        let before = model.clone();
        commit(&files, &mut model, 2, &mut random);

        bed.left.store(operations, Ordering::Relaxed);
        let outcome = snapshots.take(0);
        bed.left.store(i64::MAX, Ordering::Relaxed);
        let (sequence, expected) = if outcome.is_ok() { (2, &model) } else { (1, &before) };
        assert_eq!(bed.restore("b", 20), Some(sequence), "after {operations} operations");
        assert_eq!(&content(&bed.open("b")), expected, "after {operations} operations");
        if outcome.is_ok() {
            break;
        }
        // Tried again, it succeeds.
        assert!(snapshots.take(0).expect("taken").is_some(), "after {operations} operations");
        assert_eq!(bed.restore("c", 20), Some(2), "after {operations} operations");
        operations += 1;
    }
    assert!(operations > 5, "it failed at each of {operations} operations");
}

/// Wherever a restore breaks off, there is no folder that could be taken for a store.
#[test]
fn half_a_restore_is_never_seen() {
    let bed = Bed::new();
    let snapshots = bed.snapshots("a", Policy::default());
    let files = bed.open("a");
    snapshots.watch(0, &files);
    let (mut random, mut model) = (StdRng::seed_from_u64(4), Model::new());
    commit(&files, &mut model, 1, &mut random);
    snapshots.take(0).expect("taken");
    let mut operations = 0;
    loop {
        bed.left.store(operations, Ordering::Relaxed);
        let restored = bed.restore("b", 10);
        if restored.is_some() {
            break;
        }
        assert!(!bed.stores("b").join("0").exists(), "after {operations} operations");
        operations += 1;
    }
    assert!(operations > 3, "it failed at each of {operations} operations");
    assert_eq!(content(&bed.open("b")), model);
}

/// A snapshot of which any byte was changed, or any file is missing, is not used: the one before it is.
#[test]
fn damage_is_found() {
    let bed = Bed::new();
    let snapshots = bed.snapshots("a", Policy::default());
    let files = bed.open("a");
    snapshots.watch(0, &files);
    let (mut random, mut model) = (StdRng::seed_from_u64(5), Model::new());
    commit(&files, &mut model, 1, &mut random);
    snapshots.take(0).expect("taken");
    let before: Vec<_> = bed.files();
    let expected = model.clone();
    commit(&files, &mut model, 2, &mut random);
    snapshots.take(0).expect("taken");
    let newest = bed.descriptors().pop().expect("two were taken");
    let new = bed.files().into_iter().filter(|path| !before.contains(path));
    let objects: Vec<_> = new.chain([newest]).collect();
    assert!(objects.len() > 2, "{objects:?}");
    for (number, path) in objects.iter().enumerate() {
        let whole = std::fs::read(path).expect("read");
        let flips = (0..20).map(|_| {
            let mut bytes = whole.clone();
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            Some(bytes)
        });
        let cut = Some(whole[..whole.len() / 2].to_vec());
        for (attempt, damaged) in flips.chain([cut, None]).enumerate() {
            match damaged {
                Some(bytes) => std::fs::write(path, bytes).expect("written"),
                None => std::fs::remove_file(path).expect("deleted"),
            }
            let machine = format!("m-{number}-{attempt}");
            assert_eq!(bed.restore(&machine, 20), Some(1), "{} attempt {attempt}", path.display());
            assert_eq!(content(&bed.open(&machine)), expected);
        }
        std::fs::write(path, &whole).expect("written");
    }
    assert_eq!(bed.restore("whole", 20), Some(2), "mended, it is used again");
}

/// Two machines upload, and one prunes between any two operations of the other, with files of any age: whatever is listed
/// can be restored.
#[test]
fn pruning_leaves_what_is_needed() {
    for seed in 0..12 {
        let bed = Bed::new();
        let policy = Policy { keep: 1 + (seed % 2) as usize, ..Policy::default() };
        let mut random = StdRng::seed_from_u64(seed);
        let b = Arc::new(bed.snapshots("b", policy));
        let (dice, pruner) = (Mutex::new(StdRng::seed_from_u64(seed)), Arc::clone(&b));
        let meanwhile = move || {
            if dice.lock().expect("not poisoned").random_bool(0.3) {
                std::thread::scope(|scope| scope.spawn(|| pruner.prune(0).expect("pruned")).join().expect("no panic"));
            }
        };
        let a = bed.snapshots_while("a", policy, Some(Box::new(meanwhile)));
        let files = [bed.open("a"), bed.open("b")];
        a.watch(0, &files[0]);
        b.watch(0, &files[1]);
        let mut models = [Model::new(), Model::new()];
        let mut committed: BTreeMap<i64, Vec<Model>> = BTreeMap::new();
        for sequence in 1..=12 {
            for of in 0..2 {
                commit(&files[of], &mut models[of], sequence, &mut random);
                committed.entry(sequence).or_default().push(models[of].clone());
            }
            if random.random_bool(0.4) {
                b.take(0).expect("taken");
            }
            let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            for path in bed.files().iter().filter(|_| random.random_bool(0.5)) {
                File::open(path).and_then(|file| file.set_modified(old)).expect("aged");
            }
            a.take(0).expect("taken");
            let task = b.of(0);
            for key in task.newest_first().expect("listed") {
                let descriptor = task.read(&key).expect("whole").expect("there");
                let there = |name: String| bed.objects().join("log/service/0/files").join(name).exists();
                let missing: Vec<_> = descriptor.files.iter().filter(|file| !there(file.key())).collect();
                assert!(missing.is_empty(), "seed {seed}: {key} lacks {missing:?}");
            }
        }
        let sequence = bed.restore("c", i64::MAX).expect("there is one");
        assert!(committed[&sequence].contains(&content(&bed.open("c"))), "seed {seed}");
        b.prune(0).expect("pruned");
        assert_eq!(bed.descriptors().len(), policy.keep, "seed {seed}");
    }
}

#[test]
fn a_service_that_begins_anew_has_no_snapshots() {
    let bed = Bed::new();
    let snapshots = bed.snapshots("a", Policy::default());
    let files = bed.open("a");
    snapshots.watch(0, &files);
    commit(&files, &mut Model::new(), 1, &mut StdRng::seed_from_u64(6));
    snapshots.take(0).expect("taken");
    assert_eq!(snapshots.partitions().expect("listed"), [0]);
    snapshots.delete_all().expect("deleted");
    assert!(bed.files().is_empty() && bed.descriptors().is_empty());
    assert_eq!(bed.restore("b", 10), None);
}
