//! Which schemas are read at all. A registry may hand out any schema that Avro allows, and some let a record of a few
//! bytes take all memory, all time or the whole stack: those are refused before anything is read with them.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{DecimalSchema, FixedSchema, InnerDecimalSchema, Name, NamesRef, ResolvedSchema, UuidSchema};

use crate::codec::ALLOCATION_BYTES_MAX;

/// Deepest nesting, references included.
const DEPTH_MAX: usize = 256;
/// Most types that one record visits, shared ones each time: 60 records of two fields each would be 2^60.
const NODES_MAX: u64 = 65_536;

/// What reading one value of a type takes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Types visited, at least.
    nodes: u64,
    /// It may take no bytes at all, so that nothing bounds an array of it.
    may_be_empty: bool,
}

/// Refuses a schema that is recursive, nests too deep, has a fixed that is too large, or an array of what takes no bytes.
///
/// The error is one clause.
pub(crate) fn check(schema: &Schema) -> Result<(), String> {
    let resolved = ResolvedSchema::new(schema).map_err(|error| error.to_string())?;
    Walk { names: resolved.get_names(), costs: HashMap::new() }.cost(schema, 0).map(drop)
}

struct Walk<'n, 's> {
    names: &'n NamesRef<'s>,
    /// Of records; `None` while the walk is inside of it.
    costs: HashMap<&'s Name, Option<Cost>>,
}

impl<'s> Walk<'_, 's> {
    fn cost(&mut self, schema: &'s Schema, depth: usize) -> Result<Cost, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it nests deeper than {DEPTH_MAX} types"));
        }
        let plain = |may_be_empty| Ok(Cost { nodes: 1, may_be_empty });
        match schema {
            Schema::Null => plain(true),
            Schema::Fixed(fixed)
            | Schema::Duration(fixed)
            | Schema::Uuid(UuidSchema::Fixed(fixed))
            | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. }) => fixed_cost(fixed),
            Schema::Array(array) if self.cost(&array.items, depth + 1)?.may_be_empty => {
                Err("the items of an array take no bytes".to_owned())
            }
            Schema::Map(map) => self.cost(&map.types, depth + 1).map(|_| Cost { nodes: 1, may_be_empty: false }),
            Schema::Union(union) => {
                let branches = union.variants().iter().map(|branch| self.cost(branch, depth + 1));
                let nodes = branches.collect::<Result<Vec<_>, _>>()?.iter().map(|cost| cost.nodes).max();
                Ok(Cost { nodes: nodes.unwrap_or(1), may_be_empty: false })
            }
            Schema::Ref { name } => match self.names.get(name) {
                Some(defined) => self.cost(defined, depth + 1),
                None => Err(format!("{} is not defined", name.fullname(None))),
            },
            Schema::Record(record) => {
                match self.costs.insert(&record.name, None) {
                    Some(None) => return Err(format!("record {} contains itself", record.name.fullname(None))),
                    Some(Some(known)) => {
                        self.costs.insert(&record.name, Some(known));
                        return Ok(known);
                    }
                    None => {}
                }
                let mut whole = Cost { nodes: 1, may_be_empty: true };
                for field in &record.fields {
                    let cost = self.cost(&field.schema, depth + 1)?;
                    whole.nodes = whole.nodes.saturating_add(cost.nodes);
                    whole.may_be_empty &= cost.may_be_empty;
                }
                if whole.nodes > NODES_MAX {
                    return Err(format!("one value has more than {NODES_MAX} parts"));
                }
                self.costs.insert(&record.name, Some(whole));
                Ok(whole)
            }
            _ => plain(false),
        }
    }
}

fn fixed_cost(fixed: &FixedSchema) -> Result<Cost, String> {
    if fixed.size > ALLOCATION_BYTES_MAX {
        return Err(format!("fixed {} has more than {ALLOCATION_BYTES_MAX} bytes", fixed.name.fullname(None)));
    }
    Ok(Cost { nodes: 1, may_be_empty: fixed.size == 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> Schema {
        Schema::parse_str(&format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#)).expect("it parses")
    }

    #[test]
    fn what_a_few_bytes_could_blow_up_is_refused() {
        let nested = (1..40).fold(
            r#"{"name": "f0", "type": {"type": "record", "name": "T0", "fields": [{"name": "v", "type": "int"}]}}"#
                .to_owned(),
            |fields, index| {
                let below = index - 1;
                format!(
                    r#"{fields}, {{"name": "f{index}", "type": {{"type": "record", "name": "T{index}", "fields": [
                    {{"name": "l", "type": "T{below}"}}, {{"name": "r", "type": "T{below}"}}]}}}}"#
                )
            },
        );
        for (fields, reason) in [
            (r#"{"name": "next", "type": ["null", "R"]}"#, "contains itself"),
            (r#"{"name": "f", "type": {"type": "fixed", "name": "F", "size": 1125899906842624}}"#, "fixed F has more"),
            (r#"{"name": "a", "type": {"type": "array", "items": "null"}}"#, "take no bytes"),
            (
                r#"{"name": "a", "type": {"type": "array", "items": {"type": "record", "name": "E", "fields": []}}}"#,
                "take no bytes",
            ),
            (&nested, "parts"),
        ] {
            let refused = check(&record(fields)).expect_err(fields);
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn ordinary_schemas_are_read() {
        for fields in [
            "",
            r#"{"name": "a", "type": {"type": "array", "items": {"type": "record", "name": "H", "fields": [
                {"name": "k", "type": "string"}, {"name": "v", "type": ["null", "bytes"]}]}}}, {"name": "b", "type": "H"}"#,
            r#"{"name": "m", "type": {"type": "map", "values": "null"}}"#,
        ] {
            assert_eq!(check(&record(fields)), Ok(()), "{fields}");
        }
        for subject in crate::CONTRACT {
            assert_eq!(check(crate::intern::parse(subject.schema).expect("it parses")), Ok(()), "{}", subject.name);
        }
    }
}
