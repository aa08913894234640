/* backward_attention.c: small products by BLAS, head by head.
 *
 *     P = softmax(scale Q K^T)         y = P V
 *     gV = P^T gy                      gP = gy V^T
 *     gS = scale P (gP - sum_j P gP)   element by element, the sum over a row
 *     gQ = gS K                        gK = gS^T Q */
#include <math.h>

#include "convert/backward_attention.h"
#include "convert/blas.h"

static int length_of(const attention_task *a, int seq)
{
    return a->cu_seqlens[seq + 1] - a->cu_seqlens[seq];
}

size_t attention_weight_floats(const attention_task *a)
{
    size_t floats = 0;
    for (int i = 0; i < a->n_seqs; i++)
        floats += (size_t)length_of(a, i) * (size_t)length_of(a, i);
    return floats * (size_t)a->n_heads;
}

size_t attention_scratch_floats(const attention_task *a)
{
    size_t longest = 0;
    for (int i = 0; i < a->n_seqs; i++)
        if ((size_t)length_of(a, i) > longest)
            longest = (size_t)length_of(a, i);
    return longest * longest;
}

/* Rows of p [s, s] become their softmax. */
static void softmax_rows(int s, float scale, float *p)
{
    for (int t = 0; t < s; t++, p += s) {
        float most = p[0], sum = 0;
        for (int i = 1; i < s; i++)
            most = p[i] > most ? p[i] : most;
        for (int i = 0; i < s; i++) {
            p[i] = expf(scale * (p[i] - most));
            sum += p[i];
        }
        const float inverse = 1 / sum;
        for (int i = 0; i < s; i++)
            p[i] *= inverse;
    }
}

/* Rows of g [s, s], the gradient by the softmax p, become that by the products. */
static void softmax_backward(int s, float scale, const float *p, float *g)
{
    for (int t = 0; t < s; t++, p += s, g += s) {
        float sum = 0;
        for (int i = 0; i < s; i++)
            sum += p[i] * g[i];
        for (int i = 0; i < s; i++)
            g[i] = scale * p[i] * (g[i] - sum);
    }
}

void attention_forward(const attention_task *a, const float *qkv, float *p, float *y)
{
    const int d = a->d, ld = 3 * d, head = d / a->n_heads;
    for (int i = 0; i < a->n_seqs; i++) {
        const int s = length_of(a, i);
        for (int h = 0; h < a->n_heads; h++, p += (size_t)s * (size_t)s) {
            const float *q = qkv + h * head, *k = q + d, *v = k + d;
            blas_nt(s, s, head, q, ld, k, ld, 0, p, s);
            softmax_rows(s, a->scale, p);
            blas_nn(s, head, s, p, s, v, ld, 0, y + h * head, d);
        }
        qkv += (size_t)s * (size_t)ld; /* the next sequence's rows */
        y += (size_t)s * (size_t)d;
    }
}

void attention_backward(const attention_task *a, const float *qkv, const float *p,
                        const float *g_y, float *scratch, float *g_qkv)
{
    const int d = a->d, ld = 3 * d, head = d / a->n_heads;
    for (int i = 0; i < a->n_seqs; i++) {
        const int s = length_of(a, i);
        for (int h = 0; h < a->n_heads; h++, p += (size_t)s * (size_t)s) {
            const float *q = qkv + h * head, *k = q + d, *v = k + d;
            const float *g = g_y + h * head;
            float *g_q = g_qkv + h * head, *g_k = g_q + d, *g_v = g_k + d;
            blas_tn(s, head, s, p, s, g, d, 0, g_v, ld);
            blas_nt(s, s, head, g, d, v, ld, 0, scratch, s);
            softmax_backward(s, a->scale, p, scratch);
            blas_nn(s, head, s, scratch, s, k, ld, 0, g_q, ld);
            blas_tn(s, head, s, scratch, s, q, ld, 0, g_k, ld);
        }
        qkv += (size_t)s * (size_t)ld;
        g_qkv += (size_t)s * (size_t)ld;
        g_y += (size_t)s * (size_t)d;
    }
}
