//! Logs go to standard error: for people on a terminal, JSON otherwise. `ENGRAM_LOG` says what is shown.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};

/// To be called once, first.
pub fn init(cli: &Cli) {
    let default = if matches!(cli.command, Command::Up(_)) { "info" } else { "error" };
    let filter = EnvFilter::try_from_env("ENGRAM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // They would be told on standard error, and panic where that is closed.
        .log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).compact().init();
    } else {
        builder.json().flatten_event(true).with_current_span(false).init();
    }
}
