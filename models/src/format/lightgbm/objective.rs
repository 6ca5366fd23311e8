//! What LightGBM's objectives make of margins: `ConvertOutput` of its `src/objective`.

use super::unsupported;
use crate::error::ModelError;
use crate::format::quoted;
use crate::link::Link;

/// The link of the text after `objective=`: a name, then `key:value` and flags. A model without one was trained with an
/// objective of the user's own.
pub fn link(text: &str, outputs: usize) -> Result<Link, ModelError> {
    let mut words = text.split_ascii_whitespace();
    let name = words.next().unwrap_or("none");
    let flags: Vec<&str> = words.collect();
    let sigmoid = || {
        let scale = flags.iter().find_map(|flag| flag.strip_prefix("sigmoid:")).unwrap_or("1");
        let scale = scale.parse::<f64>().ok().filter(|scale| scale.is_finite());
        let scale = scale.ok_or_else(|| unsupported(format!("its objective is {}", quoted(text))))?;
        Ok(Link::Sigmoid { scale })
    };
    let link = match name {
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" if flags.contains(&"sqrt") => {
            Link::SignedSquare
        }
        "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" => Link::Identity,
        "lambdarank" | "rank_xendcg" | "custom" | "none" => Link::Identity,
        "poisson" | "gamma" | "tweedie" => Link::Exponential,
        "binary" | "multiclassova" => sigmoid()?,
        "cross_entropy" => Link::Sigmoid { scale: 1.0 },
        "cross_entropy_lambda" => Link::LogOnePlusExponential,
        "multiclass" => Link::Softmax,
        _ => return Err(unsupported(format!("its objective {} is not known", quoted(name)))),
    };
    let is_for_several = matches!(name, "multiclass" | "multiclassova");
    if outputs > 1 && !is_for_several && link != Link::Identity {
        return Err(unsupported(format!("its objective is {name:?} and it has {outputs} trees a round")));
    }
    Ok(link)
}
