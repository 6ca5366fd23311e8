//! Parsed schemas, kept for the life of the process: apache-avro's readers and writers borrow theirs, and a process meets
//! few distinct ones.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use apache_avro::Schema;

/// So many distinct schemas are kept; a process that meets more has a registry gone wrong.
const SCHEMAS_MAX: usize = 10_000;

static SCHEMAS: LazyLock<Mutex<HashMap<String, &'static Schema>>> = LazyLock::new(Mutex::default);

/// The parsed schema of this text.
pub(crate) fn parse(text: &str) -> Result<&'static Schema, String> {
    let mut schemas = SCHEMAS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = schemas.get(text) {
        return Ok(known);
    }
    if schemas.len() >= SCHEMAS_MAX {
        return Err(format!("more than {SCHEMAS_MAX} distinct schemas"));
    }
    let schema = Schema::parse_str(text).map_err(|error| error.to_string())?;
    let schema: &'static Schema = Box::leak(Box::new(schema));
    schemas.insert(text.to_owned(), schema);
    Ok(schema)
}

/// Full name of a record's schema; `None` if it is no record.
pub(crate) fn record_name(schema: &Schema) -> Option<String> {
    match schema {
        Schema::Record(record) => Some(record.name.fullname(None).to_string()),
        _ => None,
    }
}
