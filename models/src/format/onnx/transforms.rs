//! `post_transform` by its name or number, and the links that come of it.

use super::{malformed, unsupported};
use crate::error::ModelError;
use crate::link::{Function, Link, PostTransform};

/// Of ai.onnx.ml up to version 4, by name.
pub fn by_name(name: &str) -> Result<Function, ModelError> {
    match name {
        "NONE" => Ok(Function::None),
        "SOFTMAX" => Ok(Function::Softmax),
        "LOGISTIC" => Ok(Function::Logistic),
        "SOFTMAX_ZERO" => Ok(Function::SoftmaxZero),
        "PROBIT" => Ok(Function::Probit),
        _ => Err(unsupported(format!("post_transform {name}"))),
    }
}

/// Of version 5, by number, for so many targets. The standard has 1 for SOFTMAX and 2 for LOGISTIC, ONNX Runtime 1.32 the other
/// way around; where it matters, neither is right.
pub fn by_number(number: i64, targets: usize) -> Result<Function, ModelError> {
    match number {
        0 => Ok(Function::None),
        1 | 2 if targets == 1 => Ok(Function::None),
        1 | 2 => Err(unsupported(format!(
            "post_transform {number} of TreeEnsemble, which ONNX and ONNX Runtime take for different functions"
        ))),
        3 => Ok(Function::SoftmaxZero),
        4 => Ok(Function::Probit),
        _ => Err(malformed(format!("post_transform {number}"))),
    }
}

/// A regressor's link. ONNX Runtime leaves a single score as it is, save for PROBIT.
pub fn of_targets(function: Function, targets: usize) -> Link {
    match function {
        Function::Probit => Link::PostTransform(PostTransform::of(function)),
        _ if targets == 1 => Link::Identity,
        Function::None => Link::Identity,
        _ => Link::PostTransform(PostTransform::of(function)),
    }
}

/// The link of a classifier that has two labels and one margin, that of the second.
pub fn of_second_class(function: Function, is_complement: bool) -> Result<Link, ModelError> {
    let function = match function {
        Function::Probit => return Err(unsupported("post_transform PROBIT of one score for two classes")),
        Function::Logistic => Function::LogisticPair,
        _ if is_complement => Function::Complement,
        _ => Function::Mirror,
    };
    Ok(Link::PostTransform(PostTransform::of(function)))
}
