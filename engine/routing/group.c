/* group.c: a counting sort of (token, expert) pairs by expert. Two passes over
 * the route: count, then place. Stable, so that tokens stay in order. */
#include <string.h>

#include "engine/routing/group.h"

void group_by_expert(const int32_t *bound, const int32_t *expert, int n_tokens,
                     int n_experts, int32_t *row_bound, int32_t *row)
{
    memset(row_bound, 0, ((size_t)n_experts + 1) * sizeof *row_bound);
    for (int32_t i = bound[0]; i < bound[n_tokens]; i++)
        row_bound[expert[i] + 1]++;
    for (int e = 0; e < n_experts; e++)
        row_bound[e + 1] += row_bound[e];
    /* row_bound[e] serves as expert e's cursor: it ends where e + 1 begins, and
     * moving the array up by one place makes bounds of it again. */
    for (int t = 0; t < n_tokens; t++)
        for (int32_t i = bound[t]; i < bound[t + 1]; i++)
            row[row_bound[expert[i]]++] = t;
    memmove(row_bound + 1, row_bound, (size_t)n_experts * sizeof *row_bound);
    row_bound[0] = 0;
}
