//! `engram schemas`: what is registered, and whether a change would be accepted.

use anyhow::Context as _;
use engram_schemas::registry::Version;
use serde_json::json;

use crate::cli::{Global, Schemas};
use crate::output;
use crate::wire::{Access, Connection};

pub fn run(global: &Global, command: &Schemas) -> anyhow::Result<()> {
    let connection = Connection::open(global, Access::Read)?;
    let registry = &connection.registry;
    match command {
        Schemas::List => {
            let mut rows = Vec::new();
            for subject in registry.subjects()? {
                let versions = registry.versions(&subject)?;
                let level = registry.compatibility(Some(&subject))?.to_string();
                if global.json {
                    output::json(&json!({"subject": subject, "versions": versions, "compatibility": level}))?;
                }
                let versions: Vec<String> = versions.iter().map(u32::to_string).collect();
                rows.push(vec![subject, versions.join(", "), level]);
            }
            if !global.json {
                output::table(&["subject", "versions", "compatibility"], rows)?;
            }
        }
        Schemas::Show { subject, version } => {
            let wanted = version.map_or(Version::Latest, Version::Number);
            let found = registry.version(subject, wanted)?;
            let found = found.with_context(|| {
                let version = version.map_or_else(String::new, |number| format!(" version {number}"));
                format!("subject {subject}{version} does not exist; 'engram schemas list' shows what does")
            })?;
            let schema: serde_json::Value = serde_json::from_str(&found.schema)?;
            if global.json {
                output::json(&json!({
                    "subject": found.subject, "version": found.version, "id": found.id.0, "schema": schema
                }))?;
            } else {
                println!("{}", serde_json::to_string_pretty(&schema)?);
            }
        }
        Schemas::Check { subject, file } => {
            let schema = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let reasons = registry.check(subject, Version::Latest, &schema)?;
            if global.json {
                output::json(&json!({"compatible": reasons.is_empty(), "reasons": reasons}))?;
            }
            anyhow::ensure!(
                reasons.is_empty(),
                "{} is not compatible with {subject}: {}",
                file.display(),
                reasons.join("; ")
            );
            if !global.json {
                println!("compatible");
            }
        }
    }
    Ok(())
}
