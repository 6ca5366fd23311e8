//! TreeEnsemble of ai.onnx.ml 5: <https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html>.
//! Branches and leaves are rows of two sets of parallel lists; a leaf has one weight.
//!
//! A BRANCH_MEMBER holds of the numbers that its set has, as the standard says. ONNX Runtime 1.32 agrees for whole numbers; for
//! others it depends on the set's other members whether it cuts them first.

use std::ops::Range;

use super::attributes::Attributes;
use super::ensemble::{Ensemble, Mode, Source, Weight};
use super::{malformed, transforms, unsupported};
use crate::error::ModelError;
use crate::forest::{Forest, OUTPUTS_MAX};

pub fn ensemble(attributes: &mut Attributes, columns: Option<usize>, is_double: bool) -> Result<Forest, ModelError> {
    let targets = attributes.int("n_targets", 0)?;
    let targets = usize::try_from(targets).ok().filter(|targets| (1..=OUTPUTS_MAX).contains(targets));
    let targets = targets.ok_or_else(|| malformed(format!("n_targets is not 1 to {OUTPUTS_MAX}")))?;
    let is_average = match attributes.int("aggregate_function", 1)? {
        0 => true,
        1 => false,
        other => return Err(unsupported(format!("aggregate_function {other} of TreeEnsemble (MIN or MAX)"))),
    };
    let function = transforms::by_number(attributes.int("post_transform", 0)?, targets)?;
    let link = transforms::of_targets(function, targets);
    let (members, sets) = sets(&numbers(attributes, "membership_values", is_double)?);
    let (nodes, weights) = nodes(attributes, sets, targets, is_double)?;
    let branches = nodes.len() - weights.len();
    let mut roots = Vec::new();
    for root in attributes.ints("tree_roots")? {
        let root = usize::try_from(root).ok().filter(|root| *root < branches);
        roots.push(root.ok_or_else(|| malformed("a root that is not there"))?);
    }
    let base = vec![0.0; targets];
    let ensemble = Ensemble { nodes, roots, weights, members, targets, base, is_average, is_double };
    ensemble.into_forest(columns, link)
}

/// Branches, then leaves; and the leaves' weights.
fn nodes(
    attributes: &mut Attributes,
    sets: Vec<Range<usize>>,
    targets: usize,
    is_double: bool,
) -> Result<(Vec<Source>, Vec<Weight>), ModelError> {
    attributes.ignore(&["nodes_hitrates"]);
    let features = attributes.ints("nodes_featureids")?;
    let modes = attributes.tensor("nodes_modes")?.map_or(Vec::new(), |tensor| tensor.values);
    let splits = numbers(attributes, "nodes_splits", is_double)?;
    let if_true = attributes.ints("nodes_truenodeids")?;
    let if_false = attributes.ints("nodes_falsenodeids")?;
    let are_leaves_true = attributes.ints("nodes_trueleafs")?;
    let are_leaves_false = attributes.ints("nodes_falseleafs")?;
    let tracks = attributes.ints("nodes_missing_value_tracks_true")?;
    let leaf_targets = attributes.ints("leaf_targetids")?;
    let leaf_weights = numbers(attributes, "leaf_weights", is_double)?;
    let branches = features.len();
    let children = [if_true.len(), if_false.len(), are_leaves_true.len(), are_leaves_false.len()];
    if children != [branches; 4]
        || [modes.len(), splits.len()] != [branches; 2]
        || (!tracks.is_empty() && tracks.len() != branches)
        || leaf_targets.len() != leaf_weights.len()
    {
        return Err(malformed("its lists of nodes differ in length"));
    }

    let child = |id: i64, is_leaf: i64| {
        let count = if is_leaf == 0 { branches } else { leaf_weights.len() };
        let index = usize::try_from(id).ok().filter(|id| *id < count);
        let index = index.ok_or_else(|| malformed(format!("node {id} is not there")))?;
        Ok(if is_leaf == 0 { index } else { branches + index })
    };
    let mut sets = sets.into_iter();
    let mut nodes = Vec::with_capacity(branches + leaf_weights.len());
    for row in 0..branches {
        let mode = mode(modes[row])?;
        let members = if mode == Mode::Member {
            sets.next().ok_or_else(|| malformed("a BRANCH_MEMBER has no members"))?
        } else {
            0..0
        };
        nodes.push(Source::Branch {
            feature: u32::try_from(features[row]).map_err(|_| malformed(format!("feature {}", features[row])))?,
            mode,
            value: splits[row],
            members,
            tracks_true: tracks.get(row) == Some(&1),
            if_true: child(if_true[row], are_leaves_true[row])?,
            if_false: child(if_false[row], are_leaves_false[row])?,
        });
    }
    nodes.extend((0..leaf_weights.len()).map(|leaf| Source::Leaf(leaf..leaf + 1)));
    let mut weights = Vec::with_capacity(leaf_weights.len());
    for (target, value) in leaf_targets.iter().zip(leaf_weights) {
        let target = u32::try_from(*target).ok().filter(|target| (*target as usize) < targets);
        let target = target.ok_or_else(|| malformed("a leaf of a target that is not there"))?;
        weights.push(Weight { target, value });
    }
    Ok((nodes, weights))
}

fn numbers(attributes: &mut Attributes, name: &str, is_double: bool) -> Result<Vec<f64>, ModelError> {
    match attributes.tensor(name)? {
        Some(tensor) => attributes.of_precision(name, tensor, is_double),
        None => Ok(Vec::new()),
    }
}

/// The members of each branch, and where they are: NaN stands between two branches. Each member once, since a branch may be
/// copied, and with it what its members cost.
fn sets(members: &[f64]) -> (Vec<f64>, Vec<Range<usize>>) {
    let (mut distinct, mut sets) = (Vec::with_capacity(members.len()), Vec::new());
    for set in members.split(|member| member.is_nan()) {
        let mut set = set.to_vec();
        set.sort_by(f64::total_cmp);
        set.dedup();
        let start = distinct.len();
        distinct.extend(set);
        sets.push(start..distinct.len());
    }
    (distinct, sets)
}

fn mode(number: f64) -> Result<Mode, ModelError> {
    let modes =
        [Mode::LessOrEqual, Mode::Less, Mode::GreaterOrEqual, Mode::Greater, Mode::Equal, Mode::NotEqual, Mode::Member];
    let mode = modes.into_iter().enumerate().find(|(index, _)| *index as f64 == number);
    mode.map(|(_, mode)| mode).ok_or_else(|| malformed(format!("node mode {number}")))
}
