/* evaluate.c: accuracy, agreement with the dense model, divergence and mass.
 *
 * Rows are tokenised once and sorted by length, so that a batch's sequences take
 * alike; a sequence's result does not depend on its batch, so neither do the
 * sums, which run over the rows in one order. The model runs dense first: that
 * is the reference of agreement, KL and the regression's difference. The
 * effective ratio and the mass are means over sequences weighted by tokens. */
#include "convert/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/interrupt.h"
#include "convert/logits.h"
#include "convert/metrics.h"

enum { SLICE_TOKENS = 16384 };

/* ---- examples --------------------------------------------------------------- */

typedef struct { int n, row; } length;

static int longest_first(const void *a, const void *b)
{
    const length *x = a, *y = b;
    return x->n != y->n ? y->n - x->n : x->row - y->row;
}

static moe_status check_label(const dataset *d, const dataset_row *row,
                              const moe_model_info *info, int *id, moe_error *err)
{
    *id = dataset_label_id(row, info);
    if (*id >= 0)
        return MOE_OK;
    return moe_fail(err, MOE_E_FORMAT, "%s:%d: label '%.60s', expected one of the model's: "
                    "'%.60s' to '%.60s' or 0 to %d", d->path, row->line, row->label,
                    info->labels[0], info->labels[info->n_labels - 1], info->n_labels - 1);
}

static moe_status check_value(const dataset *d, const dataset_row *row, double *value,
                              moe_error *err)
{
    char *end;
    *value = strtod(row->label, &end);
    if (end != row->label && *end == 0 && isfinite(*value))
        return MOE_OK;
    return moe_fail(err, MOE_E_FORMAT, "%s:%d: label '%.60s', expected a number", d->path,
                    row->line, row->label);
}

/* Some rows with a label and some without is a mistake in the file. */
static moe_status check_all_or_none(const dataset *d, bool *labelled, moe_error *err)
{
    *labelled = d->has_labels;
    for (int i = 1; !d->has_labels && i < d->n_rows; i++)
        if (!d->rows[i].label != !d->rows[0].label)
            return moe_fail(err, MOE_E_FORMAT, "%s:%d: row %s a label, line %d %s one",
                            d->path, d->rows[i].line, d->rows[i].label ? "has" : "lacks",
                            d->rows[0].line, d->rows[0].label ? "has" : "lacks");
    return MOE_OK;
}

static moe_status allocate(examples *x, int n_rows, bool labelled, bool regress,
                           moe_error *err)
{
    size_t n = (size_t)n_rows;
    *x = (examples){.tokens = calloc(n, sizeof *x->tokens)};
    if (labelled && regress)
        x->value = calloc(n, sizeof *x->value);
    else if (labelled)
        x->label = calloc(n, sizeof *x->label);
    if (x->tokens && (!labelled || x->value || x->label))
        return MOE_OK;
    examples_free(x);
    return moe_fail(err, MOE_E_MEMORY, "out of memory for %d rows", n_rows);
}

static moe_status add_row(const moe_model *m, const dataset *d, const dataset_row *row,
                          examples *x, moe_error *err)
{
    int i = x->n_rows;
    moe_status status = MOE_OK;
    if (x->label)
        status = check_label(d, row, moe_model_describe(m), &x->label[i], err);
    if (x->value)
        status = check_value(d, row, &x->value[i], err);
    if (status == MOE_OK)
        status = row_tokenize(m, row, false, &x->tokens[i], err);
    x->n_rows += status == MOE_OK;
    x->n_seqs = x->n_rows;
    return status;
}

/* Moves the rows to the order of length; false: out of memory. */
static bool sort_rows(examples *x)
{
    size_t n = (size_t)x->n_rows;
    length *order = malloc(n * sizeof *order);
    examples sorted = {.n_rows = x->n_rows, .n_seqs = x->n_seqs, .tokens = malloc(n * sizeof *x->tokens),
                       .label = x->label ? malloc(n * sizeof *x->label) : NULL,
                       .value = x->value ? malloc(n * sizeof *x->value) : NULL};
    bool enough = order && sorted.tokens && !sorted.label == !x->label &&
                  !sorted.value == !x->value;
    for (int i = 0; enough && i < x->n_rows; i++)
        order[i] = (length){x->tokens[i].n, i};
    if (enough)
        qsort(order, n, sizeof *order, longest_first);
    for (int i = 0; enough && i < x->n_rows; i++) {
        sorted.tokens[i] = x->tokens[order[i].row];
        if (x->label)
            sorted.label[i] = x->label[order[i].row];
        if (x->value)
            sorted.value[i] = x->value[order[i].row];
    }
    examples *spare = enough ? x : &sorted;
    free(spare->tokens);
    free(spare->label);
    free(spare->value);
    if (enough)
        *x = sorted;
    free(order);
    return enough;
}

bool examples_bound(examples *x)
{
    x->bounds = malloc(((size_t)x->n_seqs + 1) * sizeof *x->bounds);
    if (!x->bounds)
        return false;
    x->bounds[0] = 0;
    for (int i = 0; i < x->n_seqs; i++)
        x->bounds[i + 1] = x->bounds[i] + x->tokens[i].n;
    return true;
}

moe_status examples_create(const moe_model *m, const dataset *d, examples *out,
                           moe_error *err)
{
    bool labelled, regress = moe_model_describe(m)->task == MOE_TASK_REGRESS;
    *out = (examples){0};
    if (moe_model_describe(m)->task == MOE_TASK_ANSWER)
        return examples_ask(m, d, out, err);
    moe_status status = check_all_or_none(d, &labelled, err);
    if (status == MOE_OK)
        status = allocate(out, d->n_rows, labelled, regress, err);
    for (int i = 0; status == MOE_OK && i < d->n_rows; i++)
        status = add_row(m, d, &d->rows[i], out, err);
    if (status == MOE_OK && (!sort_rows(out) || !examples_bound(out)))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d rows", d->n_rows);
    if (status != MOE_OK)
        examples_free(out);
    return status;
}

void examples_free(examples *x)
{
    for (int i = 0; i < x->n_seqs; i++)
        moe_tokens_free(&x->tokens[i]);
    free(x->tokens);
    free(x->bounds);
    free(x->first_window);
    free(x->label);
    free(x->value);
    *x = (examples){0};
}

/* ---- running ---------------------------------------------------------------- */

typedef struct {
    float *logits;            /* as logits.h has them */
    double effective_ratio, mass; /* weighted by tokens; a NaN spreads */
} pass;

/* Takes a slice's results in. */
static void take_slice(const moe_model_info *info, const examples *x, const batch *b,
                       bool with_mass, int first, pass *p)
{
    memcpy(p->logits + logits_at(info, x->bounds, first), b->logits,
           logits_at(info, b->cu_seqlens, b->n_seqs) * sizeof *p->logits);
    for (int i = 0; i < b->n_seqs; i++) {
        int n = b->cu_seqlens[i + 1] - b->cu_seqlens[i];
        p->effective_ratio += n * b->effective_ratio[i];
        p->mass += n * (with_mass ? b->mass[i] : 1);
    }
}

/* Runs all rows with one selection. At ratio 1 all mass is kept by definition. */
static moe_status run_pass(session *s, const examples *x, moe_selection selection,
                           progress *bar, int64_t done, pass *p, moe_error *err)
{
    batch b = {0};
    bool with_mass = selection.ratio < 1;
    double tokens = 0;
    moe_status status = MOE_OK;
    p->effective_ratio = p->mass = 0;
    for (int first = 0, i = 0; status == MOE_OK && i < x->n_seqs; first = i) {
        batch_clear(&b);
        for (; status == MOE_OK && i < x->n_seqs && b.n_tokens < SLICE_TOKENS; i++)
            status = batch_add(&b, x->tokens[i].ids, x->tokens[i].types, x->tokens[i].n,
                               selection, err);
        if (status == MOE_OK)
            status = batch_run(&b, s, with_mass, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        if (status == MOE_OK)
            take_slice(s->info, x, &b, with_mass, first, p);
        tokens += b.n_tokens;
        progress_update(bar, done + i, NULL);
    }
    p->effective_ratio /= tokens;
    p->mass /= tokens;
    batch_free(&b);
    return status;
}

/* ---- measuring -------------------------------------------------------------- */

static void measure_classes(const examples *x, const float *logits, const float *dense,
                            int n_labels, evaluation *r)
{
    double kl = 0, hits[2][2] = {{0}}; /* [label][said] of two labels */
    r->n_correct = x->label ? 0 : -1;
    for (int i = 0; i < x->n_rows; i++) {
        const float *sparse_row = logits + (size_t)i * (size_t)n_labels;
        const float *dense_row = dense + (size_t)i * (size_t)n_labels;
        int best = best_label(sparse_row, n_labels);
        r->n_agree += best == best_label(dense_row, n_labels);
        r->n_correct += x->label && best == x->label[i];
        if (x->label && n_labels == 2)
            hits[x->label[i]][best]++;
        kl += softmax_kl(dense_row, sparse_row, n_labels);
    }
    r->kl = kl / r->n;
    r->agreement = (double)r->n_agree / r->n;
    r->accuracy = x->label ? (double)r->n_correct / r->n : NAN;
    r->f1 = x->label && n_labels == 2 ? f1_score(hits) : NAN;
    r->matthews = x->label && n_labels == 2 ? matthews(hits) : NAN;
}

static moe_status measure_values(const examples *x, const float *logits, const float *dense,
                                 evaluation *r, moe_error *err)
{
    double *predicted = malloc((size_t)x->n_rows * sizeof *predicted);
    bool enough = predicted != NULL;
    r->pearson = r->spearman = NAN;
    r->mean_abs_difference = 0;
    for (int i = 0; enough && i < x->n_rows; i++) {
        predicted[i] = logits[i];
        r->mean_abs_difference += fabs((double)logits[i] - dense[i]) / r->n;
    }
    if (enough && x->value) {
        r->pearson = pearson(x->value, predicted, x->n_rows);
        enough = spearman(x->value, predicted, x->n_rows, &r->spearman);
    }
    free(predicted);
    return enough ? MOE_OK
                  : moe_fail(err, MOE_E_MEMORY, "out of memory for %d rows", x->n_rows);
}

static moe_status measure(const session *s, const examples *x, double ratio, const pass *p,
                          const float *dense, evaluation *r, moe_error *err)
{
    *r = (evaluation){.ratio = ratio, .effective_ratio = p->effective_ratio, .mass = p->mass,
                      .n = x->n_rows};
    if (s->info->task == MOE_TASK_REGRESS)
        return measure_values(x, p->logits, dense, r, err);
    if (s->info->task == MOE_TASK_ANSWER)
        return evaluate_answers(s, x, p->logits, dense, r, err);
    measure_classes(x, p->logits, dense, s->info->n_labels, r);
    return MOE_OK;
}

moe_status evaluate(session *s, const examples *x, moe_selection how,
                    const double *ratios, int n, progress *bar, evaluation *results,
                    moe_error *err)
{
    size_t floats = logits_at(s->info, x->bounds, x->n_seqs);
    pass dense = {.logits = malloc(floats * sizeof(float))};
    pass sparse = {.logits = malloc(floats * sizeof(float))};
    moe_status status = dense.logits && sparse.logits
        ? run_pass(s, x, (moe_selection){.ratio = 1}, bar, 0, &dense, err)
        : moe_fail(err, MOE_E_MEMORY, "out of memory for %d rows", x->n_rows);
    for (int i = 0; status == MOE_OK && i < n; i++) {
        bool is_dense = ratios[i] == 1;
        how.ratio = ratios[i];
        if (!is_dense)
            status = run_pass(s, x, how, bar, (int64_t)x->n_seqs * (i + 1), &sparse, err);
        if (status == MOE_OK)
            status = measure(s, x, ratios[i], is_dense ? &dense : &sparse, dense.logits,
                             &results[i], err);
    }
    free(dense.logits);
    free(sparse.logits);
    return status;
}
