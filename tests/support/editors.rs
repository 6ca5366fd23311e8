//! Stock editors from npm, in processes of their own: the scripts of tests/clients/yjs.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/yjs");

/// A script that runs; killed on drop.
pub struct Script {
    name: String,
    child: Child,
    /// What it prints. SUBTLE: read all the time; what node cannot get rid of at its end is lost.
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
}

impl Script {
    /// Starts `node NAME.mjs` with these arguments.
    #[track_caller]
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        assert!(
            Path::new(FOLDER).join("node_modules/yjs").exists(),
            "the editors are not installed: make tests/clients/yjs/node_modules/.done"
        );
        let mut command = Command::new("node");
        command.current_dir(FOLDER).arg(format!("{name}.mjs")).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("node runs");
        let (out, err) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let name = format!("{name} {}", arguments.join(" "));
        Self { name, child, out: Some(read(out)), err: Some(read(err)) }
    }

    /// Waits until it has ended well, and returns the JSON lines that it has printed.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Value> {
        let status = self.child.wait().expect("it is our child");
        let text = |reader: Option<JoinHandle<String>>| reader.expect("read once").join().expect("it reads");
        let (out, err) = (text(self.out.take()), text(self.err.take()));
        assert!(status.success(), "{}: {status}\n{}\n{err}", self.name, tail(&out));
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

fn read(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a script to its end.
#[track_caller]
pub fn run(name: &str, arguments: &[&str]) -> Vec<Value> {
    Script::start(name, arguments).finish()
}
