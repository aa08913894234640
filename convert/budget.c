/* budget.c: one layer sparse at a time, then the best buy first.
 *
 * Up to the sparse layer the model is dense: a walk over the layers keeps the rows
 * that enter each FFN, and from there the rest of the model runs once per count. The
 * logarithm of the divergence is interpolated between the measured counts. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/budget.h"
#include "convert/interrupt.h"
#include "convert/logits.h"

/* Measured shares of a layer's experts, in 48ths: dense where curves bend. */
static const int measured[] = {1, 2, 3, 4, 6, 8, 12, 16, 20, 26, 32, 40};
enum { N_MEASURED = sizeof measured / sizeof *measured };
static const double LEAST = 1e-10; /* what rounding does to an answer; log needs > 0 */

typedef struct {
    moe_model model;          /* m with a table of the measured counts */
    moe_engine *engine;
    const calibration *text;
    int count[N_MEASURED], n_counts;
    moe_ratio_row rows[N_MEASURED + 1];
    int *experts;             /* [N_MEASURED + 1, n_layers] */
    int32_t *bounds;          /* [n_seqs + 1] */
    moe_selection *selection; /* [n_seqs] */
    float *x, *trial;         /* [n_tokens, d] */
    float *dense, *sparse;    /* [n_seqs, n_labels] */
} prober;

/* ---- the table of counts ------------------------------------------------- */

static void make_rows(prober *p)
{
    const int n_layers = p->model.info.n_layers, n_experts = p->model.info.n_experts;
    for (int i = 0; i < N_MEASURED; i++) {
        const int k = (int)lround(measured[i] * n_experts / 48.0);
        if (k >= 1 && k < n_experts && (p->n_counts == 0 || k > p->count[p->n_counts - 1]))
            p->count[p->n_counts++] = k;
    }
    for (int i = 0; i <= p->n_counts; i++) {
        int *row = p->experts + (size_t)i * (size_t)n_layers;
        for (int l = 0; l < n_layers; l++)
            row[l] = i < p->n_counts ? p->count[i] : n_experts;
        p->rows[i] = (moe_ratio_row){.ratio = (i + 1.0) / (p->n_counts + 1), .experts = row};
    }
    p->model.info.ratio_rows = p->rows;
    p->model.info.n_ratio_rows = p->n_counts + 1;
    p->model.info.policy = MOE_POLICY_TOPK;
    p->model.info.has_thresholds = p->model.info.has_mean_experts = false;
}

static moe_status prober_create(const moe_model *m, moe_pool *pool, const calibration *text,
                                prober *p, moe_error *err)
{
    const size_t n = (size_t)text->n_seqs, d = (size_t)m->info.d_model;
    const size_t floats = logits_at(&m->info, text->cu_seqlens, text->n_seqs);
    const size_t rows = (size_t)text->n_tokens;
    *p = (prober){.model = *m, .text = text};
    p->experts = malloc((N_MEASURED + 1) * (size_t)m->info.n_layers * sizeof(int));
    p->bounds = malloc((n + 1) * sizeof *p->bounds);
    p->selection = malloc(n * sizeof *p->selection);
    p->x = malloc(rows * d * sizeof *p->x);
    p->trial = malloc(rows * d * sizeof *p->trial);
    p->dense = malloc(floats * sizeof *p->dense);
    p->sparse = malloc(floats * sizeof *p->sparse);
    if (!p->experts || !p->bounds || !p->selection || !p->x || !p->trial || !p->dense ||
        !p->sparse)
        return moe_fail(err, MOE_E_MEMORY, "no memory to find budgets on %d tokens",
                        text->n_tokens);
    make_rows(p);
    return moe_engine_create(&p->model, pool, NULL, &p->engine, err);
}

static void prober_free(prober *p)
{
    moe_engine_destroy(p->engine);
    free(p->experts);
    free(p->bounds);
    free(p->selection);
    free(p->x);
    free(p->trial);
    free(p->dense);
    free(p->sparse);
}

/* ---- measuring ----------------------------------------------------------- */

/* Rows that leave layer `from`'s attention, in place, to logits; that layer's FFN by
 * `selection` (NULL: dense), all after it dense. */
static moe_status finish(prober *p, const moe_batch *all, int from,
                         const moe_selection *selection, float *x, float *logits,
                         moe_error *err)
{
    moe_batch b = *all;
    b.selection = selection;
    moe_status status = moe_step_ffn(p->engine, from, &b, x, err);
    for (int l = from + 1; status == MOE_OK && l < p->model.info.n_layers; l++) {
        status = moe_step_attention(p->engine, l, all, x, err);
        if (status == MOE_OK)
            status = moe_step_ffn(p->engine, l, all, x, err);
    }
    return status == MOE_OK ? moe_step_head(p->engine, all, x, logits, err) : status;
}

static double mean_divergence(const prober *p)
{
    const int32_t *bound = p->text->cu_seqlens;
    double sum = 0;
    for (int s = 0; s < p->text->n_seqs; s++) {
        const size_t at = logits_at(&p->model.info, bound, s);
        sum += logits_divergence(&p->model.info, p->dense + at, p->sparse + at,
                                 bound[s + 1] - bound[s]);
    }
    return sum / p->text->n_seqs;
}

/* curve [n_experts + 1] of a layer whose FFN p->x enters. */
static moe_status measure_layer(prober *p, const moe_batch *all, int layer, double *curve,
                                moe_error *err)
{
    const size_t bytes =
        (size_t)p->text->n_tokens * (size_t)p->model.info.d_model * sizeof *p->x;
    moe_status status = MOE_OK;
    for (int i = 0; status == MOE_OK && i < p->n_counts; i++) {
        for (int s = 0; s < p->text->n_seqs; s++)
            p->selection[s] = (moe_selection){.ratio = p->rows[i].ratio};
        memcpy(p->trial, p->x, bytes);
        status = finish(p, all, layer, p->selection, p->trial, p->sparse, err);
        curve[p->count[i]] = mean_divergence(p);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* The counts between the measured ones; with all experts nothing diverges. */
static void interpolate(const prober *p, double *curve)
{
    const int n_experts = p->model.info.n_experts;
    for (int i = 0; i < p->n_counts; i++)
        curve[p->count[i]] = fmax(curve[p->count[i]], LEAST);
    for (int k = 0; p->n_counts && k < p->count[0]; k++)
        curve[k] = curve[p->count[0]];
    for (int i = 0; i < p->n_counts; i++) {
        const int from = p->count[i], to = i + 1 < p->n_counts ? p->count[i + 1] : n_experts;
        const double low = log(curve[from]);
        const double high = to < n_experts ? log(curve[to]) : log(LEAST);
        for (int k = from + 1; k < to; k++)
            curve[k] = exp(low + (high - low) * (k - from) / (to - from));
    }
    curve[n_experts] = 0;
}

static moe_status measure_layers(prober *p, const bool *converted, progress *bar,
                                 double *divergence, moe_error *err)
{
    const int n_layers = p->model.info.n_layers;
    const size_t row = (size_t)p->model.info.n_experts + 1;
    for (int s = 0; s <= p->text->n_seqs; s++)
        p->bounds[s] = p->text->cu_seqlens[s];
    const moe_batch all = {.n_seqs = p->text->n_seqs, .cu_seqlens = p->bounds,
                           .token_ids = p->text->ids, .token_types = p->text->types};
    moe_output out = {.logits = p->dense};
    moe_status status = moe_forward(p->engine, &all, &out, err);
    if (status == MOE_OK)
        status = moe_step_embed(p->engine, &all, p->x, err);
    for (int l = 0; status == MOE_OK && l < n_layers; l++) {
        status = moe_step_attention(p->engine, l, &all, p->x, err);
        if (status == MOE_OK && converted[l]) {
            status = measure_layer(p, &all, l, divergence + (size_t)l * row, err);
            interpolate(p, divergence + (size_t)l * row);
        }
        if (status == MOE_OK)
            status = moe_step_ffn(p->engine, l, &all, p->x, err);
        progress_update(bar, l + 1, NULL);
    }
    return status;
}

moe_status budget_measure(const moe_model *m, moe_pool *pool, const calibration *text,
                          progress *bar, ratio_table *t, moe_error *err)
{
    prober p;
    double *divergence = calloc((size_t)t->n_layers * ((size_t)t->n_experts + 1),
                                sizeof *divergence);
    moe_status status = prober_create(m, pool, text, &p, err);
    if (status == MOE_OK && !divergence)
        status = moe_fail(err, MOE_E_MEMORY, "no memory for budgets");
    progress_begin(bar, "finding budgets", t->n_layers);
    if (status == MOE_OK)
        status = measure_layers(&p, t->converted, bar, divergence, err);
    progress_end(bar);
    if (status == MOE_OK)
        budget_spend(divergence, t);
    prober_free(&p);
    free(divergence);
    return status;
}

/* ---- spending ------------------------------------------------------------ */

/* curve [1 .. n] becomes its lower convex hull, and never rises. */
static void make_convex(double *curve, int n)
{
    for (int k = n - 1; k >= 1; k--)
        curve[k] = fmax(curve[k], curve[k + 1]);
    for (int k = 1, next; k < n; k = next) {
        double steepest = 0;
        next = k + 1;
        for (int j = k + 1; j <= n; j++) {
            const double slope = (curve[j] - curve[k]) / (j - k);
            if (j == k + 1 || slope < steepest) {
                steepest = slope;
                next = j;
            }
        }
        for (int j = k + 1; j < next; j++)
            curve[j] = curve[k] + steepest * (j - k);
    }
}

/* The converted layer that gains most by one more expert; of equal ones the one with
 * the fewest, so that no layer starves where nothing is to gain. -1: all are full. */
static int best_buy(const double *divergence, const ratio_table *t, const int *experts)
{
    int best = -1;
    double most = 0;
    for (int l = 0; l < t->n_layers; l++) {
        const int k = experts[l];
        if (!t->converted[l] || k == t->n_experts)
            continue;
        const double *curve = divergence + (size_t)l * ((size_t)t->n_experts + 1);
        const double gain = curve[k] - curve[k + 1];
        if (best < 0 || gain > most || (gain == most && k < experts[best])) {
            best = l;
            most = gain;
        }
    }
    return best;
}

void budget_spend(double *divergence, ratio_table *t)
{
    int n_converted = 0, spent, *experts = t->experts;
    for (int l = 0; l < t->n_layers; l++) {
        n_converted += t->converted[l];
        if (t->converted[l])
            make_convex(divergence + (size_t)l * ((size_t)t->n_experts + 1), t->n_experts);
        experts[l] = t->converted[l] ? 1 : t->n_experts;
    }
    spent = n_converted;
    for (int r = 0; r < N_RATIOS; r++) {
        int *row = t->experts + (size_t)r * (size_t)t->n_layers;
        if (r > 0)
            memcpy(row, row - t->n_layers, (size_t)t->n_layers * sizeof *row);
        const long all = lround(ratio_grid[r] * n_converted * t->n_experts);
        for (int l; spent < all && (l = best_buy(divergence, t, row)) >= 0; spent++)
            row[l]++;
    }
}
