//! Whether readers with one schema can read records written with another, and how much of that a subject promises.
//!
//! Asked before a schema becomes a subject's next version, so that a record which was once written stays readable.
//!
//! SUBTLE: `apache_avro::schema_compatibility` is not used. It answers `Partial` for unions and enums without saying
//! what does not fit, stops at the first mismatch, compares references by name alone (a record that is spelt out on one
//! side and referred to on the other does not match) and has no regard for a record's own aliases.
//!
//! Source: Avro specification 1.12, "Schema Resolution" and "Aliases".

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use apache_avro::Schema;
use apache_avro::schema::{
    Aliases, DecimalSchema, EnumSchema, FixedSchema, InnerDecimalSchema, Name, RecordSchema, ResolvedSchema, UuidSchema,
};

/// So many reasons are told; more would only be long.
const REASONS_MAX: usize = 32;
/// Deepest nesting that is followed, references included: schemas come from outside, and the stack is finite.
const DEPTH_MAX: usize = 256;

/// What a subject promises of its next version, in Confluent's words.
///
/// Source: Confluent Schema Registry, "Schema Evolution and Compatibility".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Level {
    /// Nothing.
    None,
    /// The new schema reads the last version's records.
    Backward,
    /// The new schema reads all versions' records.
    BackwardTransitive,
    /// The last version reads the new schema's records.
    Forward,
    /// All versions read the new schema's records.
    ForwardTransitive,
    /// Both ways, with the last version.
    Full,
    /// Both ways, with all versions. Engram's default, unlike Confluent's `BACKWARD`: topics are replayed from their
    /// start, by processes older and newer than the writer.
    #[default]
    FullTransitive,
}

impl Level {
    const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    fn backward(self) -> bool {
        matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn forward(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// The text is not one of Confluent's levels.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a compatibility level: use NONE, or BACKWARD, FORWARD or FULL, each alone or with _TRANSITIVE")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let level = Self::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(text));
        level.ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}

/// Why `new` cannot follow `earlier`, versions in ascending order; empty if it can. A level that is not transitive
/// looks at the last of them only. An earlier version that is no Avro schema is a reason.
///
/// # Errors
/// `new` is not a valid Avro schema.
pub fn check(level: Level, new: &str, earlier: &[&str]) -> Result<Vec<String>, apache_avro::Error> {
    let new = Schema::parse_str(new)?;
    let looked_at: &[&str] = match level {
        Level::None => &[],
        _ if level.transitive() => earlier,
        _ => &earlier[earlier.len().saturating_sub(1)..],
    };
    let mut reasons = Vec::new();
    for text in looked_at.iter().rev() {
        let old = match Schema::parse_str(text) {
            Ok(old) => old,
            Err(error) => {
                reasons.push(format!("an earlier version is not an Avro schema: {error}"));
                continue;
            }
        };
        if level.backward() {
            let found = can_read(&new, &old);
            reasons.extend(found.into_iter().map(|reason| format!("it cannot read earlier records: {reason}")));
        }
        if level.forward() {
            let found = can_read(&old, &new);
            reasons.extend(found.into_iter().map(|reason| format!("earlier readers cannot read it: {reason}")));
        }
    }
    Ok(without_repeats(reasons))
}

/// Why a reader with schema `reader` cannot read every record written with `writer`; empty if it can.
///
/// Stricter than one record's resolution, which may be lucky: each branch of the writer's union and each symbol of its
/// enum must be readable. Logical types resolve as the types they annotate, but decimals must agree in precision and
/// scale.
pub fn can_read(reader: &Schema, writer: &Schema) -> Vec<String> {
    let (reader_names, writer_names) = match (ResolvedSchema::new(reader), ResolvedSchema::new(writer)) {
        (Ok(reader), Ok(writer)) => (reader, writer),
        (Err(error), _) => return vec![format!("the reader's schema does not resolve: {error}")],
        (_, Err(error)) => return vec![format!("the writer's schema does not resolve: {error}")],
    };
    let mut comparison = Comparison {
        reader_names: reader_names.get_names(),
        writer_names: writer_names.get_names(),
        seen: HashSet::new(),
        unreadable: HashMap::new(),
    };
    // SUBTLE: types may be recursive, so a pair of named types that is met again is taken to be readable. If it then
    // turns out not to be, whatever was concluded from it is void: walk again, knowing it, until a walk finds no other.
    // Each walk visits each pair once and the known ones only become more, so this ends, and does not blow up on shared
    // types.
    loop {
        let known = comparison.unreadable.len();
        comparison.seen.clear();
        let reasons = comparison.schemas(reader, writer, 0);
        if comparison.unreadable.len() == known {
            return reasons;
        }
    }
}

type Names<'s> = HashMap<Name, &'s Schema>;
/// Full names, the reader's first.
type Pair = (String, String);

struct Comparison<'n, 's> {
    reader_names: &'n Names<'s>,
    writer_names: &'n Names<'s>,
    /// Pairs met in this walk.
    seen: HashSet<Pair>,
    /// Pairs that do not resolve, and why.
    unreadable: HashMap<Pair, Vec<String>>,
}

impl<'s> Comparison<'_, 's> {
    fn schemas(&mut self, reader: &'s Schema, writer: &'s Schema, depth: usize) -> Vec<String> {
        if depth > DEPTH_MAX {
            return vec![format!("the schema nests deeper than {DEPTH_MAX} types")];
        }
        let (Some(reader), Some(writer)) = (defined(reader, self.reader_names), defined(writer, self.writer_names))
        else {
            return vec!["a type is referred to that is not defined".to_owned()];
        };
        match (reader, writer) {
            (_, Schema::Union(union)) => {
                let mut reasons = Vec::new();
                for branch in union.variants().iter() {
                    reasons.extend(self.schemas(reader, branch, depth + 1));
                    if reasons.len() >= REASONS_MAX {
                        break;
                    }
                }
                without_repeats(reasons)
            }
            (Schema::Union(union), _) => self.against_union(union.variants(), writer, depth),
            (Schema::Decimal(reader), Schema::Decimal(writer))
                if (reader.precision, reader.scale) != (writer.precision, writer.scale) =>
            {
                vec![format!(
                    "reader wants decimal({}, {}), writer has decimal({}, {})",
                    reader.precision, reader.scale, writer.precision, writer.scale
                )]
            }
            _ => self.shapes(&Shape::of(reader), &Shape::of(writer), depth),
        }
    }

    fn shapes(&mut self, reader: &Shape<'s>, writer: &Shape<'s>, depth: usize) -> Vec<String> {
        use Shape::*;
        match (reader, writer) {
            (Null, Null) | (Boolean, Boolean) => Vec::new(),
            (Int, Int) | (Long, Int | Long) | (Float, Int | Long | Float) => Vec::new(),
            (Double, Int | Long | Float | Double) => Vec::new(),
            (Bytes | String, Bytes | String) => Vec::new(),
            (Array(reader), Array(writer)) => within("array items", self.schemas(reader, writer, depth + 1)),
            (Map(reader), Map(writer)) => within("map values", self.schemas(reader, writer, depth + 1)),
            (Fixed(wanted), Fixed(had)) if names_match(&wanted.name, &wanted.aliases, &had.name) => {
                if wanted.size == had.size {
                    return Vec::new();
                }
                let name = wanted.name.fullname(None);
                vec![format!("fixed {name}: reader wants {} bytes, writer has {}", wanted.size, had.size)]
            }
            (Enum(wanted), Enum(had)) if names_match(&wanted.name, &wanted.aliases, &had.name) => symbols(wanted, had),
            (Record(wanted), Record(had)) if names_match(&wanted.name, &wanted.aliases, &had.name) => {
                self.records(wanted, had, depth)
            }
            _ => vec![format!("reader wants {reader}, writer has {writer}")],
        }
    }

    fn against_union(&mut self, branches: &'s [Schema], writer: &'s Schema, depth: usize) -> Vec<String> {
        let mut nearest = None;
        let mut names = Vec::new();
        for branch in branches {
            let reasons = self.schemas(branch, writer, depth + 1);
            if reasons.is_empty() {
                return reasons;
            }
            let Some(branch) = defined(branch, self.reader_names).map(Shape::of) else { continue };
            // Of a branch with the writer's own type, what differs inside it says more than that no branch fits.
            if branch.to_string() == Shape::of(writer).to_string() {
                nearest = Some(reasons);
            }
            names.push(branch.to_string());
        }
        let writer = Shape::of(writer);
        nearest.unwrap_or_else(|| vec![format!("reader wants one of [{}], writer has {writer}", names.join(", "))])
    }

    fn records(&mut self, reader: &'s RecordSchema, writer: &'s RecordSchema, depth: usize) -> Vec<String> {
        let name = reader.name.fullname(None);
        let pair = (name.clone(), writer.name.fullname(None));
        if let Some(known) = self.unreadable.get(&pair) {
            return known.clone();
        }
        if !self.seen.insert(pair.clone()) {
            return Vec::new();
        }
        let mut reasons = Vec::new();
        for field in &reader.fields {
            let place = format!("field \"{}\" of {name}", field.name);
            let mut sought = std::iter::once(&field.name).chain(&field.aliases);
            if reasons.len() >= REASONS_MAX {
                break;
            }
            // By its name if the writer has that, else by its aliases in their order. The writer's aliases do not
            // count.
            let written = sought.find_map(|name| writer.fields.iter().find(|field| field.name == *name));
            match written {
                Some(written) => {
                    reasons.extend(within(&place, self.schemas(&field.schema, &written.schema, depth + 1)));
                }
                None if field.default.is_none() => {
                    reasons.push(format!("{place}: writer does not have it, and it has no default"));
                }
                None => {}
            }
        }
        let reasons = without_repeats(reasons);
        if !reasons.is_empty() {
            self.unreadable.insert(pair, reasons.clone());
        }
        reasons
    }
}

/// A schema, or what it refers to; `None` for a reference to what is not defined.
fn defined<'s>(schema: &'s Schema, names: &Names<'s>) -> Option<&'s Schema> {
    match schema {
        Schema::Ref { name } => names.get(name).copied().filter(|found| !matches!(found, Schema::Ref { .. })),
        other => Some(other),
    }
}

/// A schema that is no reference, with logical types taken off.
enum Shape<'s> {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Array(&'s Schema),
    Map(&'s Schema),
    Union,
    Record(&'s RecordSchema),
    Enum(&'s EnumSchema),
    Fixed(&'s FixedSchema),
}

impl<'s> Shape<'s> {
    /// # Panics
    /// If it is a reference: see [`defined`].
    fn of(schema: &'s Schema) -> Self {
        match schema {
            Schema::Ref { name } => unreachable!("{} has not been looked up", name.fullname(None)),
            Schema::Null => Self::Null,
            Schema::Boolean => Self::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Self::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Self::Long,
            Schema::Float => Self::Float,
            Schema::Double => Self::Double,
            Schema::Bytes
            | Schema::BigDecimal
            | Schema::Uuid(UuidSchema::Bytes)
            | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Bytes, .. }) => Self::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Self::String,
            Schema::Array(array) => Self::Array(&array.items),
            Schema::Map(map) => Self::Map(&map.types),
            Schema::Union(_) => Self::Union,
            Schema::Record(record) => Self::Record(record),
            Schema::Enum(symbols) => Self::Enum(symbols),
            Schema::Fixed(fixed)
            | Schema::Duration(fixed)
            | Schema::Uuid(UuidSchema::Fixed(fixed))
            | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. }) => Self::Fixed(fixed),
        }
    }
}

/// As reasons name it: a named type by its kind and full name.
impl fmt::Display for Shape<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => formatter.write_str("null"),
            Self::Boolean => formatter.write_str("boolean"),
            Self::Int => formatter.write_str("int"),
            Self::Long => formatter.write_str("long"),
            Self::Float => formatter.write_str("float"),
            Self::Double => formatter.write_str("double"),
            Self::Bytes => formatter.write_str("bytes"),
            Self::String => formatter.write_str("string"),
            Self::Array(_) => formatter.write_str("array"),
            Self::Map(_) => formatter.write_str("map"),
            Self::Union => formatter.write_str("union"),
            Self::Record(record) => write!(formatter, "record {}", record.name.fullname(None)),
            Self::Enum(symbols) => write!(formatter, "enum {}", symbols.name.fullname(None)),
            Self::Fixed(fixed) => write!(formatter, "fixed {}", fixed.name.fullname(None)),
        }
    }
}

/// Named types match by unqualified name, or by an alias of the reader's.
fn names_match(reader: &Name, aliases: &Aliases, writer: &Name) -> bool {
    let full = writer.fullname(None);
    reader.name() == writer.name() || aliases.iter().flatten().any(|alias| alias.fullname(reader.namespace()) == full)
}

fn symbols(reader: &EnumSchema, writer: &EnumSchema) -> Vec<String> {
    let unknown: Vec<&str> =
        writer.symbols.iter().filter(|symbol| !reader.symbols.contains(symbol)).map(String::as_str).collect();
    if unknown.is_empty() || reader.default.is_some() {
        return Vec::new();
    }
    let name = reader.name.fullname(None);
    vec![format!("enum {name}: reader does not know {}, and has no default", unknown.join(", "))]
}

/// Puts the place before reasons that do not yet name a field: the innermost record tells enough of where.
fn within(place: &str, reasons: Vec<String>) -> Vec<String> {
    let placed = reasons
        .into_iter()
        .map(|reason| if reason.starts_with("field ") { reason } else { format!("{place}: {reason}") });
    placed.collect()
}

fn without_repeats(reasons: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    reasons.into_iter().filter(|reason| seen.insert(reason.clone())).take(REASONS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &str) -> String {
        format!(r#"{{"type": "record", "name": "R", "namespace": "n", "fields": [{fields}]}}"#)
    }

    fn reads(reader: &str, writer: &str) -> Vec<String> {
        can_read(&Schema::parse_str(reader).unwrap(), &Schema::parse_str(writer).unwrap())
    }

    /// Old schema, new schema, whether the new reads the old (backward), whether the old reads the new (forward).
    #[test]
    fn evolutions() {
        let a = r#"{"name": "a", "type": "string"}"#;
        let nested = |inner: &str| {
            record(&format!(
                r#"{{"name": "x", "type": {{"type": "record", "name": "I", "fields": [{inner}]}}}}, {{"name": "y", "type": "I"}}"#
            ))
        };
        let recursive = |value: &str| {
            record(&format!(
                r#"{{"name": "next", "type": ["null", "R"], "default": null}}, {{"name": "value", "type": "{value}"}}"#
            ))
        };
        let symbols = |rest: &str| format!(r#"{{"type": "enum", "name": "E", "symbols": {rest}}}"#);
        let fixed = |size: u32| format!(r#"{{"type": "fixed", "name": "F", "size": {size}}}"#);
        let decimal =
            |scale: u32| format!(r#"{{"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": {scale}}}"#);
        let optional = |schema: &str| format!(r#"["null", {schema}]"#);
        let amounts = |scale: u32| {
            record(&format!(
                r#"{{"name": "a", "type": ["null", {{"type": "fixed", "name": "A", "size": 8, "logicalType": "decimal", "precision": 9, "scale": {scale}}}], "default": null}},
                   {{"name": "b", "type": ["null", "A"], "default": null}}"#
            ))
        };
        let table: Vec<(&str, String, String, bool, bool)> = vec![
            ("the same", record(a), record(a), true, true),
            ("add with default", record(a), record(&format!(r#"{a}, {{"name": "b", "type": "int", "default": 0}}"#)), true, true),
            ("add without default", record(a), record(&format!(r#"{a}, {{"name": "b", "type": "int"}}"#)), false, true),
            ("remove without default", record(&format!(r#"{a}, {{"name": "b", "type": "int"}}"#)), record(a), true, false),
            ("rename with alias", record(a), record(r#"{"name": "b", "type": "string", "aliases": ["a"]}"#), true, false),
            ("rename", record(a), record(r#"{"name": "b", "type": "string"}"#), false, false),
            ("symbol added", symbols(r#"["A"]"#), symbols(r#"["A", "B"]"#), true, false),
            ("symbol added, defaults", symbols(r#"["A"], "default": "A""#), symbols(r#"["A", "B"], "default": "A""#), true, true),
            ("promotion", r#""int""#.into(), r#""long""#.into(), true, false),
            ("float to double", r#""float""#.into(), r#""double""#.into(), true, false),
            ("long to float", r#""long""#.into(), r#""float""#.into(), true, false),
            ("string and bytes", r#""string""#.into(), r#""bytes""#.into(), true, true),
            ("bytes to int", r#""bytes""#.into(), r#""int""#.into(), false, false),
            ("made optional", r#""string""#.into(), r#"["null", "string"]"#.into(), true, false),
            ("union widened", r#"["null", "int"]"#.into(), r#"["null", "int", "string"]"#.into(), true, false),
            ("union reordered", r#"["null", "int"]"#.into(), r#"["int", "null"]"#.into(), true, true),
            ("nested", nested(a), nested(r#"{"name": "a", "type": "int"}"#), false, false),
            ("recursive, the same", recursive("int"), recursive("int"), true, true),
            ("recursive", recursive("int"), recursive("long"), true, false),
            ("array", r#"{"type": "array", "items": "int"}"#.into(), r#"{"type": "array", "items": "long"}"#.into(), true, false),
            ("map", r#"{"type": "map", "values": "int"}"#.into(), r#"{"type": "map", "values": "string"}"#.into(), false, false),
            ("fixed", fixed(8), fixed(9), false, false),
            ("decimal's scale", decimal(2), decimal(3), false, false),
            ("optional decimal's scale", optional(&decimal(2)), optional(&decimal(3)), false, false),
            ("optional decimal", optional(&decimal(2)), optional(&decimal(2)), true, true),
            ("named decimal's scale, by reference", amounts(2), amounts(3), false, false),
            ("logical type", r#""long""#.into(), r#"{"type": "long", "logicalType": "timestamp-millis"}"#.into(), true, true),
            (
                "record renamed with alias",
                record(a),
                r#"{"type": "record", "name": "S", "namespace": "n", "aliases": ["R"], "fields": [{"name": "a", "type": "string"}]}"#.into(),
                true,
                false,
            ),
        ];
        for (what, old, new, backward, forward) in table {
            let found = reads(&new, &old);
            assert_eq!(found.is_empty(), backward, "{what}, backward: {found:?}");
            let found = reads(&old, &new);
            assert_eq!(found.is_empty(), forward, "{what}, forward: {found:?}");
        }
    }

    #[test]
    fn reasons_name_the_place() {
        let reader = record(r#"{"name": "count", "type": "long"}"#);
        let writer = record(r#"{"name": "count", "type": "string"}"#);
        assert_eq!(reads(&reader, &writer), [r#"field "count" of n.R: reader wants long, writer has string"#]);
        let reader =
            record(r#"{"name": "all", "type": {"type": "array", "items": "int"}}, {"name": "b", "type": "int"}"#);
        let writer = record(r#"{"name": "all", "type": {"type": "array", "items": ["null", "int"]}}"#);
        assert_eq!(
            reads(&reader, &writer),
            [
                r#"field "all" of n.R: array items: reader wants int, writer has null"#,
                r#"field "b" of n.R: writer does not have it, and it has no default"#
            ]
        );
    }

    #[test]
    fn a_type_spelt_out_matches_its_reference() {
        let inner = r#"{"type": "record", "name": "I", "fields": []}"#;
        let one = record(&format!(r#"{{"name": "x", "type": {inner}}}, {{"name": "y", "type": "I"}}"#));
        let other = record(&format!(r#"{{"name": "y", "type": {inner}}}, {{"name": "x", "type": "I"}}"#));
        assert_eq!(reads(&one, &other), Vec::<String>::new());
    }

    /// The outer pair's mismatch is found after the inner one was taken to be readable because of it.
    #[test]
    fn a_recursive_mismatch_reaches_a_union_that_relied_on_it() {
        let list = |value: &str| {
            record(&format!(
                r#"{{"name": "child", "type": ["null", {{"type": "record", "name": "C", "fields": [{{"name": "up", "type": ["null", "R"]}}]}}]}},
                   {{"name": "value", "type": "{value}"}}, {{"name": "again", "type": ["null", "C"]}}"#
            ))
        };
        let reasons = reads(&list("int"), &list("string"));
        assert_eq!(reasons, [r#"field "value" of n.R: reader wants int, writer has string"#]);
    }

    /// 2^60 paths lead to the first record.
    #[test]
    fn shared_types_are_compared_once() {
        let mut fields =
            r#"{"name": "f0", "type": {"type": "record", "name": "T0", "fields": [{"name": "v", "type": "int"}]}}"#
                .to_owned();
        for index in 1..60 {
            let below = index - 1;
            fields += &format!(
                r#", {{"name": "f{index}", "type": {{"type": "record", "name": "T{index}", "fields": [
                    {{"name": "l", "type": "T{below}"}}, {{"name": "r", "type": "T{below}"}}]}}}}"#
            );
        }
        let reader = record(&fields);
        assert_eq!(reads(&reader, &reader), Vec::<String>::new());
        let reasons = reads(&reader, &reader.replace(r#""int""#, r#""string""#));
        assert_eq!(reasons, [r#"field "v" of n.T0: reader wants int, writer has string"#]);
    }

    #[test]
    fn levels_look_one_way_or_both_and_at_the_last_or_at_all() {
        let (first, second, new) = (r#""string""#, r#""int""#, r#""long""#);
        for (level, compatible) in [
            (Level::None, true),
            (Level::Backward, true),
            (Level::BackwardTransitive, false),
            (Level::Forward, false),
            (Level::ForwardTransitive, false),
            (Level::Full, false),
            (Level::FullTransitive, false),
        ] {
            let reasons = check(level, new, &[first, second]).unwrap();
            assert_eq!(reasons.is_empty(), compatible, "{level}: {reasons:?}");
            assert_eq!(check(level, new, &[]).unwrap(), Vec::<String>::new());
        }
        assert!(check(Level::None, "{", &[]).is_err());
    }

    #[test]
    fn levels_go_by_confluents_names() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse::<Level>(), Ok(level));
        }
        assert_eq!(Level::default().to_string(), "FULL_TRANSITIVE");
        assert!("SIDEWAYS".parse::<Level>().is_err());
    }
}
