/* relufy.c: the pipeline over the layers.
 *
 * Two models read the same text: the source, and the changed one, whose FFNs before
 * the present layer are ReLU already. Of each token the spool file holds
 *
 *     the record   [2 d]  the row that enters the changed model's FFN; its target
 *     the source's [d]    the row that leaves the source's layer
 *
 * The target is what the changed model's FFN should add so that the sum is the
 * source's again: (x_source + ffn_source(x_source)) - x_changed. So every layer
 * repairs what those before it did to the residual stream, as far as it can see it.
 *
 * A walk goes over the text in batches: the rows leave the layer before, pass the
 * attention (the same weights in both) and are written back. Memory holds a batch
 * and a layer, of every token only its ids. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/blas.h"
#include "convert/calibration.h"
#include "convert/interrupt.h"
#include "convert/layer.h"
#include "convert/relufy.h"
#include "convert/router.h"
#include "convert/spool.h"
#include "engine/model/pack.h"

enum { TARGET_ROWS = 64 }; /* of a task */

typedef struct {
    const moe_model *m;
    const relufy_options *o;
    relufied *out;
    progress *bar;
    calibration text;
    moe_pool *pool;
    moe_engine *source, *changed;
    workers *workers;
    int fd;
    size_t d, d_ff;
    regression_shape shape;
    float *params;              /* of the layer at work, [regression_floats] */
    float *rows;                /* [d_ff, d] */
    /* the batch at hand */
    float *x, *x_changed, *y;   /* [batch tokens, d] */
    float *records;             /* [batch tokens, 2 d] */
    float *hidden;              /* [workers, TARGET_ROWS, d_ff] */
    int32_t *bounds;            /* [n_seqs + 1] */
    int n_tokens;
    moe_activation act;
    int32_t *train, *held_out;  /* [all tokens] */
    int layer;
} walker;

/* ---- weights ------------------------------------------------------------- */

/* to [n, m] = from [m, n] turned over. */
static void transpose(const float *from, int m, int n, float *to)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            to[(size_t)j * (size_t)m + (size_t)i] = from[(size_t)i * (size_t)n + (size_t)j];
}

static void take_params(walker *w, const moe_ffn *f)
{
    const regression_view p = regression_parts(w->shape, w->params);
    unpack_w1(f, p.w1);
    unpack_b1(f, p.b1);
    unpack_w2(f, w->rows);
    transpose(w->rows, f->d, f->d_ff, p.w2);
    memcpy(p.b2, f->b2, w->d * sizeof *p.b2);
}

static float *result_array(relufied *r, size_t floats)
{
    const size_t bytes = (floats * sizeof(float) + 63) / 64 * 64;
    return r->arrays[r->n_arrays++] = aligned_alloc(64, bytes);
}

/* The trained parameters become the changed model's FFN. */
static moe_status put_params(walker *w, moe_ffn *f, moe_error *err)
{
    const regression_view p = regression_parts(w->shape, w->params);
    const size_t places = (size_t)f->n_experts * MOE_EXPERT_SIZE;
    float *w1 = result_array(w->out, places * w->d), *b1 = result_array(w->out, places);
    float *w2 = result_array(w->out, pack_w2_floats(f->n_experts, f->d));
    float *b2 = result_array(w->out, w->d);
    if (!w1 || !b1 || !w2 || !b2)
        return moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", w->layer);
    pack_w1(p.w1, f->d_ff, f->d, f->n_experts, NULL, w1);
    pack_b1(p.b1, f->d_ff, f->n_experts, NULL, b1);
    transpose(p.w2, f->d_ff, f->d, w->rows);
    pack_w2(w->rows, f->d_ff, f->d, f->n_experts, NULL, w2);
    memcpy(b2, p.b2, w->d * sizeof *b2);
    f->act = MOE_ACT_RELU;
    f->w1 = w1;
    f->b1 = b1;
    f->w2 = w2;
    f->b2 = b2;
    return MOE_OK;
}

/* ---- one batch of a walk ------------------------------------------------- */

/* Where the token's record and the source's row lie in the file. */
static size_t record_at(const walker *w, int token)
{
    return (size_t)token * 2 * w->d * sizeof(float);
}

static size_t source_at(const walker *w, int token)
{
    return record_at(w, w->text.n_tokens) + (size_t)token * w->d * sizeof(float);
}

static void target_task(void *ctx, int i, int worker)
{
    walker *w = ctx;
    const size_t d = w->d, first = (size_t)i * TARGET_ROWS;
    const int left = w->n_tokens - (int)first;
    const int rows = left < TARGET_ROWS ? left : TARGET_ROWS;
    const float *x = w->x + first * d, *changed = w->x_changed + first * d;
    float *y = w->y + first * d, *record = w->records + first * 2 * d;
    regression_forward(w->shape, w->act, w->params, x, rows,
                       w->hidden + (size_t)worker * TARGET_ROWS * w->d_ff, y);
    for (int t = 0; t < rows; t++, x += d, changed += d, y += d, record += 2 * d) {
        memcpy(record, changed, d * sizeof *record);
        for (size_t j = 0; j < d; j++)
            record[d + j] = x[j] + y[j] - changed[j];
    }
}

/* The rows that enter the layer, of both models. */
static moe_status enter_layer(walker *w, const moe_batch *b, int first, moe_error *err)
{
    const size_t floats = (size_t)w->n_tokens * w->d;
    if (w->layer == 0) {
        moe_status status = moe_step_embed(w->source, b, w->x, err);
        memcpy(w->x_changed, w->x, floats * sizeof *w->x);
        return status;
    }
    moe_status status =
        spool_read(w->fd, w->x, floats * sizeof *w->x, source_at(w, first), err);
    if (status == MOE_OK)
        status = spool_read(w->fd, w->records, 2 * floats * sizeof *w->records,
                            record_at(w, first), err);
    if (status != MOE_OK)
        return status;
    for (size_t t = 0; t < (size_t)w->n_tokens; t++)
        memcpy(w->x_changed + t * w->d, w->records + t * 2 * w->d, w->d * sizeof *w->x);
    return moe_step_ffn(w->changed, w->layer - 1, b, w->x_changed, err);
}

static moe_status check_finite(const walker *w, int first, moe_error *err)
{
    for (size_t i = 0; i < (size_t)w->n_tokens * w->d; i++)
        if (!isfinite(w->records[2 * i]) || !isfinite(w->records[2 * i + 1]))
            return moe_fail(err, MOE_E_FORMAT,
                            "layer %d: a value of calibration token %zu is not finite",
                            w->layer, (size_t)first + i / w->d);
    return MOE_OK;
}

/* first: the batch's first token. */
static moe_status walk_batch(walker *w, const moe_batch *b, int first, moe_error *err)
{
    const size_t floats = (size_t)w->n_tokens * w->d;
    moe_status status = enter_layer(w, b, first, err);
    if (status == MOE_OK)
        status = moe_step_attention(w->source, w->layer, b, w->x, err);
    if (status == MOE_OK)
        status = moe_step_attention(w->source, w->layer, b, w->x_changed, err);
    if (status != MOE_OK)
        return status;
    workers_run(w->workers, target_task, w, (w->n_tokens + TARGET_ROWS - 1) / TARGET_ROWS);
    status = check_finite(w, first, err);
    if (status == MOE_OK)
        status = spool_write(w->fd, w->records, 2 * floats * sizeof *w->records,
                             record_at(w, first), err);
    if (status == MOE_OK)
        status = moe_step_ffn(w->source, w->layer, b, w->x, err);
    if (status == MOE_OK)
        status = spool_write(w->fd, w->x, floats * sizeof *w->x, source_at(w, first), err);
    return status == MOE_OK ? interrupt_check(err) : status;
}

/* ---- one layer ----------------------------------------------------------- */

/* Up to the FFN of w->layer; w->params are the source's of that layer. */
static moe_status walk(walker *w, moe_error *err)
{
    moe_status status = MOE_OK;
    if (w->layer > 0) /* it sees the layer before as it is now */
        status = moe_engine_create(&w->out->model, w->pool, NULL, &w->changed, err);
    for (int s = 0, end; status == MOE_OK && s < w->text.n_seqs; s = end) {
        const moe_batch b = calibration_batch(&w->text, s, w->bounds, &end);
        const int first = w->text.cu_seqlens[s];
        w->n_tokens = w->text.cu_seqlens[end] - first;
        status = walk_batch(w, &b, first, err);
    }
    moe_engine_destroy(w->changed);
    w->changed = NULL;
    return status;
}

/* Progress counts the walks and the epochs. */
static void show_epoch(void *ctx, int epoch)
{
    const walker *w = ctx;
    char note[48];
    snprintf(note, sizeof note, "layer %d: epoch %d of %d", w->layer, epoch, w->o->epochs);
    progress_update(w->bar, (int64_t)w->layer * (w->o->epochs + 1) + 1 + epoch, note);
}

static moe_status train_layer(walker *w, moe_error *err)
{
    relufy_report *report = &w->out->layers[w->layer];
    const ffn_layer split = {.index = w->layer, .seed = w->o->seed,
                             .n_tokens = w->text.n_tokens, .n_seqs = w->text.n_seqs,
                             .cu_seqlens = w->text.cu_seqlens};
    relufy_layer l = {.index = w->layer, .shape = w->shape, .fd = w->fd,
                      .train = w->train, .held_out = w->held_out, .epochs = w->o->epochs,
                      .penalty = w->o->penalty, .seed = w->o->seed, .workers = w->workers,
                      .on_epoch = show_epoch, .ctx = w};
    router_hold_out(&split, w->train, &l.n_train, w->held_out, &l.n_held_out);
    return relufy_layer_train(&l, w->params, &report->swapped, &report->trained, err);
}

static moe_status relufy_layers(walker *w, moe_error *err)
{
    moe_status status = MOE_OK;
    const int n = w->m->weights.n_layers;
    progress_begin(w->bar, "training layers", (int64_t)n * (w->o->epochs + 1));
    for (w->layer = 0; status == MOE_OK && w->layer < n; w->layer++) {
        const moe_ffn *f = &w->m->weights.layers[w->layer].ffn;
        w->act = f->act;
        take_params(w, f);
        status = walk(w, err);
        show_epoch(w, 0);
        if (status == MOE_OK)
            status = train_layer(w, err);
        if (status == MOE_OK)
            status = put_params(w, &w->out->model.weights.layers[w->layer].ffn, err);
    }
    progress_end(w->bar);
    return status;
}

/* ---- all ----------------------------------------------------------------- */

void relufied_free(relufied *r)
{
    for (int i = 0; r->arrays && i < r->n_arrays; i++)
        free(r->arrays[i]);
    free(r->arrays);
    free(r->layers);
    free(r->model.weights.layers);
    *r = (relufied){.n_tokens = 0};
}

static moe_status relufied_init(const moe_model *m, relufied *out, moe_error *err)
{
    enum { ARRAYS_PER_LAYER = 4 };
    const size_t n = (size_t)m->weights.n_layers;
    *out = (relufied){.model = *m};
    out->model.info.activation = "relu";
    out->model.weights.layers = malloc(n * sizeof(moe_layer));
    out->layers = calloc(n, sizeof *out->layers);
    out->arrays = calloc(n * ARRAYS_PER_LAYER, sizeof *out->arrays);
    if (!out->model.weights.layers || !out->layers || !out->arrays)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d layers", m->weights.n_layers);
    memcpy(out->model.weights.layers, m->weights.layers, n * sizeof(moe_layer));
    return MOE_OK;
}

static moe_status allocate(walker *w, moe_error *err)
{
    const size_t batch = (size_t)calibration_batch_tokens(&w->text), d = w->d;
    const size_t tokens = (size_t)w->text.n_tokens;
    w->params = malloc(regression_floats(w->shape) * sizeof(float));
    w->rows = malloc(w->d_ff * d * sizeof(float));
    w->x = malloc(batch * d * sizeof(float));
    w->x_changed = malloc(batch * d * sizeof(float));
    w->y = malloc(batch * d * sizeof(float));
    w->records = malloc(batch * 2 * d * sizeof(float));
    w->hidden = malloc((size_t)workers_count(w->workers) * TARGET_ROWS * w->d_ff *
                       sizeof(float));
    w->bounds = malloc(((size_t)w->text.n_seqs + 1) * sizeof(int32_t));
    w->train = malloc(tokens * sizeof(int32_t));
    w->held_out = malloc(tokens * sizeof(int32_t));
    if (w->params && w->rows && w->x && w->x_changed && w->y && w->records && w->hidden &&
        w->bounds && w->train && w->held_out)
        return MOE_OK;
    return moe_fail(err, MOE_E_MEMORY, "no memory for layers of %d neurons", w->shape.d_ff);
}

static void walker_free(walker *w)
{
    moe_engine_destroy(w->source);
    workers_destroy(w->workers);
    moe_pool_destroy(w->pool);
    if (w->fd >= 0)
        close(w->fd);
    calibration_free(&w->text);
    free(w->params);
    free(w->rows);
    free(w->x);
    free(w->x_changed);
    free(w->y);
    free(w->records);
    free(w->hidden);
    free(w->bounds);
    free(w->train);
    free(w->held_out);
}

static moe_status prepare(walker *w, const dataset *data, moe_error *err)
{
    moe_status status = calibration_read(w->m, data, w->o->max_tokens, &w->text, err);
    if (status == MOE_OK)
        status = moe_pool_create(w->o->n_threads, &w->pool, err);
    if (status == MOE_OK)
        status = workers_create(moe_pool_threads(w->pool), &w->workers, err);
    if (status == MOE_OK)
        status = moe_engine_create(w->m, w->pool, NULL, &w->source, err);
    if (status == MOE_OK)
        status = allocate(w, err);
    if (status != MOE_OK)
        return status;
    char what[64];
    snprintf(what, sizeof what, "calibration rows (%d tokens)", w->text.n_tokens);
    return spool_open(w->o->spool_dir, source_at(w, w->text.n_tokens), what, &w->fd, err);
}

moe_status relufy_model(const moe_model *m, const dataset *data, const relufy_options *o,
                        progress *bar, relufied *out, moe_error *err)
{
    walker w = {.m = m, .o = o, .out = out, .bar = bar, .fd = -1,
                .d = (size_t)m->info.d_model, .d_ff = (size_t)m->info.d_ff,
                .shape = {.d = m->info.d_model, .d_ff = m->info.d_ff}};
    blas_begin();
    moe_status status = relufied_init(m, out, err);
    if (status == MOE_OK)
        status = prepare(&w, data, err);
    if (status == MOE_OK) {
        out->n_tokens = w.text.n_tokens;
        out->n_seqs = w.text.n_seqs;
        out->n_rows = w.text.n_rows;
        out->n_unknown = w.text.n_unknown;
        status = relufy_layers(&w, err);
    }
    walker_free(&w);
    if (status != MOE_OK)
        relufied_free(out);
    return status;
}
