// Detectors that keep a state for each series. One thread has a series and takes its values of the batch in their order;
// each value is scored by the state before it, and then changes it.
//
// INVARIANT: all arithmetic is in f64, each operation rounded once. A NaN is scored NaN and changes nothing.
#pragma once
#include "portable.cuh"

// Values that a series' window may have.
static constexpr u32 WINDOW_MAX = 4096;
// 1 / the normal distribution's third quartile: makes the median absolute deviation an estimate of sigma.
static constexpr double MAD_SCALE = 1.4826022185056018;

// A batch: values sorted by series. Series i of it has the values starts[i] .. starts[i + 1] and the state `slots[i]`; no two
// have one slot.
struct SeriesArgs {
    const float *values;
    const u32 *starts;
    const u32 *slots;
    double *scores;
    // See each detector.
    void *state;
    u32 *counts;
    u32 series;
    // Values of a robust z-score's window; length of Holt and Winters' season.
    u32 window;
    // Values that a series must have had before it is scored; until then its score is 0. At most a robust
    // z-score's window.
    u32 warm_up;
    u32 unused;
    double alpha;
    double beta;
    double gamma;
    // Deviations below it count as it: a constant series has none.
    double deviation_min;
};

ENGRAM_INLINE double larger(double a, double b) { return a > b ? a : b; }

// How far x is from what was expected, in deviations.
ENGRAM_INLINE double deviations(double error, double deviation, double deviation_min) {
    return canonical(div(error, larger(deviation, deviation_min)));
}

// The mean of the two middle values of `count` ascending ones.
ENGRAM_INLINE double median_of(const float *sorted, u32 count) {
    return mul(add((double)sorted[(count - 1) / 2], (double)sorted[count / 2]), 0.5);
}

// The median of |value - median|: from the middle outward the deviations of both sides ascend, so they are merged.
ENGRAM_INLINE double deviation_of(const float *sorted, u32 count, double median) {
    u32 right = 0;
    while (right < count && (double)sorted[right] < median) {
        right++;
    }
    u32 left = right;
    double before = 0.0;
    double at = 0.0;
    for (u32 taken = 0; taken <= count / 2; taken++) {
        before = at;
        bool is_left = left > 0;
        double of_left = is_left ? sub(median, (double)sorted[left - 1]) : 0.0;
        if (is_left && (right == count || of_left <= sub((double)sorted[right], median))) {
            at = of_left;
            left--;
        } else {
            at = sub((double)sorted[right], median);
            right++;
        }
    }
    return count % 2 == 1 ? at : mul(add(before, at), 0.5);
}

// Puts `value` among ascending ones, in place of `oldest` if there is one.
ENGRAM_INLINE void replace(float *sorted, u32 count, bool has_oldest, float oldest, float value) {
    u32 at = count;
    if (has_oldest) {
        at = 0;
        while (sorted[at] != oldest) {
            at++;
        }
        while (at + 1 < count && sorted[at + 1] < value) {
            sorted[at] = sorted[at + 1];
            at++;
        }
    }
    while (at > 0 && sorted[at - 1] > value) {
        sorted[at] = sorted[at - 1];
        at--;
    }
    sorted[at] = value;
}

// (x - median) / (1.4826 MAD) of the last `window` values. State: `window` values as they came, then as they ascend, f32;
// count: of all values, kept between `window` and 2 `window` once it is that large.
ENGRAM_INLINE void robust_z(const SeriesArgs &args, u32 series) {
    u32 slot = args.slots[series];
    float *ring = (float *)args.state + (u64)slot * 2 * args.window;
    float *sorted = ring + args.window;
    u32 seen = args.counts[slot];
    for (u32 at = args.starts[series]; at < args.starts[series + 1]; at++) {
        float x = args.values[at];
        if (x != x) {
            args.scores[at] = canonical((double)x);
            continue;
        }
        u32 count = seen < args.window ? seen : args.window;
        double score = 0.0;
        if (count != 0 && count >= args.warm_up) {
            double median = median_of(sorted, count);
            double deviation = mul(MAD_SCALE, deviation_of(sorted, count, median));
            score = deviations(sub((double)x, median), deviation, args.deviation_min);
        }
        args.scores[at] = score;
        u32 place = seen % args.window;
        bool is_full = seen >= args.window;
        replace(sorted, count, is_full, is_full ? ring[place] : 0.0f, x);
        ring[place] = x;
        seen = seen + 1 == 2 * args.window ? args.window : seen + 1;
    }
    args.counts[slot] = seen;
}

// Exponentially weighted mean and variance (Finch, "Incremental calculation of weighted mean and variance", 2009). State: mean,
// variance.
ENGRAM_INLINE void weighted_mean(const SeriesArgs &args, u32 series) {
    u32 slot = args.slots[series];
    double *state = (double *)args.state + (u64)slot * 2;
    double mean = state[0];
    double variance = state[1];
    u32 seen = args.counts[slot];
    for (u32 at = args.starts[series]; at < args.starts[series + 1]; at++) {
        double x = (double)args.values[at];
        if (x != x) {
            args.scores[at] = canonical(x);
            continue;
        }
        double error = seen == 0 ? 0.0 : sub(x, mean);
        bool is_scored = seen != 0 && seen >= args.warm_up;
        args.scores[at] = is_scored ? deviations(error, root(variance), args.deviation_min) : 0.0;
        if (seen == 0) {
            mean = x;
        } else {
            double step = mul(args.alpha, error);
            mean = add(mean, step);
            variance = mul(sub(1.0, args.alpha), add(variance, mul(error, step)));
        }
        seen = seen == 0xffffffffu ? seen : seen + 1;
    }
    state[0] = mean;
    state[1] = variance;
    args.counts[slot] = seen;
}

// Holt and Winters' additive method (Winters, "Forecasting sales by exponentially weighted moving averages", 1960): the error of
// the forecast in deviations of such errors. State: level, trend, variance of the error, then the season; the first season is
// taken as it comes, so that its mean is the level. Count: of all values; once they are enough it goes round whole seasons.
ENGRAM_INLINE void holt_winters(const SeriesArgs &args, u32 series) {
    u32 slot = args.slots[series];
    u32 period = args.window;
    u32 count_end = ((args.warm_up > period ? args.warm_up : period) / period + 2) * period;
    double *state = (double *)args.state + (u64)slot * (3 + period);
    double *season = state + 3;
    double level = state[0];
    double trend = state[1];
    double variance = state[2];
    u32 seen = args.counts[slot];
    for (u32 at = args.starts[series]; at < args.starts[series + 1]; at++) {
        double x = (double)args.values[at];
        if (x != x) {
            args.scores[at] = canonical(x);
            continue;
        }
        u32 place = seen % period;
        if (seen < period) {
            args.scores[at] = 0.0;
            season[place] = x;
            level = add(level, x);
            if (seen + 1 == period) {
                level = div(level, (double)period);
                for (u32 of = 0; of < period; of++) {
                    season[of] = sub(season[of], level);
                }
            }
            seen++;
            continue;
        }
        double carried = add(level, trend);
        double seasonal = season[place];
        double error = sub(x, add(carried, seasonal));
        args.scores[at] = seen < args.warm_up ? 0.0 : deviations(error, root(variance), args.deviation_min);
        double risen = add(mul(args.alpha, sub(x, seasonal)), mul(sub(1.0, args.alpha), carried));
        trend = add(mul(args.beta, sub(risen, level)), mul(sub(1.0, args.beta), trend));
        season[place] = add(mul(args.gamma, sub(x, risen)), mul(sub(1.0, args.gamma), seasonal));
        variance = add(mul(args.alpha, mul(error, error)), mul(sub(1.0, args.alpha), variance));
        level = risen;
        seen = seen + 1 == count_end ? count_end - period : seen + 1;
    }
    state[0] = level;
    state[1] = trend;
    state[2] = variance;
    args.counts[slot] = seen;
}
