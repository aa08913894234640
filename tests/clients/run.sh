#!/usr/bin/env bash
# Drives moefied with real clients from PyPI, in a virtual environment that is thrown away.
#   run.sh BUILD_DIR SCRATCH_DIR
# Exit code 77, a test that was skipped: there is no Python with venv, or no PyPI.
set -uo pipefail
cd "$(dirname "$0")/../.."
build=$1 scratch=$2

skip() { echo "skipped: $*"; exit 77; }

rm -rf "$scratch/venv"
python3 -m venv "$scratch/venv" >"$scratch/venv.log" 2>&1 ||
    skip "python3 -m venv does not work here (Debian: python3-venv)"
"$scratch/venv/bin/pip" install -q --disable-pip-version-check \
    -r tests/clients/requirements.txt >"$scratch/pip.log" 2>&1 ||
    skip "pip could not install tests/clients/requirements.txt: $(tail -n 1 "$scratch/pip.log")"

# start NAME [moefied's options]: sets url; the server ends with the script.
start() {
    local name=$1
    shift
    "$build/moefied" "$@" --listen 127.0.0.1:0 >"$scratch/$name.out" 2>"$scratch/$name.err" &
    servers+=($!)
    for _ in $(seq 100); do
        url=$(sed -n 's/^listening on //p' "$scratch/$name.out")
        [ -n "$url" ] && return
        sleep 0.1
    done
    cat "$scratch/$name.err"
    exit 1
}
servers=()
trap 'kill "${servers[@]}" 2>/dev/null; wait 2>/dev/null; rm -rf "$scratch/venv"' EXIT

start both --model sst2=models/minilm-sst2-relu --model squad=models/minilm-squad-relu \
    --model t5=models/t5-mini-glue
"$scratch/venv/bin/python" tests/clients/test_clients.py "$url" || exit 1

# Every route against the description that the server gives of itself.
start one --model sst2=models/minilm-sst2-relu
if ! "$scratch/venv/bin/schemathesis" run "$url/openapi.json" --checks all --max-examples 12 \
    --phases examples,coverage,fuzzing --seed 1 --no-color >"$scratch/schemathesis.log" 2>&1; then
    cat "$scratch/schemathesis.log"
    exit 1
fi
tail -n 1 "$scratch/schemathesis.log"
kill -0 "${servers[@]}" # both servers still stand
