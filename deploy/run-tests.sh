#!/usr/bin/env bash
# Runs every test of the workspace, doc tests first, and ends with one line: `N passed, N failed, N skipped`.
# Exits with 1 when a test failed or did not compile. Arguments go to `cargo test`, e.g. a test's name.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=no
cargo test --workspace --release --doc --no-fail-fast "$@" 2>&1 | tee -a "$log" || failed=yes
cargo test --workspace --release --lib --bins --tests --no-fail-fast "$@" 2>&1 | tee -a "$log" || failed=yes

awk '/^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) skipped += $(i - 1)
        }
    }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$log"
[[ $failed == no ]]
