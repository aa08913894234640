/* kmeans.c: balanced k-means.
 *
 * Lloyd's rounds: with centres fixed, rows go to centres by balance_assign, which
 * finds the least total squared distance under the exact sizes; with sizes fixed,
 * centres become means. Both steps lower the same sum, so it ends. Several starts
 * by k-means++, each a task with a random stream of its own; the best inertia
 * wins, the earlier start on a tie. Per round: a product [n, d] x [d, bins] and
 * one assignment. */
#include <stdlib.h>
#include <string.h>

#include "convert/balance.h"
#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/kmeans.h"

typedef struct {
    const kmeans_input *in;
    int32_t *bin;           /* [n_starts, n] */
    double *inertia;        /* [n_starts] */
    moe_status *status;     /* [n_starts] */
    moe_error *error;       /* [n_starts] */
} job_data;

/* Scratch of one start. */
typedef struct {
    float *centre;   /* [n_bins, d] */
    float *affinity; /* [n, n_bins] */
    double *nearest; /* [n] squared distance to the nearest centre so far */
    int32_t *bin;    /* [n] before the round */
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
    const kmeans_input *in = job->in;
    const size_t d = (size_t)in->d;
    for (int n = 0; n < in->n; n++)
        s->nearest[n] = 1;
    for (int e = 0; e < in->n_bins; e++) {
        float *centre = s->centre + (size_t)e * d;
        memcpy(centre, in->rows + (size_t)draw_row(s->nearest, in->n, r) * d,
               d * sizeof *centre);
        for (int n = 0; n < in->n; n++) {
            double far = distance2(in->rows + (size_t)n * d, centre, in->d);
            if (e == 0 || far < s->nearest[n])
                s->nearest[n] = far;
        }
    }
}

/* affinity = row . centre - ||centre||^2 / 2: the squared distance, negated and
 * without the part that is the row's own. */
static void measure(const job_data *job, scratch *s)
{
    const kmeans_input *in = job->in;
    blas_nt(in->n, in->n_bins, in->d, in->rows, in->d, s->centre, in->d, 0,
            s->affinity, in->n_bins);
    for (int e = 0; e < in->n_bins; e++) {
        double norm = 0;
        for (int i = 0; i < in->d; i++) {
            double c = s->centre[(size_t)e * (size_t)in->d + (size_t)i];
            norm += c * c;
        }
        for (int n = 0; n < in->n; n++)
            s->affinity[(size_t)n * (size_t)in->n_bins + (size_t)e] -=
                (float)(norm / 2);
    }
}

static void move_centres(const job_data *job, const int32_t *bin, scratch *s)
{
    const kmeans_input *in = job->in;
    const size_t d = (size_t)in->d;
    memset(s->centre, 0, (size_t)in->n_bins * d * sizeof *s->centre);
    for (int n = 0; n < in->n; n++) {
        float *centre = s->centre + (size_t)bin[n] * d;
        const float *row = in->rows + (size_t)n * d;
        for (size_t i = 0; i < d; i++)
            centre[i] += row[i];
    }
    for (int e = 0; e < in->n_bins; e++)
        for (size_t i = 0; i < d; i++)
            s->centre[(size_t)e * d + i] /= (float)in->capacity[e];
}

static double inertia_of(const job_data *job, const int32_t *bin, const scratch *s)
{
    const kmeans_input *in = job->in;
    double sum = 0;
    for (int n = 0; n < in->n; n++)
        sum += distance2(in->rows + (size_t)n * (size_t)in->d,
                         s->centre + (size_t)bin[n] * (size_t)in->d, in->d);
    return sum / in->n;
}

static moe_status run_rounds(const job_data *job, int32_t *bin, scratch *s,
                             moe_error *err)
{
    const kmeans_input *in = job->in;
    for (int round = 0; round < in->max_rounds; round++) {
        memcpy(s->bin, bin, (size_t)in->n * sizeof *bin);
        measure(job, s);
        moe_status status = balance_assign(s->affinity, in->n, in->n_bins,
                                           in->capacity, bin, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        if (status != MOE_OK)
            return status;
        move_centres(job, bin, s);
        if (round > 0 && !memcmp(s->bin, bin, (size_t)in->n * sizeof *bin))
            break;
    }
    return MOE_OK;
}

static void start_task(void *ctx, int i, int worker)
{
    (void)worker;
    job_data *job = ctx;
    const kmeans_input *in = job->in;
    const size_t n = (size_t)in->n, n_bins = (size_t)in->n_bins;
    scratch s = {
        .centre = malloc(n_bins * (size_t)in->d * sizeof(float)),
        .affinity = malloc(n * n_bins * sizeof(float)),
        .nearest = malloc(n * sizeof(double)),
        .bin = malloc(n * sizeof(int32_t)),
    };
    int32_t *bin = job->bin + (size_t)i * n;
    if (s.centre && s.affinity && s.nearest && s.bin) {
        rng r = rng_stream(in->seed, in->stream, in->purpose + ((uint64_t)i << 8));
        choose_centres(job, &r, &s);
        memset(bin, 0, n * sizeof *bin);
        job->status[i] = run_rounds(job, bin, &s, &job->error[i]);
        if (job->status[i] == MOE_OK)
            job->inertia[i] = inertia_of(job, bin, &s);
    } else {
        job->status[i] = moe_fail(&job->error[i], MOE_E_MEMORY,
                                  "no memory to cluster %d rows", in->n);
    }
    free(s.centre);
    free(s.affinity);
    free(s.nearest);
    free(s.bin);
}

static int best_start(const job_data *job)
{
    int best = 0;
    for (int i = 0; i < job->in->n_starts; i++) {
        if (job->status[i] != MOE_OK)
            return i;
        if (job->inertia[i] < job->inertia[best])
            best = i;
    }
    return best;
}

moe_status kmeans_balanced(const kmeans_input *in, workers *w, int32_t *bin,
                           double *inertia, moe_error *err)
{
    const size_t n = (size_t)in->n, starts = (size_t)in->n_starts;
    job_data job = {.in = in,
                    .bin = malloc(starts * n * sizeof *job.bin),
                    .inertia = calloc(starts, sizeof *job.inertia),
                    .status = calloc(starts, sizeof *job.status),
                    .error = calloc(starts, sizeof *job.error)};
    moe_status status = MOE_OK;
    if (job.bin && job.inertia && job.status && job.error) {
        workers_run(w, start_task, &job, in->n_starts);
        const int best = best_start(&job);
        status = job.status[best];
        if (status != MOE_OK && err)
            *err = job.error[best];
        if (status == MOE_OK) {
            memcpy(bin, job.bin + (size_t)best * n, n * sizeof *bin);
            *inertia = job.inertia[best];
        }
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to cluster %d rows", in->n);
    }
    free(job.bin);
    free(job.inertia);
    free(job.status);
    free(job.error);
    return status;
}
