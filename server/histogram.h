/* histogram.h: counting without locks.
 *
 * histogram: few fixed bounds, for Prometheus.
 * quantiles: many logarithmic buckets (16 an octave, so a value is known to
 * within 1/32), for percentiles. Any thread observes while any other reads; a
 * reader may see an observation's bucket before its sum. */
#ifndef SERVER_HISTOGRAM_H
#define SERVER_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t counter;

static inline void counter_add(counter *c, uint64_t n)
{
    atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static inline uint64_t counter_get(const counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

enum { HISTOGRAM_BOUNDS = 16 };

/* Upper bounds, ascending; bucket n_bounds holds what is above the last. */
typedef struct {
    int n_bounds; /* at most HISTOGRAM_BOUNDS */
    uint64_t bounds[HISTOGRAM_BOUNDS];
    double unit; /* of a value in the exported unit: 1e-9 for ns to seconds */
} histogram_scale;

/* Starts from zero. */
typedef struct {
    counter buckets[HISTOGRAM_BOUNDS + 1];
    counter sum;
} histogram;

void histogram_observe(histogram *h, const histogram_scale *scale, uint64_t value);

enum { QUANTILE_SUB = 16, QUANTILE_OCTAVES = 26,
       QUANTILE_BUCKETS = QUANTILE_SUB * (QUANTILE_OCTAVES + 1) };

/* Nanoseconds, from 1 us to a minute in steps of 1/16; outside it the end
 * buckets. Starts from zero. */
typedef struct {
    counter buckets[QUANTILE_BUCKETS];
    counter sum;
} quantiles;

void quantiles_observe(quantiles *q, int64_t ns);

typedef struct {
    uint64_t count;
    double mean_ns, p50_ns, p90_ns, p99_ns; /* 0 where count is 0 */
} quantile_summary;

quantile_summary quantiles_summarise(const quantiles *q);

#endif
