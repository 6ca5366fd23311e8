#!/usr/bin/env bash
# Measures the CPU's scoring beside XGBoost, LightGBM, lleaves and ONNX Runtime. VENV names the Python environment, made if it
# is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV=${VENV:-models/benches/.venv}
if [ ! -e "$VENV/bin/python" ]; then
    python3 -m venv "$VENV"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check -r models/benches/requirements.txt
fi
bench=$(cargo bench -p engram-models --bench forest --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*forest-[^"]*\)".*/\1/p' | tail -1)
exec "$VENV/bin/python" models/benches/peers.py "$bench"
