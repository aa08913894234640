/* budget.h: how many experts each layer should compute at each ratio, from what too
 * few of them do to the answer. */
#ifndef CONVERT_BUDGET_H
#define CONVERT_BUDGET_H

#include "convert/calibration.h"
#include "convert/cli.h"
#include "convert/ratio_table.h"
#include "engine/model/model.h"

/* Measures the divergence of m's answer (answer_divergence) on text with a single
 * layer sparse, at a dozen counts, and fills t->experts with the counts whose summed
 * divergence is least: at every ratio they add up to that ratio of all experts, and
 * none falls as the ratio grows. m: converted, dense where t->converted is false; its
 * own ratio table is not read. */
moe_status budget_measure(const moe_model *m, moe_pool *pool, const calibration *text,
                          progress *bar, ratio_table *t, moe_error *err);

/* The same from given divergences: divergence [n_layers, n_experts + 1], of layer l
 * with k experts, k >= 1. Each layer's is first brought to its lower convex hull; then
 * the expert that lowers the sum most is bought next, which is optimal for convex
 * curves and nested over the ratios. */
void budget_spend(double *divergence, ratio_table *t);

#endif
