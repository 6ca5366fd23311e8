#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer, each for so many seconds, with the stable compiler: its passes count what code is reached,
# which is what cargo-fuzz asks a nightly one for. Without AddressSanitizer, which only a nightly has; there is no unsafe code here.
# Inputs that were found are kept in the target folder, and gone on from.
#
#   fuzz/run.sh [SECONDS [TARGET..]]
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
targets=("${@:2}")
(( ${#targets[@]} )) || targets=(protocol awareness outline documents)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOME/.cache/engram/target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
# With --target the flags are not for build scripts, which have no libFuzzer.
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions $coverage" cargo build --release --locked --target "$host"
for target in "${targets[@]}"; do
    corpus=$CARGO_TARGET_DIR/corpus/$target
    mkdir -p "$corpus"
    log=$CARGO_TARGET_DIR/$target.log
    if ! "$CARGO_TARGET_DIR/$host/release/$target" "$corpus" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -artifact_prefix="$CARGO_TARGET_DIR/$target-" > "$log" 2>&1; then
        tail -n 40 "$log" >&2
        echo "fuzz target $target found something: the input is named above; run the target on it to see it again" >&2
        exit 1
    fi
    echo "$target: $(tail -n 1 "$log"), $(sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1) places reached"
done
