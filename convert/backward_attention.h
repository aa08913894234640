/* backward_attention.h: softmax(scale q k^T) v per sequence and head, and its
 * gradient, for the rows of a task. Allocates nothing; any thread. */
#ifndef CONVERT_BACKWARD_ATTENTION_H
#define CONVERT_BACKWARD_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int d, n_heads;            /* head h has columns [h d/n_heads, (h+1) d/n_heads) */
    float scale;
    const int32_t *cu_seqlens; /* [n_seqs + 1], of a longer text: the first sequence's
                                  rows begin at row 0 whatever cu_seqlens[0] is */
    int n_seqs;
} attention_task;

/* Floats of p, and of the backward pass's scratch. */
size_t attention_weight_floats(const attention_task *a);
size_t attention_scratch_floats(const attention_task *a);

/* qkv [n, 3 d]: rows of queries, keys, values. y [n, d]: out. p: out, each sequence's
 * and head's softmax [s, s], end to end. */
void attention_forward(const attention_task *a, const float *qkv, float *p, float *y);
/* g_qkv [n, 3 d]: out, the gradient by qkv where g_y [n, d] is that by y. */
void attention_backward(const attention_task *a, const float *qkv, const float *p,
                        const float *g_y, float *scratch, float *g_qkv);

#endif
