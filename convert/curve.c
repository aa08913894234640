/* curve.c: the model at each ratio against itself dense. Sums run over sequences
 * in the text's order; effective ratios are means weighted by tokens. */
#include <math.h>
#include <stdlib.h>

#include "convert/curve.h"
#include "convert/interrupt.h"
#include "convert/logits.h"
#include "convert/metrics.h"

typedef struct {
    const moe_model_info *info;
    moe_engine *engine;
    const calibration *text;
    int *label;               /* [n_seqs], or NULL */
    int32_t *bounds;          /* [n_seqs + 1] */
    moe_selection *selection; /* [n_seqs] */
    double *effective;        /* [n_seqs] */
    float *dense, *sparse;    /* [n_seqs, n_labels] */
} meter;

static moe_status run_text(meter *m, moe_selection how, float *logits, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int s = 0; s < m->text->n_seqs; s++)
        m->selection[s] = how;
    for (int s = 0, end; status == MOE_OK && s < m->text->n_seqs; s = end) {
        moe_batch b = calibration_batch(m->text, s, m->bounds, &end);
        b.selection = m->selection;
        moe_output out = {.logits = logits + logits_at(m->info, m->text->cu_seqlens, s),
                          .effective_ratio = m->effective + s};
        status = moe_forward(m->engine, &b, &out, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* The labels of the text's rows, NULL where one of them has none. */
static void find_labels(meter *m, const dataset *data)
{
    for (int s = 0; m->label && s < m->text->n_seqs; s++) {
        const dataset_row *row = &data->rows[m->text->row[s]];
        const bool labelled = row->label && m->info->task != MOE_TASK_ANSWER;
        m->label[s] = labelled ? dataset_label_id(row, m->info) : -1;
        if (m->label[s] < 0) {
            free(m->label);
            m->label = NULL;
        }
    }
}

static double effective_ratio(const meter *m)
{
    double sum = 0;
    for (int s = 0; s < m->text->n_seqs; s++)
        sum += m->effective[s] * (m->text->cu_seqlens[s + 1] - m->text->cu_seqlens[s]);
    return sum / m->text->n_tokens;
}

static void compare(const meter *m, curve_row *row)
{
    const int n_seqs = m->text->n_seqs;
    const bool answers = m->info->task == MOE_TASK_ANSWER;
    const bool classify = m->info->task == MOE_TASK_CLASSIFY;
    double agree = 0, correct = 0, divergence = 0, difference = 0;
    for (int s = 0; s < n_seqs; s++) {
        const size_t at = logits_at(m->info, m->text->cu_seqlens, s);
        const float *p = m->dense + at, *q = m->sparse + at;
        const int n = m->text->cu_seqlens[s + 1] - m->text->cu_seqlens[s];
        agree += logits_agree(m->info, p, q, n);
        correct += m->label && best_label(q, m->info->n_labels) == m->label[s];
        divergence += logits_divergence(m->info, p, q, n);
        difference += logits_difference(m->info, p, q, n);
    }
    const bool regress = m->info->task == MOE_TASK_REGRESS;
    row->agreement = classify || answers ? agree / n_seqs : NAN;
    row->kl = regress ? NAN : divergence / n_seqs;
    row->accuracy = classify && m->label ? correct / n_seqs : NAN;
    row->mean_abs_difference = regress || answers ? difference / n_seqs : NAN;
}

static moe_status measure_policy(meter *m, moe_policy policy, progress *bar, fidelity_curve *out,
                                 moe_error *err)
{
    moe_status status = MOE_OK;
    for (int r = 0; status == MOE_OK && r < N_RATIOS; r++) {
        curve_row *row = &out->rows[out->n_rows++];
        const moe_selection how = {ratio_grid[r], MOE_SELECT_ROUTER, policy};
        if (ratio_grid[r] == 1 && out->n_rows > N_RATIOS) { /* policies differ below 1 only */
            *row = out->rows[N_RATIOS - 1];
            row->policy = policy;
            progress_update(bar, out->n_rows, NULL);
            continue;
        }
        *row = (curve_row){.policy = policy, .ratio = ratio_grid[r]};
        status = run_text(m, how, m->sparse, err);
        row->effective_ratio = effective_ratio(m);
        compare(m, row);
        progress_update(bar, out->n_rows, NULL);
    }
    return status;
}

static moe_status meter_create(const moe_model *model, moe_pool *pool,
                               const calibration *text, meter *m, moe_error *err)
{
    const size_t n = (size_t)text->n_seqs;
    *m = (meter){.info = moe_model_describe(model), .text = text};
    const size_t floats = logits_at(m->info, text->cu_seqlens, text->n_seqs);
    m->label = malloc(n * sizeof *m->label);
    m->bounds = malloc((n + 1) * sizeof *m->bounds);
    m->selection = malloc(n * sizeof *m->selection);
    m->effective = malloc(n * sizeof *m->effective);
    m->dense = malloc(floats * sizeof *m->dense);
    m->sparse = malloc(floats * sizeof *m->sparse);
    if (!m->label || !m->bounds || !m->selection || !m->effective || !m->dense ||
        !m->sparse)
        return moe_fail(err, MOE_E_MEMORY, "no memory to measure %d sequences",
                        text->n_seqs);
    return moe_engine_create(model, pool, NULL, &m->engine, err);
}

static void meter_free(meter *m)
{
    moe_engine_destroy(m->engine);
    free(m->label);
    free(m->bounds);
    free(m->selection);
    free(m->effective);
    free(m->dense);
    free(m->sparse);
}

moe_status curve_measure(const moe_model *model, moe_pool *pool, const calibration *text,
                            const dataset *data, progress *bar, fidelity_curve *out,
                            moe_error *err)
{
    meter m;
    *out = (fidelity_curve){.n_seqs = text->n_seqs, .n_tokens = text->n_tokens};
    moe_status status = meter_create(model, pool, text, &m, err);
    if (status == MOE_OK) {
        const bool dynamic = m.info->has_mean_experts;
        find_labels(&m, data);
        progress_begin(bar, "measuring", (dynamic ? 3 : 1) * N_RATIOS);
        status = run_text(&m, (moe_selection){1, MOE_SELECT_ROUTER, MOE_POLICY_MODEL},
                          m.dense, err);
        if (status == MOE_OK)
            status = measure_policy(&m, MOE_POLICY_TOPK, bar, out, err);
        if (status == MOE_OK && m.info->has_thresholds)
            status = measure_policy(&m, MOE_POLICY_THRESHOLD, bar, out, err);
        if (status == MOE_OK && dynamic)
            status = measure_policy(&m, MOE_POLICY_SEQUENCE, bar, out, err);
        progress_end(bar);
    }
    meter_free(&m);
    return status;
}
