/* select.h: the experts of a token by its scores, in linear time: the k best, or
 * those that reach a threshold. */
#ifndef MOE_ROUTING_SELECT_H
#define MOE_ROUTING_SELECT_H

#include <stdint.h>

/* Writes the ids of the k largest of scores[0 .. n), ascending, to out[k].
 * Ties go to the lower id; NaN counts as less than every number. 1 <= k <= n. */
void select_topk(const float *scores, int n, int k, int32_t *out);

/* How many of scores[0 .. n) are at least the threshold, which NaN never is; may be
 * 0 or n. */
int select_threshold_count(const float *scores, int n, float threshold);
/* Writes their ids, ascending, to out[count], count as above. */
void select_threshold(const float *scores, int n, float threshold, int count, int32_t *out);

#endif
