// The kernels whole, on the host: blocks one after the other, a block's threads as coroutines that take turns at every barrier.
// Slow, and in an order that a GPU would not take; what it shows is the loops, the staging and the sums across threads.
// Built as a shared object by `models/tests/devices` with -O1 -ffp-contract=off.
#include "forest.cuh"
#include "nearest.cuh"
#include "network.cuh"
#include "series.cuh"
#include "validity.cuh"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

struct Index {
    u32 x, y;
};
struct uint4 {
    u32 x, y, z, w;
};

static Index threadIdx, blockIdx, blockDim, gridDim;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

static const size_t STACK = 64 << 10;
static const u32 THREADS_MAX = 1024;
// Contexts begin a coroutine; from then on jumps go to and fro, since those call no kernel of an operating system.
static jmp_buf scheduler;
static jmp_buf threads[THREADS_MAX];
static bool is_begun[THREADS_MAX];
static std::vector<char> stacks(STACK * THREADS_MAX);
static bool is_done[THREADS_MAX];
static float lanes[THREADS_MAX];
static std::function<void()> kernel;

// Every thread comes to it before any goes on: the scheduler resumes them in turn.
__attribute__((noinline)) static void __syncthreads() {
    if (_setjmp(threads[threadIdx.x]) == 0) {
        _longjmp(scheduler, 1);
    }
}

static float __shfl_down_sync(u32, float value, u32 distance, u32 width) {
    u32 lane = threadIdx.x;
    lanes[lane] = value;
    __syncthreads();
    float other = lane % width + distance < width ? lanes[lane + distance] : value;
    __syncthreads();
    return other;
}

#include "forest.cu"
#include "nearest.cu"
#include "network.cu"
#include "series.cu"
#include "validity.cu"

// Block after block.
static void run_thread() {
    while (true) {
        kernel();
        is_done[threadIdx.x] = true;
        __syncthreads();
    }
}

__attribute__((noinline)) static void resume(u32 thread) {
    if (_setjmp(scheduler) != 0) {
        return;
    }
    threadIdx = {thread, 0};
    if (is_begun[thread]) {
        _longjmp(threads[thread], 1);
    }
    is_begun[thread] = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks.data() + STACK * thread;
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, run_thread, 0);
    setcontext(&context);
}

static void run_block() {
    for (u32 thread = 0; thread < blockDim.x; thread++) {
        is_done[thread] = false;
    }
    for (u32 done = 0; done < blockDim.x;) {
        done = 0;
        for (u32 thread = 0; thread < blockDim.x; thread++) {
            resume(thread);
            done += is_done[thread];
        }
        if (done != 0 && done != blockDim.x) {
            std::fprintf(stderr, "not all threads of a block come to a barrier\n");
            std::abort();
        }
    }
}

template <class Args>
static std::function<void()> bind(void (*run)(Args), const void *args) {
    return [=] { run(*(const Args *)args); };
}

// Runs a kernel. Not for two threads at a time.
extern "C" int emulate(const char *name, u32 grid_x, u32 grid_y, u32 block, u32 shared, const void *args) {
    const std::map<std::string, std::function<void()>> kernels = {
        {"forest_compact_f32", bind(forest_compact_f32, args)},
        {"forest_compact_f64", bind(forest_compact_f64, args)},
        {"forest_general_f32", bind(forest_general_f32, args)},
        {"forest_general_f64", bind(forest_general_f64, args)},
        {"nearest_lengths", bind(nearest_lengths, args)},
        {"nearest_keys", bind(nearest_keys, args)},
        {"nearest_top", bind(nearest_top, args)},
        {"network_dense", bind(network_dense, args)},
        {"network_scale", bind(network_scale, args)},
        {"network_activation", bind(network_activation, args)},
        {"series_robust_z", bind(series_robust_z, args)},
        {"series_weighted_mean", bind(series_weighted_mean, args)},
        {"series_holt_winters", bind(series_holt_winters, args)},
        {"validity_expand", bind(validity_expand, args)},
    };
    auto found = kernels.find(name);
    if (found == kernels.end() || block > THREADS_MAX || shared > 16 << 10 || grid_x == 0 || grid_y == 0 || grid_y > 65535) {
        return 1;
    }
    kernel = found->second;
    blockDim = {block, 1};
    gridDim = {grid_x, grid_y};
    for (u32 y = 0; y < grid_y; y++) {
        for (u32 x = 0; x < grid_x; x++) {
            blockIdx = {x, y};
            run_block();
        }
    }
    return 0;
}
