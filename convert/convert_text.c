/* convert_text.c: text-to-text models, layer by layer.
 *
 * The rows between layers of a bounded sample stay in memory, [tokens, d] of the encoder
 * and [targets, d] of the decoder: every layer's rows that enter its FFN are made, the
 * layer is cut on them, and they go on through the dense layer. A layer that an earlier
 * run finished is taken from there. */
#include "convert/convert_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/layer_stage.h"
#include "convert/shift.h"
#include "convert/text_rows.h"

enum {
    SAMPLE_TOKENS = 65536, /* that splits and routers look at, of either half */
    BATCH_TOKENS = 4096,
    OWN_TOKENS = 24,       /* of an answer of the model's own */
};

typedef struct {
    const moe_model *m;
    const convert_options *o;
    progress *bar;
    converted *out;
    moe_pool *pool;
    workers *workers;
    moe_engine *engine;
    calibration text, targets; /* of the decoder: cu_seqlens and ids */
    float *memory, *x;     /* [text tokens, d], [target tokens, d] between layers */
    float *in;             /* [the larger, d] what enters an FFN */
    int32_t *bounds, *target_bounds;
    float *squares;        /* [n_layers, d] of I8: mean squares of what enters the FFNs */
    int n_wanted, n_done;
} conversion;

/* ---- text --------------------------------------------------------------------- */

typedef struct { moe_tokens *source, *target; int *row; int32_t *length, *chosen; int n; } lists;

static void lists_free(lists *l, int n)
{
    for (int i = 0; i < n; i++) {
        if (l->source)
            moe_tokens_free(&l->source[i]);
        if (l->target)
            moe_tokens_free(&l->target[i]);
    }
    free(l->source);
    free(l->target);
    free(l->row);
    free(l->length);
    free(l->chosen);
}

/* The gold answer; none: no tokens. */
static moe_status read_target(const conversion *v, const dataset_row *row,
                              const moe_text_task *t, moe_tokens *out, moe_error *err)
{
    int label = text_row_label(row, t);
    const char *text = label >= 0 ? t->labels[label] : row->label;
    if (!text || !*text)
        return MOE_OK;
    const moe_text in = {.text = text, .text_bytes = strlen(text)};
    return moe_tokenize(v->m, &in, out, err);
}

static moe_status read_row(const conversion *v, const dataset_row *row, lists *l,
                           moe_error *err)
{
    const moe_text_task *t;
    moe_status status = text_row_task(v->m, row, v->o->task, &t, err);
    if (status == MOE_OK)
        status = text_row_tokenize(v->m, row, t, &l->source[l->n], err);
    if (status == MOE_OK)
        status = read_target(v, row, t, &l->target[l->n], err);
    if (status != MOE_OK)
        return status;
    l->length[l->n] = l->source[l->n].n;
    l->row[l->n++] = row->line;
    return interrupt_check(err);
}

/* What the model says itself, in place of a missing target. */
static moe_status say_own(const conversion *v, const moe_tokens *source, int32_t *ids, int *n,
                          moe_error *err)
{
    const int32_t cu[2] = {0, source->n};
    const moe_batch b = {.n_seqs = 1, .cu_seqlens = cu, .token_ids = source->ids};
    int most = v->m->info.max_tokens < OWN_TOKENS ? v->m->info.max_tokens : OWN_TOKENS;
    moe_decoding d = {.ids = ids, .max_new_tokens = most};
    moe_status status = moe_decode(v->engine, &b, &d, NULL, err);
    *n = d.n_ids;
    return status == MOE_OK ? interrupt_check(err) : status;
}

static bool make_calibration(calibration *c, int n_seqs, size_t tokens)
{
    c->n_seqs = n_seqs;
    c->cu_seqlens = calloc((size_t)n_seqs + 1, sizeof *c->cu_seqlens);
    c->ids = malloc((tokens + 1) * sizeof *c->ids);
    c->types = calloc(tokens + 1, sizeof *c->types);
    c->row = calloc((size_t)n_seqs + 1, sizeof *c->row);
    return c->cu_seqlens && c->ids && c->types && c->row;
}

static void append(calibration *c, int seq, const int32_t *ids, int n)
{
    memcpy(c->ids + c->n_tokens, ids, (size_t)n * sizeof *ids);
    c->n_tokens += n;
    c->cu_seqlens[seq + 1] = c->n_tokens;
}

/* Lays the chosen rows and their targets end to end, as long as both fit. */
static moe_status lay_out(conversion *v, const lists *l, int n_chosen, moe_error *err)
{
    size_t tokens = 0, targets = 0;
    int32_t own[OWN_TOKENS];
    for (int i = 0; i < n_chosen; i++) {
        tokens += (size_t)l->source[l->chosen[i]].n;
        targets += (size_t)l->target[l->chosen[i]].n + OWN_TOKENS;
    }
    if (!make_calibration(&v->text, n_chosen, tokens) ||
        !make_calibration(&v->targets, n_chosen, targets))
        return moe_fail(err, MOE_E_MEMORY, "no memory for %zu tokens", tokens);
    v->text.n_rows = l->n;
    for (int i = 0; i < n_chosen; i++) {
        const moe_tokens *source = &l->source[l->chosen[i]];
        const moe_tokens *target = &l->target[l->chosen[i]];
        int n = target->n;
        moe_status status = n ? MOE_OK : say_own(v, source, own, &n, err);
        if (status != MOE_OK)
            return status;
        if (i > 0 && v->targets.n_tokens + n > SAMPLE_TOKENS) {
            v->text.n_seqs = v->targets.n_seqs = i;
            break;
        }
        append(&v->text, i, source->ids, source->n);
        append(&v->targets, i, target->n ? target->ids : own, n);
    }
    return MOE_OK;
}

static moe_status read_text(conversion *v, const dataset *data, moe_error *err)
{
    size_t n = (size_t)data->n_rows + 1;
    lists l = {calloc(n, sizeof(moe_tokens)), calloc(n, sizeof(moe_tokens)),
               malloc(n * sizeof(int)), malloc(n * sizeof(int32_t)), malloc(n * sizeof(int32_t)),
               0};
    moe_status status = MOE_OK;
    int limit = v->o->max_tokens < SAMPLE_TOKENS ? v->o->max_tokens : SAMPLE_TOKENS;
    if (!l.source || !l.target || !l.row || !l.length || !l.chosen)
        status = moe_fail(err, MOE_E_MEMORY, "%s: no memory for its tokens", data->path);
    for (int i = 0; status == MOE_OK && i < data->n_rows; i++) {
        moe_error why;
        status = read_row(v, &data->rows[i], &l, &why);
        if (status != MOE_OK)
            moe_fail(err, status, "%s:%d: %s", data->path, data->rows[i].line, why.message);
    }
    int n_chosen = status == MOE_OK ? calibration_choose(l.length, l.n, limit, l.chosen) : 0;
    if (status == MOE_OK && n_chosen == 0)
        status = moe_fail(err, MOE_E_ARGUMENT, "%s: no row of at most %d tokens", data->path,
                          limit);
    if (status == MOE_OK)
        status = lay_out(v, &l, n_chosen, err);
    lists_free(&l, data->n_rows);
    return status;
}

/* ---- steps over all rows -------------------------------------------------------- */

typedef enum { EMBED, ATTENTION, FFN, ENCODED, EMBED_TARGETS } step_kind;

static int batch_end(const conversion *v, int first)
{
    int end = first + 1;
    while (end < v->text.n_seqs &&
           v->text.cu_seqlens[end + 1] - v->text.cu_seqlens[first] <= BATCH_TOKENS)
        end++;
    return end;
}

static moe_status step_batch(conversion *v, step_kind kind, int layer, int first, int end,
                             float *rows, moe_error *err)
{
    const size_t d = (size_t)v->m->info.d_model;
    const int32_t start = v->text.cu_seqlens[first], goal = v->targets.cu_seqlens[first];
    for (int s = first; s <= end; s++)
        v->bounds[s - first] = v->text.cu_seqlens[s] - start;
    moe_batch b = {.n_seqs = end - first, .cu_seqlens = v->bounds,
                   .token_ids = v->text.ids + start, .memory = v->memory + (size_t)start * d};
    calibration_batch_targets(&v->targets, first, end, v->target_bounds, &b);
    float *x = rows + (size_t)(rows == v->x ? goal : start) * d;
    switch (kind) {
    case EMBED: return moe_step_embed(v->engine, &b, x, err);
    case ATTENTION: return moe_step_attention(v->engine, layer, &b, x, err);
    case FFN: return moe_step_ffn(v->engine, layer, &b, x, err);
    case ENCODED: return moe_step_encoded(v->engine, &b, x, err);
    case EMBED_TARGETS: return moe_step_embed_targets(v->engine, &b, x, err);
    }
    return MOE_OK;
}

static moe_status step(conversion *v, step_kind kind, int layer, float *rows, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int first = 0, end; status == MOE_OK && first < v->text.n_seqs; first = end) {
        end = batch_end(v, first);
        status = step_batch(v, kind, layer, first, end, rows, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* ---- layers ------------------------------------------------------------------------- */

static void show_stage(void *ctx, int layer, int stage, const char *what)
{
    const conversion *v = ctx;
    char note[64];
    snprintf(note, sizeof note, "layer %d: %s", layer, what);
    progress_update(v->bar, v->n_done * LAYER_STAGES + stage, note);
}

/* Mean square of each column of the rows that enter the layer's FFN, by which its int8
 * scales are chosen. */
static void take_squares(const conversion *v, int layer, int n_rows)
{
    const int d = v->m->info.d_model;
    float *to = v->squares + (size_t)layer * (size_t)d;
    for (int i = 0; i < d; i++) {
        double sum = 0;
        for (int t = 0; t < n_rows; t++) {
            const double x = v->in[(size_t)t * (size_t)d + (size_t)i];
            sum += x * x;
        }
        to[i] = (float)(sum / n_rows);
    }
}

/* Cuts a layer on v->in, the rows that enter its FFN, which text tells the sequences of. */
static moe_status cut(conversion *v, int layer, const calibration *text, moe_error *err)
{
    float unused = 0;
    const layer_stage stage = {.split = v->o->split, .router = v->o->router, .text = text,
                               .x = v->in, .seed = v->o->seed, .workers = v->workers,
                               .on_stage = show_stage, .ctx = v};
    router_rows router = {.n_linears = 0};
    moe_status status = layer_stage_run(&stage, layer, v->out, &router, err);
    if (status == MOE_OK)
        status = resume_keep_layer(v->o->resume, 0, layer, v->out, &unused, 1, err);
    router_rows_free(&router);
    return status;
}

/* The layer at hand: found where an earlier run left it, or cut. */
static moe_status convert_layer(conversion *v, int layer, const calibration *text,
                                const float *rows, moe_error *err)
{
    float unused = 0;
    const bool found = !v->out->wanted[layer] ||
                       resume_find_layer(v->o->resume, 0, layer, v->out, &unused, 1);
    if (found && !v->squares)
        return MOE_OK;
    moe_status status = moe_step_ffn_input(v->engine, layer, rows, text->n_tokens, v->in, err);
    if (status == MOE_OK && v->squares)
        take_squares(v, layer, text->n_tokens);
    return status != MOE_OK || found ? status : cut(v, layer, text, err);
}

static moe_status convert_half(conversion *v, int first, int end, const calibration *text,
                               float *rows, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int l = first; status == MOE_OK && l < end; l++) {
        status = step(v, ATTENTION, l, rows, err);
        if (status == MOE_OK)
            status = convert_layer(v, l, text, rows, err);
        v->n_done += v->out->wanted[l];
        if (status == MOE_OK)
            status = step(v, FFN, l, rows, err);
    }
    return status;
}

static moe_status convert_layers(conversion *v, moe_error *err)
{
    const int n = v->m->info.n_layers, encoder = n - v->m->info.n_decoder_layers;
    progress_begin(v->bar, "converting layers", v->n_wanted * LAYER_STAGES);
    moe_status status = step(v, EMBED, 0, v->memory, err);
    if (status == MOE_OK)
        status = convert_half(v, 0, encoder, &v->text, v->memory, err);
    if (status == MOE_OK)
        status = step(v, ENCODED, 0, v->memory, err);
    if (status == MOE_OK)
        status = step(v, EMBED_TARGETS, 0, v->x, err);
    if (status == MOE_OK)
        status = convert_half(v, encoder, n, &v->targets, v->x, err);
    progress_end(v->bar);
    return status;
}

/* ---- all --------------------------------------------------------------------------- */

static moe_status prepare(conversion *v, const dataset *data, moe_error *err)
{
    moe_status status = moe_pool_create(v->o->n_threads, &v->pool, err);
    if (status == MOE_OK)
        status = workers_create(moe_pool_threads(v->pool), &v->workers, err);
    if (status == MOE_OK)
        status = moe_engine_create(v->m, v->pool, NULL, &v->engine, err);
    if (status == MOE_OK)
        status = read_text(v, data, err);
    if (status != MOE_OK)
        return status;
    const size_t d = (size_t)v->m->info.d_model, seqs = (size_t)v->text.n_seqs + 1;
    const size_t n = (size_t)v->text.n_tokens, targets = (size_t)v->targets.n_tokens;
    v->memory = malloc(n * d * sizeof *v->memory);
    v->x = malloc(targets * d * sizeof *v->x);
    v->in = malloc((n > targets ? n : targets) * d * sizeof *v->in);
    v->bounds = malloc(seqs * sizeof *v->bounds);
    v->target_bounds = malloc(seqs * sizeof *v->target_bounds);
    if (v->o->dtype == MOE_I8)
        v->squares = malloc((size_t)v->m->info.n_layers * d * sizeof *v->squares);
    if (!v->memory || !v->x || !v->in || !v->bounds || !v->target_bounds ||
        (v->o->dtype == MOE_I8 && !v->squares))
        return moe_fail(err, MOE_E_MEMORY, "no memory for the rows of %zu tokens", n);
    v->out->n_tokens = v->text.n_tokens;
    v->out->n_seqs = v->text.n_seqs;
    v->out->n_rows = v->text.n_rows;
    return MOE_OK;
}

static moe_status lower_all(conversion *v, moe_error *err)
{
    const size_t d = (size_t)v->m->info.d_model;
    if (v->o->dtype == MOE_F32)
        return MOE_OK;
    moe_status status = converted_lower_head(v->out, v->o->dtype, err);
    for (int l = 0; status == MOE_OK && l < v->m->info.n_layers; l++)
        status = converted_lower(v->out, l, v->o->dtype, NULL,
                                 v->squares ? v->squares + (size_t)l * d : NULL, NULL, err);
    return status;
}

static moe_status run(conversion *v, const dataset *data, moe_error *err)
{
    const moe_model_info *info = &v->m->info;
    moe_status status = prepare(v, data, err);
    if (status == MOE_OK)
        status = convert_layers(v, err);
    if (status == MOE_OK)
        status = ratio_table_create(info->n_layers, info->n_experts, v->out->wanted, false,
                                    &v->out->table, err);
    if (status != MOE_OK)
        return status;
    converted_use_table(v->out, MOE_POLICY_TOPK);
    if (v->o->shift)
        status = shift_measure(v->out, v->pool, &v->text, &v->targets, v->bar, err);
    return status == MOE_OK ? lower_all(v, err) : status;
}

moe_status convert_text_model(const moe_model *m, const dataset *data,
                              const convert_options *o, progress *bar, converted *out,
                              moe_error *err)
{
    conversion v = {.m = m, .o = o, .bar = bar, .out = out};
    for (int l = 0; l < m->info.n_layers; l++)
        v.n_wanted += o->wanted[l];
    moe_status status = run(&v, data, err);
    moe_engine_destroy(v.engine);
    workers_destroy(v.workers);
    moe_pool_destroy(v.pool);
    calibration_free(&v.text);
    calibration_free(&v.targets);
    free(v.memory);
    free(v.x);
    free(v.in);
    free(v.bounds);
    free(v.target_bounds);
    free(v.squares);
    return status;
}
