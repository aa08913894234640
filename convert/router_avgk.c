/* router_avgk.c: EMoE's gate: the score of an expert is the mean of its neurons'
 * inputs,
 *
 *     s_e = x . mean of the expert's rows of W1 + mean of its b1,
 *
 * rows as they are. No parameters of its own, nothing is trained. */
#include "convert/router.h"

moe_status router_avgk(const router_input *in, router_rows *out, router_report *report,
                       moe_error *err)
{
    const ffn_layer *l = in->l;
    *report = (router_report){0, 0};
    moe_status status = router_rows_alloc(1, l->d, 0, l->n_experts, out, err);
    if (status != MOE_OK)
        return status;
    layer_expert_means(l, in->neurons, l->w1, out->first);
    for (int e = 0; e < l->n_experts; e++) {
        const int size = layer_capacity(l, e);
        float sum = 0;
        for (int j = 0; j < size; j++)
            sum += l->b1[in->neurons[e * MOE_EXPERT_SIZE + j]];
        out->first_bias[e] = sum / (float)size;
    }
    return MOE_OK;
}
