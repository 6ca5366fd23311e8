//! Models and batches by chance, all of a seed: every kind of split, leaf and sum.

use engram_models::forest::{Category, Combine, Leaves, Missing, Node, Split, Test, Tree};
use engram_models::link::Precision;
use engram_models::network::{Activation, Layer};
use engram_models::similarity::Neighbor;
use engram_models::{Forest, Kind, Link, Model, Network};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// What a forest may have.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub features: usize,
    pub outputs: usize,
    pub trees: usize,
    pub depth: usize,
    /// Only `Test::Less`, and one way of being missing.
    pub is_numeric: bool,
    pub is_double: bool,
}

impl Shape {
    pub fn of(random: &mut StdRng) -> Self {
        Self {
            features: random.random_range(1..20),
            outputs: if random.random_bool(0.5) { 1 } else { random.random_range(2..5) },
            trees: random.random_range(1..40),
            depth: random.random_range(0..9),
            is_numeric: random.random_bool(0.5),
            is_double: random.random_bool(0.5),
        }
    }
}

pub fn forest(shape: Shape, seed: u64) -> Forest {
    let random = &mut StdRng::seed_from_u64(seed);
    let missing = missing(random);
    // Of any precision: the reference says where it is rounded.
    let base: Vec<f64> = (0..shape.outputs).map(|_| value(random, true)).collect();
    let combine = match random.random_range(0..3) {
        0 => Combine::BaseLast { divisor: 1.0 },
        1 => Combine::BaseLast { divisor: shape.trees as f64 },
        _ => Combine::BaseFirst,
    };
    let is_vector = shape.outputs > 1 && random.random_bool(0.4);
    let trees = (0..shape.trees).map(|number| tree(shape, missing, is_vector, number, random)).collect();
    let forest = Forest {
        features: shape.features,
        trees,
        outputs: shape.outputs,
        base,
        combine,
        precision: if shape.is_double { Precision::Double } else { Precision::Single },
        link: Link::Identity,
    };
    forest.check("random").expect("a random forest is sound");
    forest
}

fn tree(shape: Shape, missing_of_all: Missing, is_vector: bool, number: usize, random: &mut StdRng) -> Tree {
    let mut nodes = vec![Node::Leaf(0)];
    let mut sets = Vec::new();
    let mut leaves = 0;
    let mut open = vec![(0_usize, 0_usize)];
    while let Some((at, depth)) = open.pop() {
        if depth == shape.depth || depth > 1 && random.random_bool(0.15) {
            nodes[at] = Node::Leaf(leaves);
            leaves += 1;
            continue;
        }
        let kind = if shape.is_numeric { 0 } else { random.random_range(0..3) };
        let test = match kind {
            0 => Test::Less(random.random_range(-4..5) as f32 / 2.0),
            1 => Test::Equal(random.random_range(-4..5) as f32 / 2.0),
            _ => {
                let (start, words) = (sets.len() as u32, random.random_range(0..3_u32));
                sets.extend((0..words).map(|_| random.random::<u32>()));
                Test::In { start, words, category: category(random) }
            }
        };
        let left = nodes.len() as u32;
        nodes.extend([Node::Leaf(0), Node::Leaf(0)]);
        // Children stand in either order: a reader keeps its file's.
        let is_turned = random.random_bool(0.5);
        let (left, right) = if is_turned { (left + 1, left) } else { (left, left + 1) };
        nodes[at] = Node::Split(Split {
            feature: random.random_range(0..shape.features as u32),
            test,
            missing: if shape.is_numeric { missing_of_all } else { missing(random) },
            default_left: random.random_bool(0.5),
            left,
            right,
        });
        open.extend([(left as usize, depth + 1), (right as usize, depth + 1)]);
    }
    let mut values = |count: usize| (0..count).map(|_| value(random, shape.is_double)).collect();
    let leaves = if is_vector {
        Leaves::Vector { values: values(leaves as usize * shape.outputs) }
    } else {
        Leaves::Scalar { output: (number % shape.outputs) as u32, values: values(leaves as usize) }
    };
    Tree { nodes, leaves, sets }
}

fn category(random: &mut StdRng) -> Category {
    [Category::Floor, Category::Truncated, Category::Whole][random.random_range(0..3)]
}

fn missing(random: &mut StdRng) -> Missing {
    [Missing::Nan, Missing::NanOrZero, Missing::NanIsZero][random.random_range(0..3)]
}

/// Of very different sizes, so that another order of the additions would show.
fn value(random: &mut StdRng, is_double: bool) -> f64 {
    let value = random.random_range(-1.0..1.0_f64) * 10_f64.powi(random.random_range(-4..5));
    if is_double { value } else { f64::from(value as f32) }
}

pub fn network(seed: u64) -> Network {
    let random = &mut StdRng::seed_from_u64(seed);
    let inputs = random.random_range(1..40);
    let mut width = inputs;
    let mut layers = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let kind = random.random_range(0..10);
        let outputs = random.random_range(1..40);
        let mut values = |count: usize| (0..count).map(|_| random.random_range(-1.0..1.0_f32)).collect();
        layers.push(if kind < 5 {
            let layer = Layer::Dense { weights: values(outputs * width), bias: values(outputs) };
            width = outputs;
            layer
        } else if kind < 7 {
            Layer::Scale { offset: values(width), scale: values(width) }
        } else {
            Layer::Activation(match random.random_range(0..4) {
                0 => Activation::Relu,
                1 => Activation::LeakyRelu { alpha: 0.01 },
                2 => Activation::Sigmoid,
                _ => Activation::Tanh,
            })
        });
    }
    Network { inputs, layers, link: Link::Identity }
}

/// Columns: few different values, zeros, the least, the largest and the missing among them.
pub fn columns(features: usize, rows: usize, seed: u64) -> Vec<Vec<f32>> {
    let random = &mut StdRng::seed_from_u64(seed);
    let value = |random: &mut StdRng| match random.random_range(0..20) {
        0 | 1 => f32::NAN,
        2 => 0.0,
        3 => -0.0,
        4 => 1e-36,
        5 => [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e10][random.random_range(0..4)],
        6..10 => random.random_range(0.0..100.0),
        10..14 => random.random_range(-6..7) as f32 / 2.0,
        _ => random.random_range(-3.0..3.0),
    };
    (0..features).map(|_| (0..rows).map(|_| value(random)).collect()).collect()
}

/// Rows of few different values, so that similarities are equal, and some without a direction: zeros, values that are no
/// number, infinite, or so large or small that lengths overflow or vanish.
pub fn vectors(rows: usize, width: usize, random: &mut StdRng) -> Vec<f32> {
    let mut row = |_| {
        let kind = random.random_range(0..12);
        let value = |random: &mut StdRng| match kind {
            0 => 0.0,
            1 => [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.random_range(0..4)],
            2 => f32::from_bits(random.random()),
            3 => random.random_range(-1.0..1.0) * [1e-23, 1e-30, 1e20][random.random_range(0..3)],
            4..7 => random.random_range(-1.0..1.0),
            _ => f32::from(random.random_range(-2..3_i8)),
        };
        (0..width).map(|_| value(random)).collect::<Vec<f32>>()
    };
    (0..rows).flat_map(&mut row).collect()
}

/// Neighbors so that they can be compared to the bit.
pub fn bits(neighbors: Vec<Neighbor>) -> Vec<(usize, u32)> {
    neighbors.into_iter().map(|neighbor| (neighbor.row, neighbor.similarity.to_bits())).collect()
}

pub fn model(kind: Kind, seed: u64) -> Model {
    Model { kind, format: "random", names: Vec::new(), hash: format!("{seed:016x}") }
}
