//! A tree of an XGBoost model: columns by node.

use std::ops::Range;

use super::malformed;
use super::value::Value;
use crate::error::ModelError;
use crate::forest::{Category, Leaves, Missing, Node, Test, Tree};
use crate::format::nodes::{Branches, add_set, breadth_first, whole};

/// The columns of a tree, of equal length.
struct Columns<'a> {
    left: &'a [f64],
    right: &'a [f64],
    default_left: &'a [f64],
    features: &'a [f64],
    /// The threshold of a split, the value of a leaf that has one.
    conditions: &'a [f64],
    /// By node, where its categories are in the tree's list; `None` for a split by a threshold.
    segments: Vec<Option<Range<usize>>>,
}

/// Where the values of the leaves are.
enum Values<'a> {
    /// Beside the thresholds.
    Scalar,
    /// A vector for each node, XGBoost 2.
    ByNode(&'a [f64]),
    /// A vector for each leaf, whose number is in the place of its right child: XGBoost 3.
    ByLeaf(&'a [f64]),
}

/// Reads a tree that gives to `output`, or to all of `outputs` if its leaves are vectors. `weight` is its weight in a model of
/// XGBoost's dart.
pub fn read(
    tree: &Value,
    output: u32,
    outputs: usize,
    weight: f32,
    words_left: &mut usize,
) -> Result<Tree, ModelError> {
    let categories = tree.find("categories").map_or(Ok(&[][..]), |_| tree.numbers("categories"))?;
    let columns = columns(tree, categories.len())?;
    let size = tree.field("tree_param")?.count("size_leaf_vector")?;
    let values = match tree.find("leaf_weights") {
        _ if size <= 1 => Values::Scalar,
        _ if size != outputs => return Err(malformed(format!("leaves of {size} values for {outputs} outputs"))),
        Some(_) => Values::ByLeaf(tree.numbers("leaf_weights")?),
        None => Values::ByNode(tree.numbers("base_weights")?),
    };

    let mut given = Vec::new();
    let mut leaves = 0;
    let mut sets = Vec::new();
    let weighted = |value: f64| f64::from(value as f32 * weight);
    let nodes = breadth_first(columns.left.len(), |at| {
        if columns.left[at] == -1.0 {
            let vector = match &values {
                Values::Scalar => &columns.conditions[at..=at],
                Values::ByNode(vectors) => {
                    chunk(vectors, at, outputs).ok_or_else(|| format!("leaf {at} has no values"))?
                }
                Values::ByLeaf(vectors) => {
                    let number = whole(columns.right[at]).map(|number| number as usize);
                    // Leaves that share a vector could take up more than the file does.
                    let vector = number
                        .filter(|_| given.len() < vectors.len())
                        .and_then(|number| chunk(vectors, number, outputs));
                    vector.ok_or_else(|| format!("leaf {at} has no values"))?
                }
            };
            given.extend(vector.iter().map(|value| weighted(*value)));
            leaves += 1;
            return Ok(Node::Leaf(leaves - 1));
        }
        let child = |number: f64| whole(number).ok_or_else(|| format!("a child of node {at} is {number}"));
        let branches = Branches {
            feature: whole(columns.features[at]).ok_or_else(|| format!("the feature of node {at} is no number"))?,
            missing: Missing::Nan,
            default_left: columns.default_left[at] != 0.0,
            left: child(columns.left[at])?,
            right: child(columns.right[at])?,
        };
        let Some(segment) = columns.segments[at].clone() else {
            return Ok(branches.split(Test::Less(columns.conditions[at] as f32)));
        };
        let members = categories[segment].iter().map(|category| whole(*category));
        let (start, words) = add_set(members, &mut sets, words_left)?;
        // XGBoost sends the set's members to the right, and to the left what is no category at all.
        Ok(branches.split_unless(Test::In { start, words, category: Category::Floor }))
    })
    .map_err(malformed)?;

    let leaves = match values {
        Values::Scalar => Leaves::Scalar { output, values: given },
        Values::ByNode(_) | Values::ByLeaf(_) => Leaves::Vector { values: given },
    };
    Ok(Tree { nodes, leaves, sets })
}

fn chunk(values: &[f64], number: usize, size: usize) -> Option<&[f64]> {
    let start = number.checked_mul(size)?;
    values.get(start..start.checked_add(size)?)
}

fn columns(tree: &Value, categories: usize) -> Result<Columns<'_>, ModelError> {
    let left = tree.numbers("left_children")?;
    let column = |name| {
        let column = tree.numbers(name)?;
        let is_whole = column.len() == left.len();
        if is_whole { Ok(column) } else { Err(malformed(format!("{name} has {} of {}", column.len(), left.len()))) }
    };
    let mut segments = vec![None; left.len()];
    if tree.find("split_type").is_some() {
        let types = column("split_type")?;
        if types.iter().any(|kind| *kind != 0.0) {
            fill_segments(tree, categories, &mut segments).map_err(malformed)?;
        }
        for (at, kind) in types.iter().enumerate() {
            if *kind != f64::from(u8::from(segments[at].is_some())) {
                return Err(malformed(format!("the split type of node {at} is {kind}")));
            }
        }
    }
    Ok(Columns {
        left,
        right: column("right_children")?,
        default_left: column("default_left")?,
        features: column("split_indices")?,
        conditions: column("split_conditions")?,
        segments,
    })
}

/// Finds where each node's categories are. XGBoost's segments follow each other, so that together they are no longer than the
/// list: a file in which they overlap could ask for more work than it has bytes.
fn fill_segments(tree: &Value, categories: usize, segments: &mut [Option<Range<usize>>]) -> Result<(), String> {
    let of = |name: &str| tree.numbers(name).map_err(|error| error.to_string());
    let (nodes, starts, sizes) = (of("categories_nodes")?, of("categories_segments")?, of("categories_sizes")?);
    if nodes.len() != starts.len() || nodes.len() != sizes.len() {
        return Err("its segments of categories are cut short".to_owned());
    }
    let mut total = 0;
    for ((node, start), size) in nodes.iter().zip(starts).zip(sizes) {
        let place = whole(*node).and_then(|node| segments.get_mut(node as usize));
        let (start, size) = whole(*start).zip(whole(*size)).unwrap_or((u32::MAX, u32::MAX));
        total += size as usize;
        let segment = start as usize..start as usize + size as usize;
        match place {
            Some(place) if segment.end <= categories && total <= categories => *place = Some(segment),
            _ => return Err(format!("the categories of node {node} are not there")),
        }
    }
    Ok(())
}
