/* backward.h: the gradient of an answer through one layer of the dense BERT encoder,
 * by its activations (no gradient of weights is formed).
 *
 *     qkv = x_in Wqkv^T + bqkv          y = softmax(scale q k^T) v, per sequence, head
 *     r1  = y Wo^T + bo + x_in          x = norm1(r1)
 *     z   = x W1^T + b1                 h = act(z)
 *     r2  = h W2^T + b2 + x             out = norm2(r2)
 *
 * The layer's forward pass is computed again from the rows that enter it, so that
 * nothing but these rows need be kept; then the gradient g_out by the rows that leave
 * becomes
 *
 *     g_ffn = norm2'(g_out)             by r2: by what the FFN adds
 *     g_x   = g_ffn + (act'(z) (g_ffn W2)) W1
 *     g_r1  = norm1'(g_x)
 *     g_in  = g_r1 + attention'(g_r1 Wo) Wqkv
 *
 * A row whose g_out is all zeros takes no part in the FFN: of the last layer under a
 * classifier that is all but the first row of each sequence. */
#ifndef CONVERT_BACKWARD_H
#define CONVERT_BACKWARD_H

#include "engine/model/model.h"

/* One layer's weights as plain row-major matrices; biases and norms are the model's. */
typedef struct {
    int d, d_ff, n_heads;
    float scale;
    moe_activation act;        /* RELU, GELU_ERF or GELU_TANH */
    float *qkv_w, *out_w;      /* [3 d, d], [d, d] */
    float *w1, *b1, *w2;       /* [d_ff, d], [d_ff], [d, d_ff] */
    const float *qkv_b, *out_b, *b2; /* NULL: none */
    moe_norm attention_norm, ffn_norm;
} backward_weights;

/* Room for any one layer of m: backward_weights_free, also after a failure. */
moe_status backward_weights_create(const moe_model *m, backward_weights *w,
                                   moe_error *err);
void backward_weights_load(backward_weights *w, const moe_model *m, int layer);
void backward_weights_free(backward_weights *w);

/* Whole sequences: cu_seqlens [n_seqs + 1] of a text, of which row 0 of the arrays is
 * token cu_seqlens[0]. */
typedef struct { const int32_t *cu_seqlens; int n_seqs; } backward_task;

size_t backward_scratch_floats(const backward_weights *w, backward_task t);
/* x_in, g_out [n, d], n the task's tokens. g_ffn [n, d]: out. g_in [n, d]: out, may
 * be g_out, or NULL where it is not wanted. scratch: backward_scratch_floats. Any
 * thread, its BLAS single-threaded; allocates nothing. */
void backward_layer(const backward_weights *w, backward_task t, const float *x_in,
                    const float *g_out, float *scratch, float *g_ffn, float *g_in);

/* y [n_rows, n] = beta y + x w^T + bias: x [n_rows, k], w [n, k], bias [n] or NULL. */
void backward_linear(const float *x, int n_rows, int k, const float *w,
                     const float *bias, int n, float beta, float *y);

#endif
