//! The programs in `tests/clients/yjs`, which run on stock Yjs.

use std::path::{Path, PathBuf};
use std::process::Command;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/yjs")
}

/// Runs one of them to its end. Panics, and says what to do, where it cannot run.
pub fn run(program: &str, arguments: &[&str]) {
    let installed = folder().join("node_modules/yjs").is_dir();
    assert!(installed, "Yjs is not installed: run `make tests/clients/yjs/node_modules/.done`");
    let output = Command::new("node").arg(program).args(arguments).current_dir(folder()).output();
    let output = output.expect("`node` (20 or later) is needed to run Yjs");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "node {program} {}: {printed}", arguments.join(" "));
}
