#!/usr/bin/env bash
# The tables of docs/quality.md: methods of `moefy convert`, policies and controls.
#   ./moe build && tests/bench/quality.sh                the shipped classifier, SST-2 dev
#   tests/bench/quality.sh CHECKPOINT CALIBRATION DATA   another one: default and paper
# Cells: accuracy % / agreement with dense % / KL(dense || sparse); of a regression
# Pearson / mean absolute difference from dense.
set -euo pipefail
cd "$(dirname "$0")/../.."
moefy=build/release/moefy
source=${1:-models/minilm-sst2-relu}
calibrate=${2:-tests/data/sst2_calibration.tsv}
data=${3:-tests/data/sst2_dev.tsv}
ratios=0.5,0.25,0.2,0.125
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Turns eval's JSON into cells: one per ratio.
cells() {
    sed 's/: /:/g; s/, /,/g' | grep -o '{"ratio":[^}]*}' | awk -F'[:,}]' '{
        for (i = 1; i < NF; i++) { gsub(/[{"]/, "", $i); value[$i] = $(i + 1) }
        if ("kl" in value)
            printf " %.1f / %.1f / %.4f |", 100 * value["accuracy"],
                   100 * value["agreement"], value["kl"]
        else
            printf " %.4f / %.4f |", value["pearson"], value["mean_abs_difference"] }'
}

evaluate() { "$moefy" eval "$1" --data "$data" --ratio "$ratios" --json "${@:2}" | cells; }

# convert NAME [options]: a row, with the seconds it took.
row() {
    local out=$work/$1 start=$SECONDS
    "$moefy" convert "$source" -o "$out" --calibrate "$calibrate" "${@:2}" >/dev/null
    echo "| \`${*:2}\` | $((SECONDS - start)) s |$(evaluate "$out")"
}

echo "| moefy convert | time | 0.5 | 0.25 | 0.2 | 0.125 |"
echo "|---|---|---|---|---|---|"
row default
for policy in threshold topk; do
    echo "| the default by \`--policy $policy\` | |$(evaluate "$work/default" --policy $policy)"
done
row paper --preset paper
[ $# -eq 0 ] || exit 0
row outputs --target output --states dense --budget uniform
row budgets --target output --states dense
row dense --states dense
row coactivation --split coactivation
row clustering --split clustering
row random --split random
row mlp --router mlp
row chance --split random --router random --budget uniform
for selection in oracle random frequency; do
    echo "| the default by *$selection* | |$(evaluate "$work/default" --selection $selection)"
done
