#!/usr/bin/env bash
# The tables of docs/quality.md: methods of `moefy convert`, policies and controls.
#   ./moe build && tests/bench/quality.sh                the shipped classifier, SST-2 dev
#   tests/bench/quality.sh CHECKPOINT CALIBRATION DATA   another one: default, paper, controls
#   ROWS='default clustering' tests/bench/quality.sh     some of the rows
# Cells: accuracy % / agreement with dense % / KL(dense || sparse); of a regression
# Pearson / mean absolute difference from dense; of questions exact match % / F1 % /
# agreement % / KL / mean absolute difference of the logits.
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
        if ("exact_match" in value)
            printf " %.1f / %.1f / %.1f / %.3f / %.2f |", 100 * value["exact_match"],
                   100 * value["f1"], 100 * value["agreement"], value["kl"],
                   value["mean_abs_difference"]
        else if ("kl" in value)
            printf " %.1f / %.1f / %.4f |", 100 * value["accuracy"],
                   100 * value["agreement"], value["kl"]
        else
            printf " %.4f / %.4f |", value["pearson"], value["mean_abs_difference"] }'
}

evaluate() { "$moefy" eval "$1" --data "$data" --ratio "$ratios" --json "${@:2}" | cells; }

# convert [options]: a row, with the seconds it took; the model stays in $work/last.
row() {
    local start=$SECONDS
    rm -rf "$work/last"
    "$moefy" convert "$source" -o "$work/last" --calibrate "$calibrate" "$@" >/dev/null
    echo "| \`${*:-the default}\` | $((SECONDS - start)) s |$(evaluate "$work/last")"
}

default() {
    row
    for policy in threshold topk; do
        echo "| the default by \`--policy $policy\` | |$(evaluate "$work/last" --policy $policy)"
    done
    for selection in oracle random frequency; do
        echo "| the default by *$selection* | |$(evaluate "$work/last" --selection $selection)"
    done
}

outputs='--target output --states dense --budget uniform --shift none'
one() {
    case $1 in
    default) default ;;
    paper) row --preset paper ;;
    outputs) row $outputs ;;                        # the ridge router alone
    budgets) row ${outputs/uniform/measured} ;;
    states) row ${outputs/states dense/states sparse} ;;
    shift) row ${outputs/shift none/shift measured} ;;
    answers) row --states dense --budget measured --shift none ;; # routers fitted to the answer
    no_shift) row --shift none ;;
    coactivation | clustering | random) row --split "$1" ;;
    mlp) row --router mlp ;;
    chance) row --split random --router random --budget uniform --shift none ;;
    *) echo "quality.sh: no row '$1'" >&2; exit 2 ;;
    esac
}

echo "| moefy convert | time | 0.5 | 0.25 | 0.2 | 0.125 |"
echo "|---|---|---|---|---|---|"
all='default paper outputs budgets states shift answers no_shift coactivation clustering random
     mlp chance'
[ $# -eq 0 ] || all='default paper'
for name in ${ROWS:-$all}; do one "$name"; done
