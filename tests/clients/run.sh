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

"$build/moefied" --model sst2=models/minilm-sst2-relu --model squad=models/minilm-squad-relu \
    --listen 127.0.0.1:0 >"$scratch/out" 2>"$scratch/err" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$scratch/venv"' EXIT
for _ in $(seq 100); do
    url=$(sed -n 's/^listening on //p' "$scratch/out")
    [ -n "$url" ] && break
    kill -0 $server 2>/dev/null || { cat "$scratch/err"; exit 1; }
    sleep 0.1
done
"$scratch/venv/bin/python" tests/clients/test_clients.py "$url"
