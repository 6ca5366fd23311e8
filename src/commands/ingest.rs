//! `engram ingest`: real sources into the log. A second run adds what is new, and nothing twice.

use std::io::IsTerminal as _;

use engram_connectors::git::{Ingest, IngestOptions};
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::stop_flag;
use crate::cli::{Global, IngestGit};
use crate::output;
use crate::wire::{Access, Connection};

pub fn git(global: &Global, args: &IngestGit) -> anyhow::Result<()> {
    let options = IngestOptions { revision: args.revision.clone(), source: args.source.clone() };
    // A wrong path must fail before a log is opened or created for it.
    let mut ingest = Ingest::open(&args.path, &options)?;
    let connection = Connection::open(global, Access::Write)?;
    let known = connection.log.topics()?;
    let topics = ["activity.events", "graph.events"].map(|name| TopicSpec {
        name: name.to_owned(),
        partitions: connection.config.partitions.0,
        cleanup: Cleanup::Keep,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    });
    let missing: Vec<TopicSpec> =
        topics.into_iter().filter(|topic| !known.iter().any(|known| known.name == topic.name)).collect();
    connection.log.create_topics(&missing)?;
    let stop = stop_flag()?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} commits {eta}").expect("a constant that parses"));
    let summary = ingest.run(&*connection.log, &*connection.registry, &stop, &mut |progress| {
        bar.set_length(progress.commits_total);
        bar.set_position(progress.commits);
    })?;
    bar.finish_and_clear();
    if summary.is_shallow {
        crate::output::say(format_args!(
            "engram: note: this is a shallow clone; what lies before its boundary is left out, now and later"
        ));
    }
    if global.json {
        output::json(&json!({
            "source": summary.source, "commits": summary.commits, "activity": summary.activity, "relations": summary.relations
        }))?;
    } else if summary.commits == 0 {
        println!("{}: nothing new", summary.source);
    } else {
        println!(
            "{}: {} commits -> {} activity events, {} relations",
            summary.source, summary.commits, summary.activity, summary.relations
        );
    }
    Ok(())
}
