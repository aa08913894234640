/* router_mlp.c: the paper's router, Linear(d -> E), tanh, Linear(E -> E) on
 * x / ||x||, trained to tell which experts will be active.
 *
 * The first layer starts as the expert means of W1's normalised rows, the second
 * as the identity. Label of expert e: its positive activation, divided by the
 * largest of the batch. BCE with logits, Adam 1e-2, batches of 512, ten epochs;
 * the epoch that captures most activation on held-out sequences is kept (the
 * authors' code ships the second best). Both layers have biases here: with b1 in
 * the model, activation is no longer linear in x / ||x|| alone.
 *
 * A batch is cut into pieces of 128 rows, each a task with a gradient of its own;
 * they are added in order. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/interrupt.h"
#include "convert/mlp.h"
#include "convert/rng.h"
#include "convert/router.h"

enum { BATCH = 512, PIECE = 128, PIECES = BATCH / PIECE, EPOCHS = 10 };
static const float RATE = 1e-2f;

typedef struct {
    const router_input *in;
    mlp_shape shape;
    size_t n_params;
    float *params, *best;         /* [n_params] */
    float *mean, *square;         /* [n_params], Adam's */
    float *gradient;              /* [PIECES, n_params] */
    size_t piece_floats;
    float *piece;                 /* [PIECES][x | y | scratch] */
    float *largest;               /* [n_tokens], of the token's masses */
    int32_t *order;               /* [n_train] */
    /* the batch at hand */
    const int32_t *tokens;
    int n_tokens;
    float label_scale;
} trainer;

static void piece_task(void *ctx, int i, int worker)
{
    (void)worker;
    const trainer *t = ctx;
    const ffn_layer *l = t->in->l;
    const size_t d = (size_t)l->d, experts = (size_t)l->n_experts;
    const int first = i * PIECE;
    const int rows = t->n_tokens - first < PIECE ? t->n_tokens - first : PIECE;
    float *x = t->piece + (size_t)i * t->piece_floats;
    float *y = x + PIECE * d, *scratch = y + PIECE * experts;
    for (int r = 0; r < rows; r++) {
        const size_t token = (size_t)t->tokens[first + r];
        router_unit_row(l->x + token * d, l->d, x + (size_t)r * d);
        for (size_t e = 0; e < experts; e++)
            y[(size_t)r * experts + e] = t->label_scale * t->in->mass[token * experts + e];
    }
    mlp_gradient(t->shape, t->params, x, y, rows,
                 1 / ((float)t->n_tokens * (float)l->n_experts), scratch,
                 t->gradient + (size_t)i * t->n_params);
}

static void train_batch(trainer *t, const int32_t *tokens, int n_tokens, int step)
{
    float largest = 0;
    for (int i = 0; i < n_tokens; i++)
        largest = fmaxf(largest, t->largest[tokens[i]]);
    t->tokens = tokens;
    t->n_tokens = n_tokens;
    t->label_scale = largest > 0 ? 1 / largest : 0;
    const int pieces = (n_tokens + PIECE - 1) / PIECE;
    workers_run(t->in->l->workers, piece_task, t, pieces);
    for (int p = 1; p < pieces; p++)
        for (size_t i = 0; i < t->n_params; i++)
            t->gradient[i] += t->gradient[(size_t)p * t->n_params + i];
    adam_step(t->params, t->gradient, t->n_params, step, RATE, t->mean, t->square);
}

static void start_from_experts(trainer *t, float *unit)
{
    const ffn_layer *l = t->in->l;
    const mlp_view p = mlp_parts(t->shape, t->params);
    layer_unit_rows(l, unit);
    layer_expert_means(l, t->in->neurons, unit, t->params);
    float *identity = t->params + (p.w2 - t->params);
    for (size_t e = 0; e < (size_t)l->n_experts; e++)
        identity[e * (size_t)l->n_experts + e] = 1;
}

static void find_largest(trainer *t)
{
    const ffn_layer *l = t->in->l;
    for (int i = 0; i < l->n_tokens; i++) {
        const float *mass = t->in->mass + (size_t)i * (size_t)l->n_experts;
        t->largest[i] = 0;
        for (int e = 0; e < l->n_experts; e++)
            t->largest[i] = fmaxf(t->largest[i], mass[e]);
    }
}

static void copy_out(const trainer *t, const float *params, router_rows *r)
{
    const mlp_view p = mlp_parts(t->shape, params);
    const size_t experts = (size_t)t->shape.out, d = (size_t)t->shape.d;
    memcpy(r->first, p.w1, experts * d * sizeof(float));
    memcpy(r->first_bias, p.b1, experts * sizeof(float));
    memcpy(r->second, p.w2, experts * experts * sizeof(float));
    memcpy(r->second_bias, p.b2, experts * sizeof(float));
}

static moe_status train(trainer *t, router_rows *out, router_report *report,
                        moe_error *err)
{
    const int n = t->in->n_train;
    rng r = rng_stream(t->in->l->seed, (uint64_t)t->in->l->index, 'm');
    double best = -1;
    int step = 0;
    memcpy(t->order, t->in->train, (size_t)n * sizeof *t->order);
    for (int epoch = 1; epoch <= EPOCHS; epoch++) {
        rng_shuffle(&r, t->order, n);
        for (int at = 0; at < n; at += BATCH)
            train_batch(t, t->order + at, n - at < BATCH ? n - at : BATCH, ++step);
        double captured = 0;
        copy_out(t, t->params, out);
        moe_status status = router_captured(t->in, out, &captured, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        if (status != MOE_OK)
            return status;
        if (captured > best) {
            best = captured;
            memcpy(t->best, t->params, t->n_params * sizeof *t->best);
            report->best_epoch = epoch;
        }
    }
    copy_out(t, t->best, out);
    report->epochs = EPOCHS;
    return MOE_OK;
}

static bool trainer_alloc(trainer *t)
{
    const ffn_layer *l = t->in->l;
    const size_t experts = (size_t)l->n_experts;
    t->n_params = mlp_floats(t->shape);
    t->piece_floats = PIECE * ((size_t)l->d + 4 * experts);
    t->params = calloc(t->n_params, sizeof(float));
    t->best = calloc(t->n_params, sizeof(float));
    t->mean = calloc(t->n_params, sizeof(float));
    t->square = calloc(t->n_params, sizeof(float));
    t->gradient = calloc(PIECES * t->n_params, sizeof(float));
    t->piece = calloc(PIECES * t->piece_floats, sizeof(float));
    t->largest = calloc((size_t)l->n_tokens + 1, sizeof(float));
    t->order = calloc((size_t)t->in->n_train + 1, sizeof(int32_t));
    return t->params && t->best && t->mean && t->square && t->gradient && t->piece &&
           t->largest && t->order;
}

static void trainer_free(trainer *t)
{
    free(t->params);
    free(t->best);
    free(t->mean);
    free(t->square);
    free(t->gradient);
    free(t->piece);
    free(t->largest);
    free(t->order);
}

moe_status router_mlp(const router_input *in, router_rows *out, router_report *report,
                      moe_error *err)
{
    const ffn_layer *l = in->l;
    trainer t = {.in = in, .shape = {l->d, l->n_experts, l->n_experts}};
    float *unit = malloc((size_t)l->d_ff * (size_t)l->d * sizeof *unit);
    *report = (router_report){0, 0};
    moe_status status =
        router_rows_alloc(2, l->d, l->n_experts, l->n_experts, out, err);
    if (status == MOE_OK && !(trainer_alloc(&t) && unit))
        status = moe_fail(err, MOE_E_MEMORY, "no memory to train the router of layer %d",
                          l->index);
    if (status == MOE_OK) {
        out->normalize = true;
        start_from_experts(&t, unit);
        find_largest(&t);
        status = train(&t, out, report, err);
    }
    if (status != MOE_OK)
        router_rows_free(out);
    trainer_free(&t);
    free(unit);
    return status;
}
