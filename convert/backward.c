/* backward.c: products by BLAS, the rest as the formulas stand. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/activation.h"
#include "convert/backward.h"
#include "convert/backward_attention.h"
#include "convert/blas.h"
#include "engine/model/pack.h"

/* ---- weights ------------------------------------------------------------- */

moe_status backward_weights_create(const moe_model *m, backward_weights *w,
                                   moe_error *err)
{
    const size_t d = (size_t)m->info.d_model, d_ff = (size_t)m->info.d_ff;
    *w = (backward_weights){.d = m->info.d_model, .d_ff = m->info.d_ff,
                            .n_heads = m->info.n_heads, .scale = m->attention_scale};
    w->qkv_w = malloc(3 * d * d * sizeof(float));
    w->out_w = malloc(d * d * sizeof(float));
    w->w1 = malloc(d_ff * d * sizeof(float));
    w->b1 = malloc(d_ff * sizeof(float));
    w->w2 = malloc(d * d_ff * sizeof(float));
    if (w->qkv_w && w->out_w && w->w1 && w->b1 && w->w2)
        return MOE_OK;
    return moe_fail(err, MOE_E_MEMORY, "no memory for a layer of %d neurons", w->d_ff);
}

void backward_weights_load(backward_weights *w, const moe_model *m, int layer)
{
    const moe_layer *l = &m->weights.layers[layer];
    unpack_linear(&l->qkv, w->qkv_w);
    unpack_linear(&l->attention_out, w->out_w);
    unpack_w1(&l->ffn, w->w1);
    unpack_b1(&l->ffn, w->b1);
    unpack_w2(&l->ffn, w->w2);
    w->qkv_b = l->qkv.b;
    w->out_b = l->attention_out.b;
    w->b2 = l->ffn.b2;
    w->act = l->ffn.act;
    w->attention_norm = l->attention_norm;
    w->ffn_norm = l->ffn_norm;
}

void backward_weights_free(backward_weights *w)
{
    free(w->qkv_w);
    free(w->out_w);
    free(w->w1);
    free(w->b1);
    free(w->w2);
    *w = (backward_weights){.d = 0};
}

/* ---- linear layers ------------------------------------------------------- */

/* y [n_rows, n] += bias */
static void add_bias(const float *bias, int n, int n_rows, float *y)
{
    for (int t = 0; bias && t < n_rows; t++, y += n)
        for (int j = 0; j < n; j++)
            y[j] += bias[j];
}

void backward_linear(const float *x, int n_rows, int k, const float *w,
                     const float *bias, int n, float beta, float *y)
{
    blas_nt(n_rows, n, k, x, k, w, k, beta, y, n);
    add_bias(bias, n, n_rows, y);
}

/* ---- layer norm ---------------------------------------------------------- */

/* Sums in eight lanes, a fixed order that a compiler can vectorise. */
enum { LANES = 8 };

static float dot(const float *a, const float *b, int n)
{
    float lane[LANES] = {0}, sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] += a[i + j] * b[i + j];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    return sum;
}

static float mean(const float *a, int n)
{
    float lane[LANES] = {0}, sum = 0;
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] += a[i + j];
    for (; i < n; i++)
        sum += a[i];
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    return sum / (float)n;
}

/* Rows r become (r - mean) inverse; inverse [n_rows]: one over their deviation. */
static void standardise(const moe_norm *norm, int n_rows, float *r, float *inverse)
{
    const int d = norm->d;
    for (int t = 0; t < n_rows; t++, r += d) {
        const float centre = mean(r, d);
        for (int j = 0; j < d; j++)
            r[j] -= centre;
        inverse[t] = 1 / sqrtf(dot(r, r, d) / (float)d + norm->eps);
        for (int j = 0; j < d; j++)
            r[j] *= inverse[t];
    }
}

static void scale_and_shift(const moe_norm *norm, const float *r, int n_rows, float *y)
{
    for (int t = 0; t < n_rows; t++, r += norm->d, y += norm->d)
        for (int j = 0; j < norm->d; j++)
            y[j] = r[j] * norm->gamma[j] + norm->beta[j];
}

/* g, the gradient by a norm's output, becomes that by its input, of which r are the
 * standardised rows: inverse (u - mean(u) - r mean(u r)) with u = g gamma. */
static void norm_backward(const moe_norm *norm, const float *r, const float *inverse,
                          int n_rows, float *g)
{
    const int d = norm->d;
    for (int t = 0; t < n_rows; t++, r += d, g += d) {
        for (int j = 0; j < d; j++)
            g[j] *= norm->gamma[j];
        const float shift = mean(g, d), slope = dot(g, r, d) / (float)d;
        for (int j = 0; j < d; j++)
            g[j] = inverse[t] * (g[j] - shift - r[j] * slope);
    }
}

/* ---- rows with a gradient ------------------------------------------------ */

static bool is_live(const float *g, int d)
{
    for (int j = 0; j < d; j++)
        if (g[j] != 0)
            return true;
    return false;
}

/* The rows of `from` whose row of g is not all zeros, end to end; how many. */
static int gather(const float *g, int n, int d, const float *from, float *to)
{
    int live = 0;
    for (int t = 0; t < n; t++)
        if (is_live(g + (size_t)t * (size_t)d, d))
            memcpy(to + (size_t)live++ * (size_t)d, from + (size_t)t * (size_t)d,
                   (size_t)d * sizeof *to);
    return live;
}

/* Back to their places, zeros elsewhere. `to` may be g. */
static void scatter(const float *g, int n, int d, const float *from, float *to)
{
    const size_t bytes = (size_t)d * sizeof *to;
    for (int t = 0; t < n; t++, g += d, to += d)
        if (is_live(g, d)) {
            memcpy(to, from, bytes);
            from += d;
        } else {
            memset(to, 0, bytes);
        }
}

/* ---- the layer ----------------------------------------------------------- */

/* Arrays of a task of n rows, of which `live` have a gradient. Places are used again:
 * a name is what the array holds first, the comment what it holds later. */
typedef struct {
    float *qkv, *g_qkv;   /* [n, 3 d] */
    float *p, *g_p;       /* of the attention */
    float *y;             /* [n, d]; its gradient */
    float *r1, *r2, *x;   /* [live, d]; standardised, standardised, gradient by y */
    float *h, *slope;     /* [live, d_ff]; h: gradient by z */
    float *g;             /* [live, d]: by out, r2, x, r1 */
    float *inverse1, *inverse2; /* [live] */
} places;

static int task_rows(backward_task t)
{
    return t.cu_seqlens[t.n_seqs] - t.cu_seqlens[0];
}

static attention_task attention_of(const backward_weights *w, backward_task t)
{
    return (attention_task){.d = w->d, .n_heads = w->n_heads, .scale = w->scale,
                            .cu_seqlens = t.cu_seqlens, .n_seqs = t.n_seqs};
}

/* Lays the arrays out from `scratch` on, which may be NULL; returns their floats. */
static size_t lay_out(const backward_weights *w, backward_task t, float *scratch,
                      places *s)
{
    const attention_task a = attention_of(w, t);
    const size_t n = (size_t)task_rows(t), d = (size_t)w->d, d_ff = (size_t)w->d_ff;
    const struct { float **at; size_t floats; } parts[] = {
        {&s->qkv, n * 3 * d}, {&s->g_qkv, n * 3 * d},
        {&s->p, attention_weight_floats(&a)}, {&s->g_p, attention_scratch_floats(&a)},
        {&s->y, n * d}, {&s->r1, n * d}, {&s->r2, n * d}, {&s->x, n * d}, {&s->g, n * d},
        {&s->h, n * d_ff}, {&s->slope, n * d_ff},
        {&s->inverse1, n}, {&s->inverse2, n},
    };
    size_t used = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = scratch ? scratch + used : NULL;
        used += (parts[i].floats + 15) / 16 * 16; /* on cache lines of their own */
    }
    return used;
}

size_t backward_scratch_floats(const backward_weights *w, backward_task t)
{
    places s;
    return lay_out(w, t, NULL, &s);
}

/* The forward pass up to the rows that norm2 has standardised; how many are live. */
static int forward(const backward_weights *w, backward_task t, const places *s,
                   const float *x_in, const float *g_out)
{
    const attention_task a = attention_of(w, t);
    const int d = w->d, d_ff = w->d_ff, n = task_rows(t);
    backward_linear(x_in, n, d, w->qkv_w, w->qkv_b, 3 * d, 0, s->qkv);
    attention_forward(&a, s->qkv, s->p, s->y);

    float *y = s->r2; /* of live rows, until r2 needs the place */
    const int live = gather(g_out, n, d, s->y, y);
    gather(g_out, n, d, x_in, s->r1);
    gather(g_out, n, d, g_out, s->g);
    backward_linear(y, live, d, w->out_w, w->out_b, d, 1, s->r1);
    standardise(&w->attention_norm, live, s->r1, s->inverse1);
    scale_and_shift(&w->attention_norm, s->r1, live, s->x);

    backward_linear(s->x, live, d, w->w1, w->b1, d_ff, 0, s->h);
    activation_slopes(w->act, (size_t)live * (size_t)d_ff, s->h, s->slope);
    memcpy(s->r2, s->x, (size_t)live * (size_t)d * sizeof *s->r2);
    backward_linear(s->h, live, d_ff, w->w2, w->b2, d, 1, s->r2);
    standardise(&w->ffn_norm, live, s->r2, s->inverse2);
    return live;
}

/* From the gradient by r2 to that by r1, in s->g. */
static void ffn_backward(const backward_weights *w, const places *s, int live)
{
    const int d = w->d, d_ff = w->d_ff;
    blas_nn(live, d_ff, d, s->g, d, w->w2, d_ff, 0, s->h, d_ff);
    for (size_t i = 0; i < (size_t)live * (size_t)d_ff; i++)
        s->h[i] *= s->slope[i];
    blas_nn(live, d, d_ff, s->h, d_ff, w->w1, d, 1, s->g, d);
    norm_backward(&w->attention_norm, s->r1, s->inverse1, live, s->g);
}

void backward_layer(const backward_weights *w, backward_task t, const float *x_in,
                    const float *g_out, float *scratch, float *g_ffn, float *g_in)
{
    places s;
    lay_out(w, t, scratch, &s);
    const attention_task a = attention_of(w, t);
    const int d = w->d, n = task_rows(t);
    const int live = forward(w, t, &s, x_in, g_out);
    norm_backward(&w->ffn_norm, s.r2, s.inverse2, live, s.g);
    scatter(g_out, n, d, s.g, g_ffn);
    if (!g_in)
        return;
    ffn_backward(w, &s, live);
    blas_nn(live, d, d, s.g, d, w->out_w, d, 0, s.x, d);
    scatter(g_out, n, d, s.x, s.y);
    attention_backward(&a, s.qkv, s.p, s.y, s.g_p, s.g_qkv);
    scatter(g_out, n, d, s.g, g_in);
    blas_nn(n, d, 3 * d, s.g_qkv, 3 * d, w->qkv_w, d, 1, g_in, d);
}
