// Arrow's validity bitmaps, expanded to NaN where a bit is 0: models know what is missing by NaN alone.
#pragma once
#include "portable.cuh"

// A column without nulls.
static constexpr u32 NO_BITMAP = 0xffffffffu;

struct ValidityArgs {
    float *columns;
    // Words of all bitmaps.
    const u32 *words;
    // Where each column's bitmap starts, in bits; `NO_BITMAP` if it has none.
    const u32 *starts;
    u64 stride;
    u32 rows;
    u32 columns_count;
};

ENGRAM_INLINE void expand(const ValidityArgs &args, u32 row, u32 column) {
    u32 start = args.starts[column];
    if (start != NO_BITMAP) {
        u64 bit = (u64)start + row;
        if ((args.words[bit / 32] >> (bit % 32) & 1u) == 0) {
            args.columns[column * args.stride + row] = as_float(0x7fc00000u);
        }
    }
}
