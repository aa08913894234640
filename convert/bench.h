/* bench.h: timing a model, or one operation of its layers, at several batch
 * sizes, lengths and ratios. */
#ifndef CONVERT_BENCH_H
#define CONVERT_BENCH_H

#include "convert/cli.h"
#include "convert/bench_text.h"
#include "convert/peak.h"

typedef enum { BENCH_MODEL, BENCH_FFN, BENCH_ATTENTION, BENCH_LINEAR, BENCH_STEP } bench_what;

/* Whether the model runs, on text; else one of its operations, on random rows. */
static inline bool bench_runs_model(bench_what what)
{
    return what == BENCH_MODEL || what == BENCH_STEP;
}

/* One case and its result. Times are of the whole model, of one step of its decoder, or the
 * mean of a layer where one operation is timed. */
typedef struct {
    int batch, seq;                /* seq 0: the text's own lengths */
    double ratio, effective_ratio;
    double gflop;                  /* billions of operations of one run */
    double gbytes;                 /* of weights that one run reads at least once */
    double *ms;                    /* [n_runs], ascending after bench_run */
} bench_case;

typedef struct {
    bench_what what;
    moe_backend_kind backend;
    int n_threads, n_runs, n_cases;
    bench_case *cases;             /* [n_cases]; ms allocated */
    const bench_text *text;        /* n_seqs 0: random ids */
    bool random_routing;           /* the model's router is not asked */
    double *peak;                  /* [n_runs] GF/s, ascending after bench_run */
    peak_kind peak_kind;           /* out: that of the kernels' ISA and dtype */
    char isa[16];                  /* out */
    int n_plan;                    /* out: of plan */
    moe_plan_row plan[8];          /* out: the engine's */
    int threads_used;              /* out */
} bench_plan;

/* Times all cases n_runs times, after a warm-up: each round runs every case and
 * the peak once, so that a change of the machine's pace meets all alike. */
moe_status bench_run(const moe_model *m, bench_plan *p, progress *bar, moe_error *err);

/* One run of a case whenever the caller's driver names it: each line of standard input
 * holds an index into cases, and is answered by its milliseconds on a line of standard
 * output; at its end the function returns. Every case is warmed up first, and then
 * "ready" printed. For measuring in turn with other programs. */
moe_status bench_drive(const moe_model *m, bench_plan *p, moe_error *err);

/* Of n ascending numbers, by nearest rank; share in (0, 1]. */
double bench_percentile(const double *sorted, int n, double share);

#endif
