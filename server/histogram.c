/* histogram.c: bucket arithmetic. A quantile bucket is found from the leading
 * bit of the microsecond-scaled value and the four bits after it. */
#include "server/histogram.h"

void histogram_observe(histogram *h, const histogram_scale *scale, uint64_t value)
{
    int i = 0;
    while (i < scale->n_bounds && value > scale->bounds[i])
        i++;
    counter_add(&h->buckets[i], 1);
    counter_add(&h->sum, value);
}

/* Values are kept in 1/16 us: below QUANTILE_SUB units the buckets are linear,
 * above it octave o has QUANTILE_SUB buckets of width 2^o units. */
enum { NS_PER_UNIT_NUM = 125, NS_PER_UNIT_DEN = 2 }; /* 62.5 ns */

static int bucket_of(int64_t ns)
{
    uint64_t units = ns <= 0 ? 0 : (uint64_t)ns * NS_PER_UNIT_DEN / NS_PER_UNIT_NUM;
    if (units < QUANTILE_SUB)
        return (int)units;
    int octave = 63 - __builtin_clzll(units) - 4;
    if (octave >= QUANTILE_OCTAVES)
        return QUANTILE_BUCKETS - 1;
    return QUANTILE_SUB * (octave + 1) + (int)(units >> octave) - QUANTILE_SUB;
}

/* The bucket's lower edge in nanoseconds; of QUANTILE_BUCKETS, the last's end. */
static double edge_ns(int bucket)
{
    double units = bucket < QUANTILE_SUB ? bucket
        : (double)((uint64_t)(QUANTILE_SUB + bucket % QUANTILE_SUB) << (bucket / QUANTILE_SUB - 1));
    return units * NS_PER_UNIT_NUM / NS_PER_UNIT_DEN;
}

void quantiles_observe(quantiles *q, int64_t ns)
{
    counter_add(&q->buckets[bucket_of(ns)], 1);
    counter_add(&q->sum, ns > 0 ? (uint64_t)ns : 0);
}

/* The value below which a share p of the count lies, linear within a bucket. */
static double quantile(const uint64_t *counts, uint64_t total, double p)
{
    double wanted = p * (double)total, before = 0;
    for (int i = 0; i < QUANTILE_BUCKETS; i++) {
        double here = (double)counts[i];
        if (counts[i] && before + here >= wanted)
            return edge_ns(i) + (edge_ns(i + 1) - edge_ns(i)) * (wanted - before) / here;
        before += here;
    }
    return edge_ns(QUANTILE_BUCKETS);
}

quantile_summary quantiles_summarise(const quantiles *q)
{
    uint64_t counts[QUANTILE_BUCKETS];
    quantile_summary s = {0};
    for (int i = 0; i < QUANTILE_BUCKETS; i++)
        s.count += counts[i] = counter_get(&q->buckets[i]);
    if (s.count == 0)
        return s;
    s.mean_ns = (double)counter_get(&q->sum) / (double)s.count;
    s.p50_ns = quantile(counts, s.count, 0.50);
    s.p90_ns = quantile(counts, s.count, 0.90);
    s.p99_ns = quantile(counts, s.count, 0.99);
    return s;
}
