/* ratio_table.h: what each layer computes at each ratio of a grid, as config.json's
 * ratio_table holds it and the engine reads it.
 *
 * Three columns, one for each policy: `experts` (topk: a whole number for every
 * token), `mean_experts` (sequence: the mean over a sequence's tokens) and
 * `thresholds` (threshold: the least score). Layers that stay dense have all experts
 * everywhere. One thread. */
#ifndef CONVERT_RATIO_TABLE_H
#define CONVERT_RATIO_TABLE_H

#include "engine/moe.h"

enum { N_RATIOS = 14 };
extern const double ratio_grid[N_RATIOS]; /* ascending, the last is 1 */

typedef struct {
    int n_layers, n_experts;
    const bool *converted;           /* [n_layers], borrowed */
    moe_ratio_row rows[N_RATIOS];    /* point into the arrays below */
    int *experts;                    /* [N_RATIOS, n_layers] */
    float *mean, *thresholds;        /* the same, or NULL: topk only */
} ratio_table;

/* Router scores of some tokens: what thresholds are found from. */
typedef struct {
    int n_tokens, n_layers, n_experts;
    float *scores; /* [n_layers, n_tokens, n_experts]; dense layers' are not read */
} score_sample;

/* Starts with the same count in all converted layers: max(1, round(ratio * n_experts)).
 * dynamic: with means and thresholds. ratio_table_free, also after a failure. */
moe_status ratio_table_create(int n_layers, int n_experts, const bool *converted,
                              bool dynamic, ratio_table *t, moe_error *err);
void ratio_table_free(ratio_table *t);

/* Means and thresholds where scores of all layers are comparable: one threshold for
 * the whole model, such that a share `ratio` of all (token, expert) pairs of the
 * converted layers reach it; what each layer gets follows. */
void ratio_table_share(ratio_table *t, const score_sample *s);

/* Means and thresholds where each layer's scores are its own affair: the means are
 * the counts of `experts`, thresholds what lets so many through. */
void ratio_table_follow(ratio_table *t, const score_sample *s);

#endif
