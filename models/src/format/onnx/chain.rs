//! What the operators up to now make of a row of columns: layers or a forest, and then a link.

use super::attributes::Attributes;
use super::tensor::Tensor;
use super::{FORMAT, layers, linear, malformed, trees_v3, trees_v5, unsupported};
use crate::error::ModelError;
use crate::forest::Forest;
use crate::link::{Function, Link, PostTransform};
use crate::model::Kind;
use crate::network::{Activation, Layer, Network, WIDTH_MAX};

pub struct Chain {
    /// Columns of the input, once they are known.
    inputs: Option<usize>,
    /// Columns of what there is now, likewise.
    width: Option<usize>,
    /// Whether the values are f64. At the start they are f32, widened.
    is_double: bool,
    forest: Option<Forest>,
    layers: Vec<Layer>,
    /// Whether the last layer has the bias that its operators give it.
    is_biased: bool,
    link: Link,
    /// Weights that the layers may still have: those of a file may be used over and over.
    weights_left: usize,
}

impl Chain {
    pub fn new(columns: Option<usize>, is_double: bool, file_bytes: usize) -> Self {
        Self {
            inputs: columns,
            width: columns,
            is_double,
            forest: None,
            layers: Vec::new(),
            is_biased: true,
            link: Link::Identity,
            weights_left: file_bytes + (1 << 20),
        }
    }

    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Adds an operator; `constants` are its inputs after or before the columns.
    pub fn apply(
        &mut self,
        operator: &str,
        attributes: &mut Attributes,
        constants: &[&Tensor],
    ) -> Result<(), ModelError> {
        match (operator, constants) {
            ("TreeEnsembleRegressor", []) => self.trees(operator, attributes, trees_v3::regressor),
            ("TreeEnsembleClassifier", []) => self.trees(operator, attributes, trees_v3::classifier),
            ("TreeEnsemble", []) => self.trees(operator, attributes, trees_v5::ensemble),
            ("LinearRegressor", []) => self.linear(operator, linear::regressor(attributes)?),
            ("LinearClassifier", []) => self.linear(operator, linear::classifier(attributes)?),
            ("Scaler", []) => self.linear(operator, linear::scaler(attributes, self.width)?),
            ("Normalizer", []) => self.normalize(&attributes.string("norm", "MAX")?),
            ("Gemm", [weights]) => self.dense(operator, layers::gemm(attributes, weights, None)?, true),
            ("Gemm", [weights, bias]) => self.dense(operator, layers::gemm(attributes, weights, Some(bias))?, true),
            ("MatMul", [weights]) => self.dense(operator, layers::matmul(weights)?, false),
            ("Add", [summand]) => self.add(summand),
            ("Relu", []) => self.activate(operator, Activation::Relu),
            ("LeakyRelu", []) => {
                let alpha = attributes.float("alpha", 0.01)?;
                self.activate(operator, Activation::LeakyRelu { alpha })
            }
            ("Tanh", []) => self.activate(operator, Activation::Tanh),
            ("Sigmoid", []) if self.forest.is_some() => self.transform(operator, Link::Sigmoid { scale: 1.0 }),
            ("Sigmoid", []) => self.activate(operator, Activation::Sigmoid),
            ("Softmax", []) => match attributes.int("axis", -1)? {
                -1 | 1 => self.transform(operator, Link::PostTransform(PostTransform::of(Function::Softmax))),
                axis => Err(unsupported(format!("Softmax over axis {axis}"))),
            },
            _ => Err(unsupported(format!("operator {operator} of {} constants", constants.len()))),
        }
    }

    /// [1 - p, p] of the one p that there is.
    pub fn complement(&mut self) -> Result<(), ModelError> {
        if self.width != Some(1) {
            return Err(unsupported("Concat of more than one score and its complement"));
        }
        let function = match (self.link, self.layers.last()) {
            (Link::Sigmoid { .. }, _) => Function::LogisticComplement,
            (Link::Identity, Some(Layer::Activation(Activation::Sigmoid))) => {
                self.layers.pop();
                Function::LogisticComplement
            }
            (Link::Identity, _) => Function::Complement,
            _ => return Err(unsupported("Concat after a transform")),
        };
        self.link = Link::PostTransform(PostTransform::of(function));
        self.width = Some(2);
        Ok(())
    }

    /// A cast of all values.
    pub fn cast(&mut self, is_double: bool) -> Result<(), ModelError> {
        let is_start = self.layers.is_empty() && self.forest.is_none();
        match (self.is_double, is_double) {
            (true, false) if !is_start && self.link == Link::Identity => {
                self.link = Link::PostTransform(PostTransform::of(Function::None));
            }
            (false, true) if !is_start => return Err(unsupported("Cast of scores to double")),
            _ => {}
        }
        self.is_double = is_double;
        Ok(())
    }

    pub fn finish(mut self) -> Result<Kind, ModelError> {
        if let Some(forest) = self.forest {
            let forest = Forest { link: self.link, ..forest };
            forest.check(FORMAT)?;
            return Ok(Kind::Forest(forest));
        }
        if self.link == Link::Identity && self.layers.last() == Some(&Layer::Activation(Activation::Sigmoid)) {
            self.layers.pop();
            self.link = Link::Sigmoid { scale: 1.0 };
        }
        let inputs = self.inputs.ok_or_else(|| unsupported("it does not say how many columns it wants"))?;
        let network = Network { inputs, layers: self.layers, link: self.link };
        network.check(FORMAT)?;
        Ok(Kind::Network(network))
    }

    fn trees(
        &mut self,
        operator: &str,
        attributes: &mut Attributes,
        read: impl Fn(&mut Attributes, Option<usize>, bool) -> Result<Forest, ModelError>,
    ) -> Result<(), ModelError> {
        if !self.layers.is_empty() || self.forest.is_some() {
            return Err(unsupported(format!("operator {operator} after another that computes")));
        }
        let forest = read(attributes, self.inputs, self.is_double)?;
        self.inputs = Some(forest.features);
        self.width = Some(forest.link.scores(forest.outputs));
        self.link = forest.link;
        self.forest = Some(forest);
        Ok(())
    }

    fn linear(&mut self, operator: &str, linear: linear::Linear) -> Result<(), ModelError> {
        // These take f64 columns as f32, which they were.
        self.is_double &= !self.layers.is_empty() || self.forest.is_some();
        self.known_width(linear.columns)?;
        let outputs = if let Layer::Dense { bias, .. } = &linear.layer { bias.len() } else { linear.columns };
        self.push(operator, linear.layer)?;
        self.link = linear.link;
        self.width = Some(linear.link.scores(outputs));
        Ok(())
    }

    fn dense(&mut self, operator: &str, layer: Layer, is_biased: bool) -> Result<(), ModelError> {
        if let Layer::Dense { weights, bias } = &layer {
            let outputs = bias.len();
            self.known_width(weights.len() / outputs)?;
            self.width = Some(outputs);
        }
        self.push(operator, layer)?;
        self.is_biased = is_biased;
        Ok(())
    }

    /// x + b, as the bias of a layer that has none yet, or on its own.
    fn add(&mut self, summand: &Tensor) -> Result<(), ModelError> {
        self.must_compute("Add")?;
        let width = self.width.or_else(|| summand.dims.last().copied()).unwrap_or(0);
        if width > WIDTH_MAX {
            return Err(ModelError::TooLarge(format!("{width} columns")));
        }
        self.known_width(width)?;
        let summand = layers::row(summand, width)?;
        match self.layers.last_mut() {
            Some(Layer::Dense { bias, .. }) if !self.is_biased => {
                *bias = summand;
                self.is_biased = true;
                Ok(())
            }
            _ => {
                let offset = summand.iter().map(|summand| -summand).collect();
                self.push("Add", Layer::Scale { offset, scale: vec![1.0; width] })
            }
        }
    }

    fn activate(&mut self, operator: &str, activation: Activation) -> Result<(), ModelError> {
        self.push(operator, Layer::Activation(activation))
    }

    fn transform(&mut self, operator: &str, link: Link) -> Result<(), ModelError> {
        if self.link != Link::Identity || self.is_double {
            return Err(unsupported(format!("operator {operator} after a transform or in double precision")));
        }
        self.link = link;
        Ok(())
    }

    fn normalize(&mut self, norm: &str) -> Result<(), ModelError> {
        match &mut self.link {
            Link::PostTransform(transform) if norm == "L1" => transform.is_normalized = true,
            _ => {
                return Err(unsupported(format!("operator Normalizer of {norm}, other than L1 of transformed scores")));
            }
        }
        Ok(())
    }

    fn push(&mut self, operator: &str, layer: Layer) -> Result<(), ModelError> {
        self.must_compute(operator)?;
        let weights = match &layer {
            Layer::Dense { weights, bias } => weights.len() + bias.len(),
            Layer::Scale { offset, .. } => offset.len() * 2,
            Layer::Activation(_) => 1,
        };
        let left = self.weights_left.checked_sub(weights);
        self.weights_left =
            left.ok_or_else(|| ModelError::TooLarge("its layers share weights too often".to_owned()))?;
        self.is_biased = true;
        self.layers.push(layer);
        Ok(())
    }

    /// Layers come before transforms, have no trees beside them, and are in f32.
    fn must_compute(&self, operator: &str) -> Result<(), ModelError> {
        if self.forest.is_some() || self.link != Link::Identity {
            return Err(unsupported(format!("operator {operator} after trees or a transform")));
        }
        if self.is_double {
            return Err(unsupported(format!("operator {operator} in double precision")));
        }
        Ok(())
    }

    fn known_width(&mut self, width: usize) -> Result<(), ModelError> {
        match self.width {
            Some(known) if known != width => Err(malformed(format!("{known} columns where {width} are wanted"))),
            _ => {
                self.inputs.get_or_insert(width);
                self.width = Some(width);
                Ok(())
            }
        }
    }
}
