// Cosine distances between queries and the rows of a matrix, and the k least of them.
//
// INVARIANT: a dot product is 16 partial sums, the j-th of the products j, j + 16, j + 32, .. from 0 on in this order, and then
// a tree: j takes j + 8, then j + 4, j + 2, j + 1. Equal distances are ordered by row, the lower first.
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
    // |row| of each row.
    const float *norms;
    // Query by query, a key for each row.
    u64 *keys;
    u32 rows;
    u32 width;
    u32 queries_count;
    // Where the matrix's first row stands among all rows.
    u32 row_first;
};

struct NormsArgs {
    const float *matrix;
    float *norms;
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

// 1 - a . b / (|a| |b|). What has no direction is as far from everything as what is at a right angle to it; what is not
// comparable is farthest.
ENGRAM_INLINE float cosine_distance(float dot, float norm_a, float norm_b) {
    float product = mul(norm_a, norm_b);
    if (product == 0.0f) {
        return 1.0f;
    }
    float distance = sub(1.0f, div(dot, product));
    return distance != distance ? as_float(0x7f800000u) : distance;
}

// Keys are ordered as (distance, row) are. -0 becomes 0: as distances they are equal.
ENGRAM_INLINE u64 key_of(float distance, u32 row) {
    u32 bits = as_bits(add(distance, 0.0f));
    u32 ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return (u64)ordered << 32 | row;
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
