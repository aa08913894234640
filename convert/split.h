/* split.h: which neuron goes to which expert. Each split is one function from a
 * layer to a list of neurons; a new one is a file and a row of split_kinds. */
#ifndef CONVERT_SPLIT_H
#define CONVERT_SPLIT_H

#include "convert/layer.h"

/* What a split says of itself; NaN where it doesn't apply. */
typedef struct {
    double cut;     /* coactivation: share of the graph's weight between experts */
    double inertia; /* clustering: mean squared distance of a row to its centre */
    double linear;  /* em: share of the contributions, on its sample, of the 20% of the
                       experts that a linear prediction picks */
} split_report;

/* expert [d_ff]: out, the expert of each neuron; every expert gets exactly
 * layer_capacity neurons. */
typedef moe_status (*split_fn)(const ffn_layer *l, int32_t *expert, split_report *report,
                               moe_error *err);

/* A permutation drawn from the seed: the control. */
moe_status split_random(const ffn_layer *l, int32_t *expert, split_report *report,
                        moe_error *err);
/* Balanced k-means on the rows of W1, brought to length one. */
moe_status split_clustering(const ffn_layer *l, int32_t *expert, split_report *report,
                            moe_error *err);
/* Neurons that fire together: the graph of sum_x h_n h_m, cut by METIS. Neurons
 * that never fire share the last experts. */
moe_status split_coactivation(const ffn_layer *l, int32_t *expert, split_report *report,
                              moe_error *err);

/* Neurons whose contributions |h_n| ||w2_n|| a linear router can tell apart. Neurons
 * that contribute to no token of its sample share the last experts. */
moe_status split_em(const ffn_layer *l, int32_t *expert, split_report *report,
                    moe_error *err);

typedef struct {
    const char *name;
    split_fn split;
} split_kind;
extern const split_kind split_kinds[]; /* ended by a NULL name */

#endif
