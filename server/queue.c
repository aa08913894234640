/* queue.c: a FIFO of sequences under one lock, and the choice of a batch. */
#include "server/queue.h"

#include <stdlib.h>

#include "server/clock.h"

/* ---- jobs ------------------------------------------------------------- */

job *job_create(int n_sequences)
{
    job *j = calloc(1, sizeof *j + (size_t)n_sequences * sizeof *j->sequences);
    if (!j)
        return NULL;
    j->n_sequences = j->n_left = n_sequences;
    j->socket = -1;
    for (int i = 0; i < n_sequences; i++)
        j->sequences[i].owner = j;
    return j;
}

bool job_allot(job *j, int n_labels, bool every_token)
{
    size_t n = 0;
    for (int i = 0; i < j->n_sequences; i++) {
        sequence *s = &j->sequences[i];
        s->n_values = n_labels * (every_token ? s->tokens.n : 1);
        n += (size_t)s->n_values;
    }
    j->values = calloc(n ? n : 1, sizeof *j->values);
    if (!j->values)
        return false;
    n = 0;
    for (int i = 0; i < j->n_sequences; n += (size_t)j->sequences[i++].n_values)
        j->sequences[i].values = j->values + n;
    return true;
}

void job_free(job *j)
{
    if (!j)
        return;
    for (int i = 0; i < j->n_sequences; i++)
        moe_tokens_free(&j->sequences[i].tokens);
    free(j->values);
    free(j->ids);
    free(j);
}

/* ---- the line --------------------------------------------------------- */

void queue_init(queue *q, int max_sequences, int max_tokens)
{
    *q = (queue){.max_sequences = max_sequences, .max_tokens = max_tokens};
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void queue_destroy(queue *q)
{
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
}

bool queue_reserve(queue *q, int n_sequences, int n_tokens)
{
    pthread_mutex_lock(&q->lock);
    bool room = !q->closed && n_sequences <= q->max_sequences - q->n_sequences &&
                n_tokens <= q->max_tokens - q->n_tokens;
    if (room) {
        q->n_sequences += n_sequences;
        q->n_tokens += n_tokens;
    }
    pthread_mutex_unlock(&q->lock);
    return room;
}

void queue_release(queue *q, int n_sequences, int n_tokens)
{
    pthread_mutex_lock(&q->lock);
    q->n_sequences -= n_sequences;
    q->n_tokens -= n_tokens;
    if (q->closed)
        pthread_cond_signal(&q->changed); /* the batcher waits for the last one */
    pthread_mutex_unlock(&q->lock);
}

void queue_push(queue *q, job *j)
{
    int64_t now = clock_ns();
    pthread_mutex_lock(&q->lock);
    j->pushed_ns = now;
    for (int i = 0; i < j->n_sequences; i++) {
        sequence *s = &j->sequences[i];
        s->queued = true;
        s->next = NULL;
        if (q->tail)
            q->tail->next = s;
        else
            q->head = s;
        q->tail = s;
    }
    q->n_queued += j->n_sequences;
    pthread_cond_signal(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

/* Unlinks every sequence of which `leaves` is true; the lock is held. */
static int remove_if(queue *q, bool (*leaves)(const sequence *, const void *),
                     const void *ctx)
{
    int n = 0;
    sequence **link = &q->head, *last = NULL;
    while (*link) {
        sequence *s = *link;
        if (!leaves(s, ctx)) {
            last = s;
            link = &s->next;
            continue;
        }
        *link = s->next;
        s->next = NULL;
        s->queued = false;
        q->n_queued--;
        q->n_sequences--;
        q->n_tokens -= s->tokens.n;
        n++;
    }
    q->tail = last;
    return n;
}

static bool belongs_to(const sequence *s, const void *j)
{
    return s->owner == j;
}

int queue_drop(queue *q, job *j)
{
    pthread_mutex_lock(&q->lock);
    int n = remove_if(q, belongs_to, j);
    pthread_mutex_unlock(&q->lock);
    return n;
}

static bool is_late(const sequence *s, const void *ctx)
{
    (void)ctx;
    return s->owner->outcome == JOB_LATE;
}

/* The line is in order of arrival, and so of deadlines: the late ones stand at
 * its head, between sequences of jobs that have begun. */
int queue_expire(queue *q, job **late)
{
    int64_t now = clock_ns();
    int n = 0;
    pthread_mutex_lock(&q->lock);
    for (sequence *s = q->head; s && n < QUEUE_WINDOW; s = s->next) {
        job *j = s->owner;
        if (!j->deadline_ns || j->started_ns || j->outcome == JOB_LATE)
            continue;
        if (now <= j->deadline_ns)
            break;
        j->outcome = JOB_LATE;
        late[n++] = j;
    }
    if (n)
        remove_if(q, is_late, NULL);
    pthread_mutex_unlock(&q->lock);
    return n;
}

/* ---- choosing a batch ------------------------------------------------- */

typedef struct {
    sequence *s;
    int place; /* in the queue */
    bool impatient;
} candidate;

static int before(const void *pa, const void *pb)
{
    const candidate *a = pa, *b = pb;
    if (a->impatient != b->impatient)
        return a->impatient ? -1 : 1;
    if (!a->impatient && a->s->tokens.n != b->s->tokens.n)
        return a->s->tokens.n < b->s->tokens.n ? -1 : 1;
    return a->place - b->place;
}

/* The window in the order in which it should be served. */
static int order_window(const queue *q, int64_t patience_ns, candidate *window)
{
    int64_t patience_began = clock_ns() - patience_ns;
    int n = 0;
    for (sequence *s = q->head; s && n < QUEUE_WINDOW; s = s->next, n++)
        window[n] = (candidate){s, n, s->owner->pushed_ns < patience_began};
    qsort(window, (size_t)n, sizeof *window, before);
    return n;
}

static bool was_taken(const sequence *s, const void *ctx)
{
    (void)ctx;
    return !s->queued;
}

/* The lock is held. Takes in order until a limit is met; a sequence that does
 * not fit ends the batch if it was impatient, else nothing longer fits either. */
static int choose(queue *q, const batch_limits *limits, sequence **batch)
{
    candidate window[QUEUE_WINDOW];
    int n_window = order_window(q, limits->patience_ns, window), n = 0;
    int64_t tokens = 0, squares = 0;
    for (int i = 0; i < n_window && n < limits->max_sequences; i++) {
        int64_t length = window[i].s->tokens.n;
        if (n > 0 && (tokens + length > limits->max_tokens ||
                      squares + length * length > limits->max_squares))
            break;
        tokens += length;
        squares += length * length;
        window[i].s->queued = false;
        batch[n++] = window[i].s;
    }
    remove_if(q, was_taken, NULL);
    return n;
}

/* Nothing is queued and nothing can come: room held now may still be used. */
static bool is_over(const queue *q)
{
    return q->closed && q->n_sequences == 0;
}

/* Waits for work or the end; false: neither within idle_ns. The lock is held. */
static bool wait_for_work(queue *q, int64_t idle_ns)
{
    int64_t until = clock_ns() + idle_ns;
    struct timespec t = {until / 1000000000, until % 1000000000};
    while (!q->head && !is_over(q)) {
        if (idle_ns <= 0)
            pthread_cond_wait(&q->changed, &q->lock);
        else if (pthread_cond_timedwait(&q->changed, &q->lock, &t) != 0)
            return q->head || is_over(q);
    }
    return true;
}

int queue_take(queue *q, const batch_limits *limits, int64_t idle_ns, sequence **batch)
{
    pthread_mutex_lock(&q->lock);
    int n = wait_for_work(q, idle_ns) ? choose(q, limits, batch) : -1;
    pthread_mutex_unlock(&q->lock);
    return n;
}

void queue_close(queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

bool queue_closed(queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool closed = q->closed;
    pthread_mutex_unlock(&q->lock);
    return closed;
}

bool queue_waiting(queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool waiting = q->head != NULL;
    pthread_mutex_unlock(&q->lock);
    return waiting;
}
