/* ratio.h: from a request's ratio to expert counts, thresholds or mean counts per
 * layer, and from mean counts to whole pairs of a sequence. */
#ifndef MOE_ROUTING_RATIO_H
#define MOE_ROUTING_RATIO_H

#include "engine/backend.h"

/* Interpolates the model's ratio table; experts [n_layers]: out, each in
 * [1, n_experts]. ratio 1 gives all. Below the first row the first row's counts
 * are scaled down. ratio must be in (0, 1]. */
void ratio_to_experts(const moe_model_info *info, double ratio, int *experts);

/* The same for the table's thresholds; thresholds [n_layers]: out, those of layers
 * without a router without meaning. false, nothing written: counts have to do,
 * because the model has no thresholds or ratio lies below the first row. */
bool ratio_to_thresholds(const moe_model_info *info, double ratio, float *thresholds);

/* The same for the table's mean counts, below the first row scaled down; mean
 * [n_layers]: out. false, nothing written: the model has none. */
bool ratio_to_means(const moe_model_info *info, double ratio, double *mean);

/* A sequence's (token, expert) pairs, layer by layer. All zero: before the first. */
typedef struct {
    double wanted; /* of the layers so far, the sum of mean * n_tokens */
    int64_t given;
} pair_budget;

/* The pairs of the next layer, in [1, n_tokens * n_experts]: all that is wanted so far,
 * rounded, less what was given before. So the sum over any first layers is within half
 * a pair of what is wanted, unless a layer wants less than one. */
int32_t ratio_next_pairs(pair_budget *b, double mean, int n_tokens, int n_experts);

/* Whether ratio is a number in (0, 1]. */
bool ratio_valid(double ratio);

/* The rows of the ratio table about a ratio, as an FFN's shifts have them; row -1 at 1, and
 * without a table. */
moe_shift ratio_to_shift(const moe_model_info *info, double ratio);

#endif
