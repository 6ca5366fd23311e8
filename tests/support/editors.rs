//! Stock editors from npm, in processes of their own: the scripts of tests/clients/yjs.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/yjs");

/// A script that runs; killed on drop.
pub struct Script {
    name: String,
    child: Option<Child>,
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
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("node runs");
        Self { name: format!("{name} {}", arguments.join(" ")), child: Some(child) }
    }

    /// Waits until it has ended well, and returns the JSON lines that it has printed.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Value> {
        let child = self.child.take().expect("it runs");
        let output = child.wait_with_output().expect("it is our child");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {}\n{}\n{err}", self.name, output.status, tail(&out));
        out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a script to its end.
#[track_caller]
pub fn run(name: &str, arguments: &[&str]) -> Vec<Value> {
    Script::start(name, arguments).finish()
}
