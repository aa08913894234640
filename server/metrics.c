/* metrics.c: GET /metrics in Prometheus' text format.
 *
 * Series are written from fixed tables, so all of them are there from the
 * first scrape, and none has a label that a client can choose. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "server/server.h"

static void head(buffer *b, const char *name, const char *type, const char *help)
{
    buffer_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* labels: "model=\"x\"" or "". */
static void line_uint(buffer *b, const char *name, const char *labels, uint64_t v)
{
    if (*labels)
        buffer_printf(b, "%s{%s} %" PRIu64 "\n", name, labels, v);
    else
        buffer_printf(b, "%s %" PRIu64 "\n", name, v);
}

static void line_number(buffer *b, const char *name, const char *labels, double v)
{
    if (*labels)
        buffer_printf(b, "%s{%s} %.9g\n", name, labels, v);
    else
        buffer_printf(b, "%s %.9g\n", name, v);
}

static void lines_histogram(buffer *b, const char *name, const char *labels,
                            const histogram *h, const histogram_scale *scale)
{
    uint64_t below = 0;
    for (int i = 0; i <= scale->n_bounds; i++) {
        below += counter_get(&h->buckets[i]);
        if (i < scale->n_bounds)
            buffer_printf(b, "%s_bucket{%s,le=\"%.9g\"} %" PRIu64 "\n", name, labels,
                          (double)scale->bounds[i] * scale->unit, below);
        else
            buffer_printf(b, "%s_bucket{%s,le=\"+Inf\"} %" PRIu64 "\n", name, labels, below);
    }
    buffer_printf(b, "%s_sum{%s} %.9g\n%s_count{%s} %" PRIu64 "\n", name, labels,
                  (double)counter_get(&h->sum) * scale->unit, name, labels, below);
}

/* ---- the server ------------------------------------------------------- */

static void write_requests(buffer *b, const server_stats *s)
{
    char labels[96];
    head(b, "moefied_requests_total", "counter", "Answers by route and status code.");
    for (int r = 0; r < N_ROUTES; r++)
        for (int c = 0; c < N_CODES; c++) {
            char code[16] = "other";
            if (stats_codes[c])
                snprintf(code, sizeof code, "%d", stats_codes[c]);
            snprintf(labels, sizeof labels, "route=\"%s\",code=\"%s\"", route_name((route_id)r), code);
            line_uint(b, "moefied_requests_total", labels, counter_get(&s->requests[r][c]));
        }
    head(b, "moefied_request_duration_seconds", "histogram",
         "From the end of the request's body to the end of the answer.");
    for (int r = 0; r < N_ROUTES; r++) {
        snprintf(labels, sizeof labels, "route=\"%s\"", route_name((route_id)r));
        lines_histogram(b, "moefied_request_duration_seconds", labels, &s->duration[r], &seconds_scale);
    }
}

static void write_connections(buffer *b, const server *s)
{
    head(b, "moefied_connections", "gauge", "Open connections.");
    line_uint(b, "moefied_connections", "", counter_get(&s->stats.connections));
    head(b, "moefied_connections_accepted_total", "counter", "Connections accepted.");
    line_uint(b, "moefied_connections_accepted_total", "", counter_get(&s->stats.connections_total));
    head(b, "moefied_requests_active", "gauge", "Requests being answered.");
    line_uint(b, "moefied_requests_active", "", (uint64_t)http_active(s->http));
    head(b, "moefied_draining", "gauge", "1 once the server was told to stop.");
    line_uint(b, "moefied_draining", "", http_draining(s->http));
}

/* Resident bytes from /proc; 0 where there is none. */
static uint64_t resident_bytes(void)
{
    unsigned long long size, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%llu %llu", &size, &resident) != 2)
        resident = 0;
    fclose(f);
    return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

static void write_process(buffer *b, const server *s)
{
    char labels[96];
    struct rusage usage = {0};
    getrusage(RUSAGE_SELF, &usage);
    snprintf(labels, sizeof labels, "version=\"%s\",isa=\"%s\",threads=\"%d\"", MOE_VERSION,
             moe_engine_isa(s->models.list[0].engine), moe_pool_threads(s->models.pool));
    head(b, "moefied_build_info", "gauge", "Always 1; labels say what runs.");
    line_uint(b, "moefied_build_info", labels, 1);
    head(b, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    line_uint(b, "process_resident_memory_bytes", "", resident_bytes());
    head(b, "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
    line_number(b, "process_cpu_seconds_total", "",
                seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime));
    head(b, "process_start_time_seconds", "gauge", "Start time of the process since the epoch in seconds.");
    buffer_printf(b, "process_start_time_seconds %.3f\n", (double)s->stats.started_unix_ns / 1e9);
}

/* ---- models ----------------------------------------------------------- */

enum { LABELS = 128 };

static void model_label(const served_model *m, char out[LABELS])
{
    snprintf(out, LABELS, "model=\"%s\"", m->name);
}

static void ratio_label(const served_model *m, int bucket, char out[LABELS])
{
    snprintf(out, LABELS, "model=\"%s\",ratio=\"%s\"", m->name, ratio_bucket_name(bucket));
}

/* One counter, or gauge, of model_stats: where it lies and how to print it. */
typedef struct {
    const char *name, *type, *help;
    size_t offset;
    bool by_ratio; /* counter[RATIO_BUCKETS] */
    double unit;   /* 0: as it is */
} counter_series;

static const counter_series counters[] = {
    {"moefied_inputs_total", "counter", "Texts answered, by ratio.",
     offsetof(model_stats, sequences), true, 0},
    {"moefied_tokens_total", "counter", "Tokens of texts answered, by ratio.",
     offsetof(model_stats, tokens), true, 0},
    {"moefied_inputs_truncated_total", "counter", "Texts that lost tokens to the length limit.",
     offsetof(model_stats, truncated), false, 0},
    {"moefied_ffn_neurons_selected_total", "counter", "FFN neurons computed, over tokens and layers.",
     offsetof(model_stats, neurons_selected), false, 0},
    {"moefied_ffn_neurons_skipped_total", "counter", "FFN neurons not computed, over tokens and layers.",
     offsetof(model_stats, neurons_skipped), false, 0},
    {"moefied_tokens_per_second", "gauge", "Speed of recent batches.",
     offsetof(model_stats, tokens_per_second), false, 0},
    {"moefied_probes_total", "counter", "Sampled batches run again, as asked for and dense.",
     offsetof(model_stats, probes), true, 0},
    {"moefied_probe_dense_seconds_total", "counter", "Time of the dense runs of finished probes.",
     offsetof(model_stats, probe_dense_ns), true, 1e-9},
    {"moefied_probe_sparse_seconds_total", "counter", "Time of the sparse runs of finished probes.",
     offsetof(model_stats, probe_sparse_ns), true, 1e-9},
    {"moefied_probe_seconds_total", "counter", "Time that probing took, abandoned runs included.",
     offsetof(model_stats, probe_ns), false, 1e-9},
};

static void line_counter(buffer *b, const counter_series *c, const char *labels, const counter *v)
{
    if (c->unit > 0)
        line_number(b, c->name, labels, (double)counter_get(v) * c->unit);
    else
        line_uint(b, c->name, labels, counter_get(v));
}

static void write_counters(buffer *b, const models *m, const counter_series *c)
{
    char labels[LABELS];
    head(b, c->name, c->type, c->help);
    for (int i = 0; i < m->n; i++) {
        const counter *v = (const void *)((const char *)&m->list[i].stats + c->offset);
        model_label(&m->list[i], labels);
        if (!c->by_ratio)
            line_counter(b, c, labels, v);
        for (int r = 0; c->by_ratio && r < RATIO_BUCKETS; r++) {
            ratio_label(&m->list[i], r, labels);
            line_counter(b, c, labels, &v[r]);
        }
    }
}

static void write_speedup(buffer *b, const models *m)
{
    char labels[LABELS];
    head(b, "moefied_speedup_over_dense_ratio", "gauge",
         "Dense time / sparse time of all finished probes; 0 before the first.");
    for (int i = 0; i < m->n; i++)
        for (int r = 0; r < RATIO_BUCKET_DENSE; r++) {
            const model_stats *s = &m->list[i].stats;
            double sparse = (double)counter_get(&s->probe_sparse_ns[r]);
            ratio_label(&m->list[i], r, labels);
            line_number(b, "moefied_speedup_over_dense_ratio", labels,
                        sparse > 0 ? (double)counter_get(&s->probe_dense_ns[r]) / sparse : 0);
        }
}

static void write_queues(buffer *b, const models *m)
{
    char labels[LABELS];
    head(b, "moefied_queue_depth", "gauge", "Texts that wait, or for which room is held.");
    for (int i = 0; i < m->n; i++) {
        model_label(&m->list[i], labels);
        line_uint(b, "moefied_queue_depth", labels, (uint64_t)m->list[i].line.n_sequences);
    }
    head(b, "moefied_queue_tokens", "gauge", "Tokens that wait.");
    for (int i = 0; i < m->n; i++) {
        model_label(&m->list[i], labels);
        line_uint(b, "moefied_queue_tokens", labels, (uint64_t)m->list[i].line.n_tokens);
    }
}

static void write_times(buffer *b, const models *m, const char *name, const char *help, size_t offset)
{
    char labels[LABELS];
    head(b, name, "histogram", help);
    for (int i = 0; i < m->n; i++)
        for (int r = 0; r < RATIO_BUCKETS; r++) {
            const histogram *h = (const void *)((const char *)&m->list[i].stats + offset);
            ratio_label(&m->list[i], r, labels);
            lines_histogram(b, name, labels, &h[r], &seconds_scale);
        }
}

static void write_batches(buffer *b, const models *m)
{
    char labels[LABELS];
    head(b, "moefied_batch_tokens", "histogram", "Tokens of a batch.");
    for (int i = 0; i < m->n; i++) {
        model_label(&m->list[i], labels);
        lines_histogram(b, "moefied_batch_tokens", labels, &m->list[i].stats.batch_tokens,
                        &batch_tokens_scale);
    }
    head(b, "moefied_batch_inputs", "histogram", "Texts of a batch.");
    for (int i = 0; i < m->n; i++) {
        model_label(&m->list[i], labels);
        lines_histogram(b, "moefied_batch_inputs", labels, &m->list[i].stats.batch_sequences,
                        &batch_sequences_scale);
    }
}

/* ---- routing: one summary a layer -------------------------------------- */

static void write_routing_series(buffer *b, const models *m, routing_summary *const *layers,
                                 const char *name, const char *help,
                                 double (*of)(const routing_summary *))
{
    head(b, name, "gauge", help);
    for (int i = 0; i < m->n; i++)
        for (int l = 0; l < m->list[i].info->n_layers; l++) {
            char labels[LABELS];
            snprintf(labels, sizeof labels, "model=\"%s\",layer=\"%d\"", m->list[i].name, l);
            line_number(b, name, labels, of(&layers[i][l]));
        }
}

static double evenness_of(const routing_summary *s) { return s->evenness; }
static double gini_of(const routing_summary *s) { return s->gini; }
static double dead_of(const routing_summary *s) { return s->dead; }

/* [n_layers]; NULL: out of memory. */
static routing_summary *summarise_layers(const served_model *m)
{
    size_t n_layers = (size_t)m->info->n_layers, n_experts = (size_t)m->info->n_experts;
    uint64_t *selected = calloc(n_layers * n_experts, sizeof *selected);
    routing_summary *s = calloc(n_layers, sizeof *s);
    if (selected && s) {
        moe_stats_experts(m->engine, selected);
        for (size_t l = 0; l < n_layers; l++)
            s[l] = routing_summarise(selected + l * n_experts, (int)n_experts);
    }
    if (!selected) {
        free(s);
        s = NULL;
    }
    free(selected);
    return s;
}

static void write_routing(buffer *b, const models *m)
{
    routing_summary *layers[MAX_MODELS] = {0};
    bool fine = true;
    for (int i = 0; i < m->n; i++)
        fine &= (layers[i] = summarise_layers(&m->list[i])) != NULL;
    if (fine) {
        write_routing_series(b, m, layers, "moefied_routing_entropy_ratio",
                             "Entropy of the experts' shares of tokens since the last reset, 1 if even.",
                             evenness_of);
        write_routing_series(b, m, layers, "moefied_routing_gini",
                             "Gini coefficient of the experts' tokens since the last reset.", gini_of);
        write_routing_series(b, m, layers, "moefied_routing_dead_experts",
                             "Experts without a token since the last reset.", dead_of);
    }
    b->failed |= !fine;
    for (int i = 0; i < m->n; i++)
        free(layers[i]);
}

void handle_metrics(server *s, http_exchange *x, request_state *r)
{
    const models *m = &s->models;
    buffer b = {0};
    (void)r;
    write_requests(&b, &s->stats);
    write_connections(&b, s);
    write_queues(&b, m);
    write_times(&b, m, "moefied_queue_seconds", "Wait of a request for its first batch.",
                offsetof(model_stats, queue));
    write_times(&b, m, "moefied_compute_seconds", "From a request's first batch to the end of its last.",
                offsetof(model_stats, compute));
    write_batches(&b, m);
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++)
        write_counters(&b, m, &counters[i]);
    write_speedup(&b, m);
    write_routing(&b, m);
    write_process(&b, s);
    answer_text(s, x, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}
