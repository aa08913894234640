/* bench.h: timing a model, or one operation of its layers, at several batch
 * sizes, lengths and ratios. */
#ifndef CONVERT_BENCH_H
#define CONVERT_BENCH_H

#include "convert/cli.h"
#include "convert/peak.h"

typedef enum { BENCH_MODEL, BENCH_FFN, BENCH_ATTENTION, BENCH_LINEAR } bench_what;

/* One case and its result. Times are of the whole model, or the mean of a layer
 * where one operation is timed. */
typedef struct {
    int batch, seq;
    double ratio, effective_ratio;
    double gflop;                  /* billions of operations of one run */
    double *ms;                    /* [n_runs], ascending after bench_run */
} bench_case;

typedef struct {
    bench_what what;
    moe_backend_kind backend;
    const char *dtype;
    int n_threads, n_runs, n_cases;
    bench_case *cases;             /* [n_cases]; ms allocated */
    peak_isa peak_isa;
    double *peak;                  /* [n_runs] GF/s, ascending after bench_run */
    char isa[16];                  /* out */
    int threads_used;              /* out */
} bench_plan;

/* Times all cases n_runs times, after a warm-up: each round runs every case and
 * the peak once, so that a change of the machine's pace meets all alike. */
moe_status bench_run(const moe_model *m, bench_plan *p, progress *bar, moe_error *err);

/* Of n ascending numbers, by nearest rank; share in (0, 1]. */
double bench_percentile(const double *sorted, int n, double share);

#endif
