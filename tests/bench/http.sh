#!/usr/bin/env bash
# http.sh MODEL [RATIO]: requests a second and latency of moefied on a converted SST-2 model
# beside infinity_emb on its source, 64 connections of one sentence a request, server and
# load on the same cores, in turn. Needs wrk, and infinity_emb with its ONNX engine:
#
#   python3 -m venv /tmp/infinity && /tmp/infinity/bin/pip install -r tests/bench/infinity.txt
#   INFINITY=/tmp/infinity/bin/infinity_emb INFINITY_MODEL=DIR tests/bench/http.sh MODEL 0.25
#
# INFINITY_MODEL: the source checkpoint's files with onnx/model.onnx beside them (peers.py
# leaves one in its --cache). SECONDS_EACH (15) and ROUNDS (2) in the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=$1 ratio=${2:-0.25} seconds=${SECONDS_EACH:-15} rounds=${ROUNDS:-2}
scratch=$(mktemp -d)
pids=()
stop() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$scratch"; }
trap stop EXIT

wait_for() { # file, what it will hold
    for _ in $(seq 600); do grep -q "$2" "$1" 2>/dev/null && return; sleep 0.1; done
    echo "http.sh: no '$2' in time:" >&2; tail -5 "$1" >&2; exit 1
}

build/release/moefied --model "m=$model" --listen 127.0.0.1:0 >"$scratch/moefied" 2>&1 &
pids+=($!)
wait_for "$scratch/moefied" "listening on http"
ours=$(grep -o 'http://[0-9.:]*' "$scratch/moefied" | head -1)
if [ -n "${INFINITY:-}" ]; then
    HF_HUB_OFFLINE=1 "$INFINITY" v2 --model-id "$INFINITY_MODEL" --engine optimum --device cpu --no-model-warmup \
        --host 127.0.0.1 --port 7997 >"$scratch/infinity" 2>&1 &
    pids+=($!)
    wait_for "$scratch/infinity" "Uvicorn running"
fi

show() { awk -v who="$1" '/50%/ {p50=$2} /99%/ {p99=$2} /Requests\/sec/ {rate=$2} /other than/ {bad=$NF}
    END {printf "%-24s %8.1f requests/s   p50 %9s   p99 %9s   not 200: %s\n", who, rate, p50, p99, bad}'; }
load() { # seconds, script, address
    wrk -t1 -c64 "-d${1}s" --latency -s "tests/bench/$2" "$3"
}

for round in $(seq 0 "$rounds"); do # round 0 warms up
    t=$seconds; [ "$round" -gt 0 ] || t=3
    RATIOS=$ratio load "$t" classify.lua "$ours" | show "moefied at $ratio" >"$scratch/line"
    [ "$round" -gt 0 ] && cat "$scratch/line"
    if [ -n "${INFINITY:-}" ]; then
        MODEL=$INFINITY_MODEL load "$t" infinity.lua http://127.0.0.1:7997 | show infinity_emb >"$scratch/line"
        [ "$round" -gt 0 ] && cat "$scratch/line"
    fi
done
exit 0
