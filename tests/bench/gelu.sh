#!/usr/bin/env bash
# The table "GELU checkpoints" of docs/quality.md: a GELU classifier of SST-2
# converted as it is, and after moefy relufy, by the default and by the paper's preset, all
# against its own dense answers on all 872 sentences of SST-2 dev.
#   ./moe build && tests/bench/gelu.sh CHECKPOINT [relufy's options]
# Cells: accuracy % / agreement with the GELU model % / KL(GELU || this).
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: tests/bench/gelu.sh CHECKPOINT [relufy's options]" >&2; exit 2; }
source=$(realpath "$1")
shift
cd "$(dirname "$0")/../.."
moefy=build/release/moefy
calibrate=tests/data/sst2_calibration.tsv
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The sentences as JSONL, and their labels' names in the model's order of ids.
awk -F'\t' 'NR > 1 { gsub(/\\/, "\\\\", $1); gsub(/"/, "\\\"", $1)
                     print "{\"text\":\"" $1 "\"}" }' tests/data/sst2_dev.tsv >"$work/dev.jsonl"
awk -F'\t' 'NR > 1 { print $2 }' tests/data/sst2_dev.tsv >"$work/labels"

# A line of logits a sentence.
answer() {
    "$moefy" run "$1" --input "$work/dev.jsonl" --ratio "$2" |
        sed 's/.*"logits": *\[\([^]]*\)\].*/\1/; s/,/ /g'
}

# One cell: logits of the GELU model, of the other, and the label, side by side.
cell() {
    answer "$1" "$2" >"$work/other"
    paste -d' ' "$work/gelu" "$work/other" "$work/labels" | awk '{
        n = (NF - 1) / 2; top = best = 1; z = y = 0
        for (i = 1; i <= n; i++) {
            if ($i > $top) top = i
            if ($(n + i) > $(n + best)) best = i
            z += exp($i); y += exp($(n + i))
        }
        for (i = 1; i <= n; i++)
            kl += exp($i) / z * ($i - log(z) - $(n + i) + log(y))
        agree += top == best; correct += best - 1 == $NF }
        END { printf " %.1f / %.1f / %.3f |", 100 * correct / NR, 100 * agree / NR, kl / NR }'
}

answer "$source" 1 >"$work/gelu"
"$moefy" relufy "$source" -o "$work/relu" --calibrate $calibrate "$@" >&2
echo "| model | \`moefy convert\` | dense | 0.5 | 0.25 | 0.125 | seconds |"
echo "|---|---|---|---|---|---|---|"
for kind in gelu relu; do
    from=$source
    [ $kind = gelu ] || from=$work/relu
    for options in "" "--preset paper"; do
        begun=$SECONDS
        rm -rf "$work/moe"
        # shellcheck disable=SC2086 # words of their own
        "$moefy" convert "$from" -o "$work/moe" --calibrate $calibrate $options >&2
        took=$((SECONDS - begun))
        printf '| %s | %s |' $kind "${options:-default}"
        for ratio in 1 0.5 0.25 0.125; do cell "$work/moe" $ratio; done
        echo " $took |"
    done
done
