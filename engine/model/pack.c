/* pack.c: plain row-major matrices to the kernels' layouts and back.
 *
 * linear  rows [n, k]        <-> [ceil(n/32)][k][32]     (panels of 32 outputs)
 * w1      rows [d_ff, d]     <-> [E][d][32]              (a linear, permuted)
 * w2      rows [d, d_ff]     <-> [E][ceil(d/64)][32][64] (panels of 64 outputs)
 *
 * A panel is a transpose of 32 rows. It is done in blocks of columns, so that
 * the 32 source rows' cache lines and the block of the target stay in L1.
 * Places past n, d or d_ff become zeros. One thread; no allocation. */
#include "engine/model/pack.h"

#include <string.h>

#include "engine/model/lower.h"

enum { P = MOE_LINEAR_PANEL, Q = MOE_W2_PANEL, S = MOE_EXPERT_SIZE, BLOCK = 16 };

size_t pack_linear_floats(int n, int k)
{
    return ((size_t)n + P - 1) / P * P * (size_t)k;
}

size_t pack_w2_floats(int n_experts, int d)
{
    return (size_t)n_experts * (((size_t)d + Q - 1) / Q) * S * Q;
}

/* panel [k][32] from 32 rows of k floats; a NULL row is zeros. */
static void pack_panel(const float *const row[P], int k, float *panel)
{
    for (int c0 = 0; c0 < k; c0 += BLOCK) {
        int c1 = c0 + BLOCK < k ? c0 + BLOCK : k;
        for (int j = 0; j < P; j++)
            for (int c = c0; c < c1; c++)
                panel[(size_t)c * P + (size_t)j] = row[j] ? row[j][c] : 0.0f;
    }
}

/* scale [32], of I8 only. */
static void unpack_panel(moe_dtype t, const void *panel, int k, const float *scale,
                         float *const row[P])
{
    for (int j = 0; t != MOE_F32 && j < P; j++)
        for (int c = 0; row[j] && c < k; c++)
            row[j][c] = lower_value(t, panel, P, c, j, scale ? scale[j] : 1);
    for (int c0 = 0; t == MOE_F32 && c0 < k; c0 += BLOCK) {
        int c1 = c0 + BLOCK < k ? c0 + BLOCK : k;
        for (int j = 0; j < P; j++)
            for (int c = c0; row[j] && c < c1; c++)
                row[j][c] = ((const float *)panel)[(size_t)c * P + (size_t)j];
    }
}

void pack_linear(const float *rows, int n, int k, float *packed)
{
    for (int n0 = 0; n0 < n; n0 += P) {
        const float *row[P];
        for (int j = 0; j < P; j++) /* seek to rows[n0 + j, :] */
            row[j] = n0 + j < n ? rows + (size_t)(n0 + j) * (size_t)k : NULL;
        pack_panel(row, k, packed + (size_t)n0 * (size_t)k);
    }
}

void unpack_linear(const moe_linear *w, float *rows)
{
    size_t bytes = lower_linear_bytes(w->dtype, P, w->k); /* of a panel */
    const char *panel = w->w;
    for (int n0 = 0; n0 < w->n; n0 += P, panel += bytes) {
        float *row[P];
        for (int j = 0; j < P; j++)
            row[j] = n0 + j < w->n ? rows + (size_t)(n0 + j) * (size_t)w->k : NULL;
        unpack_panel(w->dtype, panel, w->k, w->scale ? w->scale + n0 : NULL, row);
    }
}

moe_linear pack_linear_columns(const moe_linear *w, int first, int n)
{
    moe_linear part = *w;
    part.n = n;
    part.w = (const char *)w->w + lower_linear_bytes(w->dtype, first, w->k);
    part.b = w->b ? w->b + first : NULL;
    part.scale = w->scale ? w->scale + first : NULL;
    part.offset = w->offset ? w->offset + first : NULL;
    return part;
}

/* The source neuron at place e * 32 + j, or -1. */
static int source_of(const int32_t *neurons, int d_ff, int e, int j)
{
    int place = e * S + j;
    if (neurons)
        return neurons[place];
    return place < d_ff ? place : -1;
}

void pack_w1(const float *w1, int d_ff, int d, int n_experts,
             const int32_t *neurons, float *packed)
{
    for (int e = 0; e < n_experts; e++) {
        const float *row[S];
        for (int j = 0; j < S; j++) {
            int s = source_of(neurons, d_ff, e, j);
            row[j] = s >= 0 ? w1 + (size_t)s * (size_t)d : NULL;
        }
        pack_panel(row, d, packed + (size_t)e * (size_t)d * S);
    }
}

void pack_b1(const float *b1, int d_ff, int n_experts, const int32_t *neurons,
             float *packed)
{
    for (int e = 0; e < n_experts; e++)
        for (int j = 0; j < S; j++) {
            int s = source_of(neurons, d_ff, e, j);
            packed[(size_t)e * S + (size_t)j] = b1 && s >= 0 ? b1[s] : 0.0f;
        }
}

void pack_w2(const float *w2, int d_ff, int d, int n_experts,
             const int32_t *neurons, float *packed)
{
    memset(packed, 0, pack_w2_floats(n_experts, d) * sizeof *packed);
    size_t panels = ((size_t)d + Q - 1) / Q;
    for (int e = 0; e < n_experts; e++)
        for (int c = 0; c < d; c++) {
            const float *row = w2 + (size_t)c * (size_t)d_ff; /* w2[c, :] */
            /* seek to packed[e][c / 64][0][c % 64] */
            float *to = packed + ((size_t)e * panels + (size_t)c / Q) * S * Q +
                        (size_t)c % Q;
            for (int j = 0; j < S; j++) {
                int s = source_of(neurons, d_ff, e, j);
                if (s >= 0)
                    to[(size_t)j * Q] = row[s];
            }
        }
}

void unpack_w1(const moe_ffn *f, float *w1)
{
    size_t bytes = lower_linear_bytes(f->dtype, S, f->d);
    for (int e = 0; e < f->n_experts; e++) {
        float *row[S];
        for (int j = 0; j < S; j++) {
            int s = source_of(f->neurons, f->d_ff, e, j);
            row[j] = s >= 0 ? w1 + (size_t)s * (size_t)f->d : NULL;
        }
        unpack_panel(f->dtype, (const char *)f->w1 + (size_t)e * bytes, f->d,
                     f->scale1 ? f->scale1 + e * S : NULL, row);
    }
}

void unpack_up(const moe_ffn *f, float *up)
{
    moe_ffn other = *f;
    other.w1 = f->up;
    other.scale1 = f->scale_up;
    unpack_w1(&other, up);
}

void unpack_b1(const moe_ffn *f, float *b1)
{
    for (int e = 0; e < f->n_experts; e++)
        for (int j = 0; j < S; j++) {
            int s = source_of(f->neurons, f->d_ff, e, j);
            if (s >= 0)
                b1[s] = f->b1[(size_t)e * S + (size_t)j];
        }
}

void unpack_w2(const moe_ffn *f, float *w2)
{
    size_t panels = ((size_t)f->d + Q - 1) / Q, bytes = lower_w2_bytes(f->dtype, 1, Q);
    for (int e = 0; e < f->n_experts; e++)
        for (int c = 0; c < f->d; c++) {
            float *row = w2 + (size_t)c * (size_t)f->d_ff;
            const char *panel =
                (const char *)f->w2 + ((size_t)e * panels + (size_t)c / Q) * bytes;
            float scale = f->scale2 ? f->scale2[c] : 1;
            for (int j = 0; j < S; j++) {
                int s = source_of(f->neurons, f->d_ff, e, j);
                if (s >= 0)
                    row[s] = lower_value(f->dtype, panel, Q, j, c % Q, scale);
            }
        }
}
