//! LightGBM's text models, as `save_model` writes them.
//!
//! ```text
//! tree                      the header: a key and a value a line
//! num_class=1
//! ...
//!
//! Tree=0                    each tree: its columns, by node or by leaf
//! num_leaves=3
//! ...
//!
//! end of trees              what follows is not read
//! ```
//!
//! LightGBM adds in f64, from zero on, tree by tree; random forests divide by their number of rounds. It takes whatever is as
//! small as 1e-35 for zero when it reads a row: the thresholds here are moved so that no row has to be.

mod objective;
mod tree;

use std::collections::HashMap;

use super::Parsed;
use super::nodes::of_tree;
use crate::error::ModelError;
use crate::forest::{Combine, Forest, OUTPUTS_MAX};
use crate::link::Precision;
use crate::model::Kind;

const FORMAT: &str = "lightgbm";

/// Whether it may be a model.
pub fn is_text(file: &[u8]) -> bool {
    file.starts_with(b"tree\n") || file.starts_with(b"tree\r\n")
}

/// The lines of a part of the file: a flag is a key without a value.
struct Section<'a>(HashMap<&'a str, &'a str>);

impl<'a> Section<'a> {
    fn get(&self, key: &str) -> Result<&'a str, String> {
        self.0.get(key).copied().ok_or_else(|| format!("it has no {key}"))
    }

    fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.get(key)?;
        text.parse().map_err(|_| format!("{key} is {text:?}"))
    }

    /// `count` numbers with spaces between them.
    fn numbers<T: std::str::FromStr>(&self, key: &str, count: usize) -> Result<Vec<T>, String> {
        let text = self.get(key)?;
        let numbers =
            text.split_ascii_whitespace().map(|number| number.parse().map_err(|_| format!("{key} has {number:?}")));
        let numbers: Vec<T> = numbers.collect::<Result<_, _>>()?;
        if numbers.len() == count { Ok(numbers) } else { Err(format!("{key} has {} of {count}", numbers.len())) }
    }
}

/// Reads a model.
pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    let text = std::str::from_utf8(file).map_err(|_| malformed("it is not UTF-8".to_owned()))?;
    let mut sections = vec![Section(HashMap::new())];
    let mut is_ended = false;
    for line in text.lines() {
        if line == "end of trees" {
            is_ended = true;
            break;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if key == "Tree" {
            sections.push(Section(HashMap::new()));
        }
        if let Some(Section(section)) = sections.last_mut().filter(|_| !key.is_empty()) {
            section.insert(key, value);
        }
    }
    if !is_ended {
        return Err(malformed("it is cut short: there is no end of trees".to_owned()));
    }
    let (header, trees) = sections.split_first().ok_or_else(|| malformed("it is empty".to_owned()))?;
    forest(header, trees)
}

fn forest(header: &Section<'_>, trees: &[Section<'_>]) -> Result<Parsed, ModelError> {
    let features = header.number::<u32>("max_feature_idx").map_err(malformed)? as usize + 1;
    let outputs = header.number::<usize>("num_tree_per_iteration").map_err(malformed)?;
    if outputs == 0 || outputs > OUTPUTS_MAX || !trees.len().is_multiple_of(outputs) {
        return Err(malformed(format!("{} trees for {outputs} outputs", trees.len())));
    }
    let link = objective::link(header.get("objective").unwrap_or_default(), outputs)?;
    let combine = match header.get("average_output") {
        Ok(_) => Combine::BaseLast { divisor: (trees.len() / outputs) as f64 },
        Err(_) => Combine::BaseFirst,
    };
    let read = |(number, tree): (usize, &Section<'_>)| {
        if tree.get("is_linear").is_ok_and(|is_linear| is_linear != "0") {
            return Err(unsupported("its leaves are linear models".to_owned()));
        }
        tree::read(tree, (number % outputs) as u32).map_err(of_tree(FORMAT, number))
    };
    let forest = Forest {
        features,
        trees: trees.iter().enumerate().map(read).collect::<Result<_, _>>()?,
        outputs,
        base: vec![0.0; outputs],
        combine,
        precision: Precision::Double,
        link,
    };
    forest.check(FORMAT)?;
    let names: Vec<String> =
        header.get("feature_names").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if !names.is_empty() && names.len() != features {
        return Err(malformed(format!("it has {} names for {features} features", names.len())));
    }
    Ok(Parsed { kind: Kind::Forest(forest), format: FORMAT, names })
}

fn malformed(reason: String) -> ModelError {
    ModelError::Malformed { format: FORMAT, reason }
}

fn unsupported(reason: String) -> ModelError {
    ModelError::Unsupported { format: FORMAT, reason }
}
