/* router.c: what routers share - their arrays, the tokens held out, their scores
 * and how much activation they catch - and the random one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/rng.h"
#include "convert/router.h"

const router_kind router_kinds[] = {
    {"norm", router_norm, true},
    {"mlp", router_mlp, false},
    {"similarity", router_similarity, false},
    {"avgk", router_avgk, false},
    {"random", router_random, false},
    {NULL, NULL, false},
};

void router_rows_free(router_rows *r)
{
    free(r->first);
    free(r->first_bias);
    free(r->second);
    free(r->second_bias);
    *r = (router_rows){.n_linears = 0};
}

moe_status router_rows_alloc(int n_linears, int n_inputs, int n_hidden, int n_experts,
                             router_rows *out, moe_error *err)
{
    const size_t d = (size_t)n_inputs, experts = (size_t)n_experts;
    const size_t n = n_linears == 2 ? (size_t)n_hidden : experts;
    *out = (router_rows){.n_linears = n_linears, .n_hidden = n_linears == 2 ? n_hidden : 0};
    out->first = calloc(n * d, sizeof(float));
    out->first_bias = calloc(n, sizeof(float));
    bool ok = out->first && out->first_bias;
    if (n_linears == 2) {
        out->second = calloc(experts * n, sizeof(float));
        out->second_bias = calloc(experts, sizeof(float));
        ok = ok && out->second && out->second_bias;
    }
    if (ok)
        return MOE_OK;
    router_rows_free(out);
    return moe_fail(err, MOE_E_MEMORY, "no memory for a router of %d experts", n_experts);
}

moe_status router_random(const router_input *in, router_rows *out,
                         router_report *report, moe_error *err)
{
    const ffn_layer *l = in->l;
    moe_status status = router_rows_alloc(1, l->d, 0, l->n_experts, out, err);
    if (status != MOE_OK)
        return status;
    rng r = rng_stream(l->seed, (uint64_t)l->index, 'R');
    const double scale = 1 / sqrt((double)l->d);
    for (size_t i = 0; i < (size_t)l->n_experts * (size_t)l->d; i++)
        out->first[i] = (float)(scale * rng_normal(&r));
    *report = (router_report){0, 0};
    return MOE_OK;
}

/* One sequence in ten, drawn from the seed: neighbouring tokens are too alike for
 * some to judge what was learnt from others. */
void router_hold_out(const ffn_layer *l, int32_t *train, int *n_train, int32_t *held_out,
                     int *n_held_out)
{
    rng r = rng_stream(l->seed, (uint64_t)l->index, 'h');
    int to_hold = (l->n_seqs + 9) / 10;
    *n_train = *n_held_out = 0;
    for (int s = 0; s < l->n_seqs; s++) {
        /* Each remaining sequence is as likely as another to be among them. */
        bool hold = rng_below(&r, (uint64_t)(l->n_seqs - s)) < (uint64_t)to_hold;
        to_hold -= hold;
        for (int32_t t = l->cu_seqlens[s]; t < l->cu_seqlens[s + 1]; t++) {
            if (hold)
                held_out[(*n_held_out)++] = t;
            if (!hold || l->n_seqs == 1)
                train[(*n_train)++] = t;
        }
    }
}

static void add_rows(float *y, const float *bias, int n_rows, int n)
{
    for (int t = 0; t < n_rows; t++)
        memcpy(y + (size_t)t * (size_t)n, bias, (size_t)n * sizeof *y);
}

void router_scores_of(const router_rows *r, const ffn_layer *l, const float *x, int n_rows,
                      float *scratch, float *scores)
{
    const int d = l->d, n = r->n_linears == 2 ? r->n_hidden : l->n_experts;
    float *hidden = r->n_linears == 2 ? scratch + (size_t)n_rows * (size_t)d : scores;
    if (r->normalize) {
        for (int t = 0; t < n_rows; t++)
            router_unit_row(x + (size_t)t * (size_t)d, d, scratch + (size_t)t * (size_t)d);
        x = scratch;
    }
    add_rows(hidden, r->first_bias, n_rows, n);
    blas_nt(n_rows, n, d, x, d, r->first, d, 1, hidden, n);
    if (r->n_linears == 1)
        return;
    for (size_t i = 0; i < (size_t)n_rows * (size_t)n; i++)
        hidden[i] = tanhf(hidden[i]);
    add_rows(scores, r->second_bias, n_rows, l->n_experts);
    blas_nt(n_rows, l->n_experts, n, hidden, n, r->second, n, 1, scores, l->n_experts);
}

void router_unit_row(const float *x, int d, float *y)
{
    /* Eight sums, for the vector units: it runs for every token of every epoch. */
    float part[8] = {0}, squares = 0;
    int at = 0;
    for (; at + 8 <= d; at += 8)
        for (int i = 0; i < 8; i++)
            part[i] += x[at + i] * x[at + i];
    for (; at < d; at++)
        part[0] += x[at] * x[at];
    for (int i = 0; i < 8; i++)
        squares += part[i];
    const float scale = squares > 0 ? 1 / sqrtf(squares) : 0;
    for (int i = 0; i < d; i++)
        y[i] = x[i] * scale;
}

/* ---- captured mass ------------------------------------------------------- */

typedef struct {
    const router_input *in;
    const router_rows *r;
    size_t scratch_floats; /* of a worker */
    float *scratch;        /* [workers][x | router's scratch | scores] */
    double *caught, *all;  /* [tasks] */
    int k;
} capture_job;

/* The sum of mass over the k best scores, ties to the lower expert. scores is
 * used up. */
static double mass_of_best(float *scores, const float *mass, int n, int k)
{
    double sum = 0;
    for (int i = 0; i < k; i++) {
        int best = 0;
        for (int e = 1; e < n; e++)
            if (scores[e] > scores[best])
                best = e;
        sum += mass[best];
        scores[best] = -INFINITY;
    }
    return sum;
}

static void captured_task(void *ctx, int i, int worker)
{
    const capture_job *job = ctx;
    const ffn_layer *l = job->in->l;
    const size_t d = (size_t)l->d, experts = (size_t)l->n_experts;
    const int first = i * LAYER_TASK_ROWS;
    const int left = job->in->n_held_out - first;
    const int rows = left < LAYER_TASK_ROWS ? left : LAYER_TASK_ROWS;
    const int32_t *tokens = job->in->held_out + first;
    float *x = job->scratch + (size_t)worker * job->scratch_floats;
    float *scores = x + job->scratch_floats - LAYER_TASK_ROWS * experts;
    for (int t = 0; t < rows; t++) {
        if (job->r)
            memcpy(x + (size_t)t * d, l->x + (size_t)tokens[t] * d, d * sizeof *x);
        else
            memcpy(scores + (size_t)t * experts,
                   job->in->mass + (size_t)tokens[t] * experts, experts * sizeof *x);
    }
    if (job->r)
        router_scores_of(job->r, l, x, rows, x + LAYER_TASK_ROWS * d, scores);
    job->caught[i] = job->all[i] = 0;
    for (int t = 0; t < rows; t++) {
        const float *mass = job->in->mass + (size_t)tokens[t] * experts;
        for (size_t e = 0; e < experts; e++)
            job->all[i] += mass[e];
        job->caught[i] +=
            mass_of_best(scores + (size_t)t * experts, mass, l->n_experts, job->k);
    }
}

moe_status router_captured(const router_input *in, const router_rows *r, double *share,
                           moe_error *err)
{
    const ffn_layer *l = in->l;
    const int n_tasks = (in->n_held_out + LAYER_TASK_ROWS - 1) / LAYER_TASK_ROWS;
    const size_t hidden = r ? (size_t)r->n_hidden : 0;
    const long k = lround(0.2 * l->n_experts);
    capture_job job = {.in = in, .r = r, .k = k > 1 ? (int)k : 1};
    job.scratch_floats =
        LAYER_TASK_ROWS * (2 * (size_t)l->d + hidden + (size_t)l->n_experts);
    job.scratch = malloc((size_t)workers_count(l->workers) * job.scratch_floats *
                         sizeof(float));
    job.caught = calloc((size_t)n_tasks + 1, sizeof(double));
    job.all = calloc((size_t)n_tasks + 1, sizeof(double));
    moe_status status = MOE_OK;
    if (job.scratch && job.caught && job.all) {
        double caught = 0, all = 0;
        workers_run(l->workers, captured_task, &job, n_tasks);
        for (int i = 0; i < n_tasks; i++) {
            caught += job.caught[i];
            all += job.all[i];
        }
        *share = all > 0 ? caught / all : 1;
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to judge the router of layer %d",
                          l->index);
    }
    free(job.scratch);
    free(job.caught);
    free(job.all);
    return status;
}
