/* stats.c: scales, names and the two places where answers are counted. */
#include "server/stats.h"

#define MS 1000000ull

const histogram_scale seconds_scale = {
    .n_bounds = 16,
    .bounds = {MS, 2 * MS, 5 * MS, 10 * MS, 20 * MS, 35 * MS, 50 * MS, 75 * MS,
               100 * MS, 200 * MS, 350 * MS, 500 * MS, 1000 * MS, 2500 * MS,
               10000 * MS, 30000 * MS},
    .unit = 1e-9,
};
const histogram_scale batch_tokens_scale = {
    .n_bounds = 12,
    .bounds = {8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384},
    .unit = 1,
};
const histogram_scale batch_sequences_scale = {
    .n_bounds = 9,
    .bounds = {1, 2, 4, 8, 16, 32, 64, 128, 256},
    .unit = 1,
};

static const double bucket_ends[RATIO_BUCKET_DENSE] = {0.125, 0.25, 0.5, 0.75, 1};

int ratio_bucket(double ratio)
{
    if (ratio >= 1)
        return RATIO_BUCKET_DENSE;
    int i = 0;
    while (ratio > bucket_ends[i])
        i++;
    return i;
}

const char *ratio_bucket_name(int bucket)
{
    static const char *const names[RATIO_BUCKETS] = {
        "0-0.125", "0.125-0.25", "0.25-0.5", "0.5-0.75", "0.75-1", "1",
    };
    return names[bucket];
}

void model_stats_count_answer(model_stats *s, double ratio, int sequences, int tokens,
                              int64_t queue_ns, int64_t compute_ns, int64_t total_ns)
{
    int b = ratio_bucket(ratio);
    counter_add(&s->sequences[b], (uint64_t)sequences);
    counter_add(&s->tokens[b], (uint64_t)tokens);
    histogram_observe(&s->queue[b], &seconds_scale, (uint64_t)queue_ns);
    histogram_observe(&s->compute[b], &seconds_scale, (uint64_t)compute_ns);
    quantiles_observe(&s->queue_q[b], queue_ns);
    quantiles_observe(&s->compute_q[b], compute_ns);
    quantiles_observe(&s->total_q[b], total_ns);
}

const char *route_name(route_id route)
{
    static const char *const names[N_ROUTES] = {
        [ROUTE_CLASSIFY] = "/v1/classify",
        [ROUTE_ANSWER] = "/v1/answer",
        [ROUTE_GENERATE] = "/v1/generate",
        [ROUTE_PREDICT] = "/predict",
        [ROUTE_RERANK] = "/rerank",
        [ROUTE_INFO] = "/info",
        [ROUTE_HF_MODEL] = "/models/{model}",
        [ROUTE_HF_PIPELINE] = "/pipeline/{task}/{model}",
        [ROUTE_VLLM] = "/classify",
        [ROUTE_OIP] = "/v2",
        [ROUTE_OIP_ALL_STATS] = "/v2/models/stats",
        [ROUTE_OIP_MODEL] = "/v2/models/{model}",
        [ROUTE_OIP_VERSION] = "/v2/models/{model}/versions/{version}",
        [ROUTE_OIP_READY] = "/v2/models/{model}/ready",
        [ROUTE_OIP_VERSION_READY] = "/v2/models/{model}/versions/{version}/ready",
        [ROUTE_OIP_STATS] = "/v2/models/{model}/stats",
        [ROUTE_OIP_VERSION_STATS] = "/v2/models/{model}/versions/{version}/stats",
        [ROUTE_OIP_INFER] = "/v2/models/{model}/infer",
        [ROUTE_OIP_VERSION_INFER] = "/v2/models/{model}/versions/{version}/infer",
        [ROUTE_MODELS] = "/v1/models",
        [ROUTE_MODEL] = "/v1/models/{model}",
        [ROUTE_ROUTING] = "/v1/models/{model}/routing",
        [ROUTE_LATENCY] = "/v1/models/{model}/latency",
        [ROUTE_METRICS] = "/metrics",
        [ROUTE_HEALTH] = "/health",
        [ROUTE_LIVE] = "/v2/health/live",
        [ROUTE_READY] = "/v2/health/ready",
        [ROUTE_OPENAPI] = "/openapi.json",
        [ROUTE_DOCS] = "/docs",
        [ROUTE_INDEX] = "/",
        [ROUTE_OTHER] = "other",
    };
    return names[route];
}

const int stats_codes[N_CODES] = {200, 400, 404, 405, 409, 413, 422, 429, 499, 500, 503, 0};

void server_stats_count(server_stats *s, route_id route, int code, int64_t ns)
{
    int i = 0;
    while (i < N_CODES - 1 && stats_codes[i] != code)
        i++;
    counter_add(&s->requests[route][i], 1);
    histogram_observe(&s->duration[route], &seconds_scale, ns > 0 ? (uint64_t)ns : 0);
}
