//! Margins of random forests over random rows, beside the reference's.

use arrow::array::Float32Array;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::{Column, Columns, Margins, Program};
use crate::forest::{Category, Combine, Forest, Leaves, Missing, Node, Split, Test, Tree};
use crate::link::{Link, Precision};

/// What a forest is drawn by.
#[derive(Debug, Clone, Copy)]
struct Shape {
    seed: u64,
    features: usize,
    outputs: usize,
    trees: usize,
    /// Thresholds are drawn from so many.
    thresholds: usize,
    /// Percent of splits that are not `Less`.
    others: u32,
    /// Whether all trees are of vectors.
    vectors: bool,
    double: bool,
    base_last: bool,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let counts = (1_usize..9, 1_usize..5, 1_usize..12, prop_oneof![Just(5_usize), Just(200), Just(3000)]);
    let kinds = (prop_oneof![Just(0_u32), Just(3), Just(60)], any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u64>(), counts, kinds).prop_map(
        |(seed, (features, outputs, trees, thresholds), (others, vectors, double, base_last))| Shape {
            seed,
            features,
            outputs,
            trees,
            thresholds,
            others,
            vectors,
            double,
            base_last,
        },
    )
}

/// Values that are easily mistaken, and values close to thresholds.
fn value(random: &mut StdRng, thresholds: &[f32]) -> f32 {
    const ODD: [f32; 18] = [
        0.0,
        -0.0,
        1e-35,
        -1e-35,
        1.0001e-35,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        -0.5,
        -1.0,
        2.75,
        31.999,
        4_294_967_296.0,
    ];
    let near = thresholds[random.random_range(0..thresholds.len())];
    match random.random_range(0..8) {
        0 => f32::NAN,
        1 => ODD[random.random_range(0..ODD.len())],
        2 => near,
        3 => near.next_up(),
        4 => near.next_down(),
        5 => random.random_range(-5.0..120.0),
        _ => random.random_range(-2.0..2.0),
    }
}

fn thresholds(shape: &Shape, random: &mut StdRng) -> Vec<f32> {
    let odd = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 1e-45, 1e-35, 3.0, f32::MAX, f32::MIN];
    let mut thresholds: Vec<f32> = (0..shape.thresholds).map(|_| random.random_range(-2.0..2.0)).collect();
    // Rarely, since a split at -inf keeps a tree from being walked.
    if random.random_bool(0.3) {
        thresholds.extend(odd);
    }
    thresholds
}

fn split(shape: &Shape, random: &mut StdRng, thresholds: &[f32], sets: &mut Vec<u32>) -> Split {
    let threshold = thresholds[random.random_range(0..thresholds.len())];
    let test = match random.random_range(0..100) {
        draw if draw >= shape.others => Test::Less(threshold),
        draw if draw % 2 == 0 => Test::Equal(threshold),
        _ => {
            let (start, words) = (sets.len() as u32, random.random_range(0..4));
            sets.extend((0..words).map(|_| random.random::<u32>()));
            let category = [Category::Floor, Category::Truncated, Category::Whole][random.random_range(0..3)];
            Test::In { start, words, category }
        }
    };
    let missing = [Missing::Nan, Missing::Nan, Missing::NanOrZero, Missing::NanIsZero][random.random_range(0..4)];
    let feature = random.random_range(0..shape.features) as u32;
    Split { feature, test, missing, default_left: random.random(), left: 0, right: 0 }
}

/// A single leaf, a chain, a complete tree, or one that was grown at random leaves.
fn tree(shape: &Shape, random: &mut StdRng, thresholds: &[f32]) -> Tree {
    let (mut nodes, mut sets) = (vec![Node::Leaf(0)], Vec::new());
    let (kind, splits) = match random.random_range(0..8) {
        0 => (0, 0),
        1 => (0, 5_000),
        2 => (1, (1 << random.random_range(0..10)) - 1),
        3 => (2, 255),
        4 => (2, 256),
        _ => (2, random.random_range(0..400)),
    };
    let mut open = std::collections::VecDeque::from([0_usize]);
    for _ in 0..splits {
        let at = match kind {
            // The deeper of the last two.
            0 => open.pop_back().expect("a leaf"),
            1 => open.pop_front().expect("a leaf"),
            _ => open.swap_remove_back(random.random_range(0..open.len())).expect("a leaf"),
        };
        let mut split = split(shape, random, thresholds, &mut sets);
        let mut children = [nodes.len(), nodes.len() + 1];
        if random.random() {
            children.reverse();
        }
        (split.left, split.right) = (children[0] as u32, children[1] as u32);
        nodes[at] = Node::Split(split);
        nodes.extend([Node::Leaf(0), Node::Leaf(0)]);
        open.extend(children);
    }
    let mut leaves = 0;
    for node in &mut nodes {
        if let Node::Leaf(leaf) = node {
            *leaf = leaves;
            leaves += 1;
        }
    }
    // Nodes that no row comes to are not checked, and may be anything.
    let stray = Split {
        feature: u32::MAX,
        test: Test::Less(f32::NAN),
        missing: Missing::Nan,
        default_left: true,
        left: u32::MAX,
        right: 0,
    };
    nodes.extend(std::iter::repeat_n(Node::Split(stray), [0, 0, 1, 600][random.random_range(0..4)]));
    let width = if shape.vectors { shape.outputs } else { 1 };
    let round = |value: f64| if shape.double { value } else { f64::from(value as f32) };
    let values = (0..leaves as usize * width).map(|_| round(random.random_range(-1.0..1.0))).collect();
    let leaves = if shape.vectors {
        Leaves::Vector { values }
    } else {
        Leaves::Scalar { output: random.random_range(0..shape.outputs) as u32, values }
    };
    Tree { nodes, leaves, sets }
}

fn forest(shape: &Shape) -> (Forest, Vec<f32>, StdRng) {
    let mut random = StdRng::seed_from_u64(shape.seed);
    let thresholds = thresholds(shape, &mut random);
    let trees = (0..shape.trees).map(|_| tree(shape, &mut random, &thresholds)).collect();
    let forest = Forest {
        features: shape.features,
        trees,
        outputs: shape.outputs,
        // No f32 values: they are rounded where the reference rounds them.
        base: (0..shape.outputs).map(|output| f64::from(output as u32) * 0.3 - 0.7).collect(),
        combine: if shape.base_last { Combine::BaseLast { divisor: 3.0 } } else { Combine::BaseFirst },
        precision: if shape.double { Precision::Double } else { Precision::Single },
        link: Link::Identity,
    };
    forest.check("test").expect("a sound forest");
    (forest, thresholds, random)
}

fn bits(margins: &Margins) -> Vec<u64> {
    match margins {
        Margins::Single(margins) => margins.iter().map(|margin| f64::from(*margin).to_bits()).collect(),
        Margins::Double(margins) => margins.iter().map(|margin| margin.to_bits()).collect(),
    }
}

/// Compares batches of these sizes with the reference, by one to four threads.
fn check(shape: &Shape, nulls: bool, sizes: &[usize]) {
    let (forest, thresholds, mut random) = forest(shape);
    let program = Program::new(&forest);
    let mut out = Margins::default();
    for rows in sizes {
        let mut columns: Vec<Vec<f32>> =
            (0..shape.features).map(|_| (0..*rows).map(|_| value(&mut random, &thresholds)).collect()).collect();
        let arrays = columns.iter().map(|column| -> Float32Array {
            column.iter().map(|value| (!nulls || !value.is_nan()).then_some(*value)).collect()
        });
        // A slice, whose bitmap does not begin with a byte.
        let offset = if nulls { *rows.min(&3) } else { 0 };
        let arrays: Vec<_> = arrays.map(|array| array.slice(offset, rows - offset)).collect();
        columns.iter_mut().for_each(|column| drop(column.drain(..offset)));
        let batch = Columns::new(arrays.iter().map(Column::from).collect());
        let expected: Vec<u64> = (0..rows - offset)
            .flat_map(|row| forest.margins(&columns.iter().map(|column| column[row]).collect::<Vec<_>>()))
            .map(f64::to_bits)
            .collect();
        for threads in 1..5 {
            program.margins_by(threads, &batch, &mut out);
            assert!(bits(&out) == expected, "{rows} rows, {threads} threads");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn margins_are_the_references(shape in shapes(), nulls in any::<bool>()) {
        check(&shape, nulls, &[1000, 0, 1, 7, 63, 64, 65, 257, 1300]);
    }
}

/// More lanes than a sweep may have, and then more than a walk can name.
#[test]
fn margins_of_many_features_are_the_references() {
    for (features, seed) in [(1_200, 1), (40_000, 2)] {
        let shape = Shape {
            seed,
            features,
            outputs: 2,
            trees: 120,
            thresholds: 50,
            others: 0,
            vectors: false,
            double: false,
            base_last: false,
        };
        check(&shape, true, &[65]);
    }
}

/// More thresholds of a feature than a lane has cuts: trees of one split each, so that missing values meet all of them.
#[test]
fn margins_of_many_thresholds_are_the_references() {
    let stump = |threshold: usize| {
        let split = Split {
            feature: 0,
            test: Test::Less(threshold as f32),
            missing: Missing::Nan,
            default_left: threshold.is_multiple_of(3),
            left: 1,
            right: 2,
        };
        let values = vec![0.0, (threshold + 1) as f64];
        let nodes = vec![Node::Split(split), Node::Leaf(0), Node::Leaf(1)];
        Tree { nodes, leaves: Leaves::Scalar { output: threshold as u32, values }, sets: Vec::new() }
    };
    let forest = Forest {
        features: 1,
        trees: (0..600).map(stump).collect(),
        outputs: 600,
        base: vec![0.0; 600],
        combine: Combine::BaseFirst,
        precision: Precision::Single,
        link: Link::Identity,
    };
    let column: Vec<f32> = (-1..601).flat_map(|value| [value as f32, f32::NAN, value as f32 + 0.5]).collect();
    let mut out = Margins::default();
    Program::new(&forest).margins(&Columns::new(vec![Column::from(&column[..])]), &mut out);
    let expected: Vec<u64> = column.iter().flat_map(|value| forest.margins(&[*value])).map(f64::to_bits).collect();
    assert!(bits(&out) == expected);
}

#[test]
fn scores_are_the_links() {
    let shape = Shape {
        seed: 3,
        features: 4,
        outputs: 3,
        trees: 9,
        thresholds: 50,
        others: 0,
        vectors: false,
        double: false,
        base_last: true,
    };
    let (mut forest, thresholds, mut random) = forest(&shape);
    let columns: Vec<Vec<f32>> = (0..4).map(|_| (0..100).map(|_| value(&mut random, &thresholds)).collect()).collect();
    let batch = Columns::new(columns.iter().map(|column| Column::from(&column[..])).collect());
    for link in [Link::Softmax, Link::ArgMax, Link::Sigmoid { scale: 1.0 }] {
        forest.link = link;
        let scores = Program::new(&forest).scores(2, &batch);
        let mut expected = vec![0.0; link.scores(3) * 100];
        for (row, expected) in expected.chunks_mut(link.scores(3)).enumerate() {
            let row: Vec<f32> = columns.iter().map(|column| column[row]).collect();
            link.apply(forest.precision, &forest.margins(&row), expected);
        }
        assert_eq!(scores, expected);
    }
}
