/* workers.h: the converter's threads.
 *
 * Work is cut into numbered tasks whose cut never depends on the number of
 * threads, each task writes what it alone owns, and whoever started them adds
 * up in task order: so a conversion gives the same bits for any --threads. */
#ifndef CONVERT_WORKERS_H
#define CONVERT_WORKERS_H

#include "engine/moe.h"

typedef struct workers workers;

/* n_threads in all, the caller of workers_run being one of them; >= 1. */
moe_status workers_create(int n_threads, workers **out, moe_error *err);
void workers_destroy(workers *w);
int workers_count(const workers *w);

/* Calls task(ctx, i, worker) once for each i in [0, n), in any order, on any
 * thread; worker in [0, workers_count) says whose scratch to use. Returns when
 * all are done. One caller at a time; a task must not call it again. */
typedef void (*worker_task)(void *ctx, int i, int worker);
void workers_run(workers *w, worker_task task, void *ctx, int n);

#endif
