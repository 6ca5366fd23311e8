// One thread has one series of the batch.
#include "series.cuh"

extern "C" __global__ void __launch_bounds__(128, 4) series_robust_z(SeriesArgs args) {
    u64 series = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (series < args.series) {
        robust_z(args, (u32)series);
    }
}

extern "C" __global__ void __launch_bounds__(128, 4) series_weighted_mean(SeriesArgs args) {
    u64 series = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (series < args.series) {
        weighted_mean(args, (u32)series);
    }
}

extern "C" __global__ void __launch_bounds__(128, 4) series_holt_winters(SeriesArgs args) {
    u64 series = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (series < args.series) {
        holt_winters(args, (u32)series);
    }
}
