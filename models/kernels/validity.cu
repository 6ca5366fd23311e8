// x of the grid is rows, y is columns.
#include "validity.cuh"

extern "C" __global__ void __launch_bounds__(256) validity_expand(ValidityArgs args) {
    u64 row = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row < args.rows) {
        for (u32 column = blockIdx.y; column < args.columns_count; column += gridDim.y) {
            expand(args, (u32)row, column);
        }
    }
}
