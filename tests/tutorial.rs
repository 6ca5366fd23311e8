//! The tutorial in the README: its commands do what its transcript says.

mod support;

use std::path::Path;
use std::process::Command;

use support::engram::bare;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The commands of the transcript with the lines that they print.
fn transcript(readme: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        for line in block.split("```").next().expect("a block").lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.to_owned(), Vec::new())),
                None => commands.last_mut().expect("a command first").1.push(line.to_owned()),
            }
        }
    }
    commands
}

/// Whether a printed line is one of the transcript's, in which `...` is anything.
fn is_as_shown(line: &str, shown: &str) -> bool {
    let mut parts = shown.split("...");
    let Some(mut rest) = line.strip_prefix(parts.next().expect("there is one")) else { return false };
    let mut closed = !shown.contains("...");
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        closed = !part.is_empty();
    }
    !closed || rest.trim_end().is_empty()
}

fn shell(command: &str, data: &Path) -> String {
    let engram = bare(&[]).get_program().to_owned();
    let folder = Path::new(&engram).parent().expect("a folder").display().to_string();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let done = Command::new("sh")
        .args(["-c", command])
        .current_dir(ROOT)
        .env("PATH", path)
        .env("ENGRAM_DATA", data)
        .env("ENGRAM_CONFIG", "docs/tutorial/engram.toml")
        .output()
        .expect("sh runs");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command}: {err}");
    out.into_owned()
}

#[test]
fn the_transcript_is_what_happens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    shell("engram produce activity.events docs/tutorial/events.ndjson", &data);
    shell("engram up --exit-when-idle 2 --http 127.0.0.1:0", &data);
    let windows = shell("engram consume activity.windows --json", &data);
    let minutes = |minute: i64| {
        let start = format!("\"window_start\":{}", 1_793_613_600_000 + minute * 60_000);
        windows.lines().filter(|line| line.contains(&start) && line.contains("\"dimension\":\"user\"")).count()
    };
    assert!((0..12).all(|minute| minutes(minute) > 0) && (12..15).all(|minute| minutes(minute) == 0), "the symptom");
    let commands = transcript(&std::fs::read_to_string(Path::new(ROOT).join("README.md")).expect("the README"));
    assert_eq!(commands.len(), 5, "five commands");
    for (command, shown) in commands {
        let printed = shell(&command, &data);
        let mut lines = printed.lines();
        for shown in shown.iter().filter(|line| *line != "...") {
            assert!(lines.any(|line| is_as_shown(line, shown)), "{command}\nprints\n{printed}\nand not\n{shown}");
        }
    }
}
