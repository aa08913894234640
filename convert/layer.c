/* layer.c: the sums over an FFN layer that splits and routers share.
 *
 * Rows are cut into tasks of 256, each with a hidden block [256, d_ff] of its
 * worker: nothing of the size tokens x d_ff is ever held. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/activation.h"
#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/layer.h"

int layer_capacity(const ffn_layer *l, int e)
{
    int left = l->d_ff - e * MOE_EXPERT_SIZE;
    return left < MOE_EXPERT_SIZE ? left : MOE_EXPERT_SIZE;
}

ffn_inputs layer_inputs(const ffn_layer *l)
{
    return (ffn_inputs){l->w1, l->b1, l->up};
}

/* Rows of `from` in the order of a split. Only the last expert is padded, so the real
 * neurons lie without gaps. */
static float *permute(const float *from, const int32_t *neurons, int n, size_t width)
{
    float *to = malloc((size_t)n * width * sizeof *to);
    for (int i = 0; to && i < n; i++)
        memcpy(to + (size_t)i * width, from + (size_t)neurons[i] * width, width * sizeof *to);
    return to;
}

bool layer_inputs_permute(const ffn_layer *l, const int32_t *neurons, ffn_inputs *out)
{
    const size_t d = (size_t)l->d;
    *out = (ffn_inputs){permute(l->w1, neurons, l->d_ff, d), permute(l->b1, neurons, l->d_ff, 1),
                        l->up ? permute(l->up, neurons, l->d_ff, d) : NULL};
    return out->w1 && out->b1 && (out->up || !l->up);
}

void layer_inputs_free(ffn_inputs *in)
{
    free((float *)in->w1);
    free((float *)in->b1);
    free((float *)in->up);
    *in = (ffn_inputs){0};
}

/* h [n_rows, d_ff] = x W1^T + b1 */
static void first_linear(const ffn_layer *l, const ffn_inputs *in, const float *x, int n_rows,
                         float *h)
{
    for (int t = 0; t < n_rows; t++)
        memcpy(h + (size_t)t * (size_t)l->d_ff, in->b1, (size_t)l->d_ff * sizeof *h);
    blas_nt(n_rows, l->d_ff, l->d, x, l->d, in->w1, l->d, 1, h, l->d_ff);
}

/* h *= x up^T, a block of neurons and rows at a time. */
static void gate(const ffn_layer *l, const float *up, const float *x, int n_rows, float *h)
{
    enum { ROWS = 64, COLUMNS = 64 };
    float u[ROWS * COLUMNS];
    const size_t d = (size_t)l->d, d_ff = (size_t)l->d_ff;
    for (int t = 0; t < n_rows; t += ROWS)
        for (int n = 0; n < l->d_ff; n += COLUMNS) {
            const int rows = n_rows - t < ROWS ? n_rows - t : ROWS;
            const int columns = l->d_ff - n < COLUMNS ? l->d_ff - n : COLUMNS;
            blas_nt(rows, columns, l->d, x + (size_t)t * d, l->d, up + (size_t)n * d, l->d, 0, u,
                    COLUMNS);
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < columns; j++)
                    h[(size_t)(t + i) * d_ff + (size_t)(n + j)] *= u[i * COLUMNS + j];
        }
}

void layer_activations(const ffn_layer *l, const ffn_inputs *in, const float *x, int n_rows,
                       float *h)
{
    const size_t n = (size_t)n_rows * (size_t)l->d_ff;
    first_linear(l, in, x, n_rows, h);
    activation_apply(l->act, n, h);
    if (in->up)
        gate(l, in->up, x, n_rows, h);
}

void layer_hidden(const ffn_layer *l, const ffn_inputs *in, const float *x, int n_rows, float *h)
{
    const size_t n = (size_t)n_rows * (size_t)l->d_ff;
    if (in->up) {
        layer_activations(l, in, x, n_rows, h);
        for (size_t i = 0; i < n; i++)
            h[i] = fabsf(h[i]);
        return;
    }
    first_linear(l, in, x, n_rows, h);
    /* ReLU, and GELU too, is positive just where its argument is. */
    activation_apply(MOE_ACT_RELU, n, h);
    if (l->act != MOE_ACT_RELU)
        activation_apply(l->act, n, h);
}

void layer_neuron_norms(const ffn_layer *l, float *norm)
{
    for (int n = 0; n < l->d_ff; n++) {
        double squares = 0;
        for (int i = 0; i < l->d; i++) {
            const double w = l->w2[(size_t)i * (size_t)l->d_ff + (size_t)n];
            squares += w * w;
        }
        norm[n] = (float)sqrt(squares);
    }
}

typedef struct {
    const ffn_layer *l;
    ffn_inputs in;   /* in the split's order */
    float *hidden;   /* [workers][LAYER_TASK_ROWS, d_ff] */
    float *mass;
    int64_t *fired;  /* [workers][d_ff]: whole numbers add up in any order */
} mass_job;

static void mass_task(void *ctx, int i, int worker)
{
    const mass_job *job = ctx;
    const ffn_layer *l = job->l;
    const int first = i * LAYER_TASK_ROWS;
    const int rows = l->n_tokens - first < LAYER_TASK_ROWS ? l->n_tokens - first
                                                           : LAYER_TASK_ROWS;
    float *h = job->hidden + (size_t)worker * LAYER_TASK_ROWS * (size_t)l->d_ff;
    if (interrupt_check(NULL) != MOE_OK)
        return;
    layer_hidden(l, &job->in, l->x + (size_t)first * (size_t)l->d, rows, h);
    int64_t *fired = job->fired + (size_t)worker * (size_t)l->d_ff;
    for (int t = 0; t < rows; t++) {
        const float *row = h + (size_t)t * (size_t)l->d_ff;
        for (int n = 0; n < l->d_ff; n++)
            fired[n] += row[n] > 0;
        float *mass = job->mass + (size_t)(first + t) * (size_t)l->n_experts;
        for (int e = 0; e < l->n_experts; e++) {
            float sum = 0;
            for (int j = 0; j < layer_capacity(l, e); j++)
                sum += row[e * MOE_EXPERT_SIZE + j];
            mass[e] = sum;
        }
    }
}

moe_status layer_expert_mass(const ffn_layer *l, const int32_t *neurons, float *mass,
                             int64_t *fired, moe_error *err)
{
    const size_t d_ff = (size_t)l->d_ff;
    const size_t threads = (size_t)workers_count(l->workers);
    mass_job job = {.l = l, .mass = mass};
    const bool permuted = layer_inputs_permute(l, neurons, &job.in);
    job.hidden = malloc(threads * LAYER_TASK_ROWS * d_ff * sizeof(float));
    job.fired = calloc(threads * d_ff, sizeof(int64_t));
    moe_status status = MOE_OK;
    if (permuted && job.hidden && job.fired) {
        workers_run(l->workers, mass_task, &job,
                    (l->n_tokens + LAYER_TASK_ROWS - 1) / LAYER_TASK_ROWS);
        for (size_t n = 0; fired && n < d_ff; n++) {
            fired[n] = 0;
            for (size_t w = 0; w < threads; w++)
                fired[n] += job.fired[w * d_ff + n];
        }
        status = interrupt_check(err);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory for the activations of layer %d",
                          l->index);
    }
    layer_inputs_free(&job.in);
    free(job.hidden);
    free(job.fired);
    return status;
}

void layer_unit_rows(const ffn_layer *l, float *rows)
{
    for (int n = 0; n < l->d_ff; n++) {
        const float *from = l->w1 + (size_t)n * (size_t)l->d;
        float *to = rows + (size_t)n * (size_t)l->d;
        double squares = 0;
        for (int i = 0; i < l->d; i++)
            squares += (double)from[i] * from[i];
        const float scale = squares > 0 ? (float)(1 / sqrt(squares)) : 0;
        for (int i = 0; i < l->d; i++)
            to[i] = from[i] * scale;
    }
}

void layer_expert_means(const ffn_layer *l, const int32_t *neurons, const float *rows,
                        float *mean)
{
    memset(mean, 0, (size_t)l->n_experts * (size_t)l->d * sizeof *mean);
    for (int e = 0; e < l->n_experts; e++) {
        float *to = mean + (size_t)e * (size_t)l->d;
        const int count = layer_capacity(l, e);
        for (int j = 0; j < count; j++) {
            const float *row =
                rows + (size_t)neurons[e * MOE_EXPERT_SIZE + j] * (size_t)l->d;
            for (int i = 0; i < l->d; i++)
                to[i] += row[i];
        }
        for (int i = 0; i < l->d; i++)
            to[i] /= (float)count;
    }
}

void layer_list_neurons(const ffn_layer *l, const int32_t *expert, int32_t *neurons)
{
    /* Filled expert by expert: d_ff * n_experts steps, a millisecond. */
    int32_t *next = neurons;
    for (int e = 0; e < l->n_experts; e++) {
        int32_t *end = neurons + (e + 1) * MOE_EXPERT_SIZE;
        for (int n = 0; n < l->d_ff; n++)
            if (expert[n] == e)
                *next++ = n;
        while (next < end)
            *next++ = -1;
    }
}
