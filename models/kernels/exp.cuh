// e^x, and the activations made of it, by additions and multiplications alone: after `expf` and `tanhf` of Cephes (Moshier,
// "Methods and Programs for Mathematical Functions", 1989), with Cody and Waite's reduction of the argument.
//
// INVARIANT: `models/src/network/exp.rs` computes the same, operation by operation. Change both or neither.
#pragma once
#include "portable.cuh"

static constexpr float EXP_OVERFLOW = 88.72283905206835f;
// Below it even the least subnormal is too large.
static constexpr float EXP_UNDERFLOW = -104.0f;
static constexpr float LOG2_E = 1.44269504088896341f;
// ln 2 in two parts; the first has so few bits that its products with the exponent are exact.
static constexpr float LN_2_HIGH = 0.693359375f;
static constexpr float LN_2_LOW = -2.12194440e-4f;
static constexpr float TANH_POLYNOMIAL_BELOW = 0.625f;

// 2^n for -126 <= n <= 127.
ENGRAM_INLINE float power_of_two(int n) { return as_float((u32)(n + 127) << 23); }

ENGRAM_INLINE float exponential(float x) {
    if (x != x) {
        return x;
    }
    if (x > EXP_OVERFLOW) {
        return as_float(0x7f800000u);
    }
    if (x < EXP_UNDERFLOW) {
        return 0.0f;
    }
    float whole = below(add(mul(LOG2_E, x), 0.5f));
    float r = sub(x, mul(whole, LN_2_HIGH));
    r = sub(r, mul(whole, LN_2_LOW));
    float p = 1.9875691500e-4f;
    p = add(mul(p, r), 1.3981999507e-3f);
    p = add(mul(p, r), 8.3334519073e-3f);
    p = add(mul(p, r), 4.1665795894e-2f);
    p = add(mul(p, r), 1.6666665459e-1f);
    p = add(mul(p, r), 5.0000001201e-1f);
    float y = add(add(mul(p, mul(r, r)), r), 1.0f);
    // In two steps, the first of which is exact: 2^n alone may be no f32 where y * 2^n is.
    int n = (int)whole;
    int half = n / 2;
    return mul(mul(y, power_of_two(half)), power_of_two(n - half));
}

ENGRAM_INLINE float sigmoid(float x) { return div(1.0f, add(1.0f, exponential(-x))); }

ENGRAM_INLINE float hyperbolic_tangent(float x) {
    float size = magnitude(x);
    if (size >= TANH_POLYNOMIAL_BELOW) {
        float y = sub(1.0f, div(2.0f, add(exponential(add(size, size)), 1.0f)));
        return x < 0.0f ? -y : y;
    }
    float square = mul(x, x);
    float p = -5.70498872745e-3f;
    p = add(mul(p, square), 2.06390887954e-2f);
    p = add(mul(p, square), -5.37397155531e-2f);
    p = add(mul(p, square), 1.33314422036e-1f);
    p = add(mul(p, square), -3.33332819422e-1f);
    return add(mul(mul(p, square), x), x);
}
