/* select.h: the experts of a token by its scores, in linear time: the k best, or
 * those that reach a threshold. */
#ifndef MOE_ROUTING_SELECT_H
#define MOE_ROUTING_SELECT_H

#include <stdint.h>

/* Writes the ids of the k largest of scores[0 .. n), ascending, to out[k].
 * Ties go to the lower id; NaN counts as less than every number. 1 <= k <= n. */
void select_topk(const float *scores, int n, int k, int32_t *out);

/* How many of scores[0 .. n) select_threshold takes: those that are at least the
 * threshold, and 1 where none is. NaN reaches no threshold. n >= 1. */
int select_threshold_count(const float *scores, int n, float threshold);
/* Writes their ids, ascending, to out[count], count as above. Where no score reaches
 * the threshold it is the one that select_topk takes as the best. */
void select_threshold(const float *scores, int n, float threshold, int count, int32_t *out);

#endif
