// The kernels' bodies on the host: what a grid does, row by row, for the test that compares them with the reference in Rust.
// Built as a shared object by `models/tests/devices` with -O1 -ffp-contract=off.
#include "forest.cuh"
#include "nearest.cuh"
#include "network.cuh"
#include "series.cuh"
#include "validity.cuh"

#include <vector>

template <class Node, class Sum>
static void run_forest(const ForestArgs &args) {
    for (u32 row = 0; (args.flags & FOREST_STARTS) && row < args.rows; row++) {
        start_row<Sum>(args, row);
    }
    for (u32 number = 0; number < args.grove_count; number++) {
        Grove grove = args.groves[args.grove_first + number];
        const Node *nodes = (const Node *)args.nodes + grove.node;
        // A copy, as in shared memory, so that an index beyond the grove would show.
        std::vector<Node> staged(nodes, nodes + grove.nodes);
        for (u32 row = 0; row < args.rows; row++) {
            add_grove<Node, Sum>(args, grove, grove.nodes != 0 ? staged.data() : nodes, row);
        }
    }
    for (u32 row = 0; (args.flags & FOREST_ENDS) && row < args.rows; row++) {
        end_row<Sum>(args, row);
    }
}

extern "C" void forest_compact_f32(const ForestArgs *args) { run_forest<CompactNode, float>(*args); }
extern "C" void forest_compact_f64(const ForestArgs *args) { run_forest<CompactNode, double>(*args); }
extern "C" void forest_general_f32(const ForestArgs *args) { run_forest<GeneralNode, float>(*args); }
extern "C" void forest_general_f64(const ForestArgs *args) { run_forest<GeneralNode, double>(*args); }

extern "C" void network_dense(const DenseArgs *args) {
    for (u32 row = 0; row < args->rows; row++) {
        for (u32 first = 0; first < args->outputs; first += DENSE_OUTPUTS) {
            dense(*args, row, first);
        }
    }
}

extern "C" void network_scale(const DenseArgs *args) {
    for (u32 row = 0; row < args->rows; row++) {
        for (u32 column = 0; column < args->inputs; column++) {
            scale(*args, row, column);
        }
    }
}

extern "C" void network_activation(const DenseArgs *args) {
    for (u32 row = 0; row < args->rows; row++) {
        for (u32 column = 0; column < args->inputs; column++) {
            activation(*args, row, column);
        }
    }
}

extern "C" void validity_expand(const ValidityArgs *args) {
    for (u32 row = 0; row < args->rows; row++) {
        for (u32 column = 0; column < args->columns_count; column++) {
            expand(*args, row, column);
        }
    }
}

static float dot_of(const float *a, const float *b, u32 width) {
    float sums[LANES];
    for (u32 lane = 0; lane < LANES; lane++) {
        sums[lane] = partial_sum(a, b, width, lane);
    }
    for (u32 distance = LANES / 2; distance > 0; distance /= 2) {
        for (u32 lane = 0; lane < distance; lane++) {
            sums[lane] = add(sums[lane], sums[lane + distance]);
        }
    }
    return sums[0];
}

extern "C" void nearest_lengths(const LengthsArgs *args) {
    for (u32 row = 0; row < args->rows; row++) {
        const float *values = args->matrix + (u64)row * args->width;
        args->lengths[row] = root(dot_of(values, values, args->width));
    }
}

extern "C" void nearest_keys(const NearestArgs *args) {
    for (u32 number = 0; number < args->queries_count; number++) {
        const float *query = args->queries + (u64)number * args->width;
        float length = root(dot_of(query, query, args->width));
        for (u32 row = 0; row < args->rows; row++) {
            float dot = dot_of(query, args->matrix + (u64)row * args->width, args->width);
            float similarity = cosine(dot, length, args->lengths[row]);
            args->keys[(u64)number * args->rows + row] = key_of(similarity, args->row_first + row);
        }
    }
}

extern "C" void nearest_top(const TopArgs *args) {
    for (u32 query = 0; query < args->queries_count; query++) {
        for (u32 run = 0; run < args->runs; run++) {
            std::vector<u64> keys(SORT_KEYS, NO_KEY);
            for (u64 at = 0; at < SORT_KEYS && (u64)run * SORT_KEYS + at < args->count; at++) {
                keys[at] = args->keys[query * args->count + (u64)run * SORT_KEYS + at];
            }
            for (u32 size = 2; size <= SORT_KEYS; size *= 2) {
                for (u32 step = size / 2; step > 0; step /= 2) {
                    for (u32 pair = 0; pair < SORT_KEYS / 2; pair++) {
                        exchange(keys.data(), pair, size, step);
                    }
                }
            }
            std::memcpy(args->least + ((u64)query * args->runs + run) * args->k, keys.data(), args->k * sizeof(u64));
        }
    }
}

extern "C" void series_robust_z(const SeriesArgs *args) {
    for (u32 series = 0; series < args->series; series++) {
        robust_z(*args, series);
    }
}

extern "C" void series_weighted_mean(const SeriesArgs *args) {
    for (u32 series = 0; series < args->series; series++) {
        weighted_mean(*args, series);
    }
}

extern "C" void series_holt_winters(const SeriesArgs *args) {
    for (u32 series = 0; series < args->series; series++) {
        holt_winters(*args, series);
    }
}

extern "C" float exponential_of(float x) { return exponential(x); }
extern "C" float activate_of(float x, u32 kind, float alpha) { return activate(x, kind, alpha); }

// For the test that the structures are laid out as Rust has them.
extern "C" u64 size_of_args(u32 which) {
    const u64 sizes[] = {sizeof(ForestArgs), sizeof(DenseArgs), sizeof(ValidityArgs),
                         sizeof(LengthsArgs), sizeof(NearestArgs), sizeof(TopArgs), sizeof(SeriesArgs)};
    return sizes[which];
}
