/* bench_print.h: what moefy bench shows: JSON or a table. */
#ifndef CONVERT_BENCH_PRINT_H
#define CONVERT_BENCH_PRINT_H

#include "convert/bench.h"
#include "convert/shape.h"

/* The machine's ceilings, measured once. */
typedef struct {
    int n_threads;
    double gflops[PEAK_N];  /* 0: not supported */
    double read_gbytes;     /* a second, from memory past the caches */
} bench_peaks;

void bench_peaks_measure(int n_threads, double seconds, bench_peaks *out);

extern const char *const bench_kinds[]; /* by bench_what; NULL at the end */

/* After bench_run. name: the model's directory or the shape's; shape NULL: a model.
 * peaks NULL: not asked for. */
moe_status bench_print_json(const char *name, const model_shape *shape, const bench_plan *p,
                            const moe_model_info *info, const bench_peaks *peaks,
                            moe_error *err);
void bench_print_table(const char *name, const model_shape *shape, const bench_plan *p,
                       const moe_model_info *info, const bench_peaks *peaks);
/* The ceilings alone. */
moe_status bench_print_peaks_json(const bench_peaks *peaks, moe_error *err);
void bench_print_peaks(const bench_peaks *peaks);

#endif
