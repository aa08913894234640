/* figures.c: fidelity by evaluate(), the stored curve from config.json, then layer
 * after layer what analyse_layer sees on captured rows.
 *
 * The text is thinned first: rows without a word are left out, and of a long text
 * whole rows at even distances are kept, as many as FIDELITY_TOKENS allows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/calibration.h"
#include "convert/capture.h"
#include "convert/figures.h"
#include "convert/interrupt.h"
#include "engine/model/model.h"
#include "engine/model/pack.h"

static const double grid[] = {0.0625, 0.125, 0.2, 0.25, 0.375, 0.5, 0.75, 1};
enum { N_GRID = sizeof grid / sizeof *grid };
static const double wanted_ratio = 0.25; /* where the selection is looked at */

/* The curves, in the order of the legend. */
static const struct {
    const char *name;
    moe_selector selector;
    moe_policy policy;
} measured[] = {
    {"router", MOE_SELECT_ROUTER, MOE_POLICY_MODEL}, /* the first: the report's own */
    {"topk", MOE_SELECT_ROUTER, MOE_POLICY_TOPK},
    {"threshold", MOE_SELECT_ROUTER, MOE_POLICY_THRESHOLD},
    {"sequence", MOE_SELECT_ROUTER, MOE_POLICY_SEQUENCE},
    {"oracle", MOE_SELECT_ORACLE, MOE_POLICY_MODEL},
    {"frequency", MOE_SELECT_FREQUENCY, MOE_POLICY_MODEL},
    {"random", MOE_SELECT_RANDOM, MOE_POLICY_MODEL},
};
enum { N_MEASURED = sizeof measured / sizeof *measured };

void figures_free(figures *f)
{
    for (int i = 0; i < f->n_series; i++)
        free(f->series[i].at);
    for (int l = 0; f->layers && l < f->n_layers; l++)
        layer_figures_free(&f->layers[l]);
    free(f->layers);
    f->layers = NULL;
    f->n_series = f->n_layers = 0;
}

double figures_cdf_share(const figures *f, int i)
{
    return f->cdf_max * i / (CDF_POINTS - 1);
}

/* ---- the text ------------------------------------------------------------------ */

static bool has_word(const char *text, size_t n)
{
    for (size_t i = 0; text && i < n; i++)
        if (!text[i] || !strchr(" \t\r\n\v\f", text[i]))
            return true;
    return false;
}

/* Keeps the rows of d that hold a word; length [d->n_rows]: their tokens. */
static moe_status keep_worded(const moe_model *m, dataset *d, int32_t *length, moe_error *err)
{
    int n = 0;
    moe_status status = MOE_OK;
    for (int i = 0; status == MOE_OK && i < d->n_rows; i++) {
        const dataset_row row = d->rows[i];
        moe_tokens tokens;
        if (!has_word(row.text, row.text_bytes) && !has_word(row.pair, row.pair_bytes))
            continue;
        status = row_tokenize(m, &row, false, &tokens, err);
        if (status != MOE_OK)
            return status;
        length[n] = tokens.n;
        d->rows[n++] = row;
        moe_tokens_free(&tokens);
        status = interrupt_check(err);
    }
    if (status == MOE_OK && n == 0)
        status = moe_fail(err, MOE_E_FORMAT, "%s: %d rows, but none holds text", d->path,
                          d->n_rows);
    d->n_rows = n;
    return status;
}

/* thin: data with the chosen rows only; free(thin->rows). */
static moe_status thin_text(const moe_model *m, const dataset *data, dataset *thin,
                            figures *f, moe_error *err)
{
    const size_t n = (size_t)data->n_rows;
    int32_t *length = malloc((n + 1) * sizeof *length), *chosen = malloc((n + 1) * sizeof *chosen);
    moe_status status = MOE_OK;
    *thin = *data;
    thin->rows = malloc((n + 1) * sizeof *thin->rows);
    if (!length || !chosen || !thin->rows) {
        status = moe_fail(err, MOE_E_MEMORY, "%s: no memory for %d rows", data->path,
                          data->n_rows);
        goto done;
    }
    memcpy(thin->rows, data->rows, n * sizeof *thin->rows);
    status = keep_worded(m, thin, length, err);
    if (status != MOE_OK)
        goto done;
    thin->n_rows = calibration_choose(length, thin->n_rows, FIDELITY_TOKENS, chosen);
    if (thin->n_rows == 0)
        status = moe_fail(err, MOE_E_LIMIT, "%s: its shortest row has %d tokens, expected at "
                          "most %d", data->path, length[chosen[0]], FIDELITY_TOKENS);
    for (int i = 0; i < thin->n_rows; i++) {
        thin->rows[i] = thin->rows[chosen[i]]; /* chosen ascends: no row is lost */
        f->n_tokens += length[chosen[i]];
    }
    f->n_rows_read = data->n_rows;
    f->n_rows = thin->n_rows;
done:
    free(length);
    free(chosen);
    return status;
}

/* ---- fidelity ------------------------------------------------------------------ */

static fidelity *add_series(figures *f, const char *name, int n)
{
    fidelity *s = &f->series[f->n_series];
    *s = (fidelity){.n = n, .at = calloc((size_t)n + 1, sizeof *s->at)};
    snprintf(s->name, sizeof s->name, "%s", name);
    f->n_series += s->at != NULL;
    return s->at ? s : NULL;
}

/* A policy that the model allows and that isn't its own, which "router" shows. */
static bool is_shown(const moe_model_info *info, moe_policy policy)
{
    if (policy == MOE_POLICY_MODEL)
        return true;
    if (policy == moe_policy_resolve(info, MOE_POLICY_MODEL))
        return false;
    return policy == MOE_POLICY_TOPK ||
           (policy == MOE_POLICY_THRESHOLD && info->has_thresholds) ||
           (policy == MOE_POLICY_SEQUENCE && info->has_mean_experts);
}

static moe_status measure_series(session *s, const examples *x, int i, figures *f,
                                 moe_error *err)
{
    char label[64];
    progress bar;
    fidelity *series = add_series(f, measured[i].name, N_GRID);
    if (!series)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d results", N_GRID);
    snprintf(label, sizeof label, "fidelity, %s (%d of %d)", measured[i].name, i + 1, N_MEASURED);
    progress_begin(&bar, label, (int64_t)x->n_rows * (N_GRID + 1));
    moe_status status = evaluate(
        s, x, (moe_selection){1, measured[i].selector, measured[i].policy}, grid, N_GRID,
        &bar, series->at, err);
    progress_end(&bar);
    return status;
}

static moe_status measure_fidelity(session *s, const dataset *thin, figures *f, moe_error *err)
{
    examples x;
    moe_status status = examples_create(s->in_use, thin, &x, err);
    if (status != MOE_OK)
        return status;
    f->labelled = x.label || x.value;
    for (int i = 0; status == MOE_OK && i < N_MEASURED; i++)
        if (is_shown(s->info, measured[i].policy))
            status = measure_series(s, &x, i, f, err);
    examples_free(&x);
    return status;
}

/* ---- layers --------------------------------------------------------------------- */

/* The row of the model's table nearest to a quarter: counts that it really uses. */
static const moe_ratio_row *selected_row(const moe_model_info *info)
{
    const moe_ratio_row *row = &info->ratio_rows[0];
    for (int i = 1; i < info->n_ratio_rows; i++)
        if (fabs(info->ratio_rows[i].ratio - wanted_ratio) < fabs(row->ratio - wanted_ratio))
            row = &info->ratio_rows[i];
    return row;
}

static void take_linear(const moe_linear *l, float *rows, float *bias)
{
    unpack_linear(l, rows);
    if (l->b)
        memcpy(bias, l->b, (size_t)l->n * sizeof *bias);
}

static moe_status unpack_router(const moe_router *r, router_rows *out, moe_error *err)
{
    const int n_experts = r->n_linears == 2 ? r->second.n : r->first.n;
    moe_status status = router_rows_alloc(r->n_linears, r->first.k, r->first.n, n_experts, out,
                                          err);
    if (status != MOE_OK)
        return status;
    out->normalize = r->normalize;
    take_linear(&r->first, out->first, out->first_bias);
    if (r->n_linears == 2)
        take_linear(&r->second, out->second, out->second_bias);
    return MOE_OK;
}

static moe_status look_at_layer(const moe_layer *from, capture *c, workers *w, int index,
                                int k_selected, layer_figures *out, moe_error *err)
{
    const moe_ffn *f = &from->ffn;
    const size_t d_ff = (size_t)f->d_ff;
    float *w1 = malloc(d_ff * (size_t)f->d * sizeof *w1), *b1 = malloc(d_ff * sizeof *b1);
    router_rows rows = {.n_linears = 0};
    ffn_layer l = {.index = index, .d = f->d, .d_ff = f->d_ff, .n_experts = f->n_experts,
                   .act = f->act, .w1 = w1, .b1 = b1, .n_tokens = c->n_tokens,
                   .cu_seqlens = c->cu_seqlens, .n_seqs = c->n_seqs, .workers = w};
    moe_status status = w1 && b1 ? capture_map(c, index, &l.x, err)
                                 : moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", index);
    const bool routed = from->router.present && f->neurons;
    if (status == MOE_OK && routed)
        status = unpack_router(&from->router, &rows, err);
    if (status == MOE_OK) {
        unpack_w1(f, w1);
        unpack_b1(f, b1);
        status = analyse_layer(&l, routed ? f->neurons : NULL, routed ? &rows : NULL, k_selected,
                               out, err);
    }
    router_rows_free(&rows);
    free(w1);
    free(b1);
    return status;
}

static moe_status look_at_layers(session *s, capture *c, figures *f, moe_error *err)
{
    const moe_ratio_row *row = selected_row(f->info);
    workers *w;
    progress bar;
    moe_status status = workers_create(moe_pool_threads(s->pool), &w, err);
    if (status != MOE_OK)
        return status;
    f->selected_ratio = row->ratio;
    progress_begin(&bar, "looking at layers", f->info->n_layers);
    for (int l = 0; status == MOE_OK && l < f->info->n_layers; l++) {
        progress_update(&bar, l, NULL);
        f->n_layers = l + 1;
        status = look_at_layer(&s->in_use->weights.layers[l], c, w, l, row->experts[l],
                               &f->layers[l], err);
        if (status == MOE_OK)
            f->cdf_max = fmax(f->cdf_max, layer_firing_max(&f->layers[l]));
    }
    progress_end(&bar);
    workers_destroy(w);
    return status;
}

static moe_status capture_and_look(session *s, const dataset *thin, const char *spool_dir,
                                   figures *f, moe_error *err)
{
    const size_t n = (size_t)f->info->n_layers;
    bool *wanted = malloc(n * sizeof *wanted);
    capture c = {.fd = -1};
    progress bar;
    f->layers = calloc(n, sizeof *f->layers);
    moe_status status = wanted && f->layers
        ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "no memory for %zu layers", n);
    for (size_t l = 0; status == MOE_OK && l < n; l++)
        wanted[l] = true;
    blas_begin();
    if (status == MOE_OK)
        status = capture_run(s->in_use, s->pool, thin, LAYER_TOKENS, wanted, spool_dir, &bar, &c,
                             err);
    if (status == MOE_OK) {
        f->n_layer_rows = c.n_seqs;
        f->n_layer_tokens = c.n_tokens;
        status = look_at_layers(s, &c, f, err);
        capture_close(&c);
    }
    free(wanted);
    return status;
}

/* ---- the whole ------------------------------------------------------------------ */

moe_status figures_check(const moe_model_info *info, moe_error *err)
{
    if (!info->moefied)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: is not MoEfied: moefy convert %s -o OUT "
                        "--calibrate FILE", info->dir, info->dir);
    if (info->task == MOE_TASK_MULTI_LABEL)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: report measures one label a row, this "
                        "model gives several", info->dir);
    return MOE_OK;
}

moe_status figures_make(session *s, const dataset *data, const char *spool_dir, figures *out,
                        moe_error *err)
{
    dataset thin = {.rows = NULL};
    *out = (figures){.info = s->info, .data_name = data->path, .data_sha256 = data->sha256,
                     .regress = s->info->task == MOE_TASK_REGRESS};
    moe_status status = thin_text(s->in_use, data, &thin, out, err);
    if (status == MOE_OK)
        status = measure_fidelity(s, &thin, out, err);
    if (status == MOE_OK)
        status = fidelity_stored(s->info, MAX_SERIES, out->series, &out->n_series, err);
    if (status == MOE_OK)
        status = capture_and_look(s, &thin, spool_dir, out, err);
    free(thin.rows);
    return status;
}
