/* shift.c: one walk over a sample of the text for each ratio. Memory holds the sample's
 * rows. The engine sees a shift as soon as it is written: it borrows the arrays.
 *
 * A mean is the best constant for a layer's output, but what it does to the answer is
 * another matter: errors of layers may have cancelled. So at each ratio the shifts of
 * a half (T5's encoder, its decoder; BERT is one) are taken whole, by half or not at all,
 * as leaves the answer closest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/interrupt.h"
#include "convert/logits.h"
#include "convert/shift.h"

/* Ratios that are walked; a row between two of them is interpolated, as the engine does. */
static const double walked[] = {0.05, 0.125, 0.25, 0.5, 0.75};
enum { N_WALKED = sizeof walked / sizeof *walked };
/* The sample goes through the model some forty times: of a large one it is smaller. */
enum { MOST_TOKENS = 4096, LEAST_TOKENS = 512 };
static const double TOKEN_WEIGHTS = 5e10; /* tokens times weights of its layers, at most */

typedef struct {
    converted *c;
    moe_engine *engine;
    calibration text, targets; /* the sample; targets empty but of text to text */
    float **shift;             /* [n_layers] [N_RATIOS, d], NULL where there are none */
    int32_t *bounds, *target_bounds;
    moe_selection *selection;  /* [n_seqs] */
    float *memory, *x;         /* [tokens, d] of either half; memory is the encoder's */
    float *dense, *sparse;     /* [the larger, d] */
    float *mean;               /* [n_layers, d] of the row's shifts */
    float *answer[2];          /* the sample's, dense and sparse: answer_floats of it */
    int row;                   /* of the table */
    int first_decoder_layer;   /* n_layers: there is none */
} walk;

/* ---- steps ------------------------------------------------------------------------- */

typedef enum { EMBED, ATTENTION, DENSE, SPARSE, FFN, ENCODED, EMBED_TARGETS } step_kind;

static const calibration *text_of(const walk *w, int layer)
{
    return layer < w->first_decoder_layer ? &w->text : &w->targets;
}

static moe_status step_batch(walk *w, step_kind kind, int layer, moe_batch *b, const float *x,
                             float *out, moe_error *err)
{
    if (kind != DENSE)
        b->selection = w->selection;
    switch (kind) {
    case EMBED: return moe_step_embed(w->engine, b, out, err);
    case ATTENTION: return moe_step_attention(w->engine, layer, b, out, err);
    case DENSE:
    case SPARSE: return moe_step_ffn_output(w->engine, layer, b, x, out, err);
    case FFN: return moe_step_ffn(w->engine, layer, b, out, err);
    case ENCODED: return moe_step_encoded(w->engine, b, out, err);
    case EMBED_TARGETS: return moe_step_embed_targets(w->engine, b, out, err);
    }
    return MOE_OK;
}

/* Over all sequences: from x, the rows of text (the layer's half), to out. */
static moe_status step(walk *w, step_kind kind, int layer, const float *x, float *out,
                       moe_error *err)
{
    const size_t d = (size_t)w->c->model.info.d_model;
    const bool decoder = kind == EMBED_TARGETS ||
                         (layer >= w->first_decoder_layer && kind != ENCODED && kind != EMBED);
    moe_status status = MOE_OK;
    for (int s = 0, end; status == MOE_OK && s < w->text.n_seqs; s = end) {
        moe_batch b = calibration_batch(&w->text, s, w->bounds, &end);
        size_t at = (size_t)w->text.cu_seqlens[s] * d;
        if (w->targets.n_seqs) {
            calibration_batch_targets(&w->targets, s, end, w->target_bounds, &b);
            b.memory = w->memory + at;
            at = decoder ? (size_t)w->targets.cu_seqlens[s] * d : at;
        }
        status = step_batch(w, kind, layer, &b, x + at, out + at, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* ---- means ---------------------------------------------------------------------------- */

/* Whether only the first token of each sequence goes on from the layer. */
static bool reads_first(const walk *w, int layer)
{
    const moe_task t = w->c->model.info.task;
    return layer + 1 == w->c->model.info.n_layers &&
           (t == MOE_TASK_CLASSIFY || t == MOE_TASK_MULTI_LABEL || t == MOE_TASK_REGRESS);
}

static void write_shift(walk *w, int layer)
{
    const calibration *text = text_of(w, layer);
    const size_t d = (size_t)w->c->model.info.d_model;
    const bool first = reads_first(w, layer);
    float *to = w->mean + (size_t)layer * d, *shift = w->shift[layer] + (size_t)w->row * d;
    for (size_t i = 0; i < d; i++) {
        double sum = 0;
        int n = 0;
        for (int s = 0; s < text->n_seqs; s++)
            for (int t = text->cu_seqlens[s]; t < text->cu_seqlens[s + 1]; t++) {
                if (first && t > text->cu_seqlens[s])
                    break;
                const size_t at = (size_t)t * d + i;
                sum += (double)w->dense[at] - w->sparse[at];
                n++;
            }
        to[i] = shift[i] = (float)(sum / n);
    }
}

static moe_status walk_layer(walk *w, int layer, float *x, moe_error *err)
{
    moe_status status = step(w, ATTENTION, layer, x, x, err);
    if (status == MOE_OK && w->shift[layer]) {
        status = step(w, DENSE, layer, x, w->dense, err);
        if (status == MOE_OK)
            status = step(w, SPARSE, layer, x, w->sparse, err);
        if (status == MOE_OK)
            write_shift(w, layer);
    }
    return status == MOE_OK ? step(w, FFN, layer, x, x, err) : status;
}

static moe_status walk_row(walk *w, moe_error *err)
{
    const int n = w->c->model.info.n_layers;
    for (int s = 0; s < w->text.n_seqs; s++)
        w->selection[s] = (moe_selection){ratio_grid[w->row], MOE_SELECT_ROUTER,
                                          MOE_POLICY_MODEL};
    moe_status status = step(w, EMBED, 0, w->memory, w->memory, err);
    for (int l = 0; status == MOE_OK && l < w->first_decoder_layer; l++)
        status = walk_layer(w, l, w->memory, err);
    if (status == MOE_OK && w->first_decoder_layer < n)
        status = step(w, ENCODED, 0, w->memory, w->memory, err);
    if (status == MOE_OK && w->first_decoder_layer < n)
        status = step(w, EMBED_TARGETS, 0, w->x, w->x, err);
    for (int l = w->first_decoder_layer; status == MOE_OK && l < n; l++)
        status = walk_layer(w, l, w->x, err);
    return status;
}

/* ---- how much of it ----------------------------------------------------------------------- */

/* Logits as logits.h has them, or the log-probability of each target. */
static size_t answer_floats(const walk *w)
{
    const moe_model_info *info = &w->c->model.info;
    return w->targets.n_seqs ? (size_t)w->targets.n_tokens
                             : logits_at(info, w->text.cu_seqlens, w->text.n_seqs);
}

static moe_status answer(walk *w, bool dense, float *out, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int s = 0, end; status == MOE_OK && s < w->text.n_seqs; s = end) {
        moe_batch b = calibration_batch(&w->text, s, w->bounds, &end);
        moe_output to = {.logits = out + logits_at(&w->c->model.info, w->text.cu_seqlens, s)};
        b.selection = dense ? NULL : w->selection;
        if (w->targets.n_seqs) {
            calibration_batch_targets(&w->targets, s, end, w->target_bounds, &b);
            to = (moe_output){.target_logprob = out + w->targets.cu_seqlens[s]};
        }
        status = moe_forward(w->engine, &b, &to, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* How far the sparse answers are from the dense ones: the divergence or, of a number or a
 * text's log-probability, the square of the difference, summed over the sequences. */
static double distance(const walk *w)
{
    const moe_model_info *info = &w->c->model.info;
    const int32_t *cu = w->targets.n_seqs ? w->targets.cu_seqlens : w->text.cu_seqlens;
    const bool squares = w->targets.n_seqs || info->task == MOE_TASK_REGRESS;
    double all = 0;
    for (int s = 0; s < w->text.n_seqs; s++) {
        const size_t at = w->targets.n_seqs ? (size_t)cu[s] : logits_at(info, cu, s);
        const int n = w->targets.n_seqs ? cu[s + 1] - cu[s] : 1;
        double difference = 0;
        for (int i = 0; squares && i < n; i++)
            difference += (double)w->answer[0][at + (size_t)i] - w->answer[1][at + (size_t)i];
        all += squares ? difference * difference
                       : logits_divergence(info, w->answer[0] + at, w->answer[1] + at,
                                           cu[s + 1] - cu[s]);
    }
    return all;
}

/* The row's means of layers [first, end), times the scale, into their FFNs. */
static void put_row(const walk *w, int first, int end, float scale)
{
    const size_t d = (size_t)w->c->model.info.d_model;
    for (int l = first; l < end; l++)
        for (size_t i = 0; w->shift[l] && i < d; i++)
            w->shift[l][(size_t)w->row * d + i] = scale * w->mean[(size_t)l * d + i];
}

/* The scale of those layers that leaves the answer closest, the others as they are. */
static moe_status choose_scale(walk *w, int first, int end, moe_error *err)
{
    static const float scales[] = {0, 0.5f, 1};
    double closest = INFINITY;
    float best = 0;
    moe_status status = MOE_OK;
    for (size_t i = 0; status == MOE_OK && i < sizeof scales / sizeof *scales; i++) {
        put_row(w, first, end, scales[i]);
        status = answer(w, false, w->answer[1], err);
        const double d = status == MOE_OK ? distance(w) : INFINITY;
        if (d < closest) {
            closest = d;
            best = scales[i];
        }
    }
    put_row(w, first, end, best);
    return status;
}

/* That of the decoder's layers first, that of the encoder's then. */
static moe_status choose_scales(walk *w, moe_error *err)
{
    const int n = w->c->model.info.n_layers, half = w->first_decoder_layer;
    moe_status status = MOE_OK;
    put_row(w, 0, half, 0);
    if (half < n)
        status = choose_scale(w, half, n, err);
    return status == MOE_OK ? choose_scale(w, 0, half, err) : status;
}

/* Rows [N_RATIOS, d] of ratios between those walked; past the last, towards the zeros of
 * ratio 1. */
static void fill_between(float *shift, size_t d)
{
    for (int r = 0, above = 0; shift && r < N_RATIOS; r++) {
        while (above < N_WALKED && walked[above] < ratio_grid[r] - 1e-9)
            above++;
        const double high = above < N_WALKED ? walked[above] : 1, low = walked[above - (above > 0)];
        if (fabs(high - ratio_grid[r]) < 1e-9)
            continue; /* walked, or 1 */
        const double part = (ratio_grid[r] - low) / (high - low);
        const float *from = shift, *to = shift;
        for (int i = 0; i < N_RATIOS; i++) {
            from = fabs(ratio_grid[i] - low) < 1e-9 ? shift + (size_t)i * d : from;
            to = fabs(ratio_grid[i] - high) < 1e-9 ? shift + (size_t)i * d : to;
        }
        for (size_t i = 0; i < d; i++)
            shift[(size_t)r * d + i] = (float)((1 - part) * from[i] + part * to[i]);
    }
}

/* ---- all -------------------------------------------------------------------------------- */

static int sample_tokens(const moe_model_info *info)
{
    const double d = info->d_model, layer = 2 * d * info->d_ff + 4 * d * d;
    const double n = TOKEN_WEIGHTS / (info->n_layers * layer);
    return n > MOST_TOKENS ? MOST_TOKENS : n < LEAST_TOKENS ? LEAST_TOKENS : (int)n;
}

static moe_status take_sample(walk *w, const calibration *text, const calibration *targets,
                              moe_error *err)
{
    int32_t *seq;
    const int most = sample_tokens(&w->c->model.info);
    moe_status status = calibration_sample(text, most, &w->text, &seq, err);
    if (status == MOE_OK && targets)
        status = calibration_pick(targets, seq, w->text.n_seqs, &w->targets, err);
    free(seq);
    return status;
}

static moe_status walk_init(walk *w, moe_pool *pool, const calibration *text,
                            const calibration *targets, moe_error *err)
{
    const moe_model_info *info = &w->c->model.info;
    moe_status status = take_sample(w, text, targets, err);
    if (status != MOE_OK)
        return status;
    const size_t d = (size_t)info->d_model, seqs = (size_t)w->text.n_seqs + 1;
    const size_t n = (size_t)w->text.n_tokens, goals = (size_t)w->targets.n_tokens;
    const size_t most = n > goals ? n : goals;
    w->first_decoder_layer = info->n_layers - (targets ? info->n_decoder_layers : 0);
    w->mean = calloc((size_t)info->n_layers * d, sizeof *w->mean);
    for (int i = 0; i < 2; i++)
        w->answer[i] = malloc((answer_floats(w) + 1) * sizeof *w->answer[i]);
    w->shift = calloc((size_t)info->n_layers, sizeof *w->shift);
    w->bounds = malloc(seqs * sizeof *w->bounds);
    w->target_bounds = malloc(seqs * sizeof *w->target_bounds);
    w->selection = malloc(seqs * sizeof *w->selection);
    w->memory = malloc(n * d * sizeof *w->memory);
    w->x = malloc((goals + 1) * d * sizeof *w->x);
    w->dense = malloc(most * d * sizeof *w->dense);
    w->sparse = malloc(most * d * sizeof *w->sparse);
    if (!w->shift || !w->bounds || !w->target_bounds || !w->selection ||
        !w->memory || !w->x || !w->dense || !w->sparse || !w->mean || !w->answer[0] ||
        !w->answer[1])
        status = moe_fail(err, MOE_E_MEMORY, "no memory for the rows of %zu tokens", n);
    for (int l = 0; status == MOE_OK && l < info->n_layers; l++)
        status = converted_add_shift(w->c, l, &w->shift[l], err);
    return status == MOE_OK ? moe_engine_create(&w->c->model, pool, NULL, &w->engine, err)
                            : status;
}

static void walk_free(walk *w)
{
    moe_engine_destroy(w->engine);
    calibration_free(&w->text);
    calibration_free(&w->targets);
    free(w->shift);
    free(w->bounds);
    free(w->target_bounds);
    free(w->selection);
    free(w->memory);
    free(w->x);
    free(w->mean);
    free(w->answer[0]);
    free(w->answer[1]);
    free(w->dense);
    free(w->sparse);
}

moe_status shift_measure(converted *c, moe_pool *pool, const calibration *text,
                         const calibration *targets, progress *bar, moe_error *err)
{
    walk w = {.c = c};
    moe_status status = walk_init(&w, pool, text, targets, err);
    progress_begin(bar, "measuring what is left out", N_WALKED);
    if (status == MOE_OK)
        status = answer(&w, true, w.answer[0], err);
    for (int i = 0; status == MOE_OK && i < N_WALKED; i++) {
        for (w.row = 0; ratio_grid[w.row] < walked[i] - 1e-9;)
            w.row++;
        status = walk_row(&w, err);
        if (status == MOE_OK)
            status = choose_scales(&w, err);
        progress_update(bar, i + 1, NULL);
    }
    for (int l = 0; status == MOE_OK && l < c->model.info.n_layers; l++)
        fill_between(w.shift[l], (size_t)c->model.info.d_model);
    progress_end(bar);
    walk_free(&w);
    return status;
}
