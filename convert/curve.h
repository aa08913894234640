/* curve.h: how faithful a converted model is to its source at each ratio and by
 * each policy, measured on held-out calibration text; config.json keeps it. */
#ifndef CONVERT_CURVE_H
#define CONVERT_CURVE_H

#include "convert/calibration.h"
#include "convert/cli.h"
#include "convert/ratio_table.h"

typedef struct {
    moe_policy policy;
    double ratio, effective_ratio;
    double agreement, kl;        /* classification, else NaN */
    double accuracy;             /* where the text has labels, else NaN */
    double mean_abs_difference;  /* regression, else NaN */
} curve_row;

enum { MAX_CURVE_ROWS = 3 * N_RATIOS };
typedef struct {
    int n_seqs, n_tokens; /* it was measured on */
    int n_rows;
    curve_row rows[MAX_CURVE_ROWS]; /* by policy, ratios ascending */
} fidelity_curve;

/* Runs m, which has a ratio table, over text at every ratio of the grid by each of
 * the policies that its table allows. data: where the text comes from, for its labels;
 * labels that the model does not have count as none. */
moe_status curve_measure(const moe_model *m, moe_pool *pool, const calibration *text,
                            const dataset *data, progress *bar, fidelity_curve *out,
                            moe_error *err);

#endif
