// Layers of a network over columns, one value of one row after the other.
//
// INVARIANT: a sum starts at its bias and takes its inputs in their order, multiplied and added apart.
#pragma once
#include "exp.cuh"

// What is done to a value: `network::Activation`.
static constexpr u32 ACTIVATION_NONE = 0;
static constexpr u32 ACTIVATION_RELU = 1;
static constexpr u32 ACTIVATION_LEAKY_RELU = 2;
static constexpr u32 ACTIVATION_SIGMOID = 3;
static constexpr u32 ACTIVATION_TANH = 4;

// Outputs of a row that one thread computes: it reads each input once for all of them.
static constexpr u32 DENSE_OUTPUTS = 8;

struct DenseArgs {
    // Columns, `stride` values apart; so are those of `y`.
    const float *x;
    float *y;
    // outputs x inputs, row by row; of a scale, what each value is multiplied by.
    const float *weights;
    // One for each output; of a scale, what is subtracted from each value before.
    const float *bias;
    u64 stride;
    u32 rows;
    u32 inputs;
    u32 outputs;
    u32 activation;
    float alpha;
    u32 unused;
};

ENGRAM_INLINE float activate(float x, u32 activation, float alpha) {
    switch (activation) {
    case ACTIVATION_RELU:
        return x < 0.0f ? 0.0f : x;
    case ACTIVATION_LEAKY_RELU:
        return x < 0.0f ? mul(alpha, x) : x;
    case ACTIVATION_SIGMOID:
        return sigmoid(x);
    case ACTIVATION_TANH:
        return hyperbolic_tangent(x);
    default:
        return x;
    }
}

// `DENSE_OUTPUTS` outputs of a row from `first` on, or as many as there are.
ENGRAM_INLINE void dense(const DenseArgs &args, u32 row, u32 first) {
    float sums[DENSE_OUTPUTS];
#pragma unroll
    for (u32 at = 0; at < DENSE_OUTPUTS; at++) {
        sums[at] = first + at < args.outputs ? args.bias[first + at] : 0.0f;
    }
    for (u32 input = 0; input < args.inputs; input++) {
        float x = args.x[input * args.stride + row];
#pragma unroll
        for (u32 at = 0; at < DENSE_OUTPUTS; at++) {
            if (first + at < args.outputs) {
                sums[at] = add(sums[at], mul(args.weights[(u64)(first + at) * args.inputs + input], x));
            }
        }
    }
#pragma unroll
    for (u32 at = 0; at < DENSE_OUTPUTS; at++) {
        if (first + at < args.outputs) {
            args.y[(first + at) * args.stride + row] = canonical(activate(sums[at], args.activation, args.alpha));
        }
    }
}

// (x - offset) * scale, of column `column`, `inputs` of them.
ENGRAM_INLINE void scale(const DenseArgs &args, u32 row, u32 column) {
    float x = args.x[column * args.stride + row];
    float y = mul(sub(x, args.bias[column]), args.weights[column]);
    args.y[column * args.stride + row] = canonical(activate(y, args.activation, args.alpha));
}

// An activation that follows no other layer: of column `column`, `inputs` of them.
ENGRAM_INLINE void activation(const DenseArgs &args, u32 row, u32 column) {
    float x = args.x[column * args.stride + row];
    args.y[column * args.stride + row] = canonical(activate(x, args.activation, args.alpha));
}
