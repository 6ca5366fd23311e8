//! TreeEnsembleRegressor and TreeEnsembleClassifier of ai.onnx.ml 1 to 3: <https://onnx.ai/onnx/operators/>.
//! Nodes are rows of parallel lists, named by (tree, node); the first node of each tree is its root.

use std::ops::Range;

use super::attributes::Attributes;
use super::ensemble::{Ensemble, Mode, Source, Weight};
use super::rows::Rows;
use super::{malformed, transforms, unsupported};
use crate::error::ModelError;
use crate::forest::{Forest, OUTPUTS_MAX};
use crate::link::{Function, Link, PostTransform};

pub fn regressor(attributes: &mut Attributes, columns: Option<usize>, is_double: bool) -> Result<Forest, ModelError> {
    let targets = count(attributes.int("n_targets", 0)?)?;
    let mut ensemble = ensemble(attributes, "target", targets, is_double)?;
    ensemble.is_average = match &attributes.string("aggregate_function", "SUM")?[..] {
        "SUM" => false,
        "AVERAGE" => true,
        other => return Err(unsupported(format!("aggregate_function {other}"))),
    };
    let base = attributes.numbers("base_values", is_double)?;
    ensemble.base = match base.len() {
        0 => vec![0.0; targets],
        given if given == targets => base,
        given => return Err(malformed(format!("{given} base values for {targets} targets"))),
    };
    let link = transforms::of_targets(transforms::by_name(&attributes.string("post_transform", "NONE")?)?, targets);
    ensemble.into_forest(columns, of_precision(link, is_double))
}

/// With two labels there are weights of the second class alone (which then have id 0), or of both; ONNX Runtime tells by what a
/// row's leaves are, and here it must be the same for every row.
pub fn classifier(attributes: &mut Attributes, columns: Option<usize>, is_double: bool) -> Result<Forest, ModelError> {
    let labels = attributes.strings("classlabels_strings")?.len().max(attributes.ints("classlabels_int64s")?.len());
    let labels = count(labels as i64)?;
    let mut ensemble = ensemble(attributes, "class", labels, is_double)?;
    let function = transforms::by_name(&attributes.string("post_transform", "NONE")?)?;
    let mut base = attributes.numbers("base_values", is_double)?;
    let is_of_second = labels <= 2 && ensemble.weights.iter().all(|weight| weight.target == 0);
    let link = if is_of_second {
        ensemble.targets = 1;
        let is_positive = ensemble.weights.iter().all(|weight| weight.value >= 0.0);
        if labels == 2 {
            transforms::of_second_class(function, is_positive)?
        } else {
            transforms::of_targets(function, 1)
        }
    } else {
        if labels == 2 && !(base.is_empty() && ensemble.has_always(1)) {
            return Err(unsupported("two classes with weights of both and base values, or with leaves of only one"));
        }
        transforms::of_targets(function, labels)
    };
    if base.is_empty() {
        base = vec![0.0; ensemble.targets];
    }
    if base.len() != ensemble.targets {
        return Err(unsupported(format!("{} base values for {labels} classes", base.len())));
    }
    ensemble.base = base;
    ensemble.into_forest(columns, of_precision(link, is_double))
}

/// Scores are f32, whatever the margins are in.
fn of_precision(link: Link, is_double: bool) -> Link {
    if is_double && link == Link::Identity { Link::PostTransform(PostTransform::of(Function::None)) } else { link }
}

fn count(targets: i64) -> Result<usize, ModelError> {
    let count = usize::try_from(targets).ok().filter(|count| (1..=OUTPUTS_MAX).contains(count));
    count.ok_or_else(|| malformed(format!("{targets} targets; 1 to {OUTPUTS_MAX} are taken")))
}

/// All but what regressors and classifiers do not share. Weights are named "target_ids", "class_ids" and so on.
fn ensemble(
    attributes: &mut Attributes,
    prefix: &str,
    targets: usize,
    is_double: bool,
) -> Result<Ensemble, ModelError> {
    attributes.ignore(&["nodes_hitrates", "nodes_hitrates_as_tensor"]);
    let trees = attributes.ints("nodes_treeids")?;
    let ids = attributes.ints("nodes_nodeids")?;
    let modes = attributes.strings("nodes_modes")?;
    let features = attributes.ints("nodes_featureids")?;
    let values = attributes.numbers("nodes_values", is_double)?;
    let if_true = attributes.ints("nodes_truenodeids")?;
    let if_false = attributes.ints("nodes_falsenodeids")?;
    let tracks = attributes.ints("nodes_missing_value_tracks_true")?;
    let lengths = [ids.len(), modes.len(), features.len(), values.len(), if_true.len(), if_false.len()];
    if lengths.iter().any(|length| *length != trees.len()) || tracks.len() > trees.len() {
        return Err(malformed("its lists of nodes differ in length"));
    }

    let rows = Rows::new(&trees, &ids)?;
    let (weights, weights_of) = weights(attributes, prefix, targets, is_double, &rows)?;
    let mut nodes = Vec::with_capacity(trees.len());
    for (row, tree) in trees.iter().enumerate() {
        nodes.push(match mode(&modes[row])? {
            None => Source::Leaf(weights_of[row].clone()),
            Some(mode) => Source::Branch {
                feature: u32::try_from(features[row]).map_err(|_| malformed(format!("feature {}", features[row])))?,
                mode,
                value: values[row],
                members: 0..0,
                tracks_true: tracks.get(row) == Some(&1),
                if_true: rows.find(*tree, if_true[row])?,
                if_false: rows.find(*tree, if_false[row])?,
            },
        });
    }
    let base = Vec::new();
    Ok(Ensemble { nodes, roots: rows.roots, weights, members: Vec::new(), targets, base, is_average: false, is_double })
}

fn mode(name: &str) -> Result<Option<Mode>, ModelError> {
    Ok(Some(match name {
        "LEAF" => return Ok(None),
        "BRANCH_LEQ" => Mode::LessOrEqual,
        "BRANCH_LT" => Mode::Less,
        "BRANCH_GTE" => Mode::GreaterOrEqual,
        "BRANCH_GT" => Mode::Greater,
        "BRANCH_EQ" => Mode::Equal,
        "BRANCH_NEQ" => Mode::NotEqual,
        other => return Err(malformed(format!("node mode '{other}'"))),
    }))
}

/// The weights, leaf by leaf, and where those of each row of the lists of nodes are.
type Weights = (Vec<Weight>, Vec<Range<usize>>);

fn weights(
    attributes: &mut Attributes,
    prefix: &str,
    targets: usize,
    is_double: bool,
    rows: &Rows,
) -> Result<Weights, ModelError> {
    let trees = attributes.ints(&format!("{prefix}_treeids"))?;
    let nodes = attributes.ints(&format!("{prefix}_nodeids"))?;
    let ids = attributes.ints(&format!("{prefix}_ids"))?;
    let values = attributes.numbers(&format!("{prefix}_weights"), is_double)?;
    if [nodes.len(), ids.len(), values.len()] != [trees.len(); 3] {
        return Err(malformed("its lists of weights differ in length"));
    }
    let mut sorted = Vec::with_capacity(trees.len());
    for (index, node) in trees.iter().copied().zip(nodes.iter().copied()).enumerate() {
        let row = rows.find(node.0, node.1)?;
        let target = u32::try_from(ids[index]).ok().filter(|target| (*target as usize) < targets);
        let target = target.ok_or_else(|| malformed(format!("a weight of target {} of {targets}", ids[index])))?;
        sorted.push((row, Weight { target, value: values[index] }));
    }
    sorted.sort_by_key(|(row, weight)| (*row, weight.target));
    if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1.target == pair[1].1.target) {
        return Err(unsupported("a leaf has two weights for one target"));
    }
    let mut weights_of = vec![0..0; rows.len()];
    for (index, (row, _)) in sorted.iter().enumerate() {
        let of_row: &mut Range<usize> = &mut weights_of[*row];
        *of_row = if of_row.start == of_row.end { index..index + 1 } else { of_row.start..index + 1 };
    }
    Ok((sorted.into_iter().map(|(_, weight)| weight).collect(), weights_of))
}

impl Ensemble {
    /// Whether every row has a weight of the target: all leaves of some tree have it.
    fn has_always(&self, target: u32) -> bool {
        self.roots.iter().enumerate().any(|(number, root)| {
            let end = self.roots.get(number + 1).copied().unwrap_or(self.nodes.len());
            self.nodes[*root..end].iter().all(|node| match node {
                Source::Branch { .. } => true,
                Source::Leaf(weights) => self.weights[weights.clone()].iter().any(|weight| weight.target == target),
            })
        })
    }
}
