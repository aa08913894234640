/* split_em.c: neurons that a linear router can tell apart by what they contribute.
 *
 * A neuron contributes a_n = |h_n| ||w2_n|| to a token: what it adds to the output,
 * were nothing to cancel. On a sample of the calibration tokens (of those that the
 * router trains on), and for the neurons that contribute at all:
 * 1. balanced k-means on the normalised rows of W1;
 * 2. three rounds of the best assignment, with experts of exactly 32, by the mean
 *    affinity (a^T a)[n, m] to the members m of each expert;
 * 3. up to eight rounds of: a ridge regression from x predicts the contribution of
 *    every expert; it picks the best fifth of the experts of each token, M; neuron n
 *    gains (a^T M)[n, e] by being in e, and neurons go where the sum of gains is
 *    largest. The split whose picks caught most is kept.
 * Neurons that never contribute fill what is left: the last experts, which a router
 * then need never choose.
 *
 * Tokens are cut into tasks of LAYER_TASK_ROWS and neurons into tasks of TILE; each
 * owns its rows of the result. Memory: 4 bytes for each of SAMPLE x (d_ff + d). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/balance.h"
#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/kmeans.h"
#include "convert/ridge.h"
#include "convert/rng.h"
#include "convert/router.h"
#include "convert/split.h"

enum { SAMPLE = 4096, SAMPLE_TASKS = SAMPLE / LAYER_TASK_ROWS, TILE = 256,
       KMEANS_STARTS = 2, KMEANS_ROUNDS = 20, AFFINITY_ROUNDS = 3, EM_ROUNDS = 8 };
static const double PICKED = 0.2, LAMBDA = 1e-3;

typedef struct {
    const ffn_layer *l;
    int n_tokens, n_live, n_bins, n_picked; /* n_bins = ceil(n_live / 32) */
    float *x;             /* [n_tokens, d] */
    float *a;             /* [n_tokens, d_ff], then [n_tokens, n_live] */
    float *norm;          /* [d_ff] of W2's columns */
    int32_t *live;        /* [n_live] */
    int *capacity;        /* [n_bins] */
    int32_t *bin, *before, *best; /* [n_live] */
    float *sum;           /* [n_tokens, n_bins]: contribution of each expert */
    float *score;         /* [n_tokens, n_bins]: as predicted, then M */
    float *gain;          /* [n_live, n_bins] */
    float *weight, *bias; /* [n_bins, d], [n_bins]: the regression */
    double caught[SAMPLE_TASKS], all[SAMPLE_TASKS];
} em;

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int row_tasks(const em *s)
{
    return (s->n_tokens + LAYER_TASK_ROWS - 1) / LAYER_TASK_ROWS;
}

static int rows_of_task(const em *s, int i)
{
    return min_int(LAYER_TASK_ROWS, s->n_tokens - i * LAYER_TASK_ROWS);
}

static bool em_alloc(em *s)
{
    const size_t d = (size_t)s->l->d, d_ff = (size_t)s->l->d_ff;
    const size_t bins = (size_t)s->l->n_experts, n = (size_t)min_int(SAMPLE, s->l->n_tokens);
    s->x = malloc(n * d * sizeof(float));
    s->a = malloc(n * d_ff * sizeof(float));
    s->norm = malloc(d_ff * sizeof(float));
    s->live = malloc(d_ff * sizeof(int32_t));
    s->capacity = malloc(bins * sizeof(int));
    s->bin = malloc(d_ff * sizeof(int32_t));
    s->before = malloc(d_ff * sizeof(int32_t));
    s->best = malloc(d_ff * sizeof(int32_t));
    s->sum = malloc(n * bins * sizeof(float));
    s->score = malloc(n * bins * sizeof(float));
    s->gain = malloc(d_ff * bins * sizeof(float));
    s->weight = malloc(bins * d * sizeof(float));
    s->bias = malloc(bins * sizeof(float));
    return s->x && s->a && s->norm && s->live && s->capacity && s->bin && s->before &&
           s->best && s->sum && s->score && s->gain && s->weight && s->bias;
}

static void em_free(em *s)
{
    free(s->x);
    free(s->a);
    free(s->norm);
    free(s->live);
    free(s->capacity);
    free(s->bin);
    free(s->before);
    free(s->best);
    free(s->sum);
    free(s->score);
    free(s->gain);
    free(s->weight);
    free(s->bias);
}

static moe_status no_memory(const em *s, moe_error *err)
{
    return moe_fail(err, MOE_E_MEMORY, "no memory to split %d neurons", s->l->d_ff);
}

/* ---- contributions ------------------------------------------------------- */

/* The sampled rows of x: of n tokens as many as may be, each as likely as another,
 * in order. */
static void take_rows(em *s, const int32_t *tokens, int n)
{
    const ffn_layer *l = s->l;
    const size_t d = (size_t)l->d;
    rng r = rng_stream(l->seed, (uint64_t)l->index, 'e');
    const int wanted = min_int(n, SAMPLE);
    for (int i = 0; i < n; i++)
        if (rng_below(&r, (uint64_t)(n - i)) < (uint64_t)(wanted - s->n_tokens))
            memcpy(s->x + (size_t)s->n_tokens++ * d, l->x + (size_t)tokens[i] * d,
                   d * sizeof *s->x);
}

static moe_status take_sample(em *s, moe_error *err)
{
    const size_t n = (size_t)s->l->n_tokens;
    int32_t *tokens = malloc(2 * n * sizeof *tokens);
    int n_train, n_held_out;
    if (!tokens)
        return no_memory(s, err);
    router_hold_out(s->l, tokens, &n_train, tokens + n, &n_held_out);
    take_rows(s, tokens, n_train);
    free(tokens);
    return MOE_OK;
}

static void contribution_task(void *ctx, int i, int worker)
{
    (void)worker;
    const em *s = ctx;
    const ffn_layer *l = s->l;
    const size_t first = (size_t)i * LAYER_TASK_ROWS, d_ff = (size_t)l->d_ff;
    const int rows = rows_of_task(s, i);
    float *a = s->a + first * d_ff;
    const ffn_inputs in = layer_inputs(l);
    layer_activations(l, &in, s->x + first * (size_t)l->d, rows, a);
    for (size_t t = 0; t < (size_t)rows; t++)
        for (size_t n = 0; n < d_ff; n++)
            a[t * d_ff + n] = fabsf(a[t * d_ff + n]) * s->norm[n];
}

/* Lists the neurons that contribute and leaves in `a` their columns only. */
static moe_status keep_live(em *s, moe_error *err)
{
    const size_t d_ff = (size_t)s->l->d_ff, n = (size_t)s->n_tokens;
    for (size_t j = 0; j < d_ff; j++) {
        double sum = 0;
        for (size_t t = 0; t < n; t++)
            sum += s->a[t * d_ff + j];
        if (!isfinite(sum))
            return moe_fail(err, MOE_E_FORMAT, "layer %d: the activation of neuron %zu or "
                            "its column of W2 is not finite", s->l->index, j);
        if (sum > 0)
            s->live[s->n_live++] = (int32_t)j;
    }
    float *to = s->a;
    for (size_t t = 0; t < n; t++)
        for (int j = 0; j < s->n_live; j++)
            *to++ = s->a[t * d_ff + (size_t)s->live[j]];
    s->n_bins = (s->n_live + MOE_EXPERT_SIZE - 1) / MOE_EXPERT_SIZE;
    for (int e = 0; e < s->n_bins; e++)
        s->capacity[e] = min_int(MOE_EXPERT_SIZE, s->n_live - e * MOE_EXPERT_SIZE);
    const int fifth = (int)lround(PICKED * s->l->n_experts);
    s->n_picked = min_int(fifth > 1 ? fifth : 1, s->n_bins);
    return MOE_OK;
}

static moe_status find_contributions(em *s, moe_error *err)
{
    moe_status status = take_sample(s, err);
    if (status != MOE_OK)
        return status;
    layer_neuron_norms(s->l, s->norm);
    workers_run(s->l->workers, contribution_task, s, row_tasks(s));
    return keep_live(s, err);
}

/* ---- 1. k-means ---------------------------------------------------------- */

static moe_status start_by_kmeans(em *s, moe_error *err)
{
    const ffn_layer *l = s->l;
    const size_t d = (size_t)l->d;
    double inertia;
    float *rows = malloc((size_t)l->d_ff * d * sizeof *rows);
    if (!rows)
        return no_memory(s, err);
    layer_unit_rows(l, rows);
    for (int i = 0; i < s->n_live; i++) /* live[i] >= i */
        memmove(rows + (size_t)i * d, rows + (size_t)s->live[i] * d, d * sizeof *rows);
    const kmeans_input in = {.rows = rows, .n = s->n_live, .d = l->d, .n_bins = s->n_bins,
                             .capacity = s->capacity, .n_starts = KMEANS_STARTS,
                             .max_rounds = KMEANS_ROUNDS, .seed = l->seed,
                             .stream = (uint64_t)l->index, .purpose = 'K'};
    moe_status status = kmeans_balanced(&in, l->workers, s->bin, &inertia, err);
    free(rows);
    return status;
}

/* ---- 2. affinity --------------------------------------------------------- */

static void sum_task(void *ctx, int i, int worker)
{
    (void)worker;
    const em *s = ctx;
    const size_t first = (size_t)i * LAYER_TASK_ROWS, bins = (size_t)s->n_bins;
    const int rows = rows_of_task(s, i);
    memset(s->sum + first * bins, 0, (size_t)rows * bins * sizeof *s->sum);
    for (size_t t = first; t < first + (size_t)rows; t++) {
        const float *a = s->a + t * (size_t)s->n_live;
        float *sum = s->sum + t * bins;
        for (int n = 0; n < s->n_live; n++)
            sum[s->bin[n]] += a[n];
    }
}

typedef struct { const em *s; const float *by; } gain_job;

/* Rows of gain = a^T by; by [n_tokens, n_bins]. */
static void gain_task(void *ctx, int i, int worker)
{
    (void)worker;
    const gain_job *job = ctx;
    const em *s = job->s;
    const int first = i * TILE;
    blas_tn(min_int(TILE, s->n_live - first), s->n_bins, s->n_tokens, s->a + first,
            s->n_live, job->by, s->n_bins, 0, s->gain + (size_t)first * (size_t)s->n_bins,
            s->n_bins);
}

static void find_gain(em *s, const float *by)
{
    gain_job job = {s, by};
    workers_run(s->l->workers, gain_task, &job, (s->n_live + TILE - 1) / TILE);
}

/* Neurons to experts by gain; *moved: whether any went elsewhere. */
static moe_status assign(em *s, bool *moved, moe_error *err)
{
    const size_t bytes = (size_t)s->n_live * sizeof *s->bin;
    memcpy(s->before, s->bin, bytes);
    moe_status status =
        balance_assign(s->gain, s->n_live, s->n_bins, s->capacity, s->bin, err);
    *moved = memcmp(s->before, s->bin, bytes) != 0;
    return status == MOE_OK ? interrupt_check(err) : status;
}

static moe_status join_by_affinity(em *s, moe_error *err)
{
    moe_status status = MOE_OK;
    bool moved = true;
    for (int round = 0; status == MOE_OK && moved && round < AFFINITY_ROUNDS; round++) {
        workers_run(s->l->workers, sum_task, s, row_tasks(s));
        find_gain(s, s->sum);
        for (int n = 0; n < s->n_live; n++)
            for (int e = 0; e < s->n_bins; e++)
                s->gain[(size_t)n * (size_t)s->n_bins + (size_t)e] /= (float)s->capacity[e];
        status = assign(s, &moved, err);
    }
    return status;
}

/* ---- 3. against a linear router ------------------------------------------ */

/* score becomes 1 for the k largest, ties to the lower expert, and 0 for others;
 * returns what they hold of sum. */
static double pick_best(float *score, const float *sum, int n, int k)
{
    double caught = 0;
    for (int i = 0; i < k; i++) {
        int best = -1;
        for (int e = 0; e < n; e++)
            if (score[e] < INFINITY && (best < 0 || score[e] > score[best]))
                best = e;
        caught += sum[best];
        score[best] = INFINITY;
    }
    for (int e = 0; e < n; e++)
        score[e] = score[e] == INFINITY;
    return caught;
}

static void pick_task(void *ctx, int i, int worker)
{
    (void)worker;
    em *s = ctx;
    const size_t first = (size_t)i * LAYER_TASK_ROWS, bins = (size_t)s->n_bins;
    const int rows = rows_of_task(s, i), d = s->l->d;
    float *score = s->score + first * bins;
    const float *sum = s->sum + first * bins;
    for (size_t t = 0; t < (size_t)rows; t++)
        memcpy(score + t * bins, s->bias, bins * sizeof *score);
    blas_nt(rows, s->n_bins, d, s->x + first * (size_t)d, d, s->weight, d, 1, score,
            s->n_bins);
    s->caught[i] = s->all[i] = 0;
    for (size_t t = 0; t < (size_t)rows; t++) {
        for (size_t e = 0; e < bins; e++)
            s->all[i] += sum[t * bins + e];
        s->caught[i] += pick_best(score + t * bins, sum + t * bins, s->n_bins, s->n_picked);
    }
}

/* Leaves M in score, and in *share what it catches of all contributions. */
static moe_status predict(em *s, double *share, moe_error *err)
{
    ridge *r;
    double caught = 0, all = 0;
    workers_run(s->l->workers, sum_task, s, row_tasks(s));
    moe_status status = ridge_create(s->l->d, s->n_bins, s->l->workers, &r, err);
    if (status != MOE_OK)
        return status;
    ridge_add(r, s->x, s->l->d, s->sum, s->n_bins, s->n_tokens);
    status = ridge_solve(r, LAMBDA, s->weight, s->bias, NULL, err);
    ridge_free(r);
    if (status != MOE_OK)
        return status;
    workers_run(s->l->workers, pick_task, s, row_tasks(s));
    for (int i = 0; i < row_tasks(s); i++) {
        caught += s->caught[i];
        all += s->all[i];
    }
    *share = caught / all;
    return MOE_OK;
}

/* bin and *share: of the best split met. */
static moe_status improve(em *s, double *share, moe_error *err)
{
    const size_t bytes = (size_t)s->n_live * sizeof *s->bin;
    *share = -1;
    for (int round = 0; ; round++) {
        double caught;
        bool moved;
        moe_status status = predict(s, &caught, err);
        if (status != MOE_OK)
            return status;
        if (caught > *share) {
            *share = caught;
            memcpy(s->best, s->bin, bytes);
        }
        if (round == EM_ROUNDS)
            break;
        find_gain(s, s->score);
        status = assign(s, &moved, err);
        if (status != MOE_OK)
            return status;
        if (!moved)
            break;
    }
    memcpy(s->bin, s->best, bytes);
    return MOE_OK;
}

/* ---- all of it ----------------------------------------------------------- */

/* The live neurons' experts; the others in the places left, in order. */
static void list_experts(const em *s, int32_t *expert)
{
    int place = s->n_live;
    for (int n = 0; n < s->l->d_ff; n++)
        expert[n] = -1;
    for (int i = 0; i < s->n_live; i++)
        expert[s->live[i]] = s->bin[i];
    for (int n = 0; n < s->l->d_ff; n++)
        if (expert[n] < 0)
            expert[n] = place++ / MOE_EXPERT_SIZE;
}

moe_status split_em(const ffn_layer *l, int32_t *expert, split_report *report,
                    moe_error *err)
{
    em s = {.l = l};
    *report = (split_report){NAN, NAN, NAN};
    moe_status status = em_alloc(&s) ? find_contributions(&s, err) : no_memory(&s, err);
    if (status == MOE_OK && s.n_live > 0) {
        status = start_by_kmeans(&s, err);
        if (status == MOE_OK)
            status = join_by_affinity(&s, err);
        if (status == MOE_OK)
            status = improve(&s, &report->linear, err);
    }
    if (status == MOE_OK)
        list_experts(&s, expert);
    em_free(&s);
    return status;
}
