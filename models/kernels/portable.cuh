// What the kernels' bodies are written in, so that NVRTC compiles them for a GPU and a C++ compiler for the host, where a
// test compares them with the reference in Rust, bit for bit.
//
// INVARIANT: every operation on floats rounds once, to nearest: nothing is fused and nothing reassociated. On the device the
// intrinsics say so; on the host `-ffp-contract=off` does.
#pragma once

#ifdef __CUDACC__
#define ENGRAM_INLINE __device__ __forceinline__
// Shared memory whose size the launch says.
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
typedef unsigned int u32;
typedef unsigned long long u64;

ENGRAM_INLINE float add(float a, float b) { return __fadd_rn(a, b); }
ENGRAM_INLINE float sub(float a, float b) { return __fsub_rn(a, b); }
ENGRAM_INLINE float mul(float a, float b) { return __fmul_rn(a, b); }
ENGRAM_INLINE float div(float a, float b) { return __fdiv_rn(a, b); }
ENGRAM_INLINE float root(float a) { return __fsqrt_rn(a); }
ENGRAM_INLINE double add(double a, double b) { return __dadd_rn(a, b); }
ENGRAM_INLINE double sub(double a, double b) { return __dsub_rn(a, b); }
ENGRAM_INLINE double mul(double a, double b) { return __dmul_rn(a, b); }
ENGRAM_INLINE double div(double a, double b) { return __ddiv_rn(a, b); }
ENGRAM_INLINE double root(double a) { return __dsqrt_rn(a); }
ENGRAM_INLINE float as_float(u32 bits) { return __uint_as_float(bits); }
ENGRAM_INLINE u32 as_bits(float value) { return __float_as_uint(value); }
ENGRAM_INLINE double as_double(u64 bits) { return __longlong_as_double((long long)bits); }
ENGRAM_INLINE float magnitude(float a) { return fabsf(a); }
ENGRAM_INLINE double magnitude(double a) { return fabs(a); }
ENGRAM_INLINE float cut(float a) { return truncf(a); }
ENGRAM_INLINE float below(float a) { return floorf(a); }
#else
#include <cmath>
#include <cstdint>
#include <cstring>
#define ENGRAM_INLINE static inline
#define DYNAMIC_SHARED(type, name) static type name[(16 << 10) / sizeof(type)]
typedef uint32_t u32;
typedef uint64_t u64;

ENGRAM_INLINE float add(float a, float b) { return a + b; }
ENGRAM_INLINE float sub(float a, float b) { return a - b; }
ENGRAM_INLINE float mul(float a, float b) { return a * b; }
ENGRAM_INLINE float div(float a, float b) { return a / b; }
ENGRAM_INLINE float root(float a) { return std::sqrt(a); }
ENGRAM_INLINE double add(double a, double b) { return a + b; }
ENGRAM_INLINE double sub(double a, double b) { return a - b; }
ENGRAM_INLINE double mul(double a, double b) { return a * b; }
ENGRAM_INLINE double div(double a, double b) { return a / b; }
ENGRAM_INLINE double root(double a) { return std::sqrt(a); }
ENGRAM_INLINE float as_float(u32 bits) { float value; std::memcpy(&value, &bits, sizeof value); return value; }
ENGRAM_INLINE u32 as_bits(float value) { u32 bits; std::memcpy(&bits, &value, sizeof bits); return bits; }
ENGRAM_INLINE double as_double(u64 bits) { double value; std::memcpy(&value, &bits, sizeof value); return value; }
ENGRAM_INLINE float magnitude(float a) { return std::fabs(a); }
ENGRAM_INLINE double magnitude(double a) { return std::fabs(a); }
ENGRAM_INLINE float cut(float a) { return std::trunc(a); }
ENGRAM_INLINE float below(float a) { return std::floor(a); }
#endif

// Which NaN an operation gives differs between processors; what leaves a kernel has one.
ENGRAM_INLINE float canonical(float a) { return a != a ? as_float(0x7fc00000u) : a; }
ENGRAM_INLINE double canonical(double a) { return a != a ? as_double(0x7ff8000000000000ull) : a; }
