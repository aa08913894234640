/* split_clustering.c: balanced k-means on the rows of W1, each brought to length
 * one, so that neurons that look for the same thing share an expert. */
#include <math.h>
#include <stdlib.h>

#include "convert/kmeans.h"
#include "convert/split.h"

enum { N_STARTS = 8, MAX_ROUNDS = 60 };

moe_status split_clustering(const ffn_layer *l, int32_t *expert, split_report *report,
                            moe_error *err)
{
    float *rows = malloc((size_t)l->d_ff * (size_t)l->d * sizeof *rows);
    int *capacity = malloc((size_t)l->n_experts * sizeof *capacity);
    const kmeans_input in = {.rows = rows, .n = l->d_ff, .d = l->d,
                             .n_bins = l->n_experts, .capacity = capacity,
                             .n_starts = N_STARTS, .max_rounds = MAX_ROUNDS,
                             .seed = l->seed, .stream = (uint64_t)l->index, .purpose = 'k'};
    double inertia = NAN;
    moe_status status = MOE_OK;
    if (rows && capacity) {
        layer_unit_rows(l, rows);
        for (int e = 0; e < l->n_experts; e++)
            capacity[e] = layer_capacity(l, e);
        status = kmeans_balanced(&in, l->workers, expert, &inertia, err);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to cluster %d neurons", l->d_ff);
    }
    *report = (split_report){.cut = NAN, .inertia = inertia, .linear = NAN};
    free(rows);
    free(capacity);
    return status;
}
