//! The graph, node by node: which values are columns on their way to scores, and which are labels.

use std::collections::HashMap;
use std::rc::Rc;

use prost::Message as _;
use prost::bytes::Bytes;

use super::attributes::Attributes;
use super::chain::Chain;
use super::proto::{self, data_type};
use super::tensor::Tensor;
use super::{damaged, malformed, unsupported};
use crate::error::ModelError;
use crate::model::Kind;

/// Nodes, initializers, inputs and outputs of a graph.
const PARTS_MAX: usize = 10_000;
/// Newest versions of the operator sets that were compared with ONNX Runtime; a newer one may mean another thing by a name.
const OPSET_MAX: i64 = 28;
const ML_OPSET_MAX: i64 = 5;

/// A value of the graph.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    /// What the chain gave after so many operators.
    Rows(usize),
    /// 1 minus it.
    Complement(usize),
    /// Made of scores, and no score: a label, or an index of one.
    Label,
}

/// An initializer, or why it cannot be read, which matters only if scores depend on it.
type Constant = Result<Rc<Tensor>, ModelError>;

struct Graph {
    values: HashMap<String, Value>,
    constants: HashMap<String, Constant>,
    chain: Chain,
    /// Operators in the chain.
    length: usize,
}

pub fn read(file: &[u8]) -> Result<Kind, ModelError> {
    let model = proto::Model::decode(Bytes::copy_from_slice(file)).map_err(damaged)?;
    for set in &model.opset_import {
        let newest = match &set.domain[..] {
            "" | "ai.onnx" => OPSET_MAX,
            "ai.onnx.ml" => ML_OPSET_MAX,
            // Named by every converter, used by few: an operator of it is refused where it stands.
            _ => continue,
        };
        if set.version > newest {
            return Err(unsupported(format!("version {} of operator set '{}'", set.version, set.domain)));
        }
    }
    let graph = proto::Graph::decode(model.graph).map_err(damaged)?;
    let parts = [&graph.node, &graph.initializer, &graph.input, &graph.output];
    if parts.iter().any(|part| part.len() > PARTS_MAX) {
        return Err(ModelError::TooLarge(format!("more than {PARTS_MAX} nodes, initializers, inputs or outputs")));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(unsupported("a sparse initializer"));
    }
    let mut constants = HashMap::new();
    for bytes in &graph.initializer {
        let tensor = proto::Tensor::decode(bytes.clone()).map_err(damaged)?;
        constants.insert(tensor.name.clone(), Tensor::read(&tensor).map(Rc::new));
    }
    let (name, chain) = input(&graph.input, &constants, file.len())?;
    let values = HashMap::from([(name, Value::Rows(0))]);
    let mut walk = Graph { values, constants, chain, length: 0 };
    for bytes in &graph.node {
        walk.node(&proto::Node::decode(bytes.clone()).map_err(damaged)?)?;
    }
    walk.finish(&graph.output)
}

/// The name of the one input, and the start of its chain.
fn input(
    inputs: &[Bytes],
    constants: &HashMap<String, Constant>,
    file_bytes: usize,
) -> Result<(String, Chain), ModelError> {
    let mut found = None;
    for bytes in inputs {
        let info = proto::ValueInfo::decode(bytes.clone()).map_err(damaged)?;
        // Files of before 2019 list their constants as inputs, too.
        if !constants.contains_key(&info.name) && found.replace(info).is_some() {
            return Err(unsupported("it has several inputs; one matrix of columns is taken"));
        }
    }
    let info = found.ok_or_else(|| malformed("it has no input"))?;
    let tensor = info.r#type.and_then(|r#type| r#type.tensor_type);
    let tensor = tensor.ok_or_else(|| unsupported("its input is no tensor"))?;
    let is_double = match tensor.elem_type {
        data_type::FLOAT => false,
        data_type::DOUBLE => true,
        other => return Err(unsupported(format!("an input of element type {other}; float and double are taken"))),
    };
    let columns = match tensor.shape.as_ref().map(|shape| &shape.dim[..]) {
        Some([_, columns]) => columns.dim_value.filter(|columns| *columns != 0),
        None => None,
        Some(dims) => return Err(unsupported(format!("an input of {} dimensions; 2 are taken", dims.len()))),
    };
    let columns =
        columns.map(usize::try_from).transpose().map_err(|_| malformed("an input of fewer than no columns"))?;
    Ok((info.name, Chain::new(columns, is_double, file_bytes)))
}

fn is_one(constants: &[Rc<Tensor>]) -> bool {
    matches!(constants, [one] if one.scalar() == Some(1.0))
}

impl Graph {
    fn node(&mut self, node: &proto::Node) -> Result<(), ModelError> {
        let operator = &node.op_type[..];
        if !matches!(&node.domain[..], "" | "ai.onnx" | "ai.onnx.ml") {
            return Err(unsupported(format!("operator {operator} of '{}'", node.domain)));
        }
        let mut attributes = Attributes::read(node)?;
        if operator == "Constant" {
            let tensor = attributes.tensor("value")?;
            let tensor = tensor.ok_or_else(|| unsupported("operator Constant that is no tensor"))?;
            let name = node.output.first().cloned().unwrap_or_default();
            self.constants.insert(name, Ok(Rc::new(tensor)));
            return attributes.finish();
        }
        let mut rows = Vec::new();
        let mut has_label = false;
        let mut constants = Vec::new();
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            match self.values.get(name) {
                Some(Value::Label) => has_label = true,
                Some(value @ (Value::Rows(at) | Value::Complement(at))) => {
                    if *at != self.length {
                        return Err(unsupported(format!("operator {operator} on a branch of the graph")));
                    }
                    rows.push(*value);
                }
                None if self.constants.contains_key(name) => constants.push(name.clone()),
                None => return Err(malformed(format!("an input '{name}' of {operator} that nothing gives"))),
            }
        }
        // Which of the two is subtracted matters; 1 - x is all that is read.
        if operator == "Sub" && !rows.is_empty() && node.input.first() != constants.first() {
            return Err(unsupported("operator Sub of scores"));
        }
        let outputs = match (rows.is_empty(), has_label) {
            // Labels' ways need not be understood.
            (true, true) => vec![Value::Label; node.output.len()],
            (false, false) => self.rows(operator, &mut attributes, &rows, &constants)?,
            _ => return Err(unsupported(format!("operator {operator} of constants, or of labels and scores"))),
        };
        if !has_label {
            attributes.finish()?;
        }
        for (name, value) in node.output.iter().zip(outputs) {
            if !name.is_empty() && self.values.insert(name.clone(), value).is_some() {
                return Err(malformed(format!("two nodes give '{name}'")));
            }
        }
        Ok(())
    }

    /// An operator of columns or scores; gives its outputs.
    fn rows(
        &mut self,
        operator: &str,
        attributes: &mut Attributes,
        rows: &[Value],
        names: &[String],
    ) -> Result<Vec<Value>, ModelError> {
        let constants: Vec<Rc<Tensor>> =
            names.iter().map(|name| self.constants[name].clone()).collect::<Result<_, _>>()?;
        let here = Value::Rows(self.length);
        match (operator, rows) {
            ("Identity" | "ZipMap" | "Cast" | "Flatten" | "Reshape", [row]) if *row == here => {
                self.same(operator, attributes, &constants)?;
                Ok(vec![here])
            }
            ("ArgMax", [row]) if *row == here => {
                attributes.ignore(&["axis", "keepdims", "select_last_index"]);
                Ok(vec![Value::Label])
            }
            ("Sub", [row]) if *row == here && is_one(&constants) => Ok(vec![Value::Complement(self.length)]),
            ("Concat", [Value::Complement(_), row]) if *row == here && names.is_empty() => {
                if !matches!(attributes.int("axis", 1)?, 1 | -1) {
                    return Err(unsupported("Concat of rows"));
                }
                self.chain.complement()?;
                self.length += 1;
                Ok(vec![Value::Rows(self.length)])
            }
            (_, [row]) if *row == here => {
                let constants: Vec<&Tensor> = constants.iter().map(Rc::as_ref).collect();
                self.chain.apply(operator, attributes, &constants)?;
                self.length += 1;
                let rows = Value::Rows(self.length);
                Ok(if operator.ends_with("Classifier") { vec![Value::Label, rows] } else { vec![rows] })
            }
            _ => Err(unsupported(format!("operator {operator} of several values"))),
        }
    }

    /// Operators that leave a matrix as it is.
    fn same(
        &mut self,
        operator: &str,
        attributes: &mut Attributes,
        constants: &[Rc<Tensor>],
    ) -> Result<(), ModelError> {
        match operator {
            "ZipMap" => attributes.ignore(&["classlabels_int64s", "classlabels_strings"]),
            "Cast" => {
                attributes.ignore(&["saturate"]);
                match i32::try_from(attributes.int("to", 0)?) {
                    Ok(data_type::FLOAT) => self.chain.cast(false)?,
                    Ok(data_type::DOUBLE) => self.chain.cast(true)?,
                    _ => return Err(unsupported("operator Cast to other than float or double")),
                }
            }
            "Flatten" if attributes.int("axis", 1)? != 1 => {
                return Err(unsupported("operator Flatten of another axis"));
            }
            "Reshape" => {
                attributes.ignore(&["allowzero"]);
                let shape = constants.first().map(|shape| &shape.values[..]);
                let width = self.chain.width().map(|width| width as f64);
                let is_same = match shape {
                    Some([0.0, -1.0]) => true,
                    Some([-1.0 | 0.0, columns]) => *columns == 0.0 || Some(*columns) == width,
                    Some([-1.0]) => width == Some(1.0),
                    _ => false,
                };
                if !is_same {
                    return Err(unsupported(format!("operator Reshape to {shape:?}")));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, outputs: &[Bytes]) -> Result<Kind, ModelError> {
        let mut has_scores = false;
        for bytes in outputs {
            let name = proto::ValueInfo::decode(bytes.clone()).map_err(damaged)?.name;
            match self.values.get(&name) {
                Some(Value::Label) => {}
                Some(Value::Rows(at)) if *at == self.length => has_scores = true,
                Some(_) => return Err(unsupported(format!("output '{name}' is not what the last operator gives"))),
                None => return Err(malformed(format!("output '{name}' that nothing gives"))),
            }
        }
        if !has_scores || self.length == 0 {
            return Err(unsupported("none of its outputs is a score; have the converter give probabilities or values"));
        }
        self.chain.finish()
    }
}
