/* pool.c: the compute threads. A region (pool_run) is a function and a number of
 * tasks; the caller and the workers claim tasks one by one from an atomic
 * counter, so that a thread that the system holds up delays one task only.
 *
 * `open` holds the tasks of the current region that nobody has claimed yet. A
 * claim is a compare-and-swap that takes one. Whoever has claimed a task may
 * read fn, ctx and n_tasks: they change only after `unfinished` has come to 0,
 * which that task holds up. A worker that arrives late finds open == 0, or a
 * later region in which it then takes part.
 *
 * Idle workers spin for some ten microseconds, which covers the gap between two
 * operations of a forward pass, then sleep. The mutex `sleep` guards no field;
 * it closes the gap between a last look at the counters and falling asleep. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/pool.h"

enum { SPINS = 1000 }; /* pauses: 15 (AMD) to 50 (Intel) microseconds */

typedef struct {
    moe_pool *pool;
    int thread;
    pthread_t id;
} worker;

struct moe_pool {
    int n_threads;
    worker *workers; /* [n_threads - 1] */
    int n_started;

    pthread_mutex_t turn; /* held by the thread whose region runs */
    pool_task fn;         /* these three belong to the region */
    void *ctx;
    int n_tasks;

    _Alignas(64) atomic_int open;
    _Alignas(64) atomic_int unfinished;
    _Alignas(64) atomic_int n_asleep; /* workers in the slow path */
    atomic_bool caller_asleep;
    atomic_bool stop;
    pthread_mutex_t sleep;
    pthread_cond_t work, done;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Takes one task of the open region; false when none is left. */
static bool claim(moe_pool *p, int *task)
{
    int left = atomic_load(&p->open);
    while (left > 0)
        if (atomic_compare_exchange_weak(&p->open, &left, left - 1)) {
            *task = p->n_tasks - left;
            return true;
        }
    return false;
}

static void finish_one(moe_pool *p)
{
    if (atomic_fetch_sub(&p->unfinished, 1) == 1 && atomic_load(&p->caller_asleep)) {
        pthread_mutex_lock(&p->sleep);
        pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->sleep);
    }
}

static void work_off(moe_pool *p, int thread)
{
    int task;
    while (claim(p, &task)) {
        p->fn(p->ctx, task, thread);
        finish_one(p);
    }
}

static bool nothing_to_do(moe_pool *p)
{
    return atomic_load(&p->open) == 0 && !atomic_load(&p->stop);
}

static void wait_for_work(moe_pool *p)
{
    for (int i = 0; i < SPINS; i++) {
        if (!nothing_to_do(p))
            return;
        relax();
    }
    pthread_mutex_lock(&p->sleep);
    atomic_fetch_add(&p->n_asleep, 1);
    while (nothing_to_do(p))
        pthread_cond_wait(&p->work, &p->sleep);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->sleep);
}

static void wait_for_the_others(moe_pool *p)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(&p->unfinished) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&p->sleep);
    atomic_store(&p->caller_asleep, true);
    while (atomic_load(&p->unfinished) > 0)
        pthread_cond_wait(&p->done, &p->sleep);
    atomic_store(&p->caller_asleep, false);
    pthread_mutex_unlock(&p->sleep);
}

static void *worker_main(void *arg)
{
    const worker *w = arg;
    moe_pool *p = w->pool;
    for (;;) {
        wait_for_work(p);
        if (atomic_load(&p->stop))
            return NULL;
        work_off(p, w->thread);
    }
}

static void wake_workers(moe_pool *p)
{
    pthread_mutex_lock(&p->sleep);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->sleep);
}

void pool_run(moe_pool *p, pool_task fn, void *ctx, int n_tasks)
{
    if (n_tasks <= 1 || p->n_threads == 1) {
        for (int task = 0; task < n_tasks; task++)
            fn(ctx, task, 0);
        return;
    }
    pthread_mutex_lock(&p->turn);
    p->fn = fn;
    p->ctx = ctx;
    p->n_tasks = n_tasks;
    atomic_store(&p->unfinished, n_tasks);
    atomic_store(&p->open, n_tasks);
    /* Sequentially consistent: a worker about to sleep has either been counted
     * by now, or sees the open tasks. */
    if (atomic_load(&p->n_asleep) > 0)
        wake_workers(p);
    work_off(p, 0);
    wait_for_the_others(p);
    pthread_mutex_unlock(&p->turn);
}

static moe_status start_workers(moe_pool *p, moe_error *err)
{
    for (int i = 0; i < p->n_threads - 1; i++) {
        worker *w = &p->workers[i];
        w->pool = p;
        w->thread = i + 1;
        int failed = pthread_create(&w->id, NULL, worker_main, w);
        if (failed)
            return moe_fail(err, MOE_E_MEMORY, "compute thread %d of %d: %s", i + 2,
                            p->n_threads, strerror(failed));
        p->n_started++;
    }
    return MOE_OK;
}

moe_status moe_pool_create(int n_threads, moe_pool **out, moe_error *err)
{
    *out = NULL;
    if (n_threads < 0 || n_threads > POOL_MAX_THREADS)
        return moe_fail(err, MOE_E_ARGUMENT, "threads: expected 0 to %d, found %d",
                        POOL_MAX_THREADS, n_threads);
    if (n_threads == 0)
        n_threads = pool_allowed_threads("/sys/fs/cgroup", "/proc/self/cgroup");
    moe_pool *p = aligned_alloc(64, sizeof *p);
    if (!p)
        return moe_fail(err, MOE_E_MEMORY, "thread pool: out of memory");
    memset(p, 0, sizeof *p);
    p->n_threads = n_threads;
    pthread_mutex_init(&p->turn, NULL);
    pthread_mutex_init(&p->sleep, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    moe_status status = MOE_OK;
    p->workers = calloc((size_t)n_threads, sizeof *p->workers);
    if (!p->workers)
        status = moe_fail(err, MOE_E_MEMORY, "thread pool: out of memory");
    else
        status = start_workers(p, err);
    if (status != MOE_OK) {
        moe_pool_destroy(p);
        return status;
    }
    *out = p;
    return MOE_OK;
}

void moe_pool_destroy(moe_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    wake_workers(p);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].id, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->sleep);
    pthread_mutex_destroy(&p->turn);
    free(p->workers);
    free(p);
}

int moe_pool_threads(const moe_pool *p)
{
    return p->n_threads;
}
