/* sensitivity.c: the head, then layer by layer towards the first.
 *
 * Tasks are whole sequences of TASK_TOKENS in all, or one longer sequence, whatever
 * the number of workers. The gradient by the rows between two layers lies in the
 * first extra region: a task reads its rows and writes those of the layer below in
 * their place. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/backward.h"
#include "convert/blas.h"
#include "convert/interrupt.h"
#include "convert/rng.h"
#include "convert/sensitivity.h"
#include "engine/model/pack.h"

enum { TASK_TOKENS = 512, TASKS_PER_RUN = 32 };

/* What one worker works in. */
typedef struct {
    float *x, *g, *g_ffn;  /* [task tokens, d] */
    float *scratch;
    moe_status status;     /* of its first failure */
    moe_error err;
} seat;

typedef struct {
    const moe_model *m;
    const calibration *text;
    const states *s;
    uint64_t seed;
    workers *workers;
    progress *bar;
    float *norm;
    int32_t *bound;           /* [n_tasks + 1]: task i has sequences bound[i] .. */
    int n_tasks, first_task;  /* of this run of the workers */
    seat *seats;
    float *pooler, *classifier; /* [d, d], [n_labels, d] */
    backward_weights weights; /* of the layer at work */
    int layer;
} job;

bool sensitivity_supported(const moe_model *m)
{
    bool known = m->family != MOE_FAMILY_T5;
    for (int l = 0; l < m->weights.n_layers; l++) {
        const moe_activation act = m->weights.layers[l].ffn.act;
        known = known && (act == MOE_ACT_RELU || act == MOE_ACT_GELU_ERF ||
                          act == MOE_ACT_GELU_TANH);
    }
    return known;
}

/* ---- tasks --------------------------------------------------------------- */

static backward_task task_of(const job *j, int i)
{
    return (backward_task){.cu_seqlens = j->text->cu_seqlens + j->bound[i],
                           .n_seqs = j->bound[i + 1] - j->bound[i]};
}

static int rows_of(backward_task t)
{
    return t.cu_seqlens[t.n_seqs] - t.cu_seqlens[0];
}

static moe_status cut_tasks(job *j, moe_error *err)
{
    const int32_t *at = j->text->cu_seqlens;
    j->bound = malloc(((size_t)j->text->n_seqs + 1) * sizeof *j->bound);
    if (!j->bound)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d sequences", j->text->n_seqs);
    for (int first = 0, end; first < j->text->n_seqs; first = end) {
        end = first + 1;
        while (end < j->text->n_seqs && at[end + 1] - at[first] <= TASK_TOKENS)
            end++;
        j->bound[j->n_tasks++] = first;
    }
    j->bound[j->n_tasks] = j->text->n_seqs;
    return MOE_OK;
}

static moe_status make_seats(job *j, moe_error *err)
{
    const int n = workers_count(j->workers);
    const size_t d = (size_t)j->s->d, labels = (size_t)j->m->info.n_labels;
    size_t rows = 0, scratch = 0;
    for (int i = 0; i < j->n_tasks; i++) {
        const size_t r = (size_t)rows_of(task_of(j, i));
        const size_t head = r * (3 * d + labels);
        const size_t layer = backward_scratch_floats(&j->weights, task_of(j, i));
        rows = r > rows ? r : rows;
        scratch = layer > scratch ? layer : scratch;
        scratch = head > scratch ? head : scratch;
    }
    j->seats = calloc((size_t)n, sizeof *j->seats);
    bool ok = j->seats;
    for (int i = 0; ok && i < n; i++) {
        seat *s = &j->seats[i];
        s->x = malloc(rows * d * sizeof(float));
        s->g = malloc(rows * d * sizeof(float));
        s->g_ffn = malloc(rows * d * sizeof(float));
        s->scratch = malloc(scratch * sizeof(float));
        ok = s->x && s->g && s->g_ffn && s->scratch;
    }
    return ok ? MOE_OK
              : moe_fail(err, MOE_E_MEMORY, "no memory for the gradients of %zu tokens",
                         rows);
}

/* All tasks of a layer, or of the head; done: tokens of the layers before. */
static moe_status run_tasks(job *j, worker_task task, int64_t done, moe_error *err)
{
    moe_status status = MOE_OK;
    for (j->first_task = 0; status == MOE_OK && j->first_task < j->n_tasks;
         j->first_task += TASKS_PER_RUN) {
        const int left = j->n_tasks - j->first_task;
        progress_update(j->bar, done + task_of(j, j->first_task).cu_seqlens[0], NULL);
        workers_run(j->workers, task, j, left < TASKS_PER_RUN ? left : TASKS_PER_RUN);
        for (int i = 0; status == MOE_OK && i < workers_count(j->workers); i++)
            if (j->seats[i].status != MOE_OK)
                status = moe_fail(err, j->seats[i].status, "%s", j->seats[i].err.message);
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* ---- the head ------------------------------------------------------------ */

/* Logits [n_labels] become the gradient of the answer by them. */
static void answer_gradient(const job *j, int seq, float *logits)
{
    const int n = j->m->info.n_labels;
    if (j->m->info.task == MOE_TASK_MULTI_LABEL) {
        rng r = rng_stream(j->seed, (uint64_t)seq, 's');
        for (int i = 0; i < n; i++)
            logits[i] = rng_next(&r) >> 63 ? 1 : -1;
        return;
    }
    int best = 0, second = -1;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[best]) {
            second = best;
            best = i;
        } else if (second < 0 || logits[i] > logits[second]) {
            second = i;
        }
    memset(logits, 0, (size_t)n * sizeof *logits);
    logits[best] = 1;
    if (second >= 0)
        logits[second] = -1;
}

/* first [n, d]: the rows that the head reads of n sequences, from number `seq` on;
 * they become the gradient by them. */
static void head_backward(const job *j, int seq, int n, float *first, float *scratch)
{
    const moe_weights *w = &j->m->weights;
    const int d = j->s->d, labels = j->m->info.n_labels;
    const size_t floats = (size_t)n * (size_t)d;
    float *u = scratch, *g = u + floats, *logits = g + floats;
    backward_linear(first, n, d, j->pooler, w->pooler.b, d, 0, u);
    for (size_t i = 0; i < floats; i++)
        u[i] = w->pooler_relu ? fmaxf(u[i], 0) : tanhf(u[i]);
    backward_linear(u, n, d, j->classifier, w->classifier.b, labels, 0, logits);
    for (int i = 0; i < n; i++)
        answer_gradient(j, seq + i, logits + (size_t)i * (size_t)labels);
    blas_nn(n, d, labels, logits, labels, j->classifier, d, 0, g, d);
    for (size_t i = 0; i < floats; i++)
        g[i] *= w->pooler_relu ? (float)(u[i] > 0) : 1 - u[i] * u[i];
    blas_nn(n, d, d, g, d, j->pooler, d, 0, first, d);
}

/* Logits [n, 2] of a sequence's tokens become the gradient, by them, of the margins
 * between the two likeliest starts and the two likeliest ends. */
static void span_gradient(float *logits, int n)
{
    for (int c = 0; c < 2; c++) {
        int best = 0, second = -1;
        for (int i = 1; i < n; i++)
            if (logits[2 * i + c] > logits[2 * best + c]) {
                second = best;
                best = i;
            } else if (second < 0 || logits[2 * i + c] > logits[2 * second + c]) {
                second = i;
            }
        for (int i = 0; i < n; i++)
            logits[2 * i + c] = i == best ? 1 : i == second ? -1 : 0;
    }
}

/* s->g from s->x, of a head that reads every token. */
static void span_backward(const job *j, const backward_task *t, seat *s)
{
    const int d = j->s->d, at = t->cu_seqlens[0], n = rows_of(*t);
    float *logits = s->scratch;
    backward_linear(s->x, n, d, j->classifier, j->m->weights.classifier.b, 2, 0, logits);
    for (int q = 0; q < t->n_seqs; q++)
        span_gradient(logits + 2 * (size_t)(t->cu_seqlens[q] - at),
                      t->cu_seqlens[q + 1] - t->cu_seqlens[q]);
    blas_nn(n, d, 2, logits, 2, j->classifier, d, 0, s->g, d);
}

/* The same of one that reads first tokens; from number `seq` on. */
static void first_backward(const job *j, int seq, const backward_task *t, seat *s)
{
    const int at = t->cu_seqlens[0];
    const size_t d = (size_t)j->s->d;
    float *first = s->scratch, *rest = first + (size_t)t->n_seqs * d;
    for (int q = 0; q < t->n_seqs; q++)
        memcpy(first + (size_t)q * d, s->x + (size_t)(t->cu_seqlens[q] - at) * d,
               d * sizeof *first);
    head_backward(j, seq, t->n_seqs, first, rest);
    memset(s->g, 0, (size_t)rows_of(*t) * d * sizeof *s->g);
    for (int q = 0; q < t->n_seqs; q++)
        memcpy(s->g + (size_t)(t->cu_seqlens[q] - at) * d, first + (size_t)q * d,
               d * sizeof *first);
}

/* The gradient by the rows that leave the last layer. */
static void head_task(void *ctx, int i, int worker)
{
    const job *j = ctx;
    seat *s = &j->seats[worker];
    const backward_task t = task_of(j, j->first_task + i);
    const int layers = j->s->n_layers, at = t.cu_seqlens[0], n = rows_of(t);
    if (s->status != MOE_OK || interrupt_check(NULL) != MOE_OK)
        return;
    s->status = states_read(j->s, layers, at, n, s->x, &s->err);
    if (s->status != MOE_OK)
        return;
    if (j->m->info.task == MOE_TASK_ANSWER)
        span_backward(j, &t, s);
    else
        first_backward(j, j->bound[j->first_task + i], &t, s);
    s->status = states_write(j->s, layers + 1, at, n, s->g, &s->err);
}

/* ---- the layers ---------------------------------------------------------- */

static void keep_norms(const job *j, int first, int n, const float *g, float *norm)
{
    const int d = j->s->d;
    for (int t = first; t < first + n; t++, g += d) {
        double squares = 0;
        for (int i = 0; i < d; i++)
            squares += (double)g[i] * g[i];
        norm[t] = (float)sqrt(squares);
    }
}

static void layer_task(void *ctx, int i, int worker)
{
    const job *j = ctx;
    seat *s = &j->seats[worker];
    const backward_task t = task_of(j, j->first_task + i);
    const int above = j->s->n_layers + 1, at = t.cu_seqlens[0], n = rows_of(t);
    if (s->status != MOE_OK || interrupt_check(NULL) != MOE_OK)
        return;
    s->status = states_read(j->s, j->layer, at, n, s->x, &s->err);
    if (s->status == MOE_OK)
        s->status = states_read(j->s, above, at, n, s->g, &s->err);
    if (s->status != MOE_OK)
        return;
    backward_layer(&j->weights, t, s->x, s->g, s->scratch, s->g_ffn,
                   j->layer > 0 ? s->g : NULL);
    keep_norms(j, at, n, s->g_ffn, j->norm + (size_t)j->layer * (size_t)j->s->n_tokens);
    if (j->layer > 0)
        s->status = states_write(j->s, above, at, n, s->g, &s->err);
}

static moe_status check_finite(const job *j, moe_error *err)
{
    const float *norm = j->norm + (size_t)j->layer * (size_t)j->s->n_tokens;
    for (int t = 0; t < j->s->n_tokens; t++)
        if (!isfinite(norm[t]))
            return moe_fail(err, MOE_E_FORMAT, "layer %d: the gradient of calibration "
                            "token %d is not finite", j->layer, t);
    return MOE_OK;
}

static moe_status run_layers(job *j, moe_error *err)
{
    const int layers = j->s->n_layers;
    moe_status status = run_tasks(j, head_task, 0, err);
    for (j->layer = layers - 1; status == MOE_OK && j->layer >= 0; j->layer--) {
        backward_weights_load(&j->weights, j->m, j->layer);
        status = run_tasks(j, layer_task,
                           (int64_t)(layers - 1 - j->layer) * j->s->n_tokens, err);
        if (status == MOE_OK)
            status = check_finite(j, err);
    }
    return status;
}

/* ---- all ----------------------------------------------------------------- */

static moe_status unpack_head(job *j, moe_error *err)
{
    const moe_linear *p = &j->m->weights.pooler, *c = &j->m->weights.classifier;
    j->pooler = malloc((size_t)p->n * (size_t)p->k * sizeof *j->pooler);
    j->classifier = malloc((size_t)c->n * (size_t)c->k * sizeof *j->classifier);
    if ((p->n && !j->pooler) || !j->classifier)
        return moe_fail(err, MOE_E_MEMORY, "no memory for a head of %d labels", c->n);
    if (p->n)
        unpack_linear(p, j->pooler);
    unpack_linear(c, j->classifier);
    return MOE_OK;
}

static void job_free(job *j)
{
    for (int i = 0; j->seats && i < workers_count(j->workers); i++) {
        free(j->seats[i].x);
        free(j->seats[i].g);
        free(j->seats[i].g_ffn);
        free(j->seats[i].scratch);
    }
    free(j->seats);
    free(j->bound);
    free(j->pooler);
    free(j->classifier);
    backward_weights_free(&j->weights);
}

moe_status sensitivity_run(const moe_model *m, const calibration *text, const states *s,
                           uint64_t seed, workers *w, progress *bar, float *norm,
                           moe_error *err)
{
    if (!sensitivity_supported(m))
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: gradients of %s with %s are not "
                        "supported", m->info.dir, m->info.architecture,
                        m->info.activation);
    assert(s->n_tokens == text->n_tokens && s->n_layers == m->info.n_layers &&
           s->n_regions >= s->n_layers + 1 + SENSITIVITY_REGIONS);
    job j = {.m = m, .text = text, .s = s, .seed = seed, .workers = w, .bar = bar,
             .norm = norm};
    blas_begin();
    moe_status status = backward_weights_create(m, &j.weights, err);
    if (status == MOE_OK)
        status = unpack_head(&j, err);
    if (status == MOE_OK)
        status = cut_tasks(&j, err);
    if (status == MOE_OK)
        status = make_seats(&j, err);
    progress_begin(bar, "gradients of the answer",
                   (int64_t)s->n_layers * s->n_tokens);
    if (status == MOE_OK)
        status = run_layers(&j, err);
    progress_end(bar);
    job_free(&j);
    return status;
}
