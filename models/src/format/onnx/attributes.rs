//! The attributes of a node, which are taken one by one: what is left in the end is an attribute that is not understood.

use std::collections::HashMap;

use prost::Message as _;

use super::proto::{self, attribute_type};
use super::tensor::Tensor;
use super::{damaged, malformed, unsupported};
use crate::error::ModelError;

/// More than any operator has.
const ATTRIBUTES_MAX: usize = 64;

pub struct Attributes {
    /// For messages.
    operator: String,
    attributes: HashMap<String, proto::Attribute>,
}

impl Attributes {
    pub fn read(node: &proto::Node) -> Result<Self, ModelError> {
        let operator = node.op_type.clone();
        if node.attribute.len() > ATTRIBUTES_MAX {
            return Err(malformed(format!("a node {operator} has {} attributes", node.attribute.len())));
        }
        let mut attributes = HashMap::new();
        for bytes in &node.attribute {
            let attribute = proto::Attribute::decode(bytes.clone()).map_err(damaged)?;
            if let Some(twice) = attributes.insert(attribute.name.clone(), attribute) {
                return Err(malformed(format!("a node {operator} has attribute {} twice", twice.name)));
            }
        }
        Ok(Self { operator, attributes })
    }

    /// Empty if it is not there, as of the other lists.
    pub fn ints(&mut self, name: &str) -> Result<Vec<i64>, ModelError> {
        Ok(self.take(name, attribute_type::INTS)?.ints)
    }

    pub fn floats(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.take(name, attribute_type::FLOATS)?.floats)
    }

    pub fn strings(&mut self, name: &str) -> Result<Vec<String>, ModelError> {
        let strings = self.take(name, attribute_type::STRINGS)?.strings;
        strings.into_iter().map(|bytes| self.text(name, &bytes)).collect()
    }

    pub fn int(&mut self, name: &str, default: i64) -> Result<i64, ModelError> {
        Ok(if self.attributes.contains_key(name) { self.take(name, attribute_type::INT)?.i } else { default })
    }

    pub fn float(&mut self, name: &str, default: f32) -> Result<f32, ModelError> {
        Ok(if self.attributes.contains_key(name) { self.take(name, attribute_type::FLOAT)?.f } else { default })
    }

    pub fn string(&mut self, name: &str, default: &str) -> Result<String, ModelError> {
        if !self.attributes.contains_key(name) {
            return Ok(default.to_owned());
        }
        let bytes = self.take(name, attribute_type::STRING)?.s;
        self.text(name, &bytes)
    }

    pub fn tensor(&mut self, name: &str) -> Result<Option<Tensor>, ModelError> {
        if !self.attributes.contains_key(name) {
            return Ok(None);
        }
        let bytes = self.take(name, attribute_type::TENSOR)?.t;
        Tensor::read(&proto::Tensor::decode(bytes).map_err(damaged)?).map(Some)
    }

    /// Numbers that are either floats, or a tensor of the name with "_as_tensor" behind it, which is f64 where the input is.
    pub fn numbers(&mut self, name: &str, is_double: bool) -> Result<Vec<f64>, ModelError> {
        let floats = self.floats(name)?;
        match self.tensor(&format!("{name}_as_tensor"))? {
            Some(_) if !floats.is_empty() => Err(malformed(format!("{} has {name} twice", self.operator))),
            Some(tensor) => self.of_precision(name, tensor, is_double),
            None => Ok(floats.into_iter().map(f64::from).collect()),
        }
    }

    /// The values of a tensor that is of the input's element type.
    pub fn of_precision(&self, name: &str, tensor: Tensor, is_double: bool) -> Result<Vec<f64>, ModelError> {
        let expected = if is_double { proto::data_type::DOUBLE } else { proto::data_type::FLOAT };
        if tensor.data_type != expected {
            return Err(unsupported(format!("{name} of {} is not of the input's element type", self.operator)));
        }
        Ok(tensor.values)
    }

    /// Takes one and drops it, which says nothing of the scores.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.attributes.remove(*name);
        }
    }

    pub fn finish(self) -> Result<(), ModelError> {
        match self.attributes.keys().min() {
            Some(name) => Err(unsupported(format!("attribute {name} of operator {}", self.operator))),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str, expected: i32) -> Result<proto::Attribute, ModelError> {
        let attribute = self.attributes.remove(name).unwrap_or_default();
        // Files of before 2017 have no types.
        if attribute.r#type != 0 && attribute.r#type != expected {
            return Err(malformed(format!("attribute {name} of {} has type {}", self.operator, attribute.r#type)));
        }
        Ok(attribute)
    }

    fn text(&self, name: &str, bytes: &[u8]) -> Result<String, ModelError> {
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| malformed(format!("attribute {name} of {} is no text", self.operator)))
    }
}
