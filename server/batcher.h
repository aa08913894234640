/* batcher.h: one thread that owns a model's engine and empties its queue.
 *
 * Work-conserving: as soon as the engine is idle and anything is queued, it
 * takes what is there, up to a budget of tokens and of squared lengths; it
 * never waits for a batch to fill. Before a batch runs, requests past their
 * deadline and those whose peer has left are ended without being computed.
 * A job's sequences may be spread over several batches. */
#ifndef SERVER_BATCHER_H
#define SERVER_BATCHER_H

#include "server/probe.h"
#include "server/queue.h"

typedef struct {
    const moe_model *model;
    moe_engine *engine; /* the batcher's from create to destroy */
    probe *probe;       /* or NULL; the same */
    queue *queue;
    model_stats *stats;
    int batch_tokens;
} batcher_options;

typedef struct batcher batcher;

/* Starts the thread. */
moe_status batcher_create(const batcher_options *o, batcher **out, moe_error *err);
/* Ends every job that is still queued as JOB_REFUSED, waits for the running
 * batch and the thread. The queue must be closed. Accepts NULL. */
void batcher_destroy(batcher *b);

#endif
