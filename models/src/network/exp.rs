//! e^x, tanh and the logistic function in f32, of nothing but +, -, *, / and integer operations: each is one IEEE 754 operation
//! after the other, none of them fused, so that a CPU and a GPU give the same bits. (What a NaN's bits are is left open.)
//!
//! The reductions and polynomials are those of S. L. Moshier's Cephes library, `single/expf.c` and `single/tanhf.c`:
//! <https://www.netlib.org/cephes/>. Errors: at most 2 ulp each, as tested below.

/// Adding and subtracting it rounds to the nearest whole number; its bits' low end is then that number.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the first has few bits, so that a multiple of it is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Beyond these, e^x is infinite or 0.
const LARGEST: f32 = 89.0;
const SMALLEST: f32 = -104.0;

/// e^x.
#[inline]
pub fn exp(x: f32) -> f32 {
    let x = if x > LARGEST { LARGEST } else { x };
    let x = if x < SMALLEST { SMALLEST } else { x };
    // x = n ln 2 + r, |r| <= ln 2 / 2
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let r = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let mut y = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    y = y * r + 8.333_452e-3;
    y = y * r + 4.166_579_6e-2;
    y = y * r + 1.666_666_5e-1;
    y = y * r + 5e-1;
    y = y * (r * r) + r + 1.0;
    // In two steps, since 2^n alone may be no finite or no normal number.
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2^n for n that is the exponent of a normal number. Of others (x was NaN) it is some number.
#[inline]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// 1 / (1 + e^-x), as e^-|x| gives it, which does not overflow. The sum and the quotient are taken in f64: in f32 their errors
/// would add up to more than 2 ulp.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    let e = f64::from(exp(if x < 0.0 { x } else { -x }));
    let numerator = if x < 0.0 { e } else { 1.0 };
    (numerator / (1.0 + e)) as f32
}

/// (e^x - e^-x) / (e^x + e^-x).
#[inline]
pub fn tanh(x: f32) -> f32 {
    let size = if x < 0.0 { -x } else { x };
    let z = x * x;
    let mut y = -5.704_988_7e-3 * z + 2.063_909e-2;
    y = y * z - 5.373_971_6e-2;
    y = y * z + 1.333_144_2e-1;
    y = y * z - 3.333_328e-1;
    let near = y * z * x + x;
    let far = 1.0 - 2.0 / (exp(size + size) + 1.0);
    let far = if x < 0.0 { -far } else { far };
    if size < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::{exp, sigmoid, tanh};

    /// How far a value is from the true one, in units of the last place of the true one.
    fn ulps(value: f32, truth: f64) -> f64 {
        let nearest = truth as f32;
        if value.is_infinite() || nearest.is_infinite() {
            return if value == nearest { 0.0 } else { f64::INFINITY };
        }
        let ulp = f64::from(nearest.abs().next_up()) - f64::from(nearest.abs());
        (f64::from(value) - truth).abs() / ulp
    }

    /// Every so many of all f32 of both signs, NaN apart; a prime, so that all low bits occur.
    fn every(step: usize) -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(step).map(f32::from_bits).filter(|x| !x.is_nan())
    }

    #[test]
    fn each_is_within_two_ulps_of_the_true_value() {
        let mut worst = [0.0_f64; 3];
        for x in every(1009) {
            let exact = f64::from(x);
            let errors = [
                ulps(exp(x), exact.exp()),
                ulps(sigmoid(x), 1.0 / (1.0 + (-exact).exp())),
                ulps(tanh(x), exact.tanh()),
            ];
            for (worst, error) in worst.iter_mut().zip(errors) {
                assert!(error <= 2.0, "x = {x:e}: {errors:?} ulps");
                *worst = worst.max(error);
            }
        }
        println!("worst errors of exp, sigmoid, tanh: {worst:?} ulps");
    }

    #[test]
    fn ends_of_the_range() {
        assert_eq!([exp(f32::INFINITY), exp(f32::NEG_INFINITY), exp(0.0), exp(-0.0)], [f32::INFINITY, 0.0, 1.0, 1.0]);
        assert_eq!([sigmoid(f32::INFINITY), sigmoid(f32::NEG_INFINITY), sigmoid(0.0)], [1.0, 0.0, 0.5]);
        assert_eq!([tanh(f32::INFINITY), tanh(f32::NEG_INFINITY)], [1.0, -1.0]);
        assert_eq!([tanh(0.0), tanh(-0.0)], [0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert_eq!(exp(-103.5), f32::from_bits(1));
    }
}
