// A row's way through a forest. One thread has one row at a time; it takes the trees in their order and adds in the forest's
// precision, so that its margins are those of `Forest::margins`, bit for bit.
//
// The memory that is laid out by `models/src/gpu/forest.rs`:
//
//   groves -> trees -> nodes -> leaves
//
// A grove is a run of trees whose nodes fit shared memory together (or one tree that does not fit). Between groves a row's
// margins are stored and loaded again; no sum is reordered.
#pragma once
#include "portable.cuh"

// Which values are missing: `forest::Missing`.
static constexpr u32 MISSING_NAN = 0;
static constexpr u32 MISSING_NAN_OR_ZERO = 1;
static constexpr u32 MISSING_NAN_IS_ZERO = 2;
// What is asked: `forest::Test`.
static constexpr u32 TEST_LESS = 0;
static constexpr u32 TEST_EQUAL = 1;
static constexpr u32 TEST_IN = 2;
// Which category a value is that is not whole: `forest::Category`.
static constexpr u32 CATEGORY_FLOOR = 0;
static constexpr u32 CATEGORY_TRUNCATED = 1;
static constexpr u32 CATEGORY_WHOLE = 2;
// No tree's output.
static constexpr u32 NO_OUTPUT = 0xffffffffu;
// Bits of `ForestArgs::flags`.
static constexpr u32 FOREST_STARTS = 1;
static constexpr u32 FOREST_ENDS = 2;
static constexpr u32 FOREST_BASE_LAST = 4;

static constexpr float ZERO_MAX = 1e-35f;

// x < threshold, of a forest whose features are all missing in one way. `packed`: 31 is a leaf, 30 missing goes left, 29-18 the
// feature, 17-0 the left child, whose right sibling follows it. A leaf's `value` is its value if that is a single f32, else its
// number.
struct alignas(8) CompactNode {
    u32 value;
    u32 packed;
};

// Any node. `value`: the threshold, where the set's words start (the word before them is their count), or the leaf's number.
// `flags`: 0-1 the test, 2-3 missing, 4 missing goes left, 5 is a leaf, 6-7 the category.
struct alignas(16) GeneralNode {
    u32 value;
    u32 feature;
    u32 left;
    u32 flags;
};

// `width`: 0 if its leaves have one value, for `output`; otherwise the values of a leaf, one an output.
struct alignas(16) ForestTree {
    u32 node;
    u32 leaf;
    u32 output;
    u32 width;
};

// `nodes`: how many there are to stage, 0 if they do not fit.
struct alignas(16) Grove {
    u32 tree;
    u32 trees;
    u32 node;
    u32 nodes;
};

struct ForestArgs {
    // Column by column, `stride` values apart.
    const float *columns;
    // Output by output, `stride` values apart, of the forest's precision.
    void *margins;
    const void *nodes;
    const ForestTree *trees;
    const Grove *groves;
    const void *leaves;
    const u32 *sets;
    // In f64, whatever the forest's precision: see `end_row`.
    const double *base;
    u64 stride;
    double divisor;
    u32 rows;
    u32 grove_first;
    u32 grove_count;
    u32 outputs;
    u32 missing;
    u32 flags;
};

// Whether a value is a member of the set at `set`, whose count of words stands before it.
ENGRAM_INLINE bool is_member(float x, u32 category, const u32 *set) {
    float whole = category == CATEGORY_FLOOR ? below(x) : cut(x);
    if (category == CATEGORY_WHOLE && whole != x) {
        return false;
    }
    if (!(whole >= 0.0f && whole < mul((float)set[-1], 32.0f))) {
        return false;
    }
    // A set has 2^24 words at most, so that the product above is exact and this is within it.
    u32 number = (u32)whole;
    return (set[number / 32] >> (number % 32) & 1u) != 0;
}

// Whether a value is missing. Where NaN counts as zero it becomes that.
ENGRAM_INLINE bool is_missing(float &x, u32 missing) {
    bool is_nan = x != x;
    if (missing != MISSING_NAN_IS_ZERO) {
        if (is_nan || (missing == MISSING_NAN_OR_ZERO && magnitude(x) <= ZERO_MAX)) {
            return true;
        }
    } else if (is_nan) {
        x = 0.0f;
    }
    return false;
}

ENGRAM_INLINE bool is_leaf(const CompactNode &node) { return node.packed >> 31 != 0; }
ENGRAM_INLINE bool is_leaf(const GeneralNode &node) { return (node.flags >> 5 & 1u) != 0; }

ENGRAM_INLINE u32 next(const CompactNode &node, const float *row, u64 stride, u32 missing, const u32 *) {
    float x = row[(node.packed >> 18 & 0xfffu) * stride];
    bool left = is_missing(x, missing) ? (node.packed >> 30 & 1u) != 0 : x < as_float(node.value);
    return (node.packed & 0x3ffffu) + (left ? 0u : 1u);
}

ENGRAM_INLINE u32 next(const GeneralNode &node, const float *row, u64 stride, u32, const u32 *sets) {
    float x = row[node.feature * stride];
    u32 test = node.flags & 3u;
    bool left;
    if (is_missing(x, node.flags >> 2 & 3u)) {
        left = (node.flags >> 4 & 1u) != 0;
    } else if (test == TEST_IN) {
        left = is_member(x, node.flags >> 6 & 3u, sets + node.value);
    } else {
        left = test == TEST_LESS ? x < as_float(node.value) : x == as_float(node.value);
    }
    return node.left + (left ? 0u : 1u);
}

template <class Node>
ENGRAM_INLINE Node leaf_of(const Node *nodes, const float *row, u64 stride, u32 missing, const u32 *sets) {
    Node node = nodes[0];
    while (!is_leaf(node)) {
        node = nodes[next(node, row, stride, missing, sets)];
    }
    return node;
}

ENGRAM_INLINE float single(const CompactNode &leaf, const ForestTree &, const float *) { return as_float(leaf.value); }
ENGRAM_INLINE double single(const CompactNode &leaf, const ForestTree &tree, const double *leaves) {
    return leaves[tree.leaf + leaf.value];
}
template <class Sum>
ENGRAM_INLINE Sum single(const GeneralNode &leaf, const ForestTree &tree, const Sum *leaves) {
    return leaves[tree.leaf + leaf.value];
}

// What a row's margins are before the first tree.
template <class Sum>
ENGRAM_INLINE void start_row(const ForestArgs &args, u32 row) {
    Sum *margins = (Sum *)args.margins + row;
    for (u32 output = 0; output < args.outputs; output++) {
        margins[output * args.stride] = args.flags & FOREST_BASE_LAST ? (Sum)0 : (Sum)args.base[output];
    }
}

// Adds a grove's trees to a row's margins. `nodes` are the grove's.
template <class Node, class Sum>
ENGRAM_INLINE void add_grove(const ForestArgs &args, const Grove &grove, const Node *nodes, u32 row) {
    const float *columns = args.columns + row;
    const Sum *leaves = (const Sum *)args.leaves;
    Sum *margins = (Sum *)args.margins + row;
    u32 output = NO_OUTPUT;
    Sum sum = 0;
    for (u32 number = 0; number < grove.trees; number++) {
        ForestTree tree = args.trees[grove.tree + number];
        Node leaf = leaf_of(nodes + (tree.node - grove.node), columns, args.stride, args.missing, args.sets);
        if (tree.output != output) {
            if (output != NO_OUTPUT) {
                margins[output * args.stride] = sum;
            }
            output = tree.output;
            if (output != NO_OUTPUT) {
                sum = margins[output * args.stride];
            }
        }
        if (tree.width == 0) {
            sum = add(sum, single(leaf, tree, leaves));
        } else {
            const Sum *values = leaves + tree.leaf + (u64)leaf.value * tree.width;
            for (u32 of = 0; of < tree.width; of++) {
                margins[of * args.stride] = add(margins[of * args.stride], values[of]);
            }
        }
    }
    if (output != NO_OUTPUT) {
        margins[output * args.stride] = sum;
    }
}

// What becomes of a row's margins after the last tree. A base that comes last is added in f64; then the margin is rounded.
template <class Sum>
ENGRAM_INLINE void end_row(const ForestArgs &args, u32 row) {
    Sum *margins = (Sum *)args.margins + row;
    for (u32 output = 0; output < args.outputs; output++) {
        Sum sum = margins[output * args.stride];
        if (args.flags & FOREST_BASE_LAST) {
            sum = (Sum)add((double)div(sum, (Sum)args.divisor), args.base[output]);
        }
        margins[output * args.stride] = canonical(sum);
    }
}
