/* select.h: the k best experts of a token's scores, in linear time. */
#ifndef MOE_ROUTING_SELECT_H
#define MOE_ROUTING_SELECT_H

#include <stdint.h>

/* Writes the ids of the k largest of scores[0 .. n), ascending, to out[k].
 * Ties go to the lower id; NaN counts as less than every number. 1 <= k <= n. */
void select_topk(const float *scores, int n, int k, int32_t *out);

#endif
