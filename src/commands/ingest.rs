//! `engram ingest`: real sources into the log. A second run adds what is new, and nothing twice.

use std::io::IsTerminal as _;

use engram_connectors::git::{DocumentsOptions, DocumentsSummary, Ingest, IngestOptions, Summary};
use engram_pipeline::log::{Cleanup, TopicSpec};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::stop_flag;
use crate::cli::{Global, IngestGit};
use crate::output;
use crate::wire::{Access, Connection};

pub fn git(global: &Global, args: &IngestGit) -> anyhow::Result<()> {
    let documents = args.documents.then(|| DocumentsOptions { prefix: args.prefix.clone() });
    let options = IngestOptions { revision: args.revision.clone(), source: args.source.clone(), documents };
    // A wrong path must fail before a log is opened or created for it.
    let mut ingest = Ingest::open(&args.path, &options)?;
    let connection = Connection::open(global, Access::Write)?;
    let known = connection.log.topics()?;
    let names = ["activity.events", "graph.events"].into_iter().chain(args.documents.then_some("document.edits"));
    let topics = names.map(|name| TopicSpec {
        name: name.to_owned(),
        partitions: connection.config.partitions.0,
        cleanup: Cleanup::Keep,
        max_message_bytes: TOPIC_MESSAGE_BYTES_MAX,
    });
    let missing: Vec<TopicSpec> = topics.filter(|topic| !known.iter().any(|known| known.name == topic.name)).collect();
    connection.log.create_topics(&missing)?;
    let stop = stop_flag()?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} commits {msg} {eta}").expect("a constant that parses"),
    );
    let summary = ingest.run(&*connection.log, &connection.registry, &stop, &mut |progress| {
        bar.set_length(progress.commits_total);
        bar.set_position(progress.commits);
        if let Some(edits) = progress.edits {
            bar.set_message(format!("{edits} edits"));
        }
    })?;
    bar.finish_and_clear();
    if summary.is_shallow {
        crate::output::say(format_args!(
            "engram: note: this is a shallow clone; what lies before its boundary is left out, now and later"
        ));
    }
    if global.json {
        output::json(&as_json(&summary))?;
    } else {
        tell(&summary);
    }
    Ok(())
}

fn as_json(summary: &Summary) -> Value {
    let mut value = json!({
        "source": summary.source, "commits": summary.commits, "activity": summary.activity, "relations": summary.relations
    });
    if let Some(DocumentsSummary { prefix, commits, edits, left_out }) = &summary.documents {
        value["documents"] = json!({"prefix": prefix, "commits": commits, "edits": edits, "left_out": left_out});
    }
    value
}

fn tell(summary: &Summary) {
    let Summary { source, commits, activity, relations, .. } = summary;
    let documents = summary.documents.as_ref().filter(|documents| documents.commits > 0);
    if *commits > 0 {
        println!("{source}: {commits} commits -> {activity} activity events, {relations} relations");
    } else if documents.is_none() {
        println!("{source}: nothing new");
    }
    if let Some(DocumentsSummary { prefix, commits, edits, left_out }) = documents {
        println!("{source}: {commits} commits -> {edits} edits of documents {prefix}...; {left_out} versions left out");
    }
}
