//! Linear operators of ai.onnx.ml: LinearRegressor, LinearClassifier, Scaler.

use super::attributes::Attributes;
use super::{malformed, transforms, unsupported};
use crate::error::ModelError;
use crate::link::{Function, Link};
use crate::network::{Layer, WIDTH_MAX};

/// A layer, how many columns it wants, and the link after it.
pub struct Linear {
    pub layer: Layer,
    pub columns: usize,
    pub link: Link,
}

pub fn regressor(attributes: &mut Attributes) -> Result<Linear, ModelError> {
    let targets = attributes.int("targets", 1)?;
    let targets = usize::try_from(targets).ok().filter(|targets| (1..=WIDTH_MAX).contains(targets));
    let targets = targets.ok_or_else(|| malformed(format!("targets is not 1 to {WIDTH_MAX}")))?;
    let function = transforms::by_name(&attributes.string("post_transform", "NONE")?)?;
    let intercepts = attributes.floats("intercepts")?;
    // So does ONNX Runtime: too few or too many are none.
    let bias = if intercepts.len() == targets { intercepts } else { vec![0.0; targets] };
    linear(attributes.floats("coefficients")?, bias, transforms::of_targets(function, targets))
}

pub fn classifier(attributes: &mut Attributes) -> Result<Linear, ModelError> {
    attributes.ignore(&["multi_class"]);
    let labels = attributes.strings("classlabels_strings")?.len().max(attributes.ints("classlabels_ints")?.len());
    let function = transforms::by_name(&attributes.string("post_transform", "NONE")?)?;
    let bias = attributes.floats("intercepts")?;
    let link = match bias.len() {
        0 => return Err(unsupported("a LinearClassifier without intercepts")),
        1 if labels == 2 => transforms::of_second_class(function, true)?,
        1 => return Err(malformed(format!("a LinearClassifier of one row for {labels} labels"))),
        // The same function as of trees; a row of one target would be left as it is.
        rows if function == Function::None || rows > 1 => transforms::of_targets(function, rows),
        rows => return Err(unsupported(format!("a LinearClassifier of {rows} rows"))),
    };
    linear(attributes.floats("coefficients")?, bias, link)
}

fn linear(weights: Vec<f32>, bias: Vec<f32>, link: Link) -> Result<Linear, ModelError> {
    if weights.is_empty() || !weights.len().is_multiple_of(bias.len()) {
        return Err(malformed(format!("{} coefficients for {} rows", weights.len(), bias.len())));
    }
    let columns = weights.len() / bias.len();
    Ok(Linear { layer: Layer::Dense { weights, bias }, columns, link })
}

/// (x - offset) * scale. One value stands for all columns.
pub fn scaler(attributes: &mut Attributes, columns: Option<usize>) -> Result<Linear, ModelError> {
    let (mut offset, mut scale) = (attributes.floats("offset")?, attributes.floats("scale")?);
    let columns = columns.unwrap_or(offset.len());
    if columns > WIDTH_MAX {
        return Err(ModelError::TooLarge(format!("{columns} columns")));
    }
    for values in [&mut offset, &mut scale] {
        if let [value] = values[..] {
            *values = vec![value; columns];
        }
    }
    if [offset.len(), scale.len()] != [columns; 2] {
        return Err(malformed(format!("a Scaler of {} and {} values", offset.len(), scale.len())));
    }
    Ok(Linear { layer: Layer::Scale { offset, scale }, columns, link: Link::Identity })
}
