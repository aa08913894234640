/* views.c: the GET routes about models: list, description, routing, latency. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/json_out.h"
#include "server/server.h"

enum { DIGITS = 6, FLOAT_DIGITS = 9 };

static const char *task_name(moe_task task)
{
    return task == MOE_TASK_REGRESS ? "regression"
         : task == MOE_TASK_ANSWER ? "question-answering"
         : task == MOE_TASK_TEXT ? "text2text-generation"
         : task == MOE_TASK_MULTI_LABEL ? "multi-label-classification" : "text-classification";
}

/* ---- models ----------------------------------------------------------- */

static void write_brief(buffer *b, const served_model *m)
{
    jw_pair_string(b, "name", m->name);
    jw_pair_string(b, "task", task_name(m->info->task));
    jw_pair_bool(b, "moefied", m->info->moefied);
    jw_pair_string(b, "policy", m->info->moefied ? moe_policy_name(m->info->policy) : "");
    jw_key(b, "labels");
    jw_open(b, '[');
    for (int i = 0; i < m->info->n_labels; i++)
        jw_string(b, m->info->labels[i]);
    jw_close(b, ']');
    if (m->info->task != MOE_TASK_TEXT)
        return;
    jw_key(b, "tasks"); /* that /v1/classify takes */
    jw_open(b, '[');
    for (int i = 0; i < m->n_text_labels; i++)
        jw_string(b, m->text_labels[i].task->name);
    jw_close(b, ']');
}

void handle_models(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    (void)r;
    jw_open(&b, '{');
    jw_pair_string(&b, "default", s->models.list[0].name);
    jw_key(&b, "models");
    jw_open(&b, '[');
    for (int i = 0; i < s->models.n; i++) {
        jw_open(&b, '{');
        write_brief(&b, &s->models.list[i]);
        jw_close(&b, '}');
    }
    jw_close(&b, ']');
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}

/* values [n]; NULL: nothing is written. */
static void write_floats(buffer *b, const char *key, const float *values, int n)
{
    if (!values)
        return;
    jw_key(b, key);
    jw_open(b, '[');
    for (int i = 0; i < n; i++)
        jw_number(b, (double)values[i], FLOAT_DIGITS);
    jw_close(b, ']');
}

static void write_ratio_table(buffer *b, const moe_model_info *info)
{
    jw_key(b, "ratios");
    jw_open(b, '[');
    for (int i = 0; i < info->n_ratio_rows; i++) {
        jw_open(b, '{');
        jw_pair_number(b, "ratio", info->ratio_rows[i].ratio, DIGITS);
        jw_key(b, "experts");
        jw_open(b, '[');
        for (int l = 0; l < info->n_layers; l++)
            jw_int(b, info->ratio_rows[i].experts[l]);
        jw_close(b, ']');
        write_floats(b, "thresholds", info->ratio_rows[i].thresholds, info->n_layers);
        write_floats(b, "mean_experts", info->ratio_rows[i].mean_experts, info->n_layers);
        jw_close(b, '}');
    }
    jw_close(b, ']');
}

/* From how many tokens and which share of selected pairs on a layer runs as a dense one. */
static void write_plan(buffer *b, const served_model *m)
{
    const moe_plan_row *rows;
    const int n = moe_engine_plan(m->engine, &rows);
    jw_key(b, "dense_plan");
    jw_open(b, '[');
    for (int i = 0; i < n; i++) {
        jw_open(b, '{');
        jw_pair_int(b, "tokens", rows[i].n_tokens);
        jw_pair_number(b, "dense_above", rows[i].dense_above, DIGITS);
        jw_close(b, '}');
    }
    jw_close(b, ']');
}

static void write_limits(buffer *b, const config *c, const moe_model_info *info)
{
    jw_key(b, "limits");
    jw_open(b, '{');
    jw_pair_int(b, "max_tokens", info->max_tokens);
    jw_pair_int(b, "max_inputs", c->max_inputs);
    jw_pair_int(b, "max_body_bytes", c->max_body_bytes);
    jw_pair_int(b, "max_json_depth", c->max_json_depth);
    jw_pair_int(b, "queue_inputs", c->queue_inputs);
    jw_pair_int(b, "queue_tokens", c->queue_tokens);
    jw_pair_int(b, "batch_tokens", c->batch_tokens);
    jw_pair_int(b, "request_timeout_ms", c->request_timeout_ms);
    jw_close(b, '}');
}

void handle_model(server *s, http_exchange *x, request_state *r)
{
    const moe_model_info *info = r->model->info;
    buffer b = {0};
    jw_open(&b, '{');
    write_brief(&b, r->model);
    jw_pair_string(&b, "architecture", info->architecture);
    jw_pair_string(&b, "activation", info->activation);
    jw_pair_string(&b, "dtype", info->dtype);
    jw_pair_string(&b, "isa", moe_engine_isa(r->model->engine));
    jw_pair_int(&b, "threads", moe_pool_threads(s->models.pool));
    jw_pair_int(&b, "layers", info->n_layers);
    jw_pair_int(&b, "hidden_size", info->d_model);
    jw_pair_int(&b, "heads", info->n_heads);
    jw_pair_int(&b, "ffn_neurons", info->d_ff);
    jw_pair_int(&b, "vocabulary", info->n_vocab);
    jw_pair_int(&b, "experts", info->n_experts);
    jw_pair_int(&b, "expert_size", info->expert_size);
    jw_pair_string(&b, "router", info->router);
    jw_pair_string(&b, "split", info->split);
    jw_pair_uint(&b, "weight_bytes", info->weight_bytes);
    jw_pair_number(&b, "default_ratio", model_ratio(r->model, s->config->ratio), DIGITS);
    write_ratio_table(&b, info);
    write_plan(&b, r->model);
    write_limits(&b, s->config, info);
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}

/* ---- routing ---------------------------------------------------------- */

routing_summary routing_summarise(const uint64_t *selected, int n)
{
    routing_summary s = {0};
    double total = 0, pairs = 0;
    for (int i = 0; i < n; i++)
        total += (double)selected[i];
    if (total == 0)
        return s;
    for (int i = 0; i < n; i++) {
        double p = (double)selected[i] / total;
        s.entropy -= p > 0 ? p * log2(p) : 0;
        s.dead += selected[i] == 0;
        for (int k = 0; k < i; k++)
            pairs += fabs((double)selected[i] - (double)selected[k]);
    }
    s.evenness = n > 1 ? s.entropy / log2(n) : 1;
    s.gini = pairs / (n * total); /* sum over all pairs / (2 n total) */
    return s;
}

static void write_layer(buffer *b, int layer, const uint64_t *selected, int n, uint64_t tokens)
{
    routing_summary sum = routing_summarise(selected, n);
    jw_open(b, '{');
    jw_pair_int(b, "layer", layer);
    jw_pair_number(b, "entropy_bits", sum.entropy, DIGITS);
    jw_pair_number(b, "max_entropy_bits", log2(n), DIGITS);
    jw_pair_number(b, "gini", sum.gini, DIGITS);
    jw_pair_int(b, "dead_experts", sum.dead);
    jw_key(b, "experts");
    jw_open(b, '[');
    for (int e = 0; e < n; e++) {
        jw_open(b, '{');
        jw_pair_int(b, "expert", e);
        jw_pair_uint(b, "tokens", selected[e]);
        jw_pair_number(b, "share", tokens ? (double)selected[e] / (double)tokens : 0, DIGITS);
        jw_close(b, '}');
    }
    jw_close(b, ']');
    jw_close(b, '}');
}

/* ?layer=N; -1: all of them. */
static bool read_layer(const http_exchange *x, int n_layers, int *layer, problem *p)
{
    const char *text = http_query(x, "layer");
    char *end;
    *layer = -1;
    if (!text)
        return true;
    long v = strtol(text, &end, 10);
    if (end != text && !*end && v >= n_layers)
        return problem_set(p, 404, "not_found", "no layer %ld, expected 0 to %d", v, n_layers - 1);
    if (end == text || *end || v < 0)
        return problem_set(p, 422, "invalid_value", "layer: expected a whole number from 0 to %d, "
                           "found '%.40s'", n_layers - 1, text);
    *layer = (int)v;
    return true;
}

static void show_routing(server *s, http_exchange *x, const served_model *m, int only,
                         const uint64_t *selected)
{
    buffer b = {0};
    moe_stats_totals t = moe_stats_read(m->engine);
    jw_open(&b, '{');
    jw_pair_string(&b, "model", m->name);
    jw_pair_uint(&b, "tokens", t.tokens);
    jw_pair_uint(&b, "dense_tokens", t.dense_tokens);
    jw_pair_uint(&b, "neurons_selected", t.neurons_selected);
    jw_pair_uint(&b, "neurons_skipped", t.neurons_skipped);
    jw_key(&b, "layers");
    jw_open(&b, '[');
    for (int l = 0; l < m->info->n_layers; l++)
        if (only < 0 || l == only)
            write_layer(&b, l, selected + (size_t)l * (size_t)m->info->n_experts,
                        m->info->n_experts,
                        l < m->info->n_layers - 1 ? t.tokens : t.last_tokens);
    jw_close(&b, ']');
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}

void handle_routing(server *s, http_exchange *x, request_state *r)
{
    const moe_model_info *info = r->model->info;
    problem p;
    int layer;
    if (strcmp(http_method(x), "DELETE") == 0) {
        buffer b = {0};
        moe_stats_reset(r->model->engine);
        buffer_add_string(&b, "{\"reset\":true}");
        answer_json(s, x, 200, &b);
        return;
    }
    uint64_t *selected = calloc((size_t)info->n_layers * (size_t)info->n_experts, sizeof *selected);
    bool fine = selected ? read_layer(x, info->n_layers, &layer, &p)
                         : problem_set(&p, 500, "internal", "out of memory");
    if (fine) {
        moe_stats_experts(r->model->engine, selected);
        show_routing(s, x, r->model, layer, selected);
    } else {
        answer_problem(s, x, &p);
    }
    free(selected);
}

/* ---- latency ---------------------------------------------------------- */

static void write_quantiles(buffer *b, const char *key, const quantiles *q)
{
    quantile_summary s = quantiles_summarise(q);
    jw_key(b, key);
    jw_open(b, '{');
    jw_pair_uint(b, "count", s.count);
    jw_pair_fixed(b, "mean", s.mean_ns / 1e6, 3);
    jw_pair_fixed(b, "p50", s.p50_ns / 1e6, 3);
    jw_pair_fixed(b, "p90", s.p90_ns / 1e6, 3);
    jw_pair_fixed(b, "p99", s.p99_ns / 1e6, 3);
    jw_close(b, '}');
}

void handle_latency(server *s, http_exchange *x, request_state *r)
{
    const model_stats *stats = &r->model->stats;
    buffer b = {0};
    jw_open(&b, '{');
    jw_pair_string(&b, "model", r->model->name);
    jw_pair_string(&b, "unit", "ms");
    jw_key(&b, "ratios");
    jw_open(&b, '[');
    for (int i = 0; i < RATIO_BUCKETS; i++) {
        jw_open(&b, '{');
        jw_pair_string(&b, "ratio", ratio_bucket_name(i));
        write_quantiles(&b, "queue", &stats->queue_q[i]);
        write_quantiles(&b, "compute", &stats->compute_q[i]);
        write_quantiles(&b, "total", &stats->total_q[i]);
        jw_close(&b, '}');
    }
    jw_close(&b, ']');
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}
