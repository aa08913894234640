/* router_norm.c: how much each expert would add to the output, predicted by one
 * linear layer on x as it is:
 *
 *     s_e = A_e . x + c_e  ~  ||W2_e h_e||_2
 *
 * by ridge regression over the training tokens, lambda 1e-3 of the mean diagonal.
 * Where the paper counts the positive activations of an expert, its output's norm
 * knows of W2, of neurons that cancel, and of GELU's negative part. Tokens pass in
 * blocks: what is held doesn't grow with their number. */
#include <stdlib.h>
#include <string.h>

#include "convert/expert_norms.h"
#include "convert/ridge.h"
#include "convert/router.h"

enum { BLOCK = 4096 };
static const double LAMBDA = 1e-3;

/* One block of training tokens: x and the norms, which are scratch. */
static moe_status add_block(const router_input *in, int first, expert_norms *norms,
                            ridge *r, float *x, float *y, moe_error *err)
{
    const ffn_layer *l = in->l;
    const int left = in->n_train - first, n = left < BLOCK ? left : BLOCK;
    const size_t d = (size_t)l->d;
    for (int t = 0; t < n; t++)
        memcpy(x + (size_t)t * d, l->x + (size_t)in->train[first + t] * d, d * sizeof *x);
    moe_status status = expert_norms_of(norms, x, n, y, err);
    if (status == MOE_OK)
        ridge_add(r, x, l->d, y, l->n_experts, n);
    return status;
}

static moe_status regress(const router_input *in, expert_norms *norms, ridge *r,
                          router_rows *out, moe_error *err)
{
    const ffn_layer *l = in->l;
    float *x = malloc(BLOCK * (size_t)l->d * sizeof *x);
    float *y = malloc(BLOCK * (size_t)l->n_experts * sizeof *y);
    moe_status status = MOE_OK;
    if (!x || !y)
        status = moe_fail(err, MOE_E_MEMORY, "no memory for the router of layer %d",
                          l->index);
    for (int at = 0; status == MOE_OK && at < in->n_train; at += BLOCK)
        status = add_block(in, at, norms, r, x, y, err);
    free(x);
    free(y);
    if (status != MOE_OK)
        return status;
    return ridge_solve(r, LAMBDA, out->first, out->first_bias, NULL, err);
}

moe_status router_norm(const router_input *in, router_rows *out, router_report *report,
                       moe_error *err)
{
    const ffn_layer *l = in->l;
    expert_norms *norms = NULL;
    ridge *r = NULL;
    *report = (router_report){0, 0};
    moe_status status = router_rows_alloc(1, l->d, 0, l->n_experts, out, err);
    if (status != MOE_OK)
        return status;
    status = expert_norms_create(l, in->neurons, &norms, err);
    if (status == MOE_OK)
        status = ridge_create(l->d, l->n_experts, l->workers, &r, err);
    if (status == MOE_OK)
        status = regress(in, norms, r, out, err);
    if (status != MOE_OK)
        router_rows_free(out);
    ridge_free(r);
    expert_norms_free(norms);
    return status;
}
