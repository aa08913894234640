/* probe.h: measures the speedup over dense on real traffic, in idle time.
 *
 * Of each ratio bucket below 1 a probe keeps one sampled batch (at most
 * PROBE_TOKENS tokens). When the batcher has nothing to do it runs a sample
 * twice, as it was asked for and dense, on an engine of its own so that
 * routing statistics see only requests. All of it takes at most 1% of the time
 * since the start, and stops within a layer when a request comes.
 * All functions: the batcher's thread. */
#ifndef SERVER_PROBE_H
#define SERVER_PROBE_H

#include "engine/moe.h"
#include "server/stats.h"

enum { PROBE_TOKENS = 512, PROBE_SEQUENCES = 64 };

typedef struct probe probe;

typedef struct {
    const moe_model *model;
    moe_pool *pool;
    moe_backend_kind backend;
    model_stats *stats;
    bool (*busy)(void *ctx); /* whether any request waits */
    void *ctx;
} probe_options;

moe_status probe_create(const probe_options *o, probe **out, moe_error *err);
void probe_destroy(probe *p);

/* Keeps a copy of the sequences of one ratio bucket of a batch that took
 * compute_ns, if there is none of that bucket yet. Cheap when there is. */
void probe_sample(probe *p, const moe_batch *batch, int64_t compute_ns);

/* How long the batcher should be idle before probe_run; 0: there is no reason
 * to wake up. */
int64_t probe_delay_ns(const probe *p);

/* Runs one sample if the budget of time allows. */
void probe_run(probe *p);

#endif
