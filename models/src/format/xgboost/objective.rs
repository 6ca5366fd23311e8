//! What XGBoost's objectives make of a base score and of margins: `ProbToMargin` and `PredTransform` of its `src/objective`.

use super::FORMAT;
use crate::error::ModelError;
use crate::format::quoted;
use crate::link::Link;

/// What is made of the numbers of a model.
pub struct Objective {
    pub link: Link,
    /// Of a base score, its margin.
    pub margin: fn(f32) -> f32,
}

/// The objective of that name.
pub fn of(name: &str) -> Result<Objective, ModelError> {
    let identity: fn(f32) -> f32 = |base| base;
    let (link, margin) = match name {
        "reg:squarederror"
        | "reg:linear"
        | "reg:squaredlogerror"
        | "reg:absoluteerror"
        | "reg:pseudohubererror"
        | "reg:quantileerror"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map"
        | "binary:logitraw" => (Link::Identity, identity),
        "binary:logistic" | "reg:logistic" => {
            // XGBoost 3 has no margin beyond these; XGBoost 2 saves no base score beyond them.
            let logit: fn(f32) -> f32 = |base| -(1.0 / base.clamp(1e-6, 1.0 - 1e-6) - 1.0).ln();
            (Link::Sigmoid { scale: 1.0 }, logit)
        }
        "binary:hinge" => (Link::Step, identity),
        "count:poisson" | "reg:gamma" | "reg:tweedie" | "survival:cox" | "survival:aft" => {
            let logarithm: fn(f32) -> f32 = f32::ln;
            (Link::Exponential, logarithm)
        }
        "multi:softprob" => (Link::Softmax, identity),
        "multi:softmax" => (Link::ArgMax, identity),
        _ => {
            let reason = format!("its objective {} is not known", quoted(name));
            return Err(ModelError::Unsupported { format: FORMAT, reason });
        }
    };
    Ok(Objective { link, margin })
}

#[cfg(test)]
mod tests {
    use super::of;

    /// XGBoost 3.2's, of models that were trained with nothing but zeros, and with nothing but ones.
    #[test]
    fn certain_base_scores_have_margins() {
        let logistic = of("binary:logistic").expect("it is known").margin;
        assert_eq!([0.0, 1e-10, 1e-6, 2e-6].map(logistic), [-13.81551, -13.81551, -13.81551, -13.122361]);
        assert_eq!([1.0, 0.9999999, 0.999998].map(logistic), [13.74516, 13.74516, 13.109172]);
    }
}
