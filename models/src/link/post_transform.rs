//! `post_transform` of ONNX's operators of class scores, as ONNX Runtime computes it.
//!
//! Source: `write_scores` and what it calls in ONNX Runtime's `core/providers/cpu/ml/ml_common.h`, and what its release 1.32
//! gives where its binary cases are not written down. All is in f32, whatever the margins are in.

/// How an ONNX operator makes scores of margins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostTransform {
    pub function: Function,
    /// Each score is divided by the sum of the scores' magnitudes: `Normalizer` with the norm L1, which stands after the linear
    /// classifiers that scikit-learn fits.
    pub is_normalized: bool,
}

/// Of all margins, unless it says that it makes two scores of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    None,
    Logistic,
    Softmax,
    /// Softmax over the margins that are not zero.
    SoftmaxZero,
    /// The inverse of the normal distribution's cumulative function, by an approximation of S. Winitzki.
    Probit,
    /// One margin m: [1 - m, m].
    Complement,
    /// One margin m: [-m, m].
    Mirror,
    /// One margin m: [logistic(-m), logistic(m)].
    LogisticPair,
    /// One margin m: [1 - logistic(m), logistic(m)].
    LogisticComplement,
}

impl PostTransform {
    pub fn of(function: Function) -> Self {
        Self { function, is_normalized: false }
    }

    /// Scores of a row of so many margins.
    pub fn scores(self, margins: usize) -> usize {
        if self.function.is_pair() { 2 } else { margins }
    }

    /// The scores of a row: `scores.len() == self.scores(margins.len())`.
    pub fn apply(self, margins: &[f64], scores: &mut [f64]) {
        let each = |scores: &mut [f64], function: &dyn Fn(f32) -> f32| {
            scores.iter_mut().zip(margins).for_each(|(score, margin)| *score = f64::from(function(*margin as f32)));
        };
        match self.function {
            Function::None => each(scores, &|margin| margin),
            Function::Logistic => each(scores, &logistic),
            Function::Probit => each(scores, &probit),
            Function::Softmax => softmax(margins, scores, |_| false),
            Function::SoftmaxZero => softmax(margins, scores, |margin| margin.abs() <= 1e-7),
            Function::Complement | Function::Mirror | Function::LogisticPair | Function::LogisticComplement => {
                // Subtracted before it is rounded, if the margin is in f64.
                let margin = margins[0];
                let (first, second) = match self.function {
                    Function::Complement => ((1.0 - margin) as f32, margin as f32),
                    Function::Mirror => (-margin as f32, margin as f32),
                    Function::LogisticPair => (logistic(-margin as f32), logistic(margin as f32)),
                    _ => (1.0 - logistic(margin as f32), logistic(margin as f32)),
                };
                scores.copy_from_slice(&[f64::from(first), f64::from(second)]);
            }
        }
        if self.is_normalized {
            let sum = scores.iter().fold(0.0, |sum, score| sum + (*score as f32).abs());
            if sum != 0.0 {
                scores.iter_mut().for_each(|score| *score = f64::from(*score as f32 / sum));
            }
        }
    }
}

impl Function {
    /// Whether it makes two scores of one margin.
    pub fn is_pair(self) -> bool {
        matches!(self, Self::Complement | Self::Mirror | Self::LogisticPair | Self::LogisticComplement)
    }
}

fn logistic(x: f32) -> f32 {
    let y = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - y } else { y }
}

fn probit(x: f32) -> f32 {
    let x = 2.0 * x - 1.0;
    let sign = if x < 0.0 { -1.0 } else { 1.0 };
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * 0.147) + 0.5 * log;
    let v2 = 1.0 / 0.147 * log;
    std::f32::consts::SQRT_2 * (sign * (-v + (v * v - v2).sqrt()).sqrt())
}

/// `is_left_out` says which margins are only scaled: their e^0 is not counted.
fn softmax(margins: &[f64], scores: &mut [f64], is_left_out: impl Fn(f32) -> bool) {
    let largest = margins.iter().fold(f32::MIN, |largest, margin| largest.max(*margin as f32));
    let mut sum = 0.0_f32;
    for (score, margin) in scores.iter_mut().zip(margins) {
        let margin = *margin as f32;
        *score = f64::from(if is_left_out(margin) {
            margin * (-largest).exp()
        } else {
            let power = (margin - largest).exp();
            sum += power;
            power
        });
    }
    scores.iter_mut().for_each(|score| *score = f64::from(*score as f32 / sum));
}

#[cfg(test)]
mod tests {
    use super::{Function, PostTransform};

    /// Golden scores of ONNX Runtime 1.32's TreeEnsembleRegressor and TreeEnsembleClassifier.
    #[test]
    fn scores_are_those_of_onnx_runtime() {
        let cases: &[(Function, &[f64], &[f32])] = &[
            (Function::Softmax, &[1.5, 0.0], &[0.817_574_44, 0.182_425_51]),
            (Function::Logistic, &[0.0, -2.5], &[0.5, 0.075_858_176]),
            (Function::SoftmaxZero, &[0.0, -2.5], &[0.0, 1.0]),
            (Function::SoftmaxZero, &[1.6, 0.2, 0.3], &[0.658_272, 0.162_327_89, 0.179_400_07]),
            (Function::Probit, &[0.7], &[0.524_445_9]),
            (Function::Complement, &[f64::from(0.7_f32)], &[0.3, 0.7]),
            (Function::Mirror, &[-2.5], &[2.5, -2.5]),
            (Function::LogisticPair, &[1.5], &[0.182_425_56, 0.817_574_44]),
        ];
        for (function, margins, expected) in cases {
            let transform = PostTransform::of(*function);
            let mut scores = vec![0.0; transform.scores(margins.len())];
            transform.apply(margins, &mut scores);
            let scores: Vec<f32> = scores.iter().map(|score| *score as f32).collect();
            assert_eq!(scores, *expected, "{function:?} of {margins:?}");
        }
    }

    #[test]
    fn normalized_scores_sum_to_one() {
        let transform = PostTransform { function: Function::None, is_normalized: true };
        let mut scores = [0.0; 2];
        transform.apply(&[1.0, 3.0], &mut scores);
        assert_eq!(scores, [0.25, 0.75]);
        transform.apply(&[0.0, 0.0], &mut scores);
        assert_eq!(scores, [0.0, 0.0]);
    }
}
