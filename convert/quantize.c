/* quantize.c: the dense model is walked through layer by layer over a sample of the
 * calibration text. On the way the mean square of every input of every linear layer is
 * taken: that of qkv from the rows that enter the layer, that of w1 from those that enter
 * its FFN, that of w2 from the hidden values between. What enters the projection after
 * attention is not seen; its inputs all count alike. */
#include "convert/quantize.h"

#include <stdlib.h>
#include <string.h>

#include "convert/interrupt.h"
#include "convert/layer.h"
#include "engine/model/pack.h"

enum { SAMPLE_TOKENS = 8192 };

typedef struct {
    const moe_model *m;
    workers *workers;
    moe_engine *engine;
    calibration text;
    int32_t *seq, *bounds;
    float *x;                  /* [n_tokens, d] */
    float *qkv, *in, *hidden;  /* [d] [d] [d_ff] mean squares */
    float *w1, *b1, *h;        /* a layer's, and a block of hidden rows */
    double *sum;               /* [max(d, d_ff)] */
} walk;

static void walk_free(walk *w)
{
    moe_engine_destroy(w->engine);
    calibration_free(&w->text);
    free(w->seq);
    free(w->bounds);
    free(w->x);
    free(w->qkv);
    free(w->in);
    free(w->hidden);
    free(w->w1);
    free(w->b1);
    free(w->h);
    free(w->sum);
}

static moe_status walk_init(walk *w, moe_pool *pool, const calibration *text, moe_error *err)
{
    const size_t d = (size_t)w->m->info.d_model, d_ff = (size_t)w->m->info.d_ff;
    moe_status status = calibration_sample(text, SAMPLE_TOKENS, &w->text, &w->seq, err);
    if (status == MOE_OK)
        status = moe_engine_create(w->m, pool, NULL, &w->engine, err);
    if (status != MOE_OK)
        return status;
    w->bounds = malloc(((size_t)w->text.n_seqs + 1) * sizeof *w->bounds);
    w->x = malloc((size_t)w->text.n_tokens * d * sizeof *w->x);
    w->qkv = malloc(d * sizeof *w->qkv);
    w->in = malloc(d * sizeof *w->in);
    w->hidden = malloc(d_ff * sizeof *w->hidden);
    w->w1 = malloc(d_ff * d * sizeof *w->w1);
    w->b1 = malloc(d_ff * sizeof *w->b1);
    w->h = malloc(LAYER_TASK_ROWS * d_ff * sizeof *w->h);
    w->sum = malloc((d > d_ff ? d : d_ff) * sizeof *w->sum);
    if (!w->bounds || !w->x || !w->qkv || !w->in || !w->hidden || !w->w1 || !w->b1 || !w->h ||
        !w->sum)
        return moe_fail(err, MOE_E_MEMORY, "no memory to quantize %zu x %zu weights", d, d_ff);
    return MOE_OK;
}

/* One step over all rows: embed where layer is -1, else attention or FFN. */
static moe_status step(walk *w, int layer, bool ffn, moe_error *err)
{
    const size_t d = (size_t)w->m->info.d_model;
    moe_status status = MOE_OK;
    for (int s = 0, end; status == MOE_OK && s < w->text.n_seqs; s = end) {
        const moe_batch b = calibration_batch(&w->text, s, w->bounds, &end);
        float *x = w->x + (size_t)w->text.cu_seqlens[s] * d;
        status = layer < 0 ? moe_step_embed(w->engine, &b, x, err)
                 : ffn     ? moe_step_ffn(w->engine, layer, &b, x, err)
                           : moe_step_attention(w->engine, layer, &b, x, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

static void add_squares(const float *x, int n_rows, int n, double *sum)
{
    for (int i = 0; i < n_rows; i++, x += n)
        for (int j = 0; j < n; j++)
            sum[j] += (double)x[j] * x[j];
}

static void take_mean(const walk *w, int n, float *out)
{
    for (int j = 0; j < n; j++)
        out[j] = (float)(w->sum[j] / w->text.n_tokens);
}

static void squares_of_rows(walk *w, float *out)
{
    const int d = w->m->info.d_model;
    memset(w->sum, 0, (size_t)d * sizeof *w->sum);
    add_squares(w->x, w->text.n_tokens, d, w->sum);
    take_mean(w, d, out);
}

static void squares_of_hidden(walk *w, int layer)
{
    const moe_ffn *f = &w->m->weights.layers[layer].ffn;
    const ffn_layer l = {.d = f->d, .d_ff = f->d_ff, .act = f->act, .workers = w->workers};
    const ffn_inputs in = {w->w1, w->b1, NULL};
    memset(w->sum, 0, (size_t)f->d_ff * sizeof *w->sum);
    unpack_w1(f, w->w1);
    unpack_b1(f, w->b1);
    for (int t = 0, n; t < w->text.n_tokens; t += n) {
        n = w->text.n_tokens - t < LAYER_TASK_ROWS ? w->text.n_tokens - t : LAYER_TASK_ROWS;
        layer_activations(&l, &in, w->x + (size_t)t * (size_t)f->d, n, w->h);
        add_squares(w->h, n, f->d_ff, w->sum);
    }
    take_mean(w, f->d_ff, w->hidden);
}

static moe_status quantize_layer(walk *w, int layer, converted *c, moe_error *err)
{
    squares_of_rows(w, w->qkv);
    moe_status status = step(w, layer, false, err);
    if (status != MOE_OK)
        return status;
    squares_of_rows(w, w->in);
    squares_of_hidden(w, layer);
    status = converted_lower(c, layer, MOE_I8, w->qkv, w->in, w->hidden, err);
    return status == MOE_OK ? step(w, layer, true, err) : status;
}

static moe_status quantize_all(walk *w, progress *bar, converted *c, moe_error *err)
{
    moe_status status = step(w, -1, false, err);
    progress_begin(bar, "quantizing", w->m->info.n_layers);
    for (int l = 0; status == MOE_OK && l < w->m->info.n_layers; l++) {
        status = quantize_layer(w, l, c, err);
        progress_update(bar, l + 1, NULL);
    }
    progress_end(bar);
    return status;
}

moe_status quantize_model(const moe_model *m, moe_pool *pool, workers *hands,
                          const calibration *text, moe_dtype t, progress *bar, converted *c,
                          moe_error *err)
{
    moe_status status = MOE_OK;
    if (t == MOE_BF16)
        for (int l = 0; status == MOE_OK && l < m->info.n_layers; l++)
            status = converted_lower(c, l, t, NULL, NULL, NULL, err);
    if (t != MOE_I8)
        return status;
    walk w = {.m = m, .workers = hands};
    status = walk_init(&w, pool, text, err);
    if (status == MOE_OK)
        status = quantize_all(&w, bar, c, err);
    walk_free(&w);
    return status;
}
