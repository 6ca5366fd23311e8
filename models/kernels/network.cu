// The network's kernels: x of the grid is rows, y is outputs by eights, or columns.
#include "network.cuh"

extern "C" __global__ void __launch_bounds__(256) network_dense(DenseArgs args) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < args.rows) {
        for (u32 first = blockIdx.y * DENSE_OUTPUTS; first < args.outputs; first += gridDim.y * DENSE_OUTPUTS) {
            dense(args, (u32)row, first);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) network_scale(DenseArgs args) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < args.rows) {
        for (u32 column = blockIdx.y; column < args.inputs; column += gridDim.y) {
            scale(args, (u32)row, column);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) network_activation(DenseArgs args) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < args.rows) {
        for (u32 column = blockIdx.y; column < args.inputs; column += gridDim.y) {
            activation(args, (u32)row, column);
        }
    }
}
