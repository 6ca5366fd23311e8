//! From a row's margins to its scores: what the peer's `predict` gives.

mod post_transform;

pub use post_transform::{Function, PostTransform};

/// How scores are made of margins. A model of one margin has one score, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Link {
    /// The margins themselves.
    Identity,
    /// 1 / (1 + e^-(scale * margin)), of each margin.
    Sigmoid { scale: f64 },
    /// e^margin, of each.
    Exponential,
    /// ln(1 + e^margin), of each.
    LogOnePlusExponential,
    /// sign(margin) * margin^2, of each.
    SignedSquare,
    /// 1 - e^(-e^margin), of each.
    ComplementaryLogLog,
    /// e^margin of each over the sum of all.
    Softmax,
    /// The number of the largest margin, the first of equals. One score.
    ArgMax,
    /// 1 where the margin is above zero, otherwise 0.
    Step,
    /// 2^(-margin / c): an isolation forest's anomaly score of a mean path length. Liu, Ting, Zhou: "Isolation Forest" (2008).
    PathLength { c: f64 },
    /// ONNX's.
    PostTransform(PostTransform),
}

/// Whether sums and links are computed in f32 or f64, as the peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Single,
    Double,
}

impl Link {
    /// Scores of a row of so many margins.
    pub fn scores(self, margins: usize) -> usize {
        match self {
            Self::ArgMax => 1,
            Self::PostTransform(transform) => transform.scores(margins),
            _ => margins,
        }
    }

    /// The scores of a row: `scores.len() == self.scores(margins.len())`.
    pub fn apply(self, precision: Precision, margins: &[f64], scores: &mut [f64]) {
        match precision {
            Precision::Single => self.apply_single(margins, scores),
            Precision::Double => self.apply_double(margins, scores),
        }
    }

    /// The scores of a batch of margins, row by row, where a row has so many.
    pub fn apply_to_rows(self, precision: Precision, outputs: usize, margins: &[f64]) -> Vec<f64> {
        let width = self.scores(outputs);
        let mut scores = vec![0.0; margins.len() / outputs * width];
        for (scores, margins) in scores.chunks_exact_mut(width).zip(margins.chunks_exact(outputs)) {
            self.apply(precision, margins, scores);
        }
        scores
    }

    fn apply_single(self, margins: &[f64], scores: &mut [f64]) {
        let each = |scores: &mut [f64], link: &dyn Fn(f32) -> f32| {
            scores.iter_mut().zip(margins).for_each(|(score, margin)| *score = f64::from(link(*margin as f32)));
        };
        match self {
            Self::Sigmoid { scale } => each(scores, &|margin| {
                // XGBoost cuts the exponent off here, so that e to its power is finite and no score is zero.
                let exponent = -(scale as f32) * margin;
                1.0 / (1.0 + if exponent > 88.7 { 88.7_f32 } else { exponent }.exp())
            }),
            Self::Exponential => each(scores, &f32::exp),
            Self::LogOnePlusExponential => each(scores, &|margin| margin.exp().ln_1p()),
            Self::SignedSquare => each(scores, &|margin| (margin * margin).copysign(margin)),
            Self::ComplementaryLogLog => each(scores, &|margin| 1.0 - (-margin.exp()).exp()),
            Self::PathLength { c } => each(scores, &|margin| (-margin / c as f32).exp2()),
            Self::Softmax => {
                let largest = margins.iter().fold(f32::NEG_INFINITY, |largest, margin| largest.max(*margin as f32));
                each(scores, &|margin| (margin - largest).exp());
                // XGBoost adds in f64.
                let sum = scores.iter().sum::<f64>() as f32;
                scores.iter_mut().for_each(|score| *score = f64::from(*score as f32 / sum));
            }
            Self::Identity | Self::ArgMax | Self::Step | Self::PostTransform(_) => self.apply_double(margins, scores),
        }
    }

    fn apply_double(self, margins: &[f64], scores: &mut [f64]) {
        let each = |scores: &mut [f64], link: &dyn Fn(f64) -> f64| {
            scores.iter_mut().zip(margins).for_each(|(score, margin)| *score = link(*margin));
        };
        match self {
            Self::Identity => scores.copy_from_slice(margins),
            Self::Sigmoid { scale } => each(scores, &|margin| 1.0 / (1.0 + (-scale * margin).exp())),
            Self::Exponential => each(scores, &f64::exp),
            Self::LogOnePlusExponential => each(scores, &|margin| margin.exp().ln_1p()),
            Self::SignedSquare => each(scores, &|margin| (margin * margin).copysign(margin)),
            Self::ComplementaryLogLog => each(scores, &|margin| 1.0 - (-margin.exp()).exp()),
            Self::Step => each(scores, &|margin| f64::from(u8::from(margin > 0.0))),
            Self::PathLength { c } => each(scores, &|margin| (-margin / c).exp2()),
            Self::Softmax => {
                let largest = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                each(scores, &|margin| (margin - largest).exp());
                let sum: f64 = scores.iter().sum();
                scores.iter_mut().for_each(|score| *score /= sum);
            }
            Self::ArgMax => {
                let mut largest = 0;
                for (class, margin) in margins.iter().enumerate() {
                    if *margin > margins[largest] {
                        largest = class;
                    }
                }
                scores[0] = largest as f64;
            }
            Self::PostTransform(transform) => transform.apply(margins, scores),
        }
    }
}
