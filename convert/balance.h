/* balance.h: the best assignment of items to bins of limited capacity.
 *
 * The transportation problem: maximise the sum of affinity[i, bin[i]] with at
 * most capacity[e] items in bin e. Splits use it to give every expert its exact
 * number of neurons. */
#ifndef CONVERT_BALANCE_H
#define CONVERT_BALANCE_H

#include "engine/moe.h"

/* affinity [n_items, n_bins], finite; capacity [n_bins], each >= 0, their sum at
 * least n_items (MOE_E_ARGUMENT if not); bin [n_items]: out. Exact up to the
 * rounding of float differences; the same input gives the same answer.
 * Time n_items * n_bins * (n_bins + 3 max capacity) at worst; memory
 * n_bins^2 floats. */
moe_status balance_assign(const float *affinity, int n_items, int n_bins,
                          const int *capacity, int32_t *bin, moe_error *err);

#endif
