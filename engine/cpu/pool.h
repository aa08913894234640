/* pool.h: running tasks on the threads of a moe_pool, inside the CPU backend. */
#ifndef MOE_CPU_POOL_H
#define MOE_CPU_POOL_H

#include "engine/moe.h"

enum { POOL_MAX_THREADS = 1024 };

/* thread in [0, moe_pool_threads(p)) is the caller of pool_run (0) or a worker;
 * no two tasks that run at once have the same one, so it may pick scratch. */
typedef void (*pool_task)(void *ctx, int task, int thread);

/* Runs fn(ctx, task, thread) for each task in [0, n_tasks), claimed in that
 * order, and returns when all are done; what they wrote is then visible. A
 * region of one task runs on the caller at once. Several threads may call;
 * their regions take turns. Tasks must not call pool_run. */
void pool_run(moe_pool *p, pool_task fn, void *ctx, int n_tasks);

/* Threads that the affinity mask and the cgroup's CPU quota (rounded up) leave
 * to this process, at least 1. The paths are arguments for the tests' sake:
 * "/sys/fs/cgroup" and "/proc/self/cgroup". */
int pool_allowed_threads(const char *cgroup_root, const char *self_cgroup);

#endif
