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
use std::iter::Peekable;
use std::str::{FromStr, Lines};

use super::nodes::of_tree;
use super::{Parsed, quoted};
use crate::error::ModelError;
use crate::forest::{Combine, Forest, OUTPUTS_MAX, Tree};
use crate::link::Precision;
use crate::model::Kind;

const FORMAT: &str = "lightgbm";
/// The line after the last tree.
const END: &str = "end of trees";

/// Whether it may be a model.
pub fn is_text(file: &[u8]) -> bool {
    file.starts_with(b"tree\n") || file.starts_with(b"tree\r\n")
}

/// The lines of a part of the file: a flag is a key without a value.
struct Section<'a>(HashMap<&'a str, &'a str>);

impl<'a> Section<'a> {
    /// The part that begins with the next line.
    fn read(lines: &mut Peekable<Lines<'a>>) -> Self {
        let mut section = HashMap::new();
        while let Some(line) = lines.next() {
            if !line.is_empty() {
                let (key, value) = line.split_once('=').unwrap_or((line, ""));
                section.insert(key, value);
            }
            if lines.peek().is_some_and(|next| next.starts_with("Tree=") || *next == END) {
                break;
            }
        }
        Self(section)
    }

    fn get(&self, key: &str) -> Result<&'a str, String> {
        self.0.get(key).copied().ok_or_else(|| format!("it has no {key}"))
    }

    fn number<T: FromStr>(&self, key: &str) -> Result<T, String> {
        let text = self.get(key)?;
        text.parse().map_err(|_| format!("{key} is {}", quoted(text)))
    }

    /// `count` numbers with spaces between them.
    fn numbers<T: FromStr>(&self, key: &str, count: usize) -> Result<Vec<T>, String> {
        let parse = |number: &str| number.parse().map_err(|_| format!("{key} has {}", quoted(number)));
        let numbers: Vec<T> = self.get(key)?.split_ascii_whitespace().map(parse).collect::<Result<_, _>>()?;
        if numbers.len() == count { Ok(numbers) } else { Err(format!("{key} has {} of {count}", numbers.len())) }
    }
}

/// Reads a model.
pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    let text = std::str::from_utf8(file).map_err(|_| malformed("it is not UTF-8".to_owned()))?;
    let mut lines = text.lines().peekable();
    let header = Section::read(&mut lines);
    let features = header.number::<u32>("max_feature_idx").map_err(malformed)? as usize + 1;
    let outputs = header.number::<usize>("num_tree_per_iteration").map_err(malformed)?;
    if outputs == 0 || outputs > OUTPUTS_MAX {
        return Err(malformed(format!("{outputs} trees an iteration")));
    }
    let link = objective::link(header.get("objective").unwrap_or_default(), outputs)?;
    let names: Vec<String> = header.get("feature_names").unwrap_or_default().split(' ').map(str::to_owned).collect();
    if names.len() != features {
        return Err(malformed(format!("it has {} names for {features} features", names.len())));
    }

    let trees = trees(&mut lines, outputs)?;
    let combine = match header.get("average_output") {
        Ok(_) => Combine::BaseLast { divisor: (trees.len() / outputs) as f64 },
        Err(_) => Combine::BaseFirst,
    };
    let base = vec![0.0; outputs];
    let forest = Forest { features, trees, outputs, base, combine, precision: Precision::Double, link };
    forest.check(FORMAT)?;
    Ok(Parsed { kind: Kind::Forest(forest), format: FORMAT, names })
}

fn trees(lines: &mut Peekable<Lines<'_>>, outputs: usize) -> Result<Vec<Tree>, ModelError> {
    let mut trees = Vec::new();
    while lines.peek().is_some_and(|line| *line != END) {
        let section = Section::read(lines);
        if section.get("is_linear").is_ok_and(|is_linear| is_linear != "0") {
            return Err(unsupported("its leaves are linear models".to_owned()));
        }
        let number = trees.len();
        trees.push(tree::read(&section, (number % outputs) as u32).map_err(of_tree(FORMAT, number))?);
    }
    if lines.next().is_none() {
        return Err(malformed("it is cut short: there is no end of trees".to_owned()));
    }
    if !trees.len().is_multiple_of(outputs) {
        return Err(malformed(format!("{} trees for {outputs} outputs", trees.len())));
    }
    Ok(trees)
}

fn malformed(reason: String) -> ModelError {
    ModelError::Malformed { format: FORMAT, reason }
}

fn unsupported(reason: String) -> ModelError {
    ModelError::Unsupported { format: FORMAT, reason }
}
