/* relufy_layer.c: the training of one layer.
 *
 * A batch of 512 tokens is worked on in two rounds of tasks: pieces of 64 rows
 * (read, forward, gradients by the activations), then slices of 64 neurons
 * (gradient of their parameters over all rows, Adam). Each task owns what it
 * writes, so nothing is added up across tasks. Memory: four arrays of the
 * parameters' size and one batch; of every token only its number. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/interrupt.h"
#include "convert/mlp.h"
#include "convert/relufy_layer.h"
#include "convert/rng.h"
#include "convert/spool.h"

enum { BATCH = 512, PIECE = 64, PIECES = BATCH / PIECE, SLICE = 64 };
static const double RATE = 1e-3, WARM_UP = 0.05;

/* Sums over the rows of one piece. */
typedef struct {
    double error, squares, fired, density;
    moe_status status;
    moe_error err;
} piece_sums;

typedef struct {
    const relufy_layer *l;
    float *params, *gradient, *mean, *square; /* [n_params] */
    float *records;        /* [BATCH, 2 d] */
    float *x, *target, *y; /* [BATCH, d]; y is the gradient by it in training */
    float *h, *dh;         /* [BATCH, d_ff] */
    double *target_sum;    /* [PIECES, d] */
    piece_sums pieces[PIECES];
    double variance;       /* of a target, over its d numbers together */
    /* the batch at hand */
    const int32_t *tokens;
    int n_tokens, step;
    double rate;
} trainer;

/* ---- rows ---------------------------------------------------------------- */

static int piece_rows(const trainer *t, int i)
{
    const int left = t->n_tokens - i * PIECE;
    return left < PIECE ? left : PIECE;
}

static moe_status read_piece(trainer *t, int i, moe_error *err)
{
    const size_t d = (size_t)t->l->shape.d;
    for (int r = i * PIECE; r < i * PIECE + piece_rows(t, i); r++) {
        float *record = t->records + (size_t)r * 2 * d;
        moe_status status =
            spool_read(t->l->fd, record, 2 * d * sizeof *record,
                       (size_t)t->tokens[r] * 2 * d * sizeof *record, err);
        if (status != MOE_OK)
            return status;
        memcpy(t->x + (size_t)r * d, record, d * sizeof *record);
        memcpy(t->target + (size_t)r * d, record + d, d * sizeof *record);
    }
    return MOE_OK;
}

static void rows_task(void *ctx, int i, int worker)
{
    (void)worker;
    trainer *t = ctx;
    piece_sums *p = &t->pieces[i];
    const size_t d = (size_t)t->l->shape.d, at = (size_t)i * PIECE;
    const size_t wide = at * (size_t)t->l->shape.d_ff;
    const regression_weights w = {
        .error = (float)(1 / (t->variance * t->n_tokens)),
        .density = (float)(t->l->penalty / t->n_tokens)};
    p->status = read_piece(t, i, &p->err);
    if (p->status == MOE_OK)
        regression_rows(t->l->shape, t->params, w, t->x + at * d, t->target + at * d,
                        piece_rows(t, i), t->h + wide, t->y + at * d, t->dh + wide);
}

static moe_status pieces_status(const trainer *t, moe_error *err)
{
    for (int i = 0; i * PIECE < t->n_tokens; i++)
        if (t->pieces[i].status != MOE_OK) {
            if (err)
                *err = t->pieces[i].err;
            return t->pieces[i].status;
        }
    return MOE_OK;
}

static int take_batch(trainer *t, const int32_t *tokens, int n)
{
    t->tokens = tokens;
    t->n_tokens = n < BATCH ? n : BATCH;
    return (t->n_tokens + PIECE - 1) / PIECE;
}

/* ---- neurons ------------------------------------------------------------- */

static void adam(trainer *t, size_t first, size_t n)
{
    adam_step(t->params + first, t->gradient + first, n, t->step, (float)t->rate,
              t->mean + first, t->square + first);
}

/* The last task is the output's bias. */
static void neurons_task(void *ctx, int i, int worker)
{
    (void)worker;
    trainer *t = ctx;
    const regression_shape s = t->l->shape;
    const regression_view p = regression_parts(s, t->params);
    const int first = i * SLICE, left = s.d_ff - first;
    const int n = left < SLICE ? left : SLICE;
    const size_t matrix = (size_t)n * (size_t)s.d, at = (size_t)first * (size_t)s.d;
    if (n <= 0) {
        regression_output_bias(s, t->y, t->n_tokens, t->gradient);
        adam(t, (size_t)(p.b2 - t->params), (size_t)s.d);
        return;
    }
    regression_neurons(s, t->x, t->h, t->y, t->dh, t->n_tokens, first, n, t->gradient);
    adam(t, at, matrix);
    adam(t, (size_t)(p.b1 - t->params) + (size_t)first, (size_t)n);
    adam(t, (size_t)(p.w2 - t->params) + at, matrix);
}

/* ---- figures ------------------------------------------------------------- */

static void figures_task(void *ctx, int i, int worker)
{
    (void)worker;
    trainer *t = ctx;
    piece_sums *p = &t->pieces[i];
    const regression_shape s = t->l->shape;
    const size_t d = (size_t)s.d, d_ff = (size_t)s.d_ff, at = (size_t)i * PIECE;
    const float *target = t->target + at * d, *y = t->y + at * d, *h = t->h + at * d_ff;
    const int rows = piece_rows(t, i);
    double *sum = t->target_sum + (size_t)i * d;
    *p = (piece_sums){.status = read_piece(t, i, &p->err)};
    if (p->status != MOE_OK)
        return;
    regression_forward(s, MOE_ACT_RELU, t->params, t->x + at * d, rows, t->h + at * d_ff,
                       t->y + at * d);
    memset(sum, 0, d * sizeof *sum);
    for (int r = 0; r < rows; r++, target += d, y += d, h += d_ff) {
        for (size_t j = 0; j < d; j++) {
            const double off = (double)y[j] - target[j];
            p->error += off * off;
            p->squares += (double)target[j] * target[j];
            sum[j] += target[j];
        }
        for (size_t n = 0; n < d_ff; n++)
            p->fired += h[n] > 0;
        p->density += regression_density(h, s.d_ff);
    }
}

/* Over the held-out tokens; sets the targets' variance, too. */
static moe_status find_figures(trainer *t, relufy_figures *out, moe_error *err)
{
    const relufy_layer *l = t->l;
    const size_t d = (size_t)l->shape.d;
    const double n = l->n_held_out;
    piece_sums all = {.status = MOE_OK};
    double *mean = calloc(d, sizeof *mean), squared_mean = 0;
    moe_status status =
        mean ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", l->index);
    for (int at = 0; status == MOE_OK && at < l->n_held_out; at += BATCH) {
        const int pieces = take_batch(t, l->held_out + at, l->n_held_out - at);
        workers_run(l->workers, figures_task, t, pieces);
        status = pieces_status(t, err);
        for (int i = 0; status == MOE_OK && i < pieces; i++) {
            const piece_sums *p = &t->pieces[i];
            all.error += p->error;
            all.squares += p->squares;
            all.fired += p->fired;
            all.density += p->density;
            for (size_t j = 0; j < d; j++)
                mean[j] += t->target_sum[(size_t)i * d + j] / n;
        }
    }
    for (size_t j = 0; mean && j < d; j++)
        squared_mean += mean[j] * mean[j];
    free(mean);
    /* Targets that are all alike: the error itself, then. */
    const double variance = all.squares / n - squared_mean;
    t->variance = variance > 1e-12 * all.squares / n && variance > 0 ? variance : 1;
    *out = (relufy_figures){.error = all.error / n / t->variance,
                            .active = all.fired / n / l->shape.d_ff,
                            .density = all.density / n};
    return status;
}

/* ---- training ------------------------------------------------------------ */

/* Of step 1 to n: up to RATE and down to nothing, in straight lines. */
static double rate_at(int step, int n)
{
    const double share = (double)step / (n + 1);
    return RATE * fmin(share / WARM_UP, (1 - share) / (1 - WARM_UP));
}

static moe_status train(trainer *t, moe_error *err)
{
    const relufy_layer *l = t->l;
    const int per_epoch = (l->n_train + BATCH - 1) / BATCH;
    const int slices = (l->shape.d_ff + SLICE - 1) / SLICE;
    rng r = rng_stream(l->seed, (uint64_t)l->index, 'r');
    moe_status status = MOE_OK;
    int32_t *order = malloc((size_t)l->n_train * sizeof *order);
    if (!order)
        return moe_fail(err, MOE_E_MEMORY, "no memory to train layer %d", l->index);
    memcpy(order, l->train, (size_t)l->n_train * sizeof *order);
    for (int epoch = 1; status == MOE_OK && epoch <= l->epochs; epoch++) {
        rng_shuffle(&r, order, l->n_train);
        for (int at = 0; status == MOE_OK && at < l->n_train; at += BATCH) {
            t->rate = rate_at(++t->step, per_epoch * l->epochs);
            workers_run(l->workers, rows_task, t,
                        take_batch(t, order + at, l->n_train - at));
            status = pieces_status(t, err);
            if (status == MOE_OK)
                status = interrupt_check(err);
            if (status == MOE_OK)
                workers_run(l->workers, neurons_task, t, slices + 1);
        }
        if (l->on_epoch)
            l->on_epoch(l->ctx, epoch);
    }
    free(order);
    return status;
}

static moe_status check_finite(const relufy_layer *l, const float *params, moe_error *err)
{
    const size_t n = regression_floats(l->shape);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(params[i]))
            return moe_fail(err, MOE_E_FORMAT,
                            "layer %d: its training came to values that are not finite",
                            l->index);
    return MOE_OK;
}

static bool trainer_alloc(trainer *t)
{
    const size_t d = (size_t)t->l->shape.d, d_ff = (size_t)t->l->shape.d_ff;
    const size_t n = regression_floats(t->l->shape);
    t->gradient = calloc(n, sizeof(float));
    t->mean = calloc(n, sizeof(float));
    t->square = calloc(n, sizeof(float));
    t->records = malloc(BATCH * 2 * d * sizeof(float));
    t->x = malloc(BATCH * d * sizeof(float));
    t->target = malloc(BATCH * d * sizeof(float));
    t->y = malloc(BATCH * d * sizeof(float));
    t->h = malloc(BATCH * d_ff * sizeof(float));
    t->dh = malloc(BATCH * d_ff * sizeof(float));
    t->target_sum = malloc(PIECES * d * sizeof(double));
    return t->gradient && t->mean && t->square && t->records && t->x && t->target &&
           t->y && t->h && t->dh && t->target_sum;
}

static void trainer_free(trainer *t)
{
    free(t->gradient);
    free(t->mean);
    free(t->square);
    free(t->records);
    free(t->x);
    free(t->target);
    free(t->y);
    free(t->h);
    free(t->dh);
    free(t->target_sum);
}

moe_status relufy_layer_train(const relufy_layer *l, float *params,
                              relufy_figures *swapped, relufy_figures *trained,
                              moe_error *err)
{
    trainer t = {.l = l, .params = params};
    moe_status status = MOE_OK;
    if (!trainer_alloc(&t))
        status = moe_fail(err, MOE_E_MEMORY, "no memory to train layer %d", l->index);
    if (status == MOE_OK)
        status = find_figures(&t, swapped, err);
    if (status == MOE_OK)
        status = train(&t, err);
    if (status == MOE_OK)
        status = check_finite(l, params, err);
    if (status == MOE_OK)
        status = find_figures(&t, trained, err);
    trainer_free(&t);
    return status;
}
