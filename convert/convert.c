/* convert.c: the pipeline, one straight line.
 *
 *   text          tokens; a tenth of the sequences is held out for the end
 *   states        the dense model reads the text: rows between layers, on disk
 *   sensitivity   how much the answer hangs on each token of each layer
 *   layers        split and router, layer by layer, on the dense model's rows
 *   table         one threshold for all layers: what each layer gets at each ratio
 *   refit         routers again, layer by layer, on the sparse model's own rows
 *   budgets       counts per layer for the policy topk
 *   shift         what is left out at each ratio, on average
 *   fidelity      the result against the source on the held-out text
 *
 * Splits and routers that look at tokens more than once see a sample of bounded size;
 * what streams sees all. So memory holds a layer, the sample and a few numbers a
 * token. Everything drawn at random comes from streams of (seed, layer, purpose), and
 * all sums have one order: a seed gives the same bytes for any number of threads. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/budget.h"
#include "convert/cli.h"
#include "convert/convert.h"
#include "convert/convert_text.h"
#include "convert/interrupt.h"
#include "convert/layer_stage.h"
#include "convert/quantize.h"
#include "convert/refit.h"
#include "convert/sensitivity.h"
#include "convert/shift.h"

enum {
    SAMPLE_TOKENS = 65536,     /* that splits and mlp routers look at */
    SCORED_TOKENS = 8192,      /* that thresholds are found on */
    SCORED_FLOATS = 16 << 20,  /* their scores, all layers: at most so many */
    BUDGET_TOKENS = 6144,      /* that budgets are measured on */
};

typedef struct {
    const moe_model *m;
    const dataset *data;
    const convert_options *o;
    progress *bar;
    converted *out;
    calibration text, train, held_out;
    moe_pool *pool;
    workers *workers;
    states states;
    float *sensitivity;    /* [n_layers, train tokens], or NULL */
    calibration sample;    /* of train */
    int32_t *sample_seq;   /* [sample.n_seqs] its sequences in train */
    float *x;              /* [sample tokens, d]: rows that enter the layer's FFN */
    float *sample_sensitivity; /* [sample tokens], or NULL */
    score_sample scores;
    int32_t *scored;       /* [scores.n_tokens] tokens of the sample */
    int32_t *scored_train; /* the same tokens in train */
    int n_wanted, n_done;
} conversion;

/* Routers whose scores can be compared between layers and tokens. */
static bool is_shared(const conversion *v)
{
    return v->sensitivity != NULL;
}

/* ---- text and states ----------------------------------------------------- */

static moe_status read_text(conversion *v, moe_error *err)
{
    moe_status status = calibration_read(v->m, v->data, v->o->max_tokens, &v->text, err);
    if (status == MOE_OK)
        status = calibration_split(&v->text, v->o->seed, &v->train, &v->held_out, err);
    if (status == MOE_OK)
        status = calibration_sample(&v->train, SAMPLE_TOKENS, &v->sample, &v->sample_seq,
                                    err);
    v->out->n_tokens = v->text.n_tokens;
    v->out->n_seqs = v->text.n_seqs;
    v->out->n_rows = v->text.n_rows;
    v->out->n_unknown = v->text.n_unknown;
    return status;
}

/* Evenly spread tokens of the sample, and where they are in the training text. */
static moe_status choose_scored(conversion *v, moe_error *err)
{
    const int n_layers = v->m->info.n_layers, n_experts = v->m->info.n_experts;
    const int room = SCORED_FLOATS / n_layers / n_experts;
    int n = v->sample.n_tokens < SCORED_TOKENS ? v->sample.n_tokens : SCORED_TOKENS;
    n = n < room ? n : room > 1 ? room : 1;
    v->scores = (score_sample){.n_tokens = n, .n_layers = n_layers, .n_experts = n_experts};
    v->scores.scores = calloc((size_t)n * (size_t)n_layers * (size_t)n_experts,
                              sizeof(float));
    v->scored = malloc((size_t)n * sizeof *v->scored);
    v->scored_train = malloc((size_t)n * sizeof *v->scored_train);
    if (!v->scores.scores || !v->scored || !v->scored_train)
        return moe_fail(err, MOE_E_MEMORY, "no memory for router scores");
    for (int i = 0, s = 0; i < n; i++) {
        const int32_t t = (int32_t)((int64_t)i * v->sample.n_tokens / n);
        while (v->sample.cu_seqlens[s + 1] <= t)
            s++;
        v->scored[i] = t;
        v->scored_train[i] =
            v->train.cu_seqlens[v->sample_seq[s]] + t - v->sample.cu_seqlens[s];
    }
    return MOE_OK;
}

static moe_status prepare(conversion *v, moe_error *err)
{
    const size_t rows = (size_t)v->sample.n_tokens;
    moe_status status = moe_pool_create(v->o->n_threads, &v->pool, err);
    if (status == MOE_OK)
        status = workers_create(moe_pool_threads(v->pool), &v->workers, err);
    if (status == MOE_OK)
        status = states_run(v->m, v->pool, &v->train, v->o->spool_dir, 1, v->bar,
                            &v->states, NULL, err);
    if (status != MOE_OK)
        return status;
    v->x = malloc(rows * (size_t)v->m->info.d_model * sizeof *v->x);
    if (!v->x)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d tokens", v->sample.n_tokens);
    return choose_scored(v, err);
}

static moe_status find_sensitivity(conversion *v, moe_error *err)
{
    if (!v->o->sensitivity || !v->o->router->by_norm || !sensitivity_supported(v->m))
        return MOE_OK;
    const size_t n = (size_t)v->train.n_tokens, n_layers = (size_t)v->m->info.n_layers;
    v->sensitivity = malloc(n * n_layers * sizeof *v->sensitivity);
    v->sample_sensitivity =
        malloc((size_t)v->sample.n_tokens * sizeof *v->sample_sensitivity);
    if (!v->sensitivity || !v->sample_sensitivity)
        return moe_fail(err, MOE_E_MEMORY, "no memory for gradients of %d tokens",
                        v->train.n_tokens);
    const resume_part part = {v->sensitivity, n * n_layers * sizeof *v->sensitivity};
    if (resume_find(v->o->resume, "sensitivity", &part, 1))
        return MOE_OK;
    moe_status status = sensitivity_run(v->m, &v->train, &v->states, v->o->seed, v->workers,
                                        v->bar, v->sensitivity, err);
    return status == MOE_OK ? resume_keep(v->o->resume, "sensitivity", &part, 1, err)
                            : status;
}

/* ---- layers on the dense model's rows ------------------------------------ */

/* v->x: the sampled sequences' rows that enter the layer's FFN. */
static moe_status enter_layer(conversion *v, moe_engine *e, int layer, int32_t *bounds,
                              moe_error *err)
{
    const size_t d = (size_t)v->m->info.d_model;
    const calibration *c = &v->sample;
    moe_status status = MOE_OK;
    for (int s = 0; status == MOE_OK && s < c->n_seqs; s++) {
        const int32_t from = v->train.cu_seqlens[v->sample_seq[s]];
        const int32_t first = c->cu_seqlens[s], n = c->cu_seqlens[s + 1] - first;
        status = states_read(&v->states, layer, from, n, v->x + (size_t)first * d, err);
        if (v->sensitivity)
            memcpy(v->sample_sensitivity + first,
                   v->sensitivity + (size_t)layer * (size_t)v->train.n_tokens + from,
                   (size_t)n * sizeof *v->sensitivity);
    }
    for (int s = 0, end; status == MOE_OK && s < c->n_seqs; s = end) {
        const moe_batch b = calibration_batch(c, s, bounds, &end);
        status = moe_step_attention(e, layer, &b, v->x + (size_t)c->cu_seqlens[s] * d, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

static void show_stage(void *ctx, int layer, int stage, const char *what)
{
    const conversion *v = ctx;
    char note[64];
    snprintf(note, sizeof note, "layer %d: %s", layer, what);
    progress_update(v->bar, v->n_done * LAYER_STAGES + stage, note);
}

static float *scores_of(const conversion *v, int layer)
{
    return v->scores.scores +
           (size_t)layer * (size_t)v->scores.n_tokens * (size_t)v->scores.n_experts;
}

/* Scores of the scored tokens, whose rows are in v->x. */
static moe_status score_layer(const conversion *v, const router_rows *router, float *scores,
                              moe_error *err)
{
    const size_t d = (size_t)v->m->info.d_model, n = (size_t)v->scores.n_tokens;
    const ffn_layer l = {.d = v->m->info.d_model, .n_experts = v->m->info.n_experts};
    float *x = malloc(n * d * sizeof *x);
    float *scratch = malloc(n * (d + (size_t)router->n_hidden) * sizeof *scratch);
    moe_status status = MOE_OK;
    if (x && scratch) {
        for (size_t i = 0; i < n; i++)
            memcpy(x + i * d, v->x + (size_t)v->scored[i] * d, d * sizeof *x);
        router_scores_of(router, &l, x, (int)n, scratch, scores);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory for router scores");
    }
    free(x);
    free(scratch);
    return status;
}

static moe_status convert_layer(conversion *v, int layer, moe_error *err)
{
    float *scores = scores_of(v, layer);
    const size_t n_scores = (size_t)v->scores.n_tokens * (size_t)v->scores.n_experts;
    const layer_stage stage = {.split = v->o->split, .router = v->o->router,
                               .text = &v->sample, .x = v->x,
                               .sensitivity = v->sample_sensitivity, .seed = v->o->seed,
                               .workers = v->workers, .on_stage = show_stage, .ctx = v};
    router_rows router;
    moe_status status = layer_stage_run(&stage, layer, v->out, &router, err);
    if (status == MOE_OK)
        status = score_layer(v, &router, scores, err);
    if (status == MOE_OK)
        status = resume_keep_layer(v->o->resume, 0, layer, v->out, scores, n_scores, err);
    router_rows_free(&router);
    return status;
}

static moe_status find_or_convert(conversion *v, moe_engine *e, int layer, int32_t *bounds,
                                  moe_error *err)
{
    if (resume_find_layer(v->o->resume, 0, layer, v->out, scores_of(v, layer),
                          (size_t)v->scores.n_tokens * (size_t)v->scores.n_experts))
        return MOE_OK;
    moe_status status = enter_layer(v, e, layer, bounds, err);
    return status == MOE_OK ? convert_layer(v, layer, err) : status;
}

static moe_status convert_layers(conversion *v, moe_error *err)
{
    moe_engine *e = NULL;
    int32_t *bounds = malloc(((size_t)v->sample.n_seqs + 1) * sizeof *bounds);
    moe_status status = bounds ? moe_engine_create(v->m, v->pool, NULL, &e, err)
                               : moe_fail(err, MOE_E_MEMORY, "no memory for %d sequences",
                                          v->sample.n_seqs);
    progress_begin(v->bar, "converting layers", v->n_wanted * LAYER_STAGES);
    for (int l = 0; status == MOE_OK && l < v->m->info.n_layers; l++)
        if (v->out->wanted[l]) {
            status = find_or_convert(v, e, l, bounds, err);
            v->n_done++;
        }
    progress_end(v->bar);
    moe_engine_destroy(e);
    free(bounds);
    return status;
}

/* ---- the table and the routers that it depends on ------------------------ */

static moe_status make_table(conversion *v, moe_error *err)
{
    const bool dynamic = v->o->budget != BUDGET_UNIFORM;
    moe_status status = ratio_table_create(v->m->info.n_layers, v->m->info.n_experts,
                                           v->out->wanted, dynamic, &v->out->table, err);
    if (status == MOE_OK && dynamic && is_shared(v))
        ratio_table_share(&v->out->table, &v->scores);
    if (status == MOE_OK)
        converted_use_table(v->out, is_shared(v) && dynamic ? MOE_POLICY_SEQUENCE
                                                            : MOE_POLICY_TOPK);
    return status;
}

static moe_status refit_all(conversion *v, moe_error *err)
{
    if (!v->o->refit || !is_shared(v) || v->o->budget == BUDGET_UNIFORM)
        return MOE_OK;
    const refit r = {.text = &v->train, .s = &v->states,
                     .region = v->states.n_layers + 1, .sensitivity = v->sensitivity,
                     .sample = v->scored_train, .scores = &v->scores, .pool = v->pool,
                     .workers = v->workers, .resume = v->o->resume, .seed = v->o->seed,
                     .bar = v->bar};
    moe_status status = refit_routers(&r, v->out, err);
    if (status == MOE_OK)
        ratio_table_share(&v->out->table, &v->scores);
    return status;
}

static moe_status find_budgets(conversion *v, moe_error *err)
{
    calibration text;
    int32_t *seq;
    if (v->o->budget == BUDGET_UNIFORM || v->n_wanted == 0)
        return MOE_OK;
    moe_status status = calibration_sample(&v->train, BUDGET_TOKENS, &text, &seq, err);
    if (status == MOE_OK)
        status = budget_measure(&v->out->model, v->pool, &text, v->bar, &v->out->table, err);
    if (status == MOE_OK && !is_shared(v))
        ratio_table_follow(&v->out->table, &v->scores);
    calibration_free(&text);
    free(seq);
    return status;
}

/* ---- all ----------------------------------------------------------------- */

static moe_status run(conversion *v, moe_error *err)
{
    moe_status status = read_text(v, err);
    if (status == MOE_OK)
        status = prepare(v, err);
    if (status == MOE_OK)
        status = find_sensitivity(v, err);
    if (status == MOE_OK)
        status = convert_layers(v, err);
    if (status == MOE_OK)
        status = make_table(v, err);
    if (status == MOE_OK)
        status = refit_all(v, err);
    if (status == MOE_OK)
        status = find_budgets(v, err);
    if (status == MOE_OK && v->o->shift)
        status = shift_measure(v->out, v->pool, &v->train, NULL, v->bar, err);
    if (status == MOE_OK)
        status = quantize_model(v->m, v->pool, v->workers, &v->train, v->o->dtype, v->bar,
                                v->out, err);
    if (status == MOE_OK)
        status = curve_measure(&v->out->model, v->pool, &v->held_out, v->data, v->bar,
                               &v->out->fidelity, err);
    return status;
}

static void conversion_free(conversion *v)
{
    workers_destroy(v->workers);
    moe_pool_destroy(v->pool);
    states_close(&v->states);
    calibration_free(&v->text);
    calibration_free(&v->train);
    calibration_free(&v->held_out);
    calibration_free(&v->sample);
    free(v->sample_seq);
    free(v->sensitivity);
    free(v->sample_sensitivity);
    free(v->x);
    free(v->scores.scores);
    free(v->scored);
    free(v->scored_train);
}

moe_status convert_model(const moe_model *m, const dataset *data,
                         const convert_options *o, progress *bar, converted *out,
                         moe_error *err)
{
    conversion v = {.m = m, .data = data, .o = o, .bar = bar, .out = out,
                    .states = {.fd = -1}};
    for (int l = 0; l < m->info.n_layers; l++)
        v.n_wanted += o->wanted[l];
    moe_status status = cli_refuse_classifier(&m->info, "convert", err);
    *out = (converted){0};
    if (status != MOE_OK)
        return status;
    blas_begin();
    status = converted_create(m, o->wanted, out, err);
    if (status == MOE_OK)
        status = m->info.task == MOE_TASK_TEXT ? convert_text_model(m, data, o, bar, out, err)
                                               : run(&v, err);
    conversion_free(&v);
    if (status != MOE_OK)
        converted_free(out);
    return status;
}
