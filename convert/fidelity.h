/* fidelity.h: curves of quality against ratio, and those that config.json holds. */
#ifndef CONVERT_FIDELITY_H
#define CONVERT_FIDELITY_H

#include "convert/evaluate.h"

typedef struct {
    char name[80];
    bool stored;      /* from config.json: NaN in `at` where it states nothing */
    int n;
    evaluation *at;   /* [n], ratios ascending */
} fidelity;

/* Adds the curves of moefication.fidelity to series [max], of which *n are in use: one
 * for each policy ("topk" where a row has none), named "stored, POLICY"; what there is
 * no room for is left out. The caller frees each `at`, after MOE_E_MEMORY too. */
moe_status fidelity_stored(const moe_model_info *info, int max, fidelity *series, int *n,
                           moe_error *err);

/* Prints the curves for a terminal: agreement (or the mean absolute difference) at
 * each ratio as marks on a line, and the experts of each layer beside. */
void fidelity_print(const moe_model_info *info, const fidelity *series, int n);

#endif
