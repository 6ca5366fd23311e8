// e^x, and the activations made of it, by additions, multiplications and divisions alone: after `expf` and `tanhf` of Cephes
// (Moshier, "Methods and Programs for Mathematical Functions", 1989).
//
// INVARIANT: `models/src/network/exp.rs` is the definition; this is the same, operation by operation. Change it there first.
#pragma once
#include "portable.cuh"

// Adding and subtracting it rounds to the nearest whole number; its bits' low end is then that number.
static constexpr float EXP_ROUND = 12582912.0f;
static constexpr float LOG2_E = 1.44269504088896340736f;
// ln 2 in two parts; the first has few bits, so that a multiple of it is exact.
static constexpr float LN_2_HIGH = 0.6933594f;
static constexpr float LN_2_LOW = -2.1219444e-4f;
// Beyond these, e^x is infinite or 0.
static constexpr float EXP_LARGEST = 89.0f;
static constexpr float EXP_SMALLEST = -104.0f;
static constexpr float TANH_POLYNOMIAL_BELOW = 0.625f;

// 2^n for n that is the exponent of a normal number, in two's complement. Of others (x was NaN) it is some number.
ENGRAM_INLINE float power_of_two(u32 n) { return as_float((n + 127u) << 23); }

ENGRAM_INLINE float exponential(float x) {
    x = x > EXP_LARGEST ? EXP_LARGEST : x;
    x = x < EXP_SMALLEST ? EXP_SMALLEST : x;
    // x = n ln 2 + r, |r| <= ln 2 / 2
    float shifted = add(mul(x, LOG2_E), EXP_ROUND);
    float whole = sub(shifted, EXP_ROUND);
    u32 n = as_bits(shifted) - as_bits(EXP_ROUND);
    float r = sub(sub(x, mul(whole, LN_2_HIGH)), mul(whole, LN_2_LOW));
    float y = add(mul(1.9875691e-4f, r), 1.3981999e-3f);
    y = add(mul(y, r), 8.333452e-3f);
    y = add(mul(y, r), 4.1665796e-2f);
    y = add(mul(y, r), 1.6666665e-1f);
    y = add(mul(y, r), 5e-1f);
    y = add(add(mul(y, mul(r, r)), r), 1.0f);
    // In two steps, since 2^n alone may be no finite or no normal number.
    u32 half = (u32)((int)n >> 1);
    return mul(mul(y, power_of_two(half)), power_of_two(n - half));
}

// The sum and the quotient are taken in f64: in f32 their errors would add up to more than 2 ulp.
ENGRAM_INLINE float sigmoid(float x) {
    double e = (double)exponential(x < 0.0f ? x : -x);
    double numerator = x < 0.0f ? e : 1.0;
    return (float)div(numerator, add(1.0, e));
}

ENGRAM_INLINE float hyperbolic_tangent(float x) {
    float size = x < 0.0f ? -x : x;
    float z = mul(x, x);
    float y = add(mul(-5.7049887e-3f, z), 2.063909e-2f);
    y = sub(mul(y, z), 5.3739716e-2f);
    y = add(mul(y, z), 1.3331442e-1f);
    y = sub(mul(y, z), 3.333328e-1f);
    float near = add(mul(mul(y, z), x), x);
    float far = sub(1.0f, div(2.0f, add(exponential(add(size, size)), 1.0f)));
    far = x < 0.0f ? -far : far;
    return size < TANH_POLYNOMIAL_BELOW ? near : far;
}
