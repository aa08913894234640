/* select.h: experts by their scores, in linear time: a token's k best, those that reach
 * a threshold, or the best pairs of a sequence. */
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

/* How the n_pairs largest of scores [n_tokens, n_experts] fall to the tokens: count
 * [n_tokens]: out, their sum is n_pairs. Ties go to the lower token, then the lower
 * expert; NaN counts as less than every number. 1 <= n_pairs <= n_tokens * n_experts,
 * which is below 2^31. Returns the cut, for select_above. */
float select_pairs(const float *scores, int n_tokens, int n_experts, int n_pairs,
                   int32_t *count);
/* Writes a token's experts, ascending, to out[count]: scores[0 .. n) are its own, cut
 * and count what select_pairs gave. */
void select_above(const float *scores, int n, float cut, int count, int32_t *out);

#endif
