//! A real S3-compatible server for tests, started by `deploy/s3/s3.sh`; it ends with the test process at the latest.

use std::path::Path;
use std::process::{self, Command};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/s3/s3.sh");

/// One server with its own folder and port; stopped on drop.
pub struct S3 {
    dir: tempfile::TempDir,
    endpoint: String,
}

impl S3 {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("engram-s3-").tempdir().expect("a temporary folder can be made");
        let output = Command::new(SCRIPT)
            .arg("start")
            .arg(dir.path())
            .args(["--parent", &process::id().to_string()])
            .output()
            .expect("bash is there to run s3.sh");
        assert!(output.status.success(), "s3.sh start: {}", String::from_utf8_lossy(&output.stderr));
        Self { endpoint: String::from_utf8_lossy(&output.stdout).trim().to_owned(), dir }
    }

    /// The configuration that uses it.
    pub fn toml(&self) -> String {
        format!(
            "[snapshots]\nurl = \"s3://engram/snapshots\"\n[snapshots.options]\naws_endpoint = \"{}\"\n\
             aws_allow_http = \"true\"\naws_region = \"us-east-1\"\naws_access_key_id = \"engram\"\n\
             aws_secret_access_key = \"engram-secret\"\n",
            self.endpoint
        )
    }

    /// Where its objects lie, as files.
    pub fn objects(&self) -> std::path::PathBuf {
        self.dir.path().join("data/engram/snapshots")
    }

    pub fn stop(&self) {
        stop(self.dir.path());
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        stop(self.dir.path());
    }
}

fn stop(dir: &Path) {
    let _ = Command::new(SCRIPT).arg("stop").arg(dir).output();
}
