/* stats.h: what the server counts. Plain structs of lock-free counters, zero at
 * the start: whoever does a thing counts it, metrics.c and latency.c read. */
#ifndef SERVER_STATS_H
#define SERVER_STATS_H

#include "server/histogram.h"

/* Ratios are told apart in six bounded buckets, by the ratio in force. */
enum { RATIO_BUCKETS = 6, RATIO_BUCKET_DENSE = RATIO_BUCKETS - 1 };
int ratio_bucket(double ratio);           /* ratio in (0, 1] */
const char *ratio_bucket_name(int bucket); /* "0-0.125" ... "0.75-1", "1" */

/* Of one model. All times in nanoseconds. */
typedef struct {
    /* by ratio bucket, counted when an answer is written */
    counter sequences[RATIO_BUCKETS], tokens[RATIO_BUCKETS];
    histogram queue[RATIO_BUCKETS], compute[RATIO_BUCKETS];
    quantiles queue_q[RATIO_BUCKETS], compute_q[RATIO_BUCKETS], total_q[RATIO_BUCKETS];
    counter truncated; /* texts that lost tokens */
    /* the batcher's */
    histogram batch_tokens, batch_sequences;
    counter neurons_selected, neurons_skipped;
    counter tokens_per_second; /* a gauge: recent speed, 0 before the first batch */
    /* the probe's */
    counter probes[RATIO_BUCKETS], probe_dense_ns[RATIO_BUCKETS],
            probe_sparse_ns[RATIO_BUCKETS];
    counter probe_ns; /* all that probing took, abandoned runs included */
} model_stats;

/* The time of one request, fit for all three histograms. */
extern const histogram_scale seconds_scale;
extern const histogram_scale batch_tokens_scale, batch_sequences_scale;

void model_stats_count_answer(model_stats *s, double ratio, int sequences, int tokens,
                              int64_t queue_ns, int64_t compute_ns, int64_t total_ns);

/* Routes and codes are few and fixed, so that every series exists from the start. */
typedef enum {
    ROUTE_CLASSIFY, ROUTE_ANSWER, ROUTE_GENERATE, ROUTE_PREDICT, ROUTE_RERANK, ROUTE_INFO,
    ROUTE_HF_MODEL, ROUTE_HF_PIPELINE, ROUTE_VLLM,
    ROUTE_OIP, ROUTE_OIP_ALL_STATS, ROUTE_OIP_MODEL, ROUTE_OIP_VERSION, ROUTE_OIP_READY,
    ROUTE_OIP_VERSION_READY, ROUTE_OIP_STATS, ROUTE_OIP_VERSION_STATS, ROUTE_OIP_INFER,
    ROUTE_OIP_VERSION_INFER, ROUTE_MODELS, ROUTE_MODEL, ROUTE_ROUTING,
    ROUTE_LATENCY, ROUTE_METRICS, ROUTE_HEALTH, ROUTE_LIVE, ROUTE_READY,
    ROUTE_OPENAPI, ROUTE_DOCS, ROUTE_INDEX, ROUTE_OTHER, N_ROUTES,
} route_id;
const char *route_name(route_id route); /* "/v1/models/{model}/routing" */

enum { N_CODES = 12 };
extern const int stats_codes[N_CODES]; /* the last, 0, stands for any other */

typedef struct {
    counter requests[N_ROUTES][N_CODES];
    histogram duration[N_ROUTES];
    counter connections;      /* a gauge: open now */
    counter connections_total;
    int64_t started_unix_ns;
} server_stats;

void server_stats_count(server_stats *s, route_id route, int code, int64_t ns);

#endif
