//! `engram`: the one binary. Its arguments are in `cli`, each command in `commands/`, and `wire` is the one place where
//! concrete logs, registries and services meet.

mod cli;
mod commands;
mod config;
mod data_dir;
mod documents;
mod expression;
mod fork;
mod histories;
mod models;
mod output;
mod outputs;
mod parquet_out;
mod past;
mod queries;
mod reading;
mod steps;
mod tables;
mod telemetry;
mod values;
mod wire;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind as UsageError;

/// Exit code of a command that failed.
pub const FAILED: u8 = 1;
/// Exit code of a command line that makes no sense.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(mut cli) => {
            cli.global.brokers = cli.global.brokers.filter(|brokers| !brokers.is_empty());
            cli.global.registry = cli.global.registry.filter(|url| !url.is_empty());
            cli
        }
        Err(error) if matches!(error.kind(), UsageError::DisplayHelp | UsageError::DisplayVersion) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            crate::output::say(format_args!("engram: {}", usage_line(&error)));
            return ExitCode::from(USAGE);
        }
    };
    telemetry::init(&cli);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has had enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "engram: {}", output::one_line(&*error));
            ExitCode::from(if error.is::<output::Usage>() { USAGE } else { FAILED })
        }
    }
}

/// clap's message in one line, and where to read on.
fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    if error.kind() == UsageError::DisplayHelpOnMissingArgumentOrSubcommand {
        return "what shall it do? See 'engram --help'".to_owned();
    }
    let message: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    format!("{}; see 'engram --help'", message.join(" ").trim_start_matches("error: "))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
