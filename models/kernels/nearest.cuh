// Cosine similarities of queries and the rows of a matrix, and the k most similar rows.
//
// INVARIANT: `models/src/similarity.rs` is the definition; similarities are its, bit for bit. A dot product is 16 partial sums,
// the j-th of the products j, j + 16, j + 32, .. from 0 on in this order, and then a tree: j takes j + 8, then j + 4, j + 2,
// j + 1. Equal similarities are ranked by row, the lower first.
#pragma once
#include "portable.cuh"

static constexpr u32 LANES = 16;
// Keys that one block sorts.
static constexpr u32 SORT_KEYS = 4096;
static constexpr u64 NO_KEY = 0xffffffffffffffffull;

struct NearestArgs {
    // rows x width, row by row; so are the queries.
    const float *matrix;
    const float *queries;
    // Of each row.
    const float *lengths;
    // Query by query, a key for each row.
    u64 *keys;
    u32 rows;
    u32 width;
    u32 queries_count;
    // Where the matrix's first row stands among all rows.
    u32 row_first;
};

struct LengthsArgs {
    const float *matrix;
    float *lengths;
    u32 rows;
    u32 width;
};

// Sorts runs of `SORT_KEYS` keys of each query and keeps the `k` least of each run.
struct TopArgs {
    // Query by query, `count` of each.
    const u64 *keys;
    // Query by query and run by run, `k` of each.
    u64 *least;
    u64 count;
    u32 runs;
    u32 k;
    u32 queries_count;
    u32 unused;
};

// The `lane`-th partial sum of a . b.
ENGRAM_INLINE float partial_sum(const float *a, const float *b, u32 width, u32 lane) {
    float sum = 0.0f;
    for (u32 at = lane; at < width; at += LANES) {
        sum = add(sum, mul(a[at], b[at]));
    }
    return sum;
}

// a . b / (|a| |b|). What is no number is 0, and so is -0, so that ranks need no more than their bits.
ENGRAM_INLINE float cosine(float dot, float length_a, float length_b) {
    float similarity = div(dot, mul(length_a, length_b));
    return similarity != similarity ? 0.0f : add(similarity, 0.0f);
}

// The most similar has the least key, and of equals the lower row. No key is `NO_KEY`, which would be a NaN's.
ENGRAM_INLINE u64 key_of(float similarity, u32 row) {
    u32 bits = as_bits(similarity);
    u32 rank = bits >> 31 ? bits : ~bits & 0x7fffffffu;
    return (u64)rank << 32 | row;
}

// One step of a bitonic sort (Batcher, 1968): `pair` is one of SORT_KEYS / 2; after all steps of all sizes the keys ascend.
ENGRAM_INLINE void exchange(u64 *keys, u32 pair, u32 size, u32 step) {
    u32 low = 2 * pair - (pair & (step - 1));
    u32 high = low + step;
    bool ascends = (low & size) == 0;
    u64 a = keys[low];
    u64 b = keys[high];
    if ((a > b) == ascends) {
        keys[low] = b;
        keys[high] = a;
    }
}
