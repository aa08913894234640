/* workers.c: threads that take numbered tasks off a counter.
 *
 * The mutex guards every field of struct workers but `next`, which is atomic.
 * A run is announced by raising `generation`; the last thread to run out of
 * tasks wakes the caller. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "convert/workers.h"

struct workers {
    int n_threads;
    pthread_t *threads; /* [n_threads - 1]: the caller is the last one */
    pthread_mutex_t mutex;
    pthread_cond_t start, done;
    uint64_t generation;
    bool quit;
    int busy; /* threads still in the present run */
    worker_task task;
    void *ctx;
    int n;
    atomic_int next;
};

struct seat { workers *w; int index; };

static void take_tasks(workers *w, int worker)
{
    for (int i; (i = atomic_fetch_add(&w->next, 1)) < w->n; )
        w->task(w->ctx, i, worker);
}

static void *thread_main(void *arg)
{
    struct seat seat = *(struct seat *)arg;
    free(arg);
    workers *w = seat.w;
    uint64_t seen = 0;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->quit && w->generation == seen)
            pthread_cond_wait(&w->start, &w->mutex);
        if (w->quit)
            break;
        seen = w->generation;
        pthread_mutex_unlock(&w->mutex);
        take_tasks(w, seat.index);
        pthread_mutex_lock(&w->mutex);
        if (--w->busy == 0)
            pthread_cond_signal(&w->done);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static bool start_thread(workers *w, int index)
{
    struct seat *seat = malloc(sizeof *seat);
    if (!seat)
        return false;
    *seat = (struct seat){w, index};
    /* Signals are for the thread that called: METIS traps some while it works and
     * jumps back in whichever thread got them. */
    sigset_t all, former;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int code = pthread_create(&w->threads[index], NULL, thread_main, seat);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    if (code != 0)
        free(seat);
    return code == 0;
}

moe_status workers_create(int n_threads, workers **out, moe_error *err)
{
    *out = NULL;
    workers *w = calloc(1, sizeof *w);
    pthread_t *threads = calloc((size_t)n_threads, sizeof *threads);
    if (!w || !threads) {
        free(w);
        free(threads);
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d threads", n_threads);
    }
    w->threads = threads;
    w->n_threads = 1;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->start, NULL);
    pthread_cond_init(&w->done, NULL);
    for (int i = 0; i < n_threads - 1; i++, w->n_threads++)
        if (!start_thread(w, i)) {
            workers_destroy(w);
            return moe_fail(err, MOE_E_MEMORY, "cannot start thread %d of %d", i + 1,
                            n_threads);
        }
    *out = w;
    return MOE_OK;
}

void workers_destroy(workers *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->quit = true;
    pthread_cond_broadcast(&w->start);
    pthread_mutex_unlock(&w->mutex);
    for (int i = 0; i < w->n_threads - 1; i++)
        pthread_join(w->threads[i], NULL);
    pthread_cond_destroy(&w->done);
    pthread_cond_destroy(&w->start);
    pthread_mutex_destroy(&w->mutex);
    free(w->threads);
    free(w);
}

int workers_count(const workers *w)
{
    return w->n_threads;
}

void workers_run(workers *w, worker_task task, void *ctx, int n)
{
    pthread_mutex_lock(&w->mutex);
    w->task = task;
    w->ctx = ctx;
    w->n = n;
    atomic_store(&w->next, 0);
    w->busy = w->n_threads - 1;
    w->generation++;
    pthread_cond_broadcast(&w->start);
    pthread_mutex_unlock(&w->mutex);

    take_tasks(w, w->n_threads - 1);

    pthread_mutex_lock(&w->mutex);
    while (w->busy > 0)
        pthread_cond_wait(&w->done, &w->mutex);
    pthread_mutex_unlock(&w->mutex);
}
