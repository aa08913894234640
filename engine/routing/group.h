/* group.h: turns a route by token into row lists by expert (a counting sort). */
#ifndef MOE_ROUTING_GROUP_H
#define MOE_ROUTING_GROUP_H

#include <stdint.h>

/* bound [n_tokens + 1], expert [bound[n_tokens]]: experts of each token.
 * row_bound [n_experts + 1], row [bound[n_tokens]]: out; expert e computes the
 * tokens row[row_bound[e] .. row_bound[e+1]), ascending.
 * bound[0] need not be 0: a part of a longer route is bound + first token, its
 * tokens counted from there. */
void group_by_expert(const int32_t *bound, const int32_t *expert, int n_tokens,
                     int n_experts, int32_t *row_bound, int32_t *row);

#endif
