// Sixteen threads have a row, each a partial sum of it: they read 64 bytes of the matrix at once.
#include "nearest.cuh"

#define NEAREST_THREADS 256
// Queries that a thread computes at once: it reads the matrix once for all of them.
#define NEAREST_QUERIES 8

// The tree of the partial sums; lane 0 has the sum. All 32 threads of a warp call it.
__device__ __forceinline__ float fold(float sum) {
#pragma unroll
    for (u32 distance = LANES / 2; distance > 0; distance /= 2) {
        sum = add(sum, __shfl_down_sync(0xffffffffu, sum, distance, LANES));
    }
    return sum;
}

// The length of each row.
extern "C" __global__ void __launch_bounds__(NEAREST_THREADS) nearest_lengths(LengthsArgs args) {
    u64 row = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    u32 lane = threadIdx.x % LANES;
    const float *values = args.matrix + row * args.width;
    float sum = fold(row < args.rows ? partial_sum(values, values, args.width, lane) : 0.0f);
    if (row < args.rows && lane == 0) {
        args.lengths[row] = root(sum);
    }
}

// x of the grid is rows, y is queries by eights.
extern "C" __global__ void __launch_bounds__(NEAREST_THREADS) nearest_keys(NearestArgs args) {
    u64 row = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    u32 lane = threadIdx.x % LANES;
    u32 first = blockIdx.y * NEAREST_QUERIES;
    bool is_row = row < args.rows;
    const float *values = args.matrix + (is_row ? row : 0) * args.width;
    float dots[NEAREST_QUERIES];
    float squares[NEAREST_QUERIES];
#pragma unroll
    for (u32 at = 0; at < NEAREST_QUERIES; at++) {
        dots[at] = 0.0f;
        squares[at] = 0.0f;
    }
    for (u32 column = lane; column < args.width; column += LANES) {
        float value = values[column];
#pragma unroll
        for (u32 at = 0; at < NEAREST_QUERIES; at++) {
            u32 number = min(first + at, args.queries_count - 1);
            float query = args.queries[(u64)number * args.width + column];
            dots[at] = add(dots[at], mul(query, value));
            squares[at] = add(squares[at], mul(query, query));
        }
    }
#pragma unroll
    for (u32 at = 0; at < NEAREST_QUERIES; at++) {
        float dot = fold(dots[at]);
        float length = root(fold(squares[at]));
        if (is_row && lane == 0 && first + at < args.queries_count) {
            float similarity = cosine(dot, length, args.lengths[row]);
            args.keys[(u64)(first + at) * args.rows + row] = key_of(similarity, args.row_first + (u32)row);
        }
    }
}

// x of the grid is runs, y is queries. `SORT_KEYS` keys of shared memory.
extern "C" __global__ void __launch_bounds__(512) nearest_top(TopArgs args) {
    __shared__ u64 keys[SORT_KEYS];
    u64 start = (u64)blockIdx.x * SORT_KEYS;
    const u64 *from = args.keys + blockIdx.y * args.count;
    for (u32 at = threadIdx.x; at < SORT_KEYS; at += blockDim.x) {
        keys[at] = start + at < args.count ? from[start + at] : NO_KEY;
    }
    for (u32 size = 2; size <= SORT_KEYS; size *= 2) {
        for (u32 step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (u32 pair = threadIdx.x; pair < SORT_KEYS / 2; pair += blockDim.x) {
                exchange(keys, pair, size, step);
            }
        }
    }
    __syncthreads();
    for (u32 at = threadIdx.x; at < args.k; at += blockDim.x) {
        args.least[((u64)blockIdx.y * args.runs + blockIdx.x) * args.k + at] = keys[at];
    }
}
