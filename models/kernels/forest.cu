// The forest's kernels: by the nodes' layout and the sums' precision.
#include "forest.cuh"

// Threads of a block; `gpu/forest.rs` launches as many.
#define FOREST_THREADS 256

template <class Node, class Sum>
__device__ __forceinline__ void run_forest(const ForestArgs &args) {
    DYNAMIC_SHARED(uint4, shared);
    Node *staged = (Node *)shared;
    u32 first = blockIdx.x * blockDim.x + threadIdx.x;
    u32 step = gridDim.x * blockDim.x;
    if (args.flags & FOREST_STARTS) {
        for (u64 row = first; row < args.rows; row += step) {
            start_row<Sum>(args, (u32)row);
        }
    }
    for (u32 number = 0; number < args.grove_count; number++) {
        Grove grove = args.groves[args.grove_first + number];
        const Node *nodes = (const Node *)args.nodes + grove.node;
        if (grove.nodes != 0) {
            __syncthreads();
            for (u32 at = threadIdx.x; at < grove.nodes; at += blockDim.x) {
                staged[at] = nodes[at];
            }
            __syncthreads();
            nodes = staged;
        }
        for (u64 row = first; row < args.rows; row += step) {
            add_grove<Node, Sum>(args, grove, nodes, (u32)row);
        }
    }
    if (args.flags & FOREST_ENDS) {
        for (u64 row = first; row < args.rows; row += step) {
            end_row<Sum>(args, (u32)row);
        }
    }
}

extern "C" __global__ void __launch_bounds__(FOREST_THREADS, 6) forest_compact_f32(ForestArgs args) {
    run_forest<CompactNode, float>(args);
}
extern "C" __global__ void __launch_bounds__(FOREST_THREADS, 6) forest_compact_f64(ForestArgs args) {
    run_forest<CompactNode, double>(args);
}
extern "C" __global__ void __launch_bounds__(FOREST_THREADS, 6) forest_general_f32(ForestArgs args) {
    run_forest<GeneralNode, float>(args);
}
extern "C" __global__ void __launch_bounds__(FOREST_THREADS, 6) forest_general_f64(ForestArgs args) {
    run_forest<GeneralNode, double>(args);
}
