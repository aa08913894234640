/* The thread pool: every task once, regions that take turns, sleep and wake, and
 * how many threads a process may use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/cpu/pool.h"

enum { MAX_TASKS = 1000 };

typedef struct {
    int n_threads;
    int done[MAX_TASKS];        /* plain: each is written by one task only */
    atomic_int running[64];     /* by thread number */
    atomic_int faults;
} region;

static void count_task(void *ctx, int task, int thread)
{
    region *r = ctx;
    if (thread < 0 || thread >= r->n_threads || atomic_fetch_add(&r->running[thread], 1))
        atomic_fetch_add(&r->faults, 1);
    r->done[task]++;
    atomic_fetch_sub(&r->running[thread], 1);
}

static void run_and_check(moe_pool *p, int n_tasks)
{
    region *r = calloc(1, sizeof *r);
    r->n_threads = moe_pool_threads(p);
    pool_run(p, count_task, r, n_tasks);
    for (int i = 0; i < MAX_TASKS; i++)
        assert_int_equal(r->done[i], i < n_tasks);
    assert_int_equal(atomic_load(&r->faults), 0);
    free(r);
}

static void every_task_runs_once_on_a_thread_of_its_own(void **state)
{
    (void)state;
    static const int n_tasks[] = {0, 1, 2, 3, 7, 100, MAX_TASKS};
    for (int n_threads = 1; n_threads <= 8; n_threads++) {
        moe_pool *p;
        assert_int_equal(moe_pool_create(n_threads, &p, NULL), MOE_OK);
        assert_int_equal(moe_pool_threads(p), n_threads);
        for (int i = 0; i < 7; i++)
            run_and_check(p, n_tasks[i]);
        moe_pool_destroy(p);
    }
}

static void many_short_regions_follow_each_other(void **state)
{
    (void)state;
    moe_pool *p;
    assert_int_equal(moe_pool_create(3, &p, NULL), MOE_OK);
    for (int i = 0; i < 3000; i++)
        run_and_check(p, 2 + i % 9);
    moe_pool_destroy(p);
}

static void sleeping_workers_wake_for_the_next_region(void **state)
{
    (void)state;
    moe_pool *p;
    assert_int_equal(moe_pool_create(4, &p, NULL), MOE_OK);
    for (int i = 0; i < 20; i++) {
        usleep(3000); /* far longer than they spin */
        run_and_check(p, 50);
    }
    moe_pool_destroy(p);
}

static void slow_task(void *ctx, int task, int thread)
{
    (void)thread;
    usleep(task ? 5000 : 100);
    atomic_fetch_add((atomic_int *)ctx, 1);
}

static void the_caller_waits_for_slow_workers(void **state)
{
    (void)state;
    moe_pool *p;
    assert_int_equal(moe_pool_create(2, &p, NULL), MOE_OK);
    for (int i = 1; i <= 10; i++) {
        atomic_int done = 0;
        pool_run(p, slow_task, &done, 2);
        assert_int_equal(atomic_load(&done), 2);
    }
    moe_pool_destroy(p);
}

static void *run_regions(void *arg)
{
    for (int i = 0; i < 300; i++)
        run_and_check(arg, 20);
    return NULL;
}

static void callers_on_several_threads_take_turns(void **state)
{
    (void)state;
    moe_pool *p;
    pthread_t caller[3];
    assert_int_equal(moe_pool_create(3, &p, NULL), MOE_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&caller[i], NULL, run_regions, p), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(caller[i], NULL);
    moe_pool_destroy(p);
}

static void thread_counts_out_of_range_are_refused(void **state)
{
    (void)state;
    moe_pool *p = (moe_pool *)&p;
    moe_error err;
    assert_int_equal(moe_pool_create(-1, &p, &err), MOE_E_ARGUMENT);
    assert_null(p);
    assert_non_null(strstr(err.message, "-1"));
    assert_int_equal(moe_pool_create(POOL_MAX_THREADS + 1, &p, NULL), MOE_E_ARGUMENT);
    assert_int_equal(moe_pool_create(0, &p, &err), MOE_OK);
    assert_in_range(moe_pool_threads(p), 1, POOL_MAX_THREADS);
    moe_pool_destroy(p);
    moe_pool_destroy(NULL);
}

/* ---- quotas: a pretended /sys/fs/cgroup under $MOE_TMP ---------------------- */

static char root[512];

static void write_file(const char *path, const char *text)
{
    char whole[1024];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *slash = whole + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(whole, 0777);
        *slash = '/';
    }
    FILE *f = fopen(whole, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* An empty cgroup tree of the test's own. */
static void new_root(const char *name)
{
    const char *tmp = getenv("MOE_TMP");
    snprintf(root, sizeof root, "%s/pool-%s-%ld", tmp ? tmp : "/tmp", name, (long)getpid());
    write_file("self", "");
}

static int allowed(void)
{
    char self[600];
    snprintf(self, sizeof self, "%s/self", root);
    return pool_allowed_threads(root, self);
}

static void without_a_quota_the_affinity_mask_counts(void **state)
{
    (void)state;
    new_root("none");
    int all = allowed();
    assert_true(all >= 1);
    write_file("self", "0::/a/b\n");
    write_file("cpu.max", "max 100000\n");
    write_file("a/cpu.max", "max 100000\n");
    write_file("a/b/cpu.max", "nonsense\n");
    assert_int_equal(allowed(), all);
    write_file("a/b/cpu.max", "100000000 100000\n"); /* 1000 processors */
    assert_int_equal(allowed(), all < 1000 ? all : 1000);
    assert_int_equal(pool_allowed_threads("/nonexistent", "/nonexistent"), all);
}

static void the_quota_is_rounded_up_and_never_below_one(void **state)
{
    (void)state;
    new_root("v2");
    int all = allowed();
    write_file("cpu.max", "110000 100000\n");
    assert_int_equal(allowed(), all < 2 ? all : 2);
    write_file("cpu.max", "100000 100000\n");
    assert_int_equal(allowed(), 1);
    write_file("cpu.max", "1000 100000\n");
    assert_int_equal(allowed(), 1);
}

static void a_quota_on_any_cgroup_above_counts(void **state)
{
    (void)state;
    new_root("parents");
    write_file("self", "12:cpu,cpuacct:/x/y\n0::/a/b/c\n");
    write_file("a/cpu.max", "50000 100000\n");
    assert_int_equal(allowed(), 1);
    new_root("v1");
    int all = allowed();
    write_file("self", "12:memory:/m\n11:cpu,cpuacct:/x/y\n");
    write_file("cpu/m/cpu.cfs_quota_us", "100000\n"); /* of another controller */
    write_file("cpu/m/cpu.cfs_period_us", "100000\n");
    write_file("cpu/x/y/cpu.cfs_quota_us", "-1\n");
    write_file("cpu/x/y/cpu.cfs_period_us", "100000\n");
    assert_int_equal(allowed(), all);
    write_file("cpu/x/cpu.cfs_quota_us", "90000\n");
    write_file("cpu/x/cpu.cfs_period_us", "100000\n");
    assert_int_equal(allowed(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_on_a_thread_of_its_own),
        cmocka_unit_test(many_short_regions_follow_each_other),
        cmocka_unit_test(sleeping_workers_wake_for_the_next_region),
        cmocka_unit_test(the_caller_waits_for_slow_workers),
        cmocka_unit_test(callers_on_several_threads_take_turns),
        cmocka_unit_test(thread_counts_out_of_range_are_refused),
        cmocka_unit_test(without_a_quota_the_affinity_mask_counts),
        cmocka_unit_test(the_quota_is_rounded_up_and_never_below_one),
        cmocka_unit_test(a_quota_on_any_cgroup_above_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
