/* split_clustering.c: balanced k-means on the rows of W1, each brought to
 * length one, so that neurons that look for the same thing share an expert.
 *
 * Lloyd's rounds: with centres fixed, rows go to centres by balance_assign, which
 * finds the least total squared distance under the exact sizes; with sizes fixed,
 * centres become means. Both steps lower the same sum, so it ends. Several starts
 * by k-means++, each a task with a random stream of its own; the best inertia
 * wins, the earlier start on a tie. Per round: a product [d_ff, d] x [d, E] and
 * one assignment. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/balance.h"
#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/rng.h"
#include "convert/split.h"

enum { N_STARTS = 8, MAX_ROUNDS = 60 };

typedef struct {
    const ffn_layer *l;
    const float *rows;      /* [d_ff, d], unit length */
    int *capacity;          /* [n_experts] */
    int32_t *expert;        /* [N_STARTS, d_ff] */
    double inertia[N_STARTS];
    moe_status status[N_STARTS];
    moe_error error[N_STARTS];
} job_data;

/* Scratch of one start. */
typedef struct {
    float *centre;   /* [n_experts, d] */
    float *affinity; /* [d_ff, n_experts] */
    double *nearest; /* [d_ff] squared distance to the nearest centre so far */
    int32_t *expert; /* [d_ff] before the round */
} scratch;

static double distance2(const float *a, const float *b, int d)
{
    double sum = 0;
    for (int i = 0; i < d; i++) {
        double diff = (double)a[i] - b[i];
        sum += diff * diff;
    }
    return sum;
}

/* A row drawn with odds nearest[row], or any row where all are zero. */
static int draw_row(const double *nearest, int n, rng *r)
{
    double total = 0;
    for (int i = 0; i < n; i++)
        total += nearest[i];
    if (!(total > 0))
        return (int)rng_below(r, (uint64_t)n);
    double left = rng_uniform(r) * total;
    int last = 0;
    for (int i = 0; i < n; i++) {
        if (nearest[i] <= 0)
            continue;
        last = i;
        left -= nearest[i];
        if (left < 0)
            break;
    }
    return last;
}

/* k-means++: each next centre is a row far from those before it. */
static void choose_centres(const job_data *job, rng *r, scratch *s)
{
    const ffn_layer *l = job->l;
    const size_t d = (size_t)l->d;
    for (int n = 0; n < l->d_ff; n++)
        s->nearest[n] = 1;
    for (int e = 0; e < l->n_experts; e++) {
        float *centre = s->centre + (size_t)e * d;
        memcpy(centre, job->rows + (size_t)draw_row(s->nearest, l->d_ff, r) * d,
               d * sizeof *centre);
        for (int n = 0; n < l->d_ff; n++) {
            double far = distance2(job->rows + (size_t)n * d, centre, l->d);
            if (e == 0 || far < s->nearest[n])
                s->nearest[n] = far;
        }
    }
}

/* affinity = row . centre - ||centre||^2 / 2: the squared distance, negated and
 * without the part that is the row's own. */
static void measure(const job_data *job, scratch *s)
{
    const ffn_layer *l = job->l;
    blas_nt(l->d_ff, l->n_experts, l->d, job->rows, l->d, s->centre, l->d, 0,
            s->affinity, l->n_experts);
    for (int e = 0; e < l->n_experts; e++) {
        double norm = 0;
        for (int i = 0; i < l->d; i++) {
            double c = s->centre[(size_t)e * (size_t)l->d + (size_t)i];
            norm += c * c;
        }
        for (int n = 0; n < l->d_ff; n++)
            s->affinity[(size_t)n * (size_t)l->n_experts + (size_t)e] -=
                (float)(norm / 2);
    }
}

static void move_centres(const job_data *job, const int32_t *expert, scratch *s)
{
    const ffn_layer *l = job->l;
    const size_t d = (size_t)l->d;
    memset(s->centre, 0, (size_t)l->n_experts * d * sizeof *s->centre);
    for (int n = 0; n < l->d_ff; n++) {
        float *centre = s->centre + (size_t)expert[n] * d;
        const float *row = job->rows + (size_t)n * d;
        for (size_t i = 0; i < d; i++)
            centre[i] += row[i];
    }
    for (int e = 0; e < l->n_experts; e++)
        for (size_t i = 0; i < d; i++)
            s->centre[(size_t)e * d + i] /= (float)job->capacity[e];
}

static double inertia_of(const job_data *job, const int32_t *expert, const scratch *s)
{
    const ffn_layer *l = job->l;
    double sum = 0;
    for (int n = 0; n < l->d_ff; n++)
        sum += distance2(job->rows + (size_t)n * (size_t)l->d,
                         s->centre + (size_t)expert[n] * (size_t)l->d, l->d);
    return sum / l->d_ff;
}

static moe_status run_rounds(const job_data *job, int32_t *expert, scratch *s,
                             moe_error *err)
{
    const ffn_layer *l = job->l;
    for (int round = 0; round < MAX_ROUNDS; round++) {
        memcpy(s->expert, expert, (size_t)l->d_ff * sizeof *expert);
        measure(job, s);
        moe_status status = balance_assign(s->affinity, l->d_ff, l->n_experts,
                                           job->capacity, expert, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        if (status != MOE_OK)
            return status;
        move_centres(job, expert, s);
        if (round > 0 && !memcmp(s->expert, expert, (size_t)l->d_ff * sizeof *expert))
            break;
    }
    return MOE_OK;
}

static void start_task(void *ctx, int i, int worker)
{
    (void)worker;
    job_data *job = ctx;
    const ffn_layer *l = job->l;
    const size_t d_ff = (size_t)l->d_ff, n_experts = (size_t)l->n_experts;
    scratch s = {
        .centre = malloc(n_experts * (size_t)l->d * sizeof(float)),
        .affinity = malloc(d_ff * n_experts * sizeof(float)),
        .nearest = malloc(d_ff * sizeof(double)),
        .expert = malloc(d_ff * sizeof(int32_t)),
    };
    int32_t *expert = job->expert + (size_t)i * d_ff;
    if (s.centre && s.affinity && s.nearest && s.expert) {
        rng r = rng_stream(l->seed, (uint64_t)l->index, 'k' + ((uint64_t)i << 8));
        choose_centres(job, &r, &s);
        memset(expert, 0, d_ff * sizeof *expert);
        job->status[i] = run_rounds(job, expert, &s, &job->error[i]);
        if (job->status[i] == MOE_OK)
            job->inertia[i] = inertia_of(job, expert, &s);
    } else {
        job->status[i] = moe_fail(&job->error[i], MOE_E_MEMORY,
                                  "no memory to cluster %d neurons", l->d_ff);
    }
    free(s.centre);
    free(s.affinity);
    free(s.nearest);
    free(s.expert);
}

static moe_status best_start(const job_data *job, int *best, moe_error *err)
{
    *best = 0;
    for (int i = 0; i < N_STARTS; i++) {
        if (job->status[i] != MOE_OK) {
            if (err)
                *err = job->error[i];
            return job->status[i];
        }
        if (job->inertia[i] < job->inertia[*best])
            *best = i;
    }
    return MOE_OK;
}

moe_status split_clustering(const ffn_layer *l, int32_t *expert, split_report *report,
                            moe_error *err)
{
    const size_t d_ff = (size_t)l->d_ff;
    job_data job = {.l = l};
    float *rows = malloc(d_ff * (size_t)l->d * sizeof *rows);
    job.rows = rows;
    job.capacity = malloc((size_t)l->n_experts * sizeof *job.capacity);
    job.expert = malloc(N_STARTS * d_ff * sizeof *job.expert);
    moe_status status = MOE_OK;
    int best = 0;
    if (rows && job.capacity && job.expert) {
        layer_unit_rows(l, rows);
        for (int e = 0; e < l->n_experts; e++)
            job.capacity[e] = layer_capacity(l, e);
        workers_run(l->workers, start_task, &job, N_STARTS);
        status = best_start(&job, &best, err);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to cluster %d neurons", l->d_ff);
    }
    if (status == MOE_OK) {
        memcpy(expert, job.expert + (size_t)best * d_ff, d_ff * sizeof *expert);
        *report = (split_report){.cut = NAN, .inertia = job.inertia[best]};
    }
    free(rows);
    free(job.capacity);
    free(job.expert);
    return status;
}
