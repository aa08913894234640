/* queue.h: the bounded line between HTTP threads and a model's batcher.
 *
 * Who owns a job (one request's texts, tokenised):
 *   1. the HTTP thread that made it, until queue_push;
 *   2. the queue, from queue_push until queue_take or queue_drop has handed out
 *      its last sequence;
 *   3. the batcher, from then until it calls job->done;
 *   4. whoever job->done woke (the HTTP thread of the resumed connection),
 *      which reads the results and calls job_free.
 * Between 2 and 4 the HTTP side touches nothing of the job.
 *
 * The queue counts sequences and tokens, not requests, so a request of many
 * texts weighs what it costs. Room is reserved before a job exists (refusing
 * costs nothing) and is given back when a sequence leaves the queue. One lock
 * guards everything; it is never held over a forward pass. */
#ifndef SERVER_QUEUE_H
#define SERVER_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include "engine/moe.h"

typedef enum {
    JOB_FINE,
    JOB_LATE,    /* waited longer than its deadline */
    JOB_GONE,    /* its peer has left */
    JOB_FAILED,  /* the engine refused: see the log */
    JOB_REFUSED, /* the server stops */
} job_outcome;

typedef struct job job;

/* One sequence of a job. */
typedef struct sequence {
    job *owner;
    struct sequence *next; /* in the queue */
    moe_tokens tokens;
    float *values;          /* out [n_values]: its logits, of the job's array */
    int n_values;
    double effective_ratio; /* out */
    moe_decoding want;      /* of a text-to-text model, and what came of it; logprob is values */
    bool queued;            /* in the queue; its lock */
} sequence;

struct job {
    int n_sequences, n_tokens;
    double ratio;            /* in force for all sequences */
    moe_policy policy;       /* asked for, for all of them */
    int64_t arrived_ns, deadline_ns; /* deadline 0: none */
    int socket;              /* the peer's, to see whether it left; -1: none */
    void (*done)(void *ctx); /* batcher's thread: ownership moves, job untouched after */
    void *ctx;
    /* out: */
    job_outcome outcome;
    int64_t pushed_ns, started_ns, finished_ns; /* first batch begins, last ends */
    float *values;           /* what the sequences' values point into */
    int32_t *ids;            /* what their want.ids point into, or NULL */
    /* the batcher's (so are outcome and started_ns until done): */
    int n_left;              /* sequences without a result */
    sequence sequences[];    /* [n_sequences] */
};

/* Zeroed. NULL: out of memory. */
job *job_create(int n_sequences);
/* Room for the results, when all sequences have their tokens: n_labels logits each,
 * or n_labels to every token. False: out of memory. */
bool job_allot(job *j, int n_labels, bool every_token);
/* Frees the sequences' tokens as well. Accepts NULL. */
void job_free(job *j);

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    sequence *head, *tail;
    int n_queued;       /* in the list */
    bool closed;
    int max_sequences, max_tokens;
    /* Reserved or queued; written under the lock, read anywhere. */
    _Atomic int n_sequences, n_tokens;
} queue;

void queue_init(queue *q, int max_sequences, int max_tokens);
void queue_destroy(queue *q);

/* Takes room for a job to come; false: the queue is full or closed and nothing
 * was taken. Either number may be 0. Any thread. */
bool queue_reserve(queue *q, int n_sequences, int n_tokens);
void queue_release(queue *q, int n_sequences, int n_tokens);

/* Puts all sequences of a job at the end, using up its reservation. Never
 * fails: after queue_close the batcher refuses what it still finds. */
void queue_push(queue *q, job *j);

/* What one batch may hold. Always at least one sequence. */
typedef struct {
    int max_sequences;      /* at most QUEUE_WINDOW */
    int64_t max_tokens;
    int64_t max_squares;    /* sum of squared lengths: attention's cost */
    int64_t patience_ns;    /* a sequence older than this goes before shorter ones */
} batch_limits;

enum { QUEUE_WINDOW = 256 }; /* sequences looked at when a batch is formed */

/* Waits until something is queued, then takes a batch: of the window at the
 * head, first those that have lost patience in order of arrival, then the
 * shortest. Returns the number of sequences in batch[0 ..], 0 only when the
 * queue is closed and empty. idle_ns > 0: returns -1 if nothing came for so
 * long. Batcher's thread. */
int queue_take(queue *q, const batch_limits *limits, int64_t idle_ns, sequence **batch);

/* Takes every job past its deadline out of the queue (those already begun
 * aside), marked JOB_LATE, into late[0 ..]; at most QUEUE_WINDOW. Returns how
 * many. Batcher's thread. */
int queue_expire(queue *q, job **late);

/* Takes what is left of a job out of the queue; returns how many sequences. */
int queue_drop(queue *q, job *j);

/* No more reservations; wakes the batcher. */
void queue_close(queue *q);
bool queue_closed(queue *q);
/* Whether anything waits to be taken. Any thread. */
bool queue_waiting(queue *q);

#endif
