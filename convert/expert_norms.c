/* expert_norms.c: see the header. Rows are cut into tasks of LAYER_TASK_ROWS, each
 * with a block [rows, d_ff] of activations and one [rows, 32] of products in its
 * worker's scratch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/expert_norms.h"
#include "convert/interrupt.h"

struct expert_norms {
    const ffn_layer *l;
    ffn_inputs in;          /* in the split's order */
    float *gram;            /* [n_experts, 32, 32] */
    size_t scratch_floats;  /* of a worker */
    float *scratch;         /* [workers][h | product] */
    /* the rows at hand */
    const float *x;
    int n_rows;
    float *norms;
};

/* The Gram of expert e's columns of W2; columns [d, 32]: scratch. */
static void make_gram(const ffn_layer *l, const int32_t *neurons, int e, float *columns,
                      float *gram)
{
    const int size = layer_capacity(l, e);
    for (size_t i = 0; i < (size_t)l->d; i++)
        for (int j = 0; j < size; j++)
            columns[i * MOE_EXPERT_SIZE + (size_t)j] =
                l->w2[i * (size_t)l->d_ff + (size_t)neurons[e * MOE_EXPERT_SIZE + j]];
    blas_tn(size, size, l->d, columns, MOE_EXPERT_SIZE, columns, MOE_EXPERT_SIZE, 0, gram,
            MOE_EXPERT_SIZE);
}

moe_status expert_norms_create(const ffn_layer *l, const int32_t *neurons,
                               expert_norms **out, moe_error *err)
{
    const size_t d = (size_t)l->d, d_ff = (size_t)l->d_ff;
    const size_t square = MOE_EXPERT_SIZE * MOE_EXPERT_SIZE;
    expert_norms *n = *out = calloc(1, sizeof *n);
    float *columns = malloc(d * MOE_EXPERT_SIZE * sizeof *columns);
    if (!n || !columns)
        goto fail;
    n->l = l;
    n->scratch_floats = LAYER_TASK_ROWS * (d_ff + MOE_EXPERT_SIZE);
    const bool permuted = layer_inputs_permute(l, neurons, &n->in);
    n->gram = calloc((size_t)l->n_experts * square, sizeof *n->gram);
    n->scratch = malloc((size_t)workers_count(l->workers) * n->scratch_floats *
                        sizeof *n->scratch);
    if (!permuted || !n->gram || !n->scratch)
        goto fail;
    for (int e = 0; e < l->n_experts; e++)
        make_gram(l, neurons, e, columns, n->gram + (size_t)e * square);
    free(columns);
    return MOE_OK;
fail:
    free(columns);
    expert_norms_free(n);
    *out = NULL;
    return moe_fail(err, MOE_E_MEMORY, "no memory for the expert outputs of layer %d",
                    l->index);
}

void expert_norms_free(expert_norms *n)
{
    if (!n)
        return;
    layer_inputs_free(&n->in);
    free(n->gram);
    free(n->scratch);
    free(n);
}

/* norms[:, e] of the rows h. */
static void norms_of_expert(const expert_norms *n, const float *h, int rows, int e,
                            float *product, float *norms)
{
    const ffn_layer *l = n->l;
    const int size = layer_capacity(l, e);
    const float *of_expert = h + (size_t)e * MOE_EXPERT_SIZE;
    blas_nn(rows, size, size, of_expert, l->d_ff,
            n->gram + (size_t)e * MOE_EXPERT_SIZE * MOE_EXPERT_SIZE, MOE_EXPERT_SIZE, 0,
            product, MOE_EXPERT_SIZE);
    for (int t = 0; t < rows; t++) {
        float square = 0;
        for (int j = 0; j < size; j++)
            square += of_expert[(size_t)t * (size_t)l->d_ff + (size_t)j] *
                      product[t * MOE_EXPERT_SIZE + j];
        /* Rounding may take it a hair below zero. */
        norms[(size_t)t * (size_t)l->n_experts + (size_t)e] =
            square > 0 ? sqrtf(square) : 0;
    }
}

static void norms_task(void *ctx, int i, int worker)
{
    const expert_norms *n = ctx;
    const ffn_layer *l = n->l;
    const int first = i * LAYER_TASK_ROWS, left = n->n_rows - first;
    const int rows = left < LAYER_TASK_ROWS ? left : LAYER_TASK_ROWS;
    float *h = n->scratch + (size_t)worker * n->scratch_floats;
    float *product = h + LAYER_TASK_ROWS * (size_t)l->d_ff;
    if (interrupt_check(NULL) != MOE_OK)
        return;
    layer_activations(l, &n->in, n->x + (size_t)first * (size_t)l->d, rows, h);
    for (int e = 0; e < l->n_experts; e++)
        norms_of_expert(n, h, rows, e, product,
                        n->norms + (size_t)first * (size_t)l->n_experts);
}

moe_status expert_norms_of(expert_norms *n, const float *x, int n_rows, float *norms,
                           moe_error *err)
{
    n->x = x;
    n->n_rows = n_rows;
    n->norms = norms;
    workers_run(n->l->workers, norms_task, n,
                (n_rows + LAYER_TASK_ROWS - 1) / LAYER_TASK_ROWS);
    return interrupt_check(err);
}
