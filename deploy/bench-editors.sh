#!/usr/bin/env bash
# Measures what editors wait for: from an edit to its reader, and to its acknowledgement, with 1, 10 and 100 editors on a
# document; Engram on its embedded log and on Apache Kafka, and beside it, in the same run, the servers that people use now.
# Prints a JSON line for each, and one for the memory of an idle connection.
#
#   bench-editors.sh PATH-OF-ENGRAM
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
engram=$(realpath "${1:?give the engram binary}")
folder=$(mktemp -d)
pid=
stop() { [[ -z $pid ]] || { kill "$pid" 2>/dev/null && wait "$pid" || true; }; pid=; }
trap 'stop; "$root/deploy/kafka/kafka.sh" wipe "$folder/kafka" >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT

cat > "$folder/engram.toml" <<'TOML'
[gateway]
messages_per_second = 100000
messages_burst = 100000
bytes_per_second = 100000000
connections_per_address_max = 100000
address_requests_per_second = 100000
address_requests_burst = 100000
TOML

# start NAME [ARGUMENTS]: `engram up` on a free port; sets pid and url.
start() {
    local log=$folder/$1.log
    "$engram" up --data "$folder/$1" --config "$folder/engram.toml" --http 127.0.0.1:0 "${@:2}" 2> "$log" &
    pid=$!
    until grep -q '^engram is up' "$log"; do
        kill -0 "$pid" 2>/dev/null || { cat "$log" >&2; exit 1; }
        sleep 0.1
    done
    url=ws://$(sed -n 's|^engram is up: http://\([^ ]*\).*|\1|p' "$log")/v1/documents
}

cd "$root/tests/clients/yjs"
# 100 edits a second in all.
sizes=("1 100" "10 10" "100 1")
measure() {
    local size clients rate
    for size in "${sizes[@]}"; do
        read -r clients rate <<< "$size"
        local flags=(--clients "$clients" --rate "$rate" --edits $((rate * 20)) --document "bench-$clients" --hearing 10)
        node bench.mjs "$@" "${flags[@]}" | tail -n 1 | sed "s/{/{\"log\":\"$log\",/"
    done
}

log=embedded
start embedded
measure --peer engram --url "$url"
node idle.mjs --url "$url" --pid "$pid" --connections 500
stop
log=kafka
start on-kafka --brokers "$("$root/deploy/kafka/kafka.sh" start "$folder/kafka")"
measure --peer engram --url "$url"
stop
log=none
for peer in y-websocket y-websocket-leveldb hocuspocus hocuspocus-files; do
    measure --peer "$peer"
done
