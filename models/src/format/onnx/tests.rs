//! Graphs built field by field: what each operator and node mode comes to, and what is refused.

use prost::Message as _;

use super::proto::{self, attribute_type, data_type};
use crate::error::ModelError;
use crate::forest::Forest;
use crate::link::{Function, Link, Precision};
use crate::model::Kind;
use crate::network::{Activation, Layer, Network};

/// A graph of an input "x" of two columns and an output "y".
struct Model {
    nodes: Vec<proto::Node>,
    initializers: Vec<proto::Tensor>,
    inputs: Vec<proto::ValueInfo>,
}

impl Model {
    fn new(nodes: Vec<proto::Node>) -> Self {
        Self { nodes, initializers: Vec::new(), inputs: vec![matrix("x", data_type::FLOAT, Some(2))] }
    }

    fn with(mut self, name: &str, dims: &[i64], values: &[f32]) -> Self {
        let name = name.to_owned();
        let raw_data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
        let tensor =
            proto::Tensor { name, dims: dims.to_vec(), data_type: data_type::FLOAT, raw_data, ..Default::default() };
        self.initializers.push(tensor);
        self
    }

    fn read(&self) -> Result<Kind, ModelError> {
        let bytes = |message: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Vec::new();
            message(&mut bytes);
            prost::bytes::Bytes::from(bytes)
        };
        let graph = proto::Graph {
            node: self.nodes.iter().map(|node| bytes(&|to| node.encode_raw(to))).collect(),
            initializer: self.initializers.iter().map(|tensor| bytes(&|to| tensor.encode_raw(to))).collect(),
            input: self.inputs.iter().map(|input| bytes(&|to| input.encode_raw(to))).collect(),
            output: vec![proto::ValueInfo { name: "y".to_owned(), r#type: None }.encode_to_vec().into()],
            sparse_initializer: Vec::new(),
        };
        let model = proto::Model { graph: graph.encode_to_vec().into(), opset_import: Vec::new() };
        super::graph::read(&model.encode_to_vec())
    }

    fn forest(&self) -> Forest {
        let Kind::Forest(forest) = self.read().expect("a forest") else { panic!("no forest") };
        forest
    }

    fn network(&self) -> Network {
        let Kind::Network(network) = self.read().expect("a network") else { panic!("no network") };
        network
    }

    fn error(&self) -> String {
        self.read().expect_err("an error").to_string()
    }
}

fn matrix(name: &str, elem_type: i32, columns: Option<i64>) -> proto::ValueInfo {
    let dim = vec![proto::Dimension { dim_value: None }, proto::Dimension { dim_value: columns }];
    let tensor_type = proto::TensorType { elem_type, shape: Some(proto::Shape { dim }) };
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type: Some(tensor_type) }) }
}

fn node(operator: &str, inputs: &[&str], output: &str, attributes: Vec<proto::Attribute>) -> proto::Node {
    proto::Node {
        input: inputs.iter().copied().map(str::to_owned).collect(),
        output: if operator.ends_with("Classifier") {
            vec!["label".to_owned(), output.to_owned()]
        } else {
            vec![output.to_owned()]
        },
        op_type: operator.to_owned(),
        attribute: attributes.iter().map(|attribute| attribute.encode_to_vec().into()).collect(),
        domain: String::new(),
    }
}

fn attribute(name: &str, r#type: i32) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), r#type, ..Default::default() }
}

fn ints(name: &str, ints: &[i64]) -> proto::Attribute {
    proto::Attribute { ints: ints.to_vec(), ..attribute(name, attribute_type::INTS) }
}

fn int(name: &str, i: i64) -> proto::Attribute {
    proto::Attribute { i, ..attribute(name, attribute_type::INT) }
}

fn floats(name: &str, floats: &[f32]) -> proto::Attribute {
    proto::Attribute { floats: floats.to_vec(), ..attribute(name, attribute_type::FLOATS) }
}

fn strings(name: &str, strings: &[&str]) -> proto::Attribute {
    let strings = strings.iter().map(|text| text.as_bytes().to_vec().into()).collect();
    proto::Attribute { strings, ..attribute(name, attribute_type::STRINGS) }
}

fn string(name: &str, text: &str) -> proto::Attribute {
    proto::Attribute { s: text.as_bytes().to_vec().into(), ..attribute(name, attribute_type::STRING) }
}

fn tensor(name: &str, data_type: i32, values: &[f32]) -> proto::Attribute {
    let mut tensor = proto::Tensor { data_type, dims: vec![values.len() as i64], ..Default::default() };
    match data_type {
        data_type::FLOAT => tensor.float_data = values.to_vec(),
        data_type::DOUBLE => tensor.double_data = values.iter().copied().map(f64::from).collect(),
        _ => tensor.int32_data = values.iter().map(|value| *value as i32).collect(),
    }
    proto::Attribute { t: tensor.encode_to_vec().into(), ..attribute(name, attribute_type::TENSOR) }
}

/// One branch on column 1, which gives 1 where it holds and 0 elsewhere.
fn branch(mode: &str, value: f32, tracks: i64) -> Vec<proto::Attribute> {
    vec![
        ints("nodes_treeids", &[0, 0, 0]),
        ints("nodes_nodeids", &[0, 1, 2]),
        strings("nodes_modes", &[mode, "LEAF", "LEAF"]),
        ints("nodes_featureids", &[1, 0, 0]),
        floats("nodes_values", &[value, 0.0, 0.0]),
        ints("nodes_truenodeids", &[1, 0, 0]),
        ints("nodes_falsenodeids", &[2, 0, 0]),
        ints("nodes_missing_value_tracks_true", &[tracks, 0, 0]),
        ints("target_treeids", &[0, 0]),
        ints("target_nodeids", &[1, 2]),
        ints("target_ids", &[0, 0]),
        floats("target_weights", &[1.0, 0.0]),
        int("n_targets", 1),
    ]
}

fn regressor(attributes: Vec<proto::Attribute>) -> Model {
    Model::new(vec![node("TreeEnsembleRegressor", &["x"], "y", attributes)])
}

#[test]
fn each_mode_holds_where_onnx_runtime_says_so() {
    let inf = f32::INFINITY;
    let below = 1.0_f32.next_down();
    // A mode, its threshold, and the values of which it holds; NaN only if it is tracked, but of BRANCH_NEQ always.
    let cases: [(&str, f32, &[f32]); 9] = [
        ("BRANCH_LEQ", 1.0, &[-inf, -0.0, below, 1.0]),
        ("BRANCH_LT", 1.0, &[-inf, -0.0, below]),
        ("BRANCH_GTE", 1.0, &[1.0, 1.5, inf]),
        ("BRANCH_GT", 1.0, &[1.5, inf]),
        ("BRANCH_EQ", 1.0, &[1.0]),
        ("BRANCH_NEQ", 1.0, &[-inf, -0.0, below, 1.5, inf]),
        ("BRANCH_LEQ", inf, &[-inf, -0.0, below, 1.0, 1.5, inf]),
        ("BRANCH_GT", inf, &[]),
        ("BRANCH_EQ", 0.0, &[-0.0]),
    ];
    for (mode, threshold, held) in cases {
        for tracks in [0, 1] {
            let forest = regressor(branch(mode, threshold, tracks)).forest();
            for x in [-inf, -0.0, below, 1.0, 1.5, inf] {
                let expected = f64::from(u8::from(held.contains(&x)));
                assert_eq!(forest.margins(&[9.0, x]), [expected], "{mode} {threshold} of {x}");
            }
            let of_nan = tracks == 1 || mode == "BRANCH_NEQ";
            assert_eq!(forest.margins(&[9.0, f32::NAN]), [f64::from(u8::from(of_nan))], "{mode} of NaN, {tracks}");
        }
    }
}

/// Column 0 is a member of {-1, 2, 2.5, 40}: 1, or not: 0. Both children of a second tree are one leaf.
fn members(data: i32, tracks: i64) -> Model {
    let attributes = vec![
        int("n_targets", 1),
        ints("tree_roots", &[0, 1]),
        ints("nodes_featureids", &[0, 1]),
        tensor("nodes_modes", data_type::UINT8, &[6.0, 0.0]),
        tensor("nodes_splits", data, &[0.0, 0.0]),
        ints("nodes_truenodeids", &[0, 2]),
        ints("nodes_falsenodeids", &[1, 2]),
        ints("nodes_trueleafs", &[1, 1]),
        ints("nodes_falseleafs", &[1, 1]),
        ints("nodes_missing_value_tracks_true", &[tracks, 0]),
        ints("leaf_targetids", &[0, 0, 0]),
        tensor("leaf_weights", data, &[1.0, 0.0, 10.0]),
        tensor("membership_values", data, &[-1.0, 2.0, 2.5, 40.0, f32::NAN]),
    ];
    Model { inputs: vec![matrix("x", data, None)], ..Model::new(vec![node("TreeEnsemble", &["x"], "y", attributes)]) }
}

#[test]
fn members_are_those_of_the_set_alone() {
    for (data, precision) in [(data_type::FLOAT, Precision::Single), (data_type::DOUBLE, Precision::Double)] {
        for tracks in [0, 1] {
            let forest = members(data, tracks).forest();
            assert_eq!((forest.features, forest.precision), (2, precision));
            for x in [-1.0, 2.0, 2.5, 40.0] {
                assert_eq!(forest.margins(&[x, 0.0]), [11.0], "{x}");
            }
            for x in [-1.5, -0.0, 0.0, 1.0, 2.4, 3.0, 40.5, 64.0, 1e20, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(forest.margins(&[x, 0.0]), [10.0], "{x}");
            }
            assert_eq!(forest.margins(&[f32::NAN, 0.0]), [if tracks == 1 { 11.0 } else { 10.0 }]);
        }
    }
}

#[test]
fn circles_and_strangers_among_nodes_are_refused() {
    let changed = |name: &str, values: &[i64]| {
        let mut attributes = branch("BRANCH_LEQ", 1.0, 0);
        attributes.retain(|attribute| attribute.name != name);
        attributes.push(ints(name, values));
        regressor(attributes).read()
    };
    assert!(matches!(changed("nodes_truenodeids", &[0, 0, 0]), Err(ModelError::Unsupported { .. })));
    assert!(matches!(changed("nodes_truenodeids", &[3, 0, 0]), Err(ModelError::Malformed { .. })));
    assert!(matches!(changed("nodes_featureids", &[2, 0, 0]), Err(ModelError::Malformed { .. })));
    assert!(matches!(changed("nodes_featureids", &[-1, 0, 0]), Err(ModelError::Malformed { .. })));
    assert!(matches!(changed("nodes_nodeids", &[0, 1, 1]), Err(ModelError::Malformed { .. })));
    assert!(matches!(changed("nodes_treeids", &[0, 1, 0]), Err(ModelError::Malformed { .. })));
    assert!(matches!(changed("target_ids", &[0, 1]), Err(ModelError::Malformed { .. })));
    // Both children are one node: it is copied.
    assert!(changed("nodes_falsenodeids", &[1, 0, 0]).is_ok());
}

#[test]
fn what_is_not_done_is_named() {
    let more = |more: proto::Attribute| regressor([branch("BRANCH_LEQ", 1.0, 0), vec![more]].concat()).error();
    assert!(more(string("aggregate_function", "MIN")).contains("aggregate_function MIN"));
    assert!(more(int("surprise", 1)).contains("attribute surprise of operator TreeEnsembleRegressor"));
    assert!(more(string("post_transform", "CUBE")).contains("post_transform CUBE"));

    let one = |operator: &str| Model::new(vec![node(operator, &["x"], "y", vec![])]).error();
    assert!(one("Conv").contains("operator Conv"));
    let after_trees = |operator: &str| {
        let trees = node("TreeEnsembleRegressor", &["x"], "t", branch("BRANCH_LEQ", 1.0, 0));
        Model::new(vec![trees, node(operator, &["t"], "y", vec![])]).error()
    };
    assert!(after_trees("Relu").contains("operator Relu after trees"));

    let mut model = Model::new(vec![node("MatMul", &["x", "w"], "y", vec![])]).with("w", &[2, 1], &[1.0, 2.0]);
    assert!(model.read().is_ok());
    model.inputs.push(matrix("z", data_type::FLOAT, Some(1)));
    assert!(model.error().contains("several inputs"));
    model.inputs.pop();
    model.inputs[0] = matrix("x", data_type::INT64, Some(2));
    assert!(model.error().contains("element type 7"));
    model.inputs[0] = matrix("x", data_type::DOUBLE, Some(2));
    assert!(model.error().contains("operator MatMul in double precision"));
    model.inputs[0] = matrix("x", data_type::FLOAT, Some(3));
    assert!(model.error().contains("3 columns where 2 are wanted"));
    model.inputs[0] = matrix("x", data_type::FLOAT, Some(2));
    model.initializers[0].data_location = 1;
    assert!(model.error().contains("another file"));

    let branches = vec![node("Relu", &["x"], "a", vec![]), node("Tanh", &["x"], "y", vec![])];
    assert!(Model::new(branches).error().contains("operator Tanh on a branch"));
    let label = vec![node("Relu", &["x"], "a", vec![]), node("ArgMax", &["a"], "y", vec![])];
    assert!(Model::new(label).error().contains("none of its outputs is a score"));
}

#[test]
fn numbers_of_transforms_that_are_in_dispute_are_refused() {
    let attributes = |targets| {
        vec![
            int("n_targets", targets),
            int("post_transform", 1),
            ints("tree_roots", &[0]),
            ints("nodes_featureids", &[0]),
            tensor("nodes_modes", data_type::UINT8, &[0.0]),
            tensor("nodes_splits", data_type::FLOAT, &[0.0]),
            ints("nodes_truenodeids", &[0]),
            ints("nodes_falsenodeids", &[1]),
            ints("nodes_trueleafs", &[1]),
            ints("nodes_falseleafs", &[1]),
            ints("leaf_targetids", &[0, 0]),
            tensor("leaf_weights", data_type::FLOAT, &[1.0, 2.0]),
        ]
    };
    let model = |targets| Model::new(vec![node("TreeEnsemble", &["x"], "y", attributes(targets))]);
    assert_eq!(model(1).forest().link, Link::Identity);
    assert!(model(2).error().contains("post_transform 1"));
}

#[test]
fn layers_are_read_in_their_order() {
    let nodes = vec![
        node("Scaler", &["x"], "a", vec![floats("offset", &[1.0]), floats("scale", &[2.0])]),
        node("MatMul", &["a", "w"], "b", vec![]),
        node("Add", &["shift", "b"], "c", vec![]),
        node("Relu", &["c"], "d", vec![]),
        node("Gemm", &["d", "v", "bias"], "e", vec![int("transB", 1)]),
        node("Sigmoid", &["e"], "y", vec![]),
    ];
    let network = Model::new(nodes)
        .with("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .with("shift", &[1, 3], &[0.5, 0.25, 0.125])
        .with("v", &[1, 3], &[7.0, 8.0, 9.0])
        .with("bias", &[1], &[-1.0])
        .network();
    let expected = [
        Layer::Scale { offset: vec![1.0; 2], scale: vec![2.0; 2] },
        Layer::Dense { weights: vec![1.0, 4.0, 2.0, 5.0, 3.0, 6.0], bias: vec![0.5, 0.25, 0.125] },
        Layer::Activation(Activation::Relu),
        Layer::Dense { weights: vec![7.0, 8.0, 9.0], bias: vec![-1.0] },
    ];
    assert_eq!((network.inputs, &network.layers[..], network.link), (2, &expected[..], Link::Sigmoid { scale: 1.0 }));
}

#[test]
fn a_score_and_its_complement_are_a_link() {
    let nodes = vec![
        node("MatMul", &["x", "w"], "a", vec![]),
        node("Sigmoid", &["a"], "p", vec![]),
        node("Sub", &["one", "p"], "q", vec![]),
        node("Concat", &["q", "p"], "y", vec![int("axis", 1)]),
    ];
    let model = |nodes| Model::new(nodes).with("w", &[2, 1], &[1.0, 2.0]).with("one", &[], &[1.0]);
    let Link::PostTransform(transform) = model(nodes.clone()).network().link else { panic!("another link") };
    assert_eq!(transform.function, Function::LogisticComplement);

    let mut minus = nodes.clone();
    minus[2].input.swap(0, 1);
    assert!(model(minus).error().contains("operator Sub"));
    let mut swapped = nodes;
    swapped[3].input.swap(0, 1);
    assert!(model(swapped).error().contains("operator Concat"));
}

#[test]
fn weights_used_over_and_over_are_not_copied_without_end() {
    let width = 300_i64;
    let mut nodes: Vec<proto::Node> =
        (0..1_000).map(|at| node("MatMul", &[&format!("v{at}"), "w"], &format!("v{}", at + 1), vec![])).collect();
    nodes[0].input[0] = "x".to_owned();
    nodes[999].output[0] = "y".to_owned();
    let mut model = Model::new(nodes).with("w", &[width, width], &vec![0.0; (width * width) as usize]);
    model.inputs[0] = matrix("x", data_type::FLOAT, Some(width));
    assert!(matches!(model.read(), Err(ModelError::TooLarge(_))));
}
