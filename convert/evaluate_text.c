/* evaluate_text.c: every row is scored against its task's label words; the best one is
 * the answer. A set of label words is made once per task. */
#include "convert/evaluate_text.h"

#include <math.h>
#include <stdlib.h>

#include "convert/interrupt.h"
#include "convert/metrics.h"
#include "convert/text_rows.h"

enum { MAX_SETS = 64, BATCH_ROWS = 64 };

typedef struct { const moe_text_task *task; moe_labels *labels; } label_set;

typedef struct {
    session *s;
    const dataset *d;
    label_set sets[MAX_SETS];
    int n_sets;
    moe_tokens *tokens;      /* [n_rows] */
    const label_set **set;   /* [n_rows] */
    int *label;              /* [n_rows] */
    size_t *at;              /* [n_rows + 1] where its log-probabilities begin */
    float *dense, *sparse;   /* [at[n_rows]] */
} rows;

static moe_status find_set(rows *r, const moe_text_task *t, const label_set **out,
                           moe_error *err)
{
    for (int i = 0; i < r->n_sets; i++)
        if (r->sets[i].task == t) {
            *out = &r->sets[i];
            return MOE_OK;
        }
    if (!t || !t->n_labels)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: expected a task with label words (--task)",
                        t ? t->name : "a row without a task");
    if (r->n_sets == MAX_SETS)
        return moe_fail(err, MOE_E_LIMIT, "more than %d tasks", MAX_SETS);
    label_set *set = &r->sets[r->n_sets];
    set->task = t;
    moe_status status =
        moe_labels_create(r->s->in_use, t->labels, t->n_labels, &set->labels, err);
    r->n_sets += status == MOE_OK;
    *out = set;
    return status;
}

static moe_status read_row(rows *r, int i, const char *missing, moe_error *err)
{
    const dataset_row *row = &r->d->rows[i];
    const moe_text_task *t;
    moe_status status = text_row_task(r->s->in_use, row, missing, &t, err);
    if (status == MOE_OK)
        status = find_set(r, t, &r->set[i], err);
    if (status != MOE_OK)
        return status;
    r->label[i] = text_row_label(row, t);
    if (r->label[i] < 0)
        return moe_fail(err, MOE_E_FORMAT, "label '%.60s', expected one of task %s",
                        row->label ? row->label : "", t->name);
    r->at[i + 1] = r->at[i] + (size_t)t->n_labels;
    return text_row_tokenize(r->s->in_use, row, t, &r->tokens[i], err);
}

static moe_status read_rows(rows *r, const char *missing, moe_error *err)
{
    const size_t n = (size_t)r->d->n_rows;
    r->tokens = calloc(n + 1, sizeof *r->tokens);
    r->set = calloc(n + 1, sizeof *r->set);
    r->label = calloc(n + 1, sizeof *r->label);
    r->at = calloc(n + 1, sizeof *r->at);
    if (!r->tokens || !r->set || !r->label || !r->at)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %zu rows", n);
    for (int i = 0; i < r->d->n_rows; i++) {
        moe_error why;
        moe_status status = read_row(r, i, missing, &why);
        if (status != MOE_OK)
            return moe_fail(err, status, "%s:%d: %s", r->d->path, r->d->rows[i].line,
                            why.message);
    }
    r->dense = malloc((r->at[n] + 1) * sizeof *r->dense);
    r->sparse = malloc((r->at[n] + 1) * sizeof *r->sparse);
    return r->dense && r->sparse ? MOE_OK
                                 : moe_fail(err, MOE_E_MEMORY, "no memory for %zu rows", n);
}

static void rows_free(rows *r)
{
    for (int i = 0; r->tokens && i < r->d->n_rows; i++)
        moe_tokens_free(&r->tokens[i]);
    for (int i = 0; i < r->n_sets; i++)
        moe_labels_destroy(r->sets[i].labels);
    free(r->tokens);
    free(r->set);
    free(r->label);
    free(r->at);
    free(r->dense);
    free(r->sparse);
}

/* Rows [first, end) to logprob; effective: the sum of their ratios, added to. */
static moe_status score_batch(rows *r, int first, int end, moe_selection how, float *logprob,
                              double *effective, moe_error *err)
{
    batch b = {0};
    moe_decoding each[BATCH_ROWS] = {{0}};
    double ratio[BATCH_ROWS];
    moe_status status = MOE_OK;
    for (int i = first; status == MOE_OK && i < end; i++) {
        each[i - first] = (moe_decoding){.labels = r->set[i]->labels,
                                         .logprob = logprob + r->at[i]};
        status = batch_add(&b, r->tokens[i].ids, r->tokens[i].types, r->tokens[i].n, how, err);
    }
    const moe_batch in = {.n_seqs = b.n_seqs, .cu_seqlens = b.cu_seqlens, .token_ids = b.ids,
                          .selection = b.selection};
    if (status == MOE_OK)
        status = moe_decode(r->s->engine, &in, each, ratio, err);
    for (int i = 0; status == MOE_OK && i < end - first; i++)
        *effective += ratio[i];
    batch_free(&b);
    return status == MOE_OK ? interrupt_check(err) : status;
}

static moe_status score_all(rows *r, moe_selection how, float *logprob, double *effective,
                            progress *bar, int64_t *done, moe_error *err)
{
    moe_status status = MOE_OK;
    *effective = 0;
    for (int first = 0, end; status == MOE_OK && first < r->d->n_rows; first = end) {
        end = first + BATCH_ROWS < r->d->n_rows ? first + BATCH_ROWS : r->d->n_rows;
        status = score_batch(r, first, end, how, logprob, effective, err);
        *done += end - first;
        progress_update(bar, *done, NULL);
    }
    *effective /= r->d->n_rows;
    return status;
}

static void compare(const rows *r, evaluation *e)
{
    double kl = 0;
    e->n = r->d->n_rows;
    for (int i = 0; i < e->n; i++) {
        int n = r->set[i]->task->n_labels;
        const float *p = r->dense + r->at[i], *q = r->sparse + r->at[i];
        e->n_correct += best_label(q, n) == r->label[i];
        e->n_agree += best_label(q, n) == best_label(p, n);
        kl += softmax_kl(p, q, n);
    }
    e->accuracy = (double)e->n_correct / e->n;
    e->agreement = (double)e->n_agree / e->n;
    e->kl = kl / e->n;
}

moe_status evaluate_text(session *s, const dataset *d, const char *task, moe_selection how,
                         const double *ratios, int n, progress *bar, evaluation *results,
                         moe_error *err)
{
    rows r = {.s = s, .d = d};
    double effective;
    int64_t done = 0;
    moe_selection dense = {.ratio = 1};
    moe_status status = read_rows(&r, task, err);
    dense.selector = how.selector;
    if (status == MOE_OK)
        status = score_all(&r, dense, r.dense, &effective, bar, &done, err);
    for (int i = 0; status == MOE_OK && i < n; i++) {
        how.ratio = ratios[i];
        results[i] = (evaluation){.ratio = ratios[i], .mass = NAN};
        status = score_all(&r, how, r.sparse, &results[i].effective_ratio, bar, &done, err);
        if (status == MOE_OK)
            compare(&r, &results[i]);
    }
    rows_free(&r);
    return status;
}
