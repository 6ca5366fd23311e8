//! Treelite's checkpoints, version 4: `Model.serialize` of Treelite, to which it brings scikit-learn's forests. Little-endian.
//!
//! ```text
//! i32 x 3  version                    i32 array  classes of each target     f32     scale of the sigmoid
//! u8       type of the thresholds     i32 array  shape of a leaf's vector   f32     c of a path's length
//! u8       type of the leaves         i32 array  target of each tree        f64 array  base scores
//! u64      trees                      i32 array  class of each tree         text    attributes, in JSON
//! i32      features                   text       postprocessor              fields  optional
//! u8       task                                                             trees: see `tree`
//! u8       whether trees are averaged
//! i32      targets
//!
//! array: u64 count, elements    text: an array of bytes    fields: i32 count, then (u16 element size, u64 count, elements) each
//! ```
//!
//! What a model gives is what Treelite's own GTIL gives: the leaves' sum, divided if it is a mean, then the base score. That is
//! scikit-learn's forest to the bit; its gradient boosting adds the base score first, which differs in the last bits.

mod fields;
mod tree;

use self::fields::{Fields, Number};
use super::nodes::{SET_WORDS_MAX, of_tree};
use super::{Parsed, quoted};
use crate::error::ModelError;
use crate::forest::{Combine, Forest, OUTPUTS_MAX, Tree};
use crate::link::{Link, Precision};
use crate::model::Kind;

const FORMAT: &str = "treelite";

/// Whether it may be a model: the version, and types that Treelite has.
pub fn is_checkpoint(file: &[u8]) -> bool {
    matches!(file, [3 | 4, 0, 0, 0, _, 0, 0, 0, _, 0, 0, 0, 1..=3, 1..=3, ..])
}

/// What stands before the trees.
struct Header {
    trees: u64,
    features: usize,
    averages: bool,
    targets: usize,
    classes: usize,
    leaf_shape: [i32; 2],
    tree_targets: Vec<i32>,
    tree_classes: Vec<i32>,
    link: Link,
    base: Vec<f64>,
}

/// Reads a model.
pub fn read(file: &[u8]) -> Result<Parsed, ModelError> {
    let mut fields = Fields::new(file);
    let version: [i32; 3] = [fields.scalar()?, fields.scalar()?, fields.scalar()?];
    if version[0] != 4 {
        let reason = format!("Treelite {}.{} wrote it; write it with Treelite 4", version[0], version[1]);
        return Err(unsupported(reason));
    }
    let forest = match [fields.scalar::<u8>()?, fields.scalar::<u8>()?] {
        [2, 2] => forest::<f32>(&mut fields, Precision::Single)?,
        [3, 3] => forest::<f64>(&mut fields, Precision::Double)?,
        types => {
            return Err(unsupported(format!("its numbers are of the types {types:?}, which are neither f32 nor f64")));
        }
    };
    if !fields.is_at_end() {
        return Err(malformed("there is more after its last tree"));
    }
    forest.check(FORMAT)?;
    Ok(Parsed { kind: Kind::Forest(forest), format: FORMAT, names: Vec::new() })
}

fn forest<T: Number + Into<f64>>(fields: &mut Fields<'_>, precision: Precision) -> Result<Forest, ModelError> {
    let header = header(fields)?;
    let outputs = header.targets * header.classes;
    let mut words_left = SET_WORDS_MAX;
    let mut trees = Vec::new();
    for number in 0..header.trees {
        let number = usize::try_from(number).map_err(|_| malformed("it has too many trees"))?;
        let output = header.output(number).map_err(of_tree(FORMAT, number))?;
        let columns = tree::Columns::<T>::read(fields)?;
        trees.push(columns.tree(output, outputs, &mut words_left).map_err(of_tree(FORMAT, number))?);
    }
    let divisor = if header.averages { divisor(&trees, outputs)? } else { 1.0 };
    let Header { features, link, base, .. } = header;
    Ok(Forest { features, trees, outputs, base, combine: Combine::BaseLast { divisor }, precision, link })
}

fn header(fields: &mut Fields<'_>) -> Result<Header, ModelError> {
    let trees: u64 = fields.scalar()?;
    let features = count(fields.scalar()?, "features")?;
    let _task: u8 = fields.scalar()?;
    let averages = fields.scalar::<u8>()? != 0;
    let targets = count(fields.scalar()?, "targets")?;
    let classes: Vec<i32> = fields.array()?;
    let leaf_shape: Vec<i32> = fields.array()?;
    let (tree_targets, tree_classes) = (fields.array()?, fields.array()?);
    let postprocessor = fields.text()?;
    let (sigmoid, ratio): (f32, f32) = (fields.scalar()?, fields.scalar()?);
    let base: Vec<f64> = fields.array()?;
    let _attributes = fields.text()?;
    fields.skip_optional()?;

    if targets != classes.len() || classes.iter().any(|of_target| *of_target != classes[0]) {
        return Err(unsupported("its targets are of different numbers of classes".to_owned()));
    }
    let classes = count(classes[0], "classes")?;
    if targets.checked_mul(classes).is_none_or(|outputs| outputs > OUTPUTS_MAX) {
        return Err(ModelError::TooLarge(format!("{targets} targets of {classes} classes")));
    }
    let leaf_shape = leaf_shape.try_into().map_err(|_| malformed("the shape of its leaves is not one of two"))?;
    let link = match postprocessor {
        "identity" | "identity_multiclass" => Link::Identity,
        "signed_square" => Link::SignedSquare,
        "hinge" => Link::Step,
        "sigmoid" | "multiclass_ova" => Link::Sigmoid { scale: f64::from(sigmoid) },
        "exponential" => Link::Exponential,
        "exponential_standard_ratio" => Link::PathLength { c: f64::from(ratio) },
        "logarithm_one_plus_exp" => Link::LogOnePlusExponential,
        "softmax" if targets == 1 => Link::Softmax,
        name => return Err(unsupported(format!("its postprocessor is {}, for {targets} targets", quoted(name)))),
    };
    Ok(Header { trees, features, averages, targets, classes, leaf_shape, tree_targets, tree_classes, link, base })
}

/// What a tree's leaves give to.
enum Output {
    One(u32),
    All,
}

impl Header {
    fn output(&self, tree: usize) -> Result<Output, String> {
        let (Some(target), Some(class)) = (self.tree_targets.get(tree), self.tree_classes.get(tree)) else {
            return Err("it has no target or no class".to_owned());
        };
        let is_shape = |targets: usize, classes: usize| {
            let [rows, columns] = self.leaf_shape.map(|size| usize::try_from(size).ok());
            (rows, columns) == (Some(targets), Some(classes))
        };
        match (usize::try_from(*target), usize::try_from(*class)) {
            (Ok(target), Ok(class)) if target < self.targets && class < self.classes && is_shape(1, 1) => {
                Ok(Output::One((target * self.classes + class) as u32))
            }
            (Err(_), Ok(0)) if self.classes == 1 && is_shape(self.targets, 1) => Ok(Output::All),
            (Ok(0), Err(_)) if self.targets == 1 && is_shape(1, self.classes) => Ok(Output::All),
            (Err(_), Err(_)) if is_shape(self.targets, self.classes) => Ok(Output::All),
            _ => Err(format!("its target {target} and class {class} do not go with leaves of {:?}", self.leaf_shape)),
        }
    }
}

/// Trees by output, of which a forest here has but one number.
fn divisor(trees: &[Tree], outputs: usize) -> Result<f64, ModelError> {
    use crate::forest::Leaves;

    let mut all = 0_usize;
    let mut of_output = vec![0_usize; outputs];
    for tree in trees {
        match tree.leaves {
            Leaves::Scalar { output, .. } => of_output[output as usize] += 1,
            Leaves::Vector { .. } => all += 1,
        }
    }
    if of_output.iter().any(|count| *count != of_output[0]) {
        return Err(unsupported("it is the mean of different numbers of trees for its outputs".to_owned()));
    }
    Ok((all + of_output[0]) as f64)
}

fn count(number: i32, what: &str) -> Result<usize, ModelError> {
    usize::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| malformed(format!("it has {number} {what}")))
}

fn malformed(reason: impl Into<String>) -> ModelError {
    ModelError::Malformed { format: FORMAT, reason: reason.into() }
}

fn unsupported(reason: String) -> ModelError {
    ModelError::Unsupported { format: FORMAT, reason }
}
