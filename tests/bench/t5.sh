#!/usr/bin/env bash
# The table "Text to text" of docs/quality.md: a T5 checkpoint converted by the default and by
# the paper's preset, its GLUE tasks at each ratio.
#   ./moe build && tests/bench/t5.sh CHECKPOINT CALIBRATION TASK=FILE...
# CALIBRATION is JSONL with a task in each row; each FILE has labelled rows of its task.
# Cells: accuracy % / agreement with the dense label % / KL of the label scores.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: tests/bench/t5.sh CHECKPOINT CALIBRATION TASK=FILE..." >&2; exit 2; }
source=$(realpath "$1") calibration=$(realpath "$2")
shift 2
cd "$(dirname "$0")/../.."
moefy=build/release/moefy
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "| data | \`moefy convert\` | 1 | 0.5 | 0.25 | 0.2 | 0.125 | seconds |"
echo "|---|---|---|---|---|---|---|---|"
for options in "" "--preset paper"; do
    begun=$SECONDS
    rm -rf "$work/moe"
    # shellcheck disable=SC2086 # words of their own
    "$moefy" convert "$source" -o "$work/moe" --calibrate "$calibration" $options >&2
    took=$((SECONDS - begun))
    for task in "$@"; do
        printf '| %s | %s |' "${task%%=*}" "${options:-default}"
        "$moefy" eval "$work/moe" --data "${task#*=}" --task "${task%%=*}" \
            --ratio 1,0.5,0.25,0.2,0.125 --json | tr '{' '\n' |
            sed -n 's/.*"accuracy": *\([0-9.e-]*\).*"agreement": *\([0-9.e-]*\).*"kl": *\([0-9.e-]*\).*/\1 \2 \3/p' |
            awk '{ printf " %.2f / %.1f / %.4f |", 100 * $1, 100 * $2, $3 }'
        echo " $took |"
    done
done
