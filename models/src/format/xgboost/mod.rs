//! XGBoost's models, in JSON and UBJSON, as XGBoost 2 and 3 save them: trees of `gbtree` and `dart`, and `gblinear`.
//!
//! XGBoost adds in f32, base score first, then tree by tree. A split asks `x < threshold`; a set of categories sends its members
//! to the right. Categories are numbers here, as they are in the trees: what a model keeps of the names that they had in a data
//! frame is not used.

mod json;
mod linear;
mod objective;
mod tree;
mod ubjson;
mod value;

use self::value::Value;
use super::nodes::{SET_WORDS_MAX, whole};
use super::{Parsed, quoted};
use crate::error::ModelError;
use crate::forest::{Combine, Forest, OUTPUTS_MAX, Tree};
use crate::link::Precision;
use crate::model::Kind;

const FORMAT: &str = "xgboost";

/// Whether it may be a model in JSON.
pub fn is_json(file: &[u8]) -> bool {
    let mut bytes = file.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
    bytes.next() == Some(b'{') && bytes.next() == Some(b'"')
}

/// Whether it may be a model in UBJSON: a map whose first key has its length's marker before it.
pub fn is_ubjson(file: &[u8]) -> bool {
    matches!(file, [b'{', b'i' | b'U' | b'I' | b'l' | b'L', ..])
}

/// Reads a model of either encoding.
pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    let model = if is_json(file) { json::read(file)? } else { ubjson::read(file)? };
    let learner = model.field("learner")?;
    let major = model.numbers("version")?.first().copied().unwrap_or_default();
    if !(2.0..4.0).contains(&major) {
        return Err(unsupported(format!("XGBoost {major} saved it; save it with 2 or 3")));
    }
    let objective = objective::of(learner.field("objective")?.text("name")?)?;
    let parameters = learner.field("learner_model_param")?;
    let outputs = parameters.count("num_class")?.max(parameters.count("num_target").unwrap_or(1)).max(1);
    let base = base_scores(parameters.text("base_score")?, outputs)?;
    let base: Vec<f64> = base.into_iter().map(|base| f64::from((objective.margin)(base))).collect();

    // Counts that were all zero have a base of minus infinity.
    if base.iter().any(|base| base.is_nan()) {
        return Err(malformed("its base score has no margin"));
    }
    let features = parameters.count("num_feature")?;
    let booster = learner.field("gradient_booster")?;
    let kind = if booster.text("name")? == "gblinear" {
        Kind::Network(linear::read(booster, features, &base, objective.link)?)
    } else {
        let trees = trees(booster, outputs)?;
        let (combine, precision) = (Combine::BaseFirst, Precision::Single);
        let forest = Forest { features, trees, outputs, base, combine, precision, link: objective.link };
        forest.check(FORMAT)?;
        Kind::Forest(forest)
    };
    Ok(Parsed { names: names(learner, features)?, kind, format: FORMAT })
}

/// Base scores, one for each output: XGBoost 3.1 and later has a list in the text, those before one number.
fn base_scores(text: &str, outputs: usize) -> Result<Vec<f32>, ModelError> {
    let list = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let scores: Result<Vec<f32>, _> = list.split(',').map(|score| score.trim().parse()).collect();
    let mut scores = scores.map_err(|_| malformed("its base score is no number"))?;
    if outputs > OUTPUTS_MAX {
        return Err(ModelError::TooLarge(format!("{outputs} outputs")));
    }
    if let [score] = scores[..] {
        scores.resize(outputs, score);
    }
    Ok(scores)
}

fn trees(booster: &Value, outputs: usize) -> Result<Vec<Tree>, ModelError> {
    let (gbtree, weights) = match booster.text("name")? {
        "gbtree" => (booster, None),
        "dart" => (booster.field("gbtree")?, Some(booster.numbers("weight_drop")?)),
        name => {
            return Err(unsupported(format!("its booster is {}; gbtree, dart and gblinear are read", quoted(name))));
        }
    };
    let model = gbtree.field("model")?;
    let trees = model.list("trees")?;
    let groups = model.numbers("tree_info")?;
    if groups.len() != trees.len() || weights.is_some_and(|weights| weights.len() != trees.len()) {
        return Err(malformed(format!("it has {} trees, and groups or weights of another number", trees.len())));
    }
    let mut words_left = SET_WORDS_MAX;
    let read = |(number, tree)| {
        let output = whole(groups[number]).ok_or_else(|| malformed(format!("tree {number} is of no group")))?;
        let weight = weights.map_or(1.0, |weights| weights[number] as f32);
        tree::read(tree, output, outputs, weight, &mut words_left).map_err(|error| match error {
            ModelError::Malformed { reason, .. } => malformed(format!("tree {number}: {reason}")),
            other => other,
        })
    };
    trees.iter().enumerate().map(read).collect()
}

fn names(learner: &Value, features: usize) -> Result<Vec<String>, ModelError> {
    if learner.find("feature_names").is_none() {
        return Ok(Vec::new());
    }
    let named = learner.list("feature_names")?.iter().map(|name| match name {
        Value::Text(name) => Ok(name.clone()),
        _ => Err(malformed("a feature's name is no text")),
    });
    let names: Vec<String> = named.collect::<Result<_, _>>()?;
    if !names.is_empty() && names.len() != features {
        return Err(malformed(format!("it has {} names for {features} features", names.len())));
    }
    Ok(names)
}

fn malformed(reason: impl Into<String>) -> ModelError {
    ModelError::Malformed { format: FORMAT, reason: reason.into() }
}

fn unsupported(reason: String) -> ModelError {
    ModelError::Unsupported { format: FORMAT, reason }
}
