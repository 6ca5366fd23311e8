//! A real Apache Kafka broker for tests, started by `deploy/kafka/kafka.sh`.
//!
//! INVARIANT: no broker outlives the test process, even one that is killed: the script's watchdog, which is bound to
//! this process, stops the broker and deletes its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::OnceLock;
use std::time::Duration;

use super::wait_until;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kafka/kafka.sh");
/// The last version of which a lone broker may be killed in the middle of a transaction's end. Later ones (4.2 to 4.4) forget
/// the markers that were still to be written, once they are back (KAFKA-20734), so that what the transaction wrote
/// stays undecided for ever: see docs/exactly-once.md.
const ENDS_TRANSACTIONS_AFTER_KILLS: &str = "4.1.2";

/// One broker with its own folder and port; stopped and wiped on drop.
pub struct Kafka {
    dir: PathBuf,
    brokers: String,
}

impl Kafka {
    /// Starts a broker of the test's own, for tests that need an empty one.
    pub fn start() -> Self {
        Self::start_in(new_dir(), process::id())
    }

    /// As `start`, for tests that kill it while transactions are under way. `KAFKA_VERSION` decides, if it is set.
    pub fn start_to_be_killed() -> Self {
        let dir = new_dir();
        let version = std::env::var("KAFKA_VERSION").unwrap_or_else(|_| ENDS_TRANSACTIONS_AFTER_KILLS.to_owned());
        // Where the script keeps it for all later starts.
        fs::write(dir.join("version"), version).expect("the new folder can be written");
        Self::start_in(dir, process::id())
    }

    /// The broker that the tests of this process share. Tests tell their topics and groups apart by name.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a broker in `dir` that ends, with its folder, when the process `parent` does.
    pub fn start_in(dir: PathBuf, parent: u32) -> Self {
        let brokers = launch(&dir, parent);
        Self { dir, brokers }
    }

    /// `HOST:PORT`; the same for the whole life of the broker, restarts included.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// SIGKILL, as a power cut would do; returns when the process has gone. `restart` brings it back with its data.
    pub fn kill(&self) {
        let pid = self.pid().expect("the broker runs");
        // SAFETY: kill(2) takes no pointers; the pid is that of a broker which this test started.
        let killed = unsafe { libc::kill(pid, libc::SIGKILL) };
        assert_eq!(killed, 0, "the broker can be killed");
        wait_until("the broker has gone", Duration::from_secs(10), || self.pid().is_none());
    }

    /// Starts the broker again after `kill` or `stop`, on the same data and port.
    pub fn restart(&self) {
        let brokers = launch(&self.dir, process::id());
        assert_eq!(brokers, self.brokers, "a restart keeps the address");
    }

    /// An orderly stop; the data stay for `restart`.
    pub fn stop(&self) {
        script(&["stop", self.dir_name()]);
    }

    /// The running broker's process id.
    pub fn pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()?;
        // SAFETY: kill(2) with signal 0 only asks whether the process exists.
        let exists = unsafe { libc::kill(pid, 0) } == 0;
        exists.then_some(pid)
    }

    /// The broker's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn dir_name(&self) -> &str {
        self.dir.to_str().expect("temporary folders have UTF-8 names")
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the broker has to say of it; the rest of its folder goes.
            let kept = self.dir.with_extension("logs");
            let _ = fs::create_dir(&kept);
            for name in ["kafka.log", "kafka.log.before", "console.log"] {
                let _ = fs::copy(self.dir.join(name), kept.join(name));
            }
            eprintln!("the broker's logs are in {}", kept.display());
        }
        // Not `script`: a panic in a drop would hide the test's own.
        let _ = Command::new(SCRIPT).arg("wipe").arg(&self.dir).output();
    }
}

fn new_dir() -> PathBuf {
    tempfile::Builder::new().prefix("engram-kafka-").tempdir().expect("a temporary folder can be made").keep()
}

fn launch(dir: &Path, parent: u32) -> String {
    let dir = dir.to_str().expect("temporary folders have UTF-8 names");
    script(&["start", dir, "--parent", &parent.to_string(), "--temporary"])
}

/// Runs `kafka.sh` and returns its only line of output. Panics with its complaint when it fails.
#[track_caller]
fn script(arguments: &[&str]) -> String {
    let output = Command::new(SCRIPT)
        .args(arguments)
        // Tests are short: less time is spent compiling than the better code would save.
        .env("KAFKA_JVM_FLAGS", "-XX:TieredStopAtLevel=1")
        // Those that wait for it keep a small machine busy.
        .env("KAFKA_START_SECONDS", "180")
        .output()
        .expect("bash is there to run kafka.sh");
    assert!(output.status.success(), "kafka.sh {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
