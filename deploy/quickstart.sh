#!/usr/bin/env bash
# A first look without a broker: the history of a git repository becomes events in an embedded log, the services run
# over them until nothing is left to do, and the last activity windows are shown. Nothing keeps running afterwards.
#
#   quickstart.sh ENGRAM [REPOSITORY] [DATA]     ENGRAM: the binary; by default this repository, and ./engram-data
set -euo pipefail

engram=${1:?usage: quickstart.sh ENGRAM [REPOSITORY] [DATA]}
repository=${2:-.}
data=${3:-./engram-data}

if ! git -C "$repository" rev-parse --verify --quiet HEAD >/dev/null; then
    echo "quickstart.sh: $repository is not a git repository with at least one commit" >&2
    exit 1
fi

echo "== events: engram ingest git $repository --data $data"
"$engram" ingest git "$repository" --data "$data"
echo
echo "== services: engram up --data $data --exit-when-idle 3"
"$engram" up --data "$data" --exit-when-idle 3
echo
echo "== the last windows: engram consume activity.windows --data $data --from beginning --last 15 --format table"
"$engram" consume activity.windows --data "$data" --from beginning --last 15 --format table
cat <<NEXT

Everything is in $data. What to do next ($engram):
  engram up --data $data               keep the services running; schemas, metrics and health at http://127.0.0.1:8099
  engram topics --data $data           what there is
  engram state list --data $data       the state behind it
  make kafka                           the same on Apache Kafka: engram up --brokers HOST:PORT
NEXT
