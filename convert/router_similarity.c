/* router_similarity.c: the score of expert e is the cosine of the token x and
 * c_e, the mean of the expert's rows of W1 after each was brought to length one:
 *
 *     s_e = x . c_e / (||x|| ||c_e||)
 *
 * ||x|| is the same for all experts and leaves their order alone, so the router
 * is one linear layer on x as it is, with rows c_e / ||c_e|| and no bias. */
#include <math.h>
#include <stdlib.h>

#include "convert/router.h"

moe_status router_similarity(const router_input *in, router_rows *out,
                             router_report *report, moe_error *err)
{
    const ffn_layer *l = in->l;
    moe_status status = router_rows_alloc(1, l->d, 0, l->n_experts, out, err);
    if (status != MOE_OK)
        return status;
    float *unit = malloc((size_t)l->d_ff * (size_t)l->d * sizeof *unit);
    if (!unit) {
        router_rows_free(out);
        return moe_fail(err, MOE_E_MEMORY, "no memory for the router of layer %d",
                        l->index);
    }
    layer_unit_rows(l, unit);
    layer_expert_means(l, in->neurons, unit, out->first);
    for (int e = 0; e < l->n_experts; e++) {
        float *row = out->first + (size_t)e * (size_t)l->d;
        router_unit_row(row, l->d, row);
    }
    free(unit);
    *report = (router_report){0, 0};
    return MOE_OK;
}
