/* fidelity.h: how faithful a converted model is to its source at each ratio and by
 * each policy, measured on held-out calibration text; config.json keeps it. */
#ifndef CONVERT_FIDELITY_H
#define CONVERT_FIDELITY_H

#include "convert/calibration.h"
#include "convert/cli.h"
#include "convert/ratio_table.h"

typedef struct {
    moe_policy policy;
    double ratio, effective_ratio;
    double agreement, kl;        /* classification, else NaN */
    double accuracy;             /* where the text has labels, else NaN */
    double mean_abs_difference;  /* regression, else NaN */
} fidelity_row;

enum { MAX_FIDELITY_ROWS = 3 * N_RATIOS };
typedef struct {
    int n_seqs, n_tokens; /* it was measured on */
    int n_rows;
    fidelity_row rows[MAX_FIDELITY_ROWS]; /* by policy, ratios ascending */
} fidelity;

/* Runs m, which has a ratio table, over text at every ratio of the grid by each of
 * the policies that its table allows. data: where the text comes from, for its labels;
 * labels that the model does not have count as none. */
moe_status fidelity_measure(const moe_model *m, moe_pool *pool, const calibration *text,
                            const dataset *data, progress *bar, fidelity *out,
                            moe_error *err);

#endif
