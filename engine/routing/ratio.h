/* ratio.h: from a request's ratio to expert counts or thresholds per layer. */
#ifndef MOE_ROUTING_RATIO_H
#define MOE_ROUTING_RATIO_H

#include "engine/moe.h"

/* Interpolates the model's ratio table; experts [n_layers]: out, each in
 * [1, n_experts]. ratio 1 gives all. Below the first row the first row's counts
 * are scaled down. ratio must be in (0, 1]. */
void ratio_to_experts(const moe_model_info *info, double ratio, int *experts);

/* The same for the table's thresholds; thresholds [n_layers]: out, those of layers
 * without a router without meaning. false, nothing written: counts have to do,
 * because the model has no thresholds or ratio lies below the first row. */
bool ratio_to_thresholds(const moe_model_info *info, double ratio, float *thresholds);

/* Whether ratio is a number in (0, 1]. */
bool ratio_valid(double ratio);

#endif
