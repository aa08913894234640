#!/usr/bin/env bash
# The table of docs/quality.md: every split and router of `moefy convert` on the
# shipped classifier, and the controls, on all 872 sentences of SST-2 dev.
#   ./moe build && tests/bench/quality.sh
# Cells: accuracy % / agreement with dense % / KL(dense || sparse) / mass kept %.
set -euo pipefail
cd "$(dirname "$0")/../.."
moefy=build/release/moefy
source=models/minilm-sst2-relu
calibrate=tests/data/sst2_calibration.tsv
data=tests/data/sst2_dev.tsv
ratios=0.5,0.25,0.2,0.125
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Turns eval's JSON into cells: one per ratio.
cells() {
    sed 's/: /:/g; s/, /,/g' | grep -o '{"ratio":[^}]*}' | awk -F'[:,}]' '{
        for (i = 1; i < NF; i++) { gsub(/[{"]/, "", $i); value[$i] = $(i + 1) }
        printf " %.1f / %.1f / %.3f / %.0f |", 100 * value["accuracy"],
               100 * value["agreement"], value["kl"], 100 * value["mass"] }'
}

evaluate() { "$moefy" eval "$1" --data "$data" --ratio "$ratios" --json "${@:2}" | cells; }

dense=$("$moefy" eval $source --data $data --ratio 1 --json |
        grep -o '"accuracy": *[0-9.]*' | cut -d: -f2)
echo "Dense: accuracy $dense"
echo
echo "| split | router | 0.5 | 0.25 | 0.2 | 0.125 |"
echo "|---|---|---|---|---|---|"
for split in coactivation clustering random; do
    for router in mlp similarity random; do
        out=$work/$split-$router
        "$moefy" convert $source -o "$out" --calibrate $calibrate --split $split \
            --router $router >/dev/null
        echo "| $split | $router |$(evaluate "$out")"
    done
    for selection in oracle random frequency; do
        echo "| $split | *$selection* |$(evaluate "$work/$split-mlp" --selection $selection)"
    done
done
