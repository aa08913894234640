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
    const float *up;         /* [d_ff, d] of a gated FFN, else NULL */
    const float *w2;         /* [d, d_ff], as in the checkpoint */
    const float *x;          /* [n_tokens, d] */
    int n_tokens;
    const int32_t *cu_seqlens; /* [n_seqs + 1] */
    int n_seqs;
    uint64_t seed;
    workers *workers;
} ffn_layer;

/* Real neurons of expert e: 32, but for the last one. */
int layer_capacity(const ffn_layer *l, int e);

/* Rows that fit a task: what is cut by rows is cut into pieces of this many. */
enum { LAYER_TASK_ROWS = 256 };

/* What makes neurons of rows, in some order: W1, b1 and, of a gated FFN, up. */
typedef struct { const float *w1, *b1, *up; } ffn_inputs;
/* Those of l in source order, borrowed. */
ffn_inputs layer_inputs(const ffn_layer *l);
/* Copies in the order of a split, padding left out: neuron j of expert e at e * 32 + j;
 * false: out of memory. layer_inputs_free in either case. */
bool layer_inputs_permute(const ffn_layer *l, const int32_t *neurons, ffn_inputs *out);
void layer_inputs_free(ffn_inputs *in);

/* h [n_rows, d_ff] = act(x W1^T + b1), gated times x up^T, columns in the order of in. */
void layer_activations(const ffn_layer *l, const ffn_inputs *in, const float *x, int n_rows,
                       float *h);
/* The same, with max(0, h): the positive part is what the paper's methods count; of
 * ReLU it is the whole. Gated, where a sign means nothing, |h|. */
void layer_hidden(const ffn_layer *l, const ffn_inputs *in, const float *x, int n_rows,
                  float *h);

/* norm [d_ff]: the length of each neuron's column of W2: what a unit of its
 * activation adds to the output. */
void layer_neuron_norms(const ffn_layer *l, float *norm);

/* Activation per expert as layer_hidden counts it: mass [n_tokens, n_experts], the paper's ground
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
