/* split.c: the list of splits, and the simplest of them, the random one. */
#include <math.h>
#include <stdlib.h>

#include "convert/rng.h"
#include "convert/split.h"

const split_kind split_kinds[] = {
    {"em", split_em},
    {"coactivation", split_coactivation},
    {"clustering", split_clustering},
    {"random", split_random},
    {NULL, NULL},
};

moe_status split_random(const ffn_layer *l, int32_t *expert, split_report *report,
                        moe_error *err)
{
    *report = (split_report){NAN, NAN, NAN};
    int32_t *order = malloc((size_t)l->d_ff * sizeof *order);
    if (!order)
        return moe_fail(err, MOE_E_MEMORY, "no memory to permute %d neurons", l->d_ff);
    for (int i = 0; i < l->d_ff; i++)
        order[i] = i;
    rng r = rng_stream(l->seed, (uint64_t)l->index, 'r');
    rng_shuffle(&r, order, l->d_ff);
    for (int i = 0; i < l->d_ff; i++)
        expert[order[i]] = i / MOE_EXPERT_SIZE;
    free(order);
    return MOE_OK;
}
