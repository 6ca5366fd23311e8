//! Expressions of the command line (`--where`), in the Common Expression Language: what holds of a state, an output, an event.
//!
//! State is not handed in whole: an expression asks for entries with `get`, `all` and `count`. What it asks for is noted, looked
//! up, and the expression evaluated again, until it asks for nothing new.
//!
//! Source: <https://cel.dev>, language definition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cel::{Context, ExecutionError, Program, Value as CelValue};
use serde_json::Value;

use crate::commands::lock;

/// Longest expression, in bytes: its parser recurses.
const BYTES_MAX: usize = 4_096;

/// What an expression asks of a state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    /// The value of an entry, by its key as `engram state get` takes it; null if there is none.
    Get { store: String, key: String },
    /// The entries of a store: a list of {key, value}.
    All { store: String },
    /// How many entries a store has.
    Count { store: String },
}

type Answers = Arc<Mutex<BTreeMap<Ask, Option<CelValue>>>>;

/// An expression that says yes or no.
pub struct Expression {
    text: String,
    program: Program,
    /// The functions; making them anew for each look would take longer than the look.
    root: Context<'static, 'static>,
    answers: Answers,
}

impl Expression {
    /// `variables` are the names that it may use, beside the functions that ask for state where `state` says so.
    pub fn parse(text: &str, variables: &[&str], state: bool) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("an expression has at most {BYTES_MAX} bytes"));
        }
        let program = Program::compile(text).map_err(|error| {
            let lines: Vec<String> = error.to_string().lines().map(|line| line.trim().to_owned()).collect();
            format!("{text:?} is no expression: {}", lines.join(" "))
        })?;
        if !state && ["get", "all", "count"].iter().any(|name| program.references().has_function(name)) {
            return Err(format!("{text:?} asks for state, which there is none of here"));
        }
        let answers = Answers::default();
        let root = root(&answers).map_err(|error| error.to_string())?;
        let mut context = root.new_inner_scope();
        variables.iter().for_each(|name| context.add_variable_from_value(*name, CelValue::Null));
        if let Err(ExecutionError::UndeclaredReference(unknown)) = program.execute(&context) {
            let functions: &[&str] = if state { &["get", "all", "count"] } else { &[] };
            let known = [variables, functions].concat().join(", ");
            return Err(format!("{text:?} names {unknown:?}; there is: {known}, and CEL's own functions"));
        }
        drop(context);
        lock(&answers).clear();
        Ok(Self { text: text.to_owned(), program, root, answers })
    }

    /// Whether it asks for state.
    pub fn asks(&self) -> bool {
        ["get", "all", "count"].iter().any(|name| self.program.references().has_function(name))
    }

    pub fn uses(&self, variable: &str) -> bool {
        self.program.references().has_variable(variable)
    }

    /// Whether it holds. What is not there (no such entry, no such field) makes it false.
    pub fn holds(
        &self,
        variables: &[(&str, &Value)],
        mut look: impl FnMut(&Ask) -> anyhow::Result<Value>,
    ) -> anyhow::Result<bool> {
        let mut context = self.root.new_inner_scope();
        for (name, value) in variables {
            context.add_variable_from_value(*name, convert(value)?);
        }
        let asked: Vec<Ask> = lock(&self.answers).keys().cloned().collect();
        for ask in asked {
            self.answer(ask, &mut look)?;
        }
        loop {
            let outcome = self.program.execute(&context);
            let new: Vec<Ask> = {
                let answers = lock(&self.answers);
                answers.iter().filter(|(_, answer)| answer.is_none()).map(|(ask, _)| ask.clone()).collect()
            };
            if new.is_empty() {
                return match outcome {
                    Ok(CelValue::Bool(holds)) => Ok(holds),
                    Ok(other) => anyhow::bail!("{:?} is neither true nor false, but {:?}", self.text, other.type_of()),
                    Err(error) if is_absence(&error) => Ok(false),
                    Err(error) => anyhow::bail!("{:?} cannot be evaluated: {error}", self.text),
                };
            }
            for ask in new {
                self.answer(ask, &mut look)?;
            }
        }
    }

    fn answer(&self, ask: Ask, look: &mut impl FnMut(&Ask) -> anyhow::Result<Value>) -> anyhow::Result<()> {
        let value = convert(&look(&ask)?)?;
        lock(&self.answers).insert(ask, Some(value));
        Ok(())
    }
}

/// With the functions that ask: an answer that is not known yet is null.
fn root(answers: &Answers) -> Result<Context<'static, 'static>, cel::DeclarationError> {
    fn ask(answers: &Answers, ask: Ask) -> CelValue {
        lock(answers).entry(ask).or_default().clone().unwrap_or(CelValue::Null)
    }
    let mut context = Context::default();
    let [get, all, count] = [answers, answers, answers].map(Arc::clone);
    context.add_function("get", move |store: Arc<String>, key: Arc<String>| {
        ask(&get, Ask::Get { store: store.to_string(), key: key.to_string() })
    })?;
    context.add_function("all", move |store: Arc<String>| ask(&all, Ask::All { store: store.to_string() }))?;
    context.add_function("count", move |store: Arc<String>| ask(&count, Ask::Count { store: store.to_string() }))?;
    Ok(context)
}

/// As CEL has it: all whole numbers are signed.
fn convert(value: &Value) -> anyhow::Result<CelValue> {
    Ok(match value {
        Value::Number(number) if number.is_i64() => CelValue::Int(number.as_i64().unwrap_or_default()),
        Value::Array(items) => CelValue::List(Arc::new(items.iter().map(convert).collect::<anyhow::Result<_>>()?)),
        Value::Object(fields) => {
            let fields: anyhow::Result<std::collections::HashMap<String, CelValue>> =
                fields.iter().map(|(name, value)| Ok((name.clone(), convert(value)?))).collect();
            fields?.into()
        }
        other => cel::to_value(other)?,
    })
}

/// A field of what is not there, or a comparison with it.
fn is_absence(error: &ExecutionError) -> bool {
    let text = error.to_string().to_lowercase();
    matches!(error, ExecutionError::NoSuchKey(_)) || text.contains("null") || text.contains("out of bounds")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(text: &str, output: &Value) -> anyhow::Result<bool> {
        let expression = Expression::parse(text, &["output"], true).map_err(anyhow::Error::msg)?;
        expression.holds(&[("output", output)], |ask| {
            Ok(match ask {
                Ask::Get { key, .. } if key == "a" => json!({"count": 3, "seen": [1, 2]}),
                Ask::Get { .. } => Value::Null,
                Ask::All { .. } => json!([{"key": "a", "value": 1}, {"key": "b", "value": -2}]),
                Ask::Count { .. } => json!(2),
            })
        })
    }

    #[test]
    fn expressions_ask_for_state() {
        let output = json!({"topic": "t", "value": {"count": 7, "name": "x"}});
        for (text, expected) in [
            ("get('s', 'a').count == 3", true),
            ("get('s', 'a').count > 3", false),
            ("get('s', 'nobody').count > 3", false),
            ("get('s', 'nobody') == null", true),
            ("all('s')[1].value == -2", true),
            ("all('s')[2].value == -2", false),
            ("get('s', 'a').nothing == 1", false),
            ("count('s') == 2 && all('s').exists(entry, entry.value < 0)", true),
            ("output.topic == 't' && output.value.count >= 7", true),
            ("output.value.name.startsWith('y')", false),
            ("get('s', 'nobody') != null && get('s', 'nobody').count > 1", false),
        ] {
            assert_eq!(holds(text, &output).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let output = json!({});
        for (text, part) in [
            ("1 +", "is no expression"),
            ("nobody == 1", "names \"nobody\"; there is: output"),
            ("1 + 1", "neither true nor false"),
            ("unknown('x')", "names \"unknown\"; there is: output, get, all, count"),
            ("'a' / 2 == 1", "cannot be evaluated"),
        ] {
            let error = format!("{:#}", holds(text, &output).expect_err(text));
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(Expression::parse(&"(".repeat(5_000), &[], true).is_err());
    }
}
