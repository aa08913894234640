/* router_norm.c: how much each expert would add, predicted by one linear layer on x
 * as it is:
 *
 *     s_e = A_e . x + c_e  ~  sqrt(g ||W2_e h_e||_2)
 *
 * by ridge regression over the training tokens, lambda 1e-3 of the mean diagonal; g
 * is the norm of the answer's gradient with respect to what the FFN adds to the token.
 * g ||out_e|| bounds, to first order, what leaving the expert out does to the answer;
 * so scores of different tokens and layers can be compared, and tokens that nobody
 * looks at any more (all but [CLS] in the last layer) need no expert. The root keeps
 * few large values from ruling the fit. Without g: s_e ~ ||W2_e h_e||_2.
 *
 * Where the paper counts the positive activations of an expert, its output's norm
 * knows of W2, of neurons that cancel, and of GELU's negative part. Tokens pass in
 * blocks: what is held doesn't grow with their number. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/expert_norms.h"
#include "convert/ridge.h"
#include "convert/router.h"

enum { BLOCK = 4096 };
static const double LAMBDA = 1e-3;

struct router_fit {
    const ffn_layer *l;
    expert_norms *norms;
    ridge *ridge;
    float *target; /* [BLOCK, n_experts] */
};

void router_fit_free(router_fit *f)
{
    if (!f)
        return;
    expert_norms_free(f->norms);
    ridge_free(f->ridge);
    free(f->target);
    free(f);
}

moe_status router_fit_create(const ffn_layer *l, const int32_t *neurons, router_fit **out,
                             moe_error *err)
{
    router_fit *f = *out = calloc(1, sizeof *f);
    if (f)
        f->target = malloc(BLOCK * (size_t)l->n_experts * sizeof *f->target);
    if (!f || !f->target) {
        router_fit_free(f);
        *out = NULL;
        return moe_fail(err, MOE_E_MEMORY, "no memory for the router of layer %d", l->index);
    }
    f->l = l;
    moe_status status = expert_norms_create(l, neurons, &f->norms, err);
    if (status == MOE_OK)
        status = ridge_create(l->d, l->n_experts, l->workers, &f->ridge, err);
    if (status != MOE_OK) {
        router_fit_free(f);
        *out = NULL;
    }
    return status;
}

/* At most BLOCK rows. */
static moe_status add_block(router_fit *f, const float *x, const float *sensitivity, int n,
                            moe_error *err)
{
    const size_t experts = (size_t)f->l->n_experts;
    moe_status status = expert_norms_of(f->norms, x, n, f->target, err);
    if (status != MOE_OK)
        return status;
    for (size_t t = 0; sensitivity && t < (size_t)n; t++)
        for (size_t e = 0; e < experts; e++)
            f->target[t * experts + e] = sqrtf(sensitivity[t] * f->target[t * experts + e]);
    ridge_add(f->ridge, x, f->l->d, f->target, f->l->n_experts, n);
    return MOE_OK;
}

moe_status router_fit_add(router_fit *f, const float *x, const float *sensitivity,
                          int n_rows, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int at = 0; status == MOE_OK && at < n_rows; at += BLOCK) {
        const int n = n_rows - at < BLOCK ? n_rows - at : BLOCK;
        status = add_block(f, x + (size_t)at * (size_t)f->l->d,
                           sensitivity ? sensitivity + at : NULL, n, err);
    }
    return status;
}

moe_status router_fit_solve(router_fit *f, router_rows *out, moe_error *err)
{
    return ridge_solve(f->ridge, LAMBDA, out->first, out->first_bias, NULL, err);
}

/* The training tokens, gathered block by block. x [BLOCK, d], g [BLOCK]: scratch. */
static moe_status add_training_tokens(router_fit *f, const router_input *in, float *x,
                                      float *g, moe_error *err)
{
    const size_t d = (size_t)in->l->d;
    moe_status status = MOE_OK;
    for (int at = 0; status == MOE_OK && at < in->n_train; at += BLOCK) {
        const int n = in->n_train - at < BLOCK ? in->n_train - at : BLOCK;
        for (int t = 0; t < n; t++) {
            const size_t token = (size_t)in->train[at + t];
            memcpy(x + (size_t)t * d, in->l->x + token * d, d * sizeof *x);
            g[t] = in->sensitivity ? in->sensitivity[token] : 0;
        }
        status = router_fit_add(f, x, in->sensitivity ? g : NULL, n, err);
    }
    return status;
}

moe_status router_norm(const router_input *in, router_rows *out, router_report *report,
                       moe_error *err)
{
    const ffn_layer *l = in->l;
    router_fit *f = NULL;
    float *x = malloc(BLOCK * (size_t)l->d * sizeof *x), *g = malloc(BLOCK * sizeof *g);
    *report = (router_report){0, 0};
    moe_status status = router_rows_alloc(1, l->d, 0, l->n_experts, out, err);
    if (status == MOE_OK && !(x && g))
        status = moe_fail(err, MOE_E_MEMORY, "no memory for the router of layer %d",
                          l->index);
    if (status == MOE_OK)
        status = router_fit_create(l, in->neurons, &f, err);
    if (status == MOE_OK)
        status = add_training_tokens(f, in, x, g, err);
    if (status == MOE_OK)
        status = router_fit_solve(f, out, err);
    if (status != MOE_OK)
        router_rows_free(out);
    router_fit_free(f);
    free(x);
    free(g);
    return status;
}
