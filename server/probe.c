/* probe.c: samples, a budget of time, and the two runs.
 *
 * The budget is 1% of the time since the probe was made, less what was spent.
 * A sample is run when its estimated cost fits: what it took sparse, plus that
 * divided by its ratio, which no dense run exceeds. */
#include "server/probe.h"

#include <stdlib.h>
#include <string.h>

#include "server/clock.h"

enum { SETTLE_NS = 20000000, BUDGET_DIVISOR = 100 };

/* A copy of some sequences of one ratio bucket. */
typedef struct {
    int n_seqs; /* 0: none kept */
    int64_t cost_ns;
    int32_t cu_seqlens[PROBE_SEQUENCES + 1];
    int32_t ids[PROBE_TOKENS], types[PROBE_TOKENS];
    moe_selection selection[PROBE_SEQUENCES];
} sample;

struct probe {
    probe_options o;
    moe_engine *engine;
    int64_t born_ns, spent_ns;
    unsigned runs;
    float *logits; /* of a sample, thrown away */
    sample samples[RATIO_BUCKET_DENSE];
};

/* Called at every layer: ends a run as soon as a request waits. */
static moe_status yield_to_requests(void *ctx, int layer, const float *x, int n_tokens,
                                    moe_error *err)
{
    const probe *p = ctx;
    (void)layer, (void)x, (void)n_tokens;
    return p->o.busy(p->o.ctx) ? moe_fail(err, MOE_E_LIMIT, "requests wait") : MOE_OK;
}

moe_status probe_create(const probe_options *o, probe **out, moe_error *err)
{
    *out = NULL;
    const moe_model_info *info = moe_model_describe(o->model);
    probe *p = calloc(1, sizeof *p);
    int rows = info->task == MOE_TASK_ANSWER ? PROBE_TOKENS : PROBE_SEQUENCES;
    float *logits = calloc((size_t)rows * (size_t)info->n_labels, sizeof *logits);
    if (!p || !logits) {
        free(p);
        free(logits);
        return moe_fail(err, MOE_E_MEMORY, "out of memory for the speed probe");
    }
    p->o = *o;
    p->logits = logits;
    p->born_ns = clock_ns();
    moe_engine_options options = {
        .backend = o->backend,
        .chunk_tokens = PROBE_TOKENS > info->max_tokens ? PROBE_TOKENS : info->max_tokens,
        .capture = yield_to_requests,
        .capture_ctx = p,
    };
    moe_status status = moe_engine_create(o->model, o->pool, &options, &p->engine, err);
    if (status != MOE_OK) {
        probe_destroy(p);
        return status;
    }
    *out = p;
    return MOE_OK;
}

void probe_destroy(probe *p)
{
    if (!p)
        return;
    moe_engine_destroy(p->engine);
    free(p->logits);
    free(p);
}

/* Copies the batch's sequences whose ratio lies in `bucket`, as many as fit. */
static void keep(sample *s, const moe_batch *batch, int bucket)
{
    for (int i = 0; i < batch->n_seqs && s->n_seqs < PROBE_SEQUENCES; i++) {
        int32_t start = batch->cu_seqlens[i], n = batch->cu_seqlens[i + 1] - start;
        int32_t at = s->cu_seqlens[s->n_seqs];
        if (ratio_bucket(batch->selection[i].ratio) != bucket || at + n > PROBE_TOKENS)
            continue;
        memcpy(s->ids + at, batch->token_ids + start, (size_t)n * sizeof *s->ids);
        memcpy(s->types + at, batch->token_types + start, (size_t)n * sizeof *s->types);
        s->selection[s->n_seqs] = batch->selection[i];
        s->cu_seqlens[++s->n_seqs] = at + n;
    }
}

void probe_sample(probe *p, const moe_batch *batch, int64_t compute_ns)
{
    for (int i = 0; i < batch->n_seqs; i++) {
        double ratio = batch->selection[i].ratio;
        int bucket = ratio_bucket(ratio);
        if (bucket == RATIO_BUCKET_DENSE || p->samples[bucket].n_seqs)
            continue;
        sample *s = &p->samples[bucket];
        keep(s, batch, bucket);
        double dense_ns = (double)compute_ns / (ratio > 0.05 ? ratio : 0.05);
        s->cost_ns = compute_ns + (int64_t)dense_ns;
        return; /* one a batch: copying is cheap, not free */
    }
}

/* The kept sample that was measured least. */
static sample *next_sample(const probe *p, int *bucket)
{
    *bucket = -1;
    for (int i = 0; i < RATIO_BUCKET_DENSE; i++)
        if (p->samples[i].n_seqs &&
            (*bucket < 0 || counter_get(&p->o.stats->probes[i]) <
                                counter_get(&p->o.stats->probes[*bucket])))
            *bucket = i;
    return *bucket < 0 ? NULL : (sample *)&p->samples[*bucket];
}

/* Time until the budget covers `cost`; at most 0: it does. */
static int64_t time_until(const probe *p, int64_t cost)
{
    int64_t age = clock_ns() - p->born_ns;
    return (p->spent_ns + cost) * BUDGET_DIVISOR - age;
}

int64_t probe_delay_ns(const probe *p)
{
    int bucket;
    const sample *s = next_sample(p, &bucket);
    if (!s)
        return 0;
    int64_t wait = time_until(p, s->cost_ns);
    return wait > SETTLE_NS ? wait : SETTLE_NS;
}

/* One timed run; false: it was given up. */
static bool timed_run(probe *p, const sample *s, bool dense, int64_t *ns)
{
    moe_batch batch = {
        .n_seqs = s->n_seqs,
        .cu_seqlens = s->cu_seqlens,
        .token_ids = s->ids,
        .token_types = s->types,
        .selection = dense ? NULL : s->selection,
    };
    moe_output out = {.logits = p->logits};
    int64_t begin = clock_ns();
    bool done = moe_forward(p->engine, &batch, &out, NULL) == MOE_OK;
    *ns = clock_ns() - begin;
    p->spent_ns += *ns;
    counter_add(&p->o.stats->probe_ns, (uint64_t)*ns);
    return done;
}

void probe_run(probe *p)
{
    int bucket;
    sample *s = next_sample(p, &bucket);
    if (!s || time_until(p, s->cost_ns) > 0 || p->o.busy(p->o.ctx))
        return;
    /* Which comes first alternates: the first run finds colder caches. */
    bool dense_first = p->runs++ & 1;
    int64_t first, second;
    if (!timed_run(p, s, dense_first, &first) || !timed_run(p, s, !dense_first, &second))
        return; /* the sample stays for the next idle moment */
    model_stats *stats = p->o.stats;
    counter_add(&stats->probe_dense_ns[bucket], (uint64_t)(dense_first ? first : second));
    counter_add(&stats->probe_sparse_ns[bucket], (uint64_t)(dense_first ? second : first));
    counter_add(&stats->probes[bucket], 1);
    s->n_seqs = 0;
}
