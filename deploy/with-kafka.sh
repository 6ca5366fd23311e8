#!/usr/bin/env bash
# Runs a command with an Apache Kafka of its own, whose address it finds in ENGRAM_BROKERS; nothing of it is left behind.
#
#   with-kafka.sh COMMAND ARGUMENT..
set -euo pipefail

(( $# > 0 )) || { echo "usage: with-kafka.sh COMMAND ARGUMENT.." >&2; exit 2; }
kafka=$(dirname "${BASH_SOURCE[0]}")/kafka/kafka.sh
dir=$(mktemp -d)
trap '"$kafka" wipe "$dir"' EXIT
# What Kafka's own start script gives it; with half of that, full collections show in the tail of latencies.
export KAFKA_HEAP=${KAFKA_HEAP:-1g}
ENGRAM_BROKERS=$("$kafka" start "$dir" --parent $$ --temporary)
export ENGRAM_BROKERS
"$@"
