/* layer.h: one FFN layer as the converter sees it, in source order, with the
 * rows that entered it during calibration. */
#ifndef CONVERT_LAYER_H
#define CONVERT_LAYER_H

#include "convert/workers.h"
#include "engine/model/weights.h"

typedef struct {
    int index;               /* of the layer, for its random streams */
    int d, d_ff, n_experts;  /* n_experts = ceil(d_ff / 32) */
    moe_activation act;
    const float *w1, *b1;    /* [d_ff, d], [d_ff] */
    const float *x;          /* [n_tokens, d] */
    int n_tokens;
    const int32_t *cu_seqlens; /* [n_seqs + 1] */
    int n_seqs;
    uint64_t seed;
    workers *workers;
} ffn_layer;

/* act(z). */
float layer_activate(moe_activation act, float z);

/* Real neurons of expert e: 32, but for the last one. */
int layer_capacity(const ffn_layer *l, int e);

/* Rows that fit a task: what is cut by rows is cut into pieces of this many. */
enum { LAYER_TASK_ROWS = 256 };

/* h [n_rows, d_ff] = max(0, act(x W1^T + b1)), columns in the order of w1 and b1.
 * The positive part is what every method counts; of ReLU it is the whole. */
void layer_hidden(const ffn_layer *l, const float *w1, const float *b1, const float *x,
                  int n_rows, float *h);

/* Positive activation per expert: mass [n_tokens, n_experts], the paper's ground
 * truth. neurons [n_experts * 32]: a split. fired [d_ff]: out, how many tokens each
 * neuron fires for, in the split's order, or NULL. */
moe_status layer_expert_mass(const ffn_layer *l, const int32_t *neurons, float *mass,
                             int64_t *fired, moe_error *err);

/* rows [d_ff, d] = W1's rows over their length; a zero row stays zero. */
void layer_unit_rows(const ffn_layer *l, float *rows);
/* mean [n_experts, d] of an expert's rows (of [d_ff, d]). */
void layer_expert_means(const ffn_layer *l, const int32_t *neurons, const float *rows,
                        float *mean);

/* neurons [n_experts * 32] from expert [d_ff]: each expert's neurons ascending,
 * -1 past its last. */
void layer_list_neurons(const ffn_layer *l, const int32_t *expert, int32_t *neurons);

#endif
