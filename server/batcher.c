/* batcher.c: expire, take, weed, run, deliver; when idle, probe.
 *
 * Arrays for a batch are made once: batch_tokens (or one sequence of the
 * model's full length) tokens, QUEUE_WINDOW sequences. */
#include "server/batcher.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/log.h"

/* Attention costs length squared: a batch of sequences longer than this on
 * average takes fewer tokens. A sequence that waited PATIENCE goes first. */
enum { MEAN_LENGTH = 256 };
static const int64_t PATIENCE_NS = 50000000;

struct batcher {
    batcher_options o;
    pthread_t thread;
    batch_limits limits;
    bool every_token;     /* has n_labels logits, not its sequence */
    bool texts;           /* a text-to-text model: sequences want labels or text */
    moe_decoding each[QUEUE_WINDOW];
    int n_labels;
    uint64_t token_neurons; /* FFN neurons of the layers that a token of the text passes */
    uint64_t step_neurons;  /* and of those that one of a text-to-text model's answer does */
    /* The thread's own, one batch: */
    sequence *batch[QUEUE_WINDOW];
    job *doomed[QUEUE_WINDOW];
    struct pollfd peers[QUEUE_WINDOW];
    int32_t cu_seqlens[QUEUE_WINDOW + 1];
    moe_selection selection[QUEUE_WINDOW];
    double effective[QUEUE_WINDOW];
    int32_t *ids, *types; /* [room for one batch's tokens] */
    float *logits;        /* [sequences or tokens of a batch, n_labels] */
};

/* ---- ending jobs ------------------------------------------------------ */

/* Hands a job back; it may be freed before this returns. */
static void finish(job *j)
{
    j->finished_ns = clock_ns();
    if (!j->started_ns)
        j->started_ns = j->finished_ns;
    j->done(j->ctx);
}

/* Ends the jobs marked in b->doomed: takes their sequences out of the batch
 * and out of the queue. Returns the sequences left in the batch. */
static int end_doomed(batcher *b, int n, int n_doomed)
{
    int kept = 0;
    if (n_doomed == 0)
        return n;
    for (int i = 0; i < n; i++) {
        job *j = b->batch[i]->owner;
        if (j->outcome == JOB_FINE)
            b->batch[kept++] = b->batch[i];
        else
            j->n_left--;
    }
    for (int i = 0; i < n_doomed; i++) {
        queue_drop(b->o.queue, b->doomed[i]);
        finish(b->doomed[i]);
    }
    return kept;
}

/* Which peers have hung up or reset: peers[i].revents of sequence i. */
static void look_at_peers(batcher *b, int n)
{
    for (int i = 0; i < n; i++)
        b->peers[i] = (struct pollfd){.fd = b->batch[i]->owner->socket, .events = POLLRDHUP};
    if (poll(b->peers, (nfds_t)n, 0) < 0)
        for (int i = 0; i < n; i++)
            b->peers[i].revents = 0;
}

/* Ends what waited too long, wherever it stands in the queue. */
static void expire(batcher *b)
{
    int n = queue_expire(b->o.queue, b->doomed);
    for (int i = 0; i < n; i++)
        finish(b->doomed[i]);
}

/* Ends what need not run: its peer left, or the server stops. */
static int weed(batcher *b, int n)
{
    bool closed = queue_closed(b->o.queue);
    int n_doomed = 0;
    look_at_peers(b, n);
    for (int i = 0; i < n; i++) {
        job *j = b->batch[i]->owner;
        if (j->outcome != JOB_FINE)
            continue;
        if (closed)
            j->outcome = JOB_REFUSED;
        else if (b->peers[i].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
            j->outcome = JOB_GONE;
        if (j->outcome != JOB_FINE)
            b->doomed[n_doomed++] = j;
    }
    return end_doomed(b, n, n_doomed);
}

static void fail_batch(batcher *b, int n)
{
    int n_doomed = 0;
    for (int i = 0; i < n; i++) {
        job *j = b->batch[i]->owner;
        if (j->outcome == JOB_FINE) {
            j->outcome = JOB_FAILED;
            b->doomed[n_doomed++] = j;
        }
    }
    end_doomed(b, n, n_doomed);
}

/* ---- one batch -------------------------------------------------------- */

static moe_batch assemble(batcher *b, int n)
{
    int32_t at = 0;
    b->cu_seqlens[0] = 0;
    for (int i = 0; i < n; i++) {
        const moe_tokens *t = &b->batch[i]->tokens;
        memcpy(b->ids + at, t->ids, (size_t)t->n * sizeof *b->ids);
        memcpy(b->types + at, t->types, (size_t)t->n * sizeof *b->types);
        const job *j = b->batch[i]->owner;
        b->selection[i] = (moe_selection){.ratio = j->ratio, .policy = j->policy};
        b->cu_seqlens[i + 1] = at += t->n;
    }
    return (moe_batch){
        .n_seqs = n,
        .cu_seqlens = b->cu_seqlens,
        .token_ids = b->ids,
        .token_types = b->types,
        .selection = b->selection,
    };
}

static void deliver(batcher *b, int n)
{
    for (int i = 0; i < n; i++) {
        sequence *s = b->batch[i];
        job *j = s->owner;
        size_t row = (size_t)(b->every_token ? b->cu_seqlens[i] : i);
        if (b->texts)
            s->want = b->each[i];
        else
            memcpy(s->values, b->logits + row * (size_t)b->n_labels,
                   (size_t)s->n_values * sizeof *s->values);
        s->effective_ratio = b->effective[i];
        if (--j->n_left == 0)
            finish(j);
    }
}

/* FFN neurons that all tokens of the batch's sequence i have, its decoder's rows too. */
static uint64_t neurons_of(const batcher *b, int i)
{
    const moe_decoding *d = &b->each[i];
    uint64_t tokens = (uint64_t)b->batch[i]->tokens.n, rows = 0;
    if (b->texts)
        rows = (uint64_t)(d->labels ? moe_labels_tokens(d->labels) : d->n_ids);
    return tokens * b->token_neurons + rows * b->step_neurons;
}

static void count(batcher *b, int n, int64_t ns)
{
    model_stats *s = b->o.stats;
    uint64_t selected = 0, all = 0, n_tokens = (uint64_t)b->cu_seqlens[n];
    for (int i = 0; i < n; i++) {
        uint64_t neurons = neurons_of(b, i);
        selected += (uint64_t)((double)neurons * b->effective[i] + 0.5);
        all += neurons;
    }
    counter_add(&s->neurons_selected, selected);
    counter_add(&s->neurons_skipped, all - selected);
    histogram_observe(&s->batch_tokens, &batch_tokens_scale, n_tokens);
    histogram_observe(&s->batch_sequences, &batch_sequences_scale, (uint64_t)n);
    /* Smoothed over some eight batches. */
    double now = (double)n_tokens * 1e9 / (double)(ns > 0 ? ns : 1);
    double old = (double)counter_get(&s->tokens_per_second);
    atomic_store_explicit(&s->tokens_per_second,
                          (uint64_t)(old > 0 ? old + (now - old) / 8 : now) + 1,
                          memory_order_relaxed);
}

/* The answers of a text-to-text model; those of labels go straight to values. */
static moe_status decode(batcher *b, const moe_batch *batch, moe_error *err)
{
    for (int i = 0; i < batch->n_seqs; i++) {
        b->each[i] = b->batch[i]->want;
        b->each[i].logprob = b->batch[i]->n_values ? b->batch[i]->values : NULL;
    }
    return moe_decode(b->o.engine, batch, b->each, b->effective, err);
}

static void run(batcher *b, int n)
{
    moe_error err = {0};
    moe_batch batch = assemble(b, n);
    moe_output out = {.logits = b->logits, .effective_ratio = b->effective};
    int64_t begin = clock_ns();
    for (int i = 0; i < n; i++)
        if (!b->batch[i]->owner->started_ns)
            b->batch[i]->owner->started_ns = begin;
    moe_status status = b->texts ? decode(b, &batch, &err)
                                 : moe_forward(b->o.engine, &batch, &out, &err);
    if (status != MOE_OK) {
        log_error("a batch of %d texts failed: %s", n, err.message);
        fail_batch(b, n);
        return;
    }
    int64_t ns = clock_ns() - begin;
    count(b, n, ns);
    if (b->o.probe)
        probe_sample(b->o.probe, &batch, ns);
    deliver(b, n);
}

static void *serve(void *arg)
{
    batcher *b = arg;
    for (;;) {
        expire(b);
        int64_t idle_ns = b->o.probe ? probe_delay_ns(b->o.probe) : 0;
        int n = queue_take(b->o.queue, &b->limits, idle_ns, b->batch);
        if (n == 0)
            return NULL;
        if (n < 0) {
            probe_run(b->o.probe);
            continue;
        }
        n = weed(b, n);
        if (n > 0)
            run(b, n);
    }
}

/* ---- making and ending ------------------------------------------------ */

static void release(batcher *b)
{
    free(b->ids);
    free(b->types);
    free(b->logits);
    free(b);
}

moe_status batcher_create(const batcher_options *o, batcher **out, moe_error *err)
{
    *out = NULL;
    const moe_model_info *info = moe_model_describe(o->model);
    size_t room = (size_t)(o->batch_tokens > info->max_tokens ? o->batch_tokens : info->max_tokens);
    batcher *b = calloc(1, sizeof *b);
    if (!b)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for a batcher");
    b->o = *o;
    b->n_labels = info->n_labels;
    b->every_token = info->task == MOE_TASK_ANSWER;
    b->texts = info->task == MOE_TASK_TEXT;
    b->token_neurons = (uint64_t)(info->n_layers - info->n_decoder_layers) * (uint64_t)info->d_ff;
    b->step_neurons = (uint64_t)info->n_decoder_layers * (uint64_t)info->d_ff;
    b->limits = (batch_limits){
        .max_sequences = QUEUE_WINDOW,
        .max_tokens = o->batch_tokens,
        .max_squares = (int64_t)o->batch_tokens * MEAN_LENGTH,
        .patience_ns = PATIENCE_NS,
    };
    b->ids = calloc(room, sizeof *b->ids);
    b->types = calloc(room, sizeof *b->types);
    size_t rows = b->every_token ? room : QUEUE_WINDOW;
    b->logits = calloc(rows * (size_t)b->n_labels + 1, sizeof *b->logits);
    if (!b->ids || !b->types || !b->logits || pthread_create(&b->thread, NULL, serve, b) != 0) {
        release(b);
        return moe_fail(err, MOE_E_MEMORY, "out of memory for a batcher's thread");
    }
    *out = b;
    return MOE_OK;
}

void batcher_destroy(batcher *b)
{
    if (!b)
        return;
    pthread_join(b->thread, NULL);
    release(b);
}
