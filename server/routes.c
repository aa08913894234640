/* routes.c: the table of routes, request ids, errors in their two shapes, and
 * what all answers share: X-Request-Id, X-Moe-Ratio, a count and a log line. */
#include "server/routes.h"

#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/json_out.h"

enum { GET = 1, POST = 2, DELETE = 4 };

static void handle_health(server *s, http_exchange *x, request_state *r);
static void handle_live(server *s, http_exchange *x, request_state *r);
static void handle_index(server *s, http_exchange *x, request_state *r);

/* A path's pattern is route_name(); "{model}" in it is one part of any name. */
static const struct {
    unsigned methods;
    route_handler handle;
    error_shape errors;
} routes[N_ROUTES] = {
    [ROUTE_CLASSIFY] = {POST, handle_inference},
    [ROUTE_ANSWER] = {POST, handle_inference},
    [ROUTE_GENERATE] = {POST, handle_inference},
    [ROUTE_PREDICT] = {POST, handle_inference, ERROR_TEI},
    [ROUTE_RERANK] = {POST, handle_inference, ERROR_TEI},
    [ROUTE_INFO] = {GET, handle_info, ERROR_TEI},
    [ROUTE_HF_MODEL] = {POST, handle_inference, ERROR_PLAIN},
    [ROUTE_HF_PIPELINE] = {POST, handle_inference, ERROR_PLAIN},
    [ROUTE_OIP] = {GET, handle_oip_server, ERROR_PLAIN},
    [ROUTE_OIP_ALL_STATS] = {GET, handle_oip_stats, ERROR_PLAIN},
    [ROUTE_OIP_MODEL] = {GET, handle_oip_model, ERROR_PLAIN},
    [ROUTE_OIP_VERSION] = {GET, handle_oip_model, ERROR_PLAIN},
    [ROUTE_OIP_READY] = {GET, handle_oip_ready, ERROR_PLAIN},
    [ROUTE_OIP_VERSION_READY] = {GET, handle_oip_ready, ERROR_PLAIN},
    [ROUTE_OIP_STATS] = {GET, handle_oip_stats, ERROR_PLAIN},
    [ROUTE_OIP_VERSION_STATS] = {GET, handle_oip_stats, ERROR_PLAIN},
    [ROUTE_OIP_INFER] = {POST, handle_inference, ERROR_PLAIN},
    [ROUTE_OIP_VERSION_INFER] = {POST, handle_inference, ERROR_PLAIN},
    [ROUTE_VLLM] = {POST, handle_inference, ERROR_OPENAI},
    [ROUTE_MODELS] = {GET, handle_models},
    [ROUTE_MODEL] = {GET, handle_model},
    [ROUTE_ROUTING] = {GET | DELETE, handle_routing},
    [ROUTE_LATENCY] = {GET, handle_latency},
    [ROUTE_METRICS] = {GET, handle_metrics},
    [ROUTE_HEALTH] = {GET, handle_health},
    [ROUTE_LIVE] = {GET, handle_live},
    [ROUTE_READY] = {GET, handle_health},
    [ROUTE_OPENAPI] = {GET, handle_openapi},
    [ROUTE_DOCS] = {GET, handle_docs},
    [ROUTE_INDEX] = {GET, handle_index},
};

/* ---- answers ---------------------------------------------------------- */

void answer_text(server *s, http_exchange *x, int status, const char *type, buffer *body)
{
    const request_state *r = http_state(x);
    char ratio[32];
    snprintf(ratio, sizeof ratio, "%.6g", r->ratio);
    http_answer_header(x, "X-Request-Id", r->id);
    http_answer_header(x, "X-Moe-Ratio", ratio);
    http_answer(x, status, type, body);
    (void)s;
}

void answer_json(server *s, http_exchange *x, int status, buffer *body)
{
    answer_text(s, x, status, "application/json", body);
}

void answer_problem(server *s, http_exchange *x, const problem *p)
{
    const request_state *r = http_state(x);
    buffer b = {0};
    error_write(&b, routes[r->route].errors, p);
    answer_json(s, x, p->status, &b);
}

/* ---- what a request is ------------------------------------------------ */

static bool same(const char *a, size_t n, const char *b)
{
    return strlen(b) == n && memcmp(a, b, n) == 0;
}

/* A part of a path, not ended by a NUL. */
typedef struct { const char *at; size_t n; } part;
/* What stood in the places of a pattern; at is NULL where it has none. */
typedef struct { part model, task, version; } places;

/* Matches path with a pattern, part by part. */
static bool match(const char *path, const char *pattern, places *out)
{
    *out = (places){.model = {NULL, 0}};
    while (*path == '/' && *pattern == '/') {
        size_t have = strcspn(++path, "/"), want = strcspn(++pattern, "/");
        if (same(pattern, want, "{model}")) {
            out->model = (part){path, have};
        } else if (same(pattern, want, "{version}")) {
            out->version = (part){path, have};
        } else if (same(pattern, want, "{task}")) {
            out->task = (part){path, have};
        } else if (have != want || memcmp(path, pattern, have) != 0) {
            return false;
        }
        path += have;
        pattern += want;
    }
    return *path == '\0' && *pattern == '\0';
}

static route_id find_route(const char *path, places *out)
{
    for (int i = 0; i < ROUTE_OTHER; i++)
        if (match(path, route_name((route_id)i), out))
            return (route_id)i;
    *out = (places){.model = {NULL, 0}};
    return ROUTE_OTHER;
}

/* The client's id if it is short and visible ASCII, else one of ours. */
static void choose_id(server *s, const http_exchange *x, char id[REQUEST_ID_BYTES + 1])
{
    const char *given = http_header(x, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;
    bool good = n > 0 && n <= REQUEST_ID_BYTES;
    for (size_t i = 0; good && i < n; i++)
        good = given[i] > 0x20 && given[i] < 0x7f;
    if (good)
        memcpy(id, given, n + 1);
    else
        snprintf(id, REQUEST_ID_BYTES + 1, "%016llx",
                 (unsigned long long)(atomic_fetch_add(&s->next_id, 1) * 0x9e3779b97f4a7c15u));
}

static request_state *state_create(server *s, http_exchange *x)
{
    request_state *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    http_set_state(x, r);
    choose_id(s, x, r->id);
    r->model = models_find(&s->models, NULL);
    r->ratio = model_ratio(r->model, s->config->ratio);
    return r;
}

/* ---- dispatch --------------------------------------------------------- */

static unsigned method_bit(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0 ? GET
         : strcmp(method, "POST") == 0 ? POST
         : strcmp(method, "DELETE") == 0 ? DELETE : 0;
}

static void refuse_method(server *s, http_exchange *x, route_id route)
{
    problem p;
    unsigned m = routes[route].methods;
    const char *allow = m == POST ? "POST" : m == GET ? "GET, HEAD" : "GET, HEAD, DELETE";
    problem_set(&p, 405, "method_not_allowed", "%s takes %s", route_name(route), allow);
    http_answer_header(x, "Allow", allow);
    answer_problem(s, x, &p);
}

static void dispatch(server *s, http_exchange *x, request_state *r, const places *in)
{
    const char *name = in->model.at;
    size_t n = in->model.n;
    problem p;
    if (r->route == ROUTE_OTHER) {
        problem_set(&p, 404, "not_found", "no such path: %.200s", http_path(x));
        answer_problem(s, x, &p);
        return;
    }
    if (!(routes[r->route].methods & method_bit(http_method(x)))) {
        refuse_method(s, x, r->route);
        return;
    }
    if (name) {
        served_model *found = NULL;
        for (int i = 0; i < s->models.n; i++)
            if (same(name, n, s->models.list[i].name))
                found = &s->models.list[i];
        if (!found) {
            problem_set(&p, 404, "not_found", "no model '%.*s'", n > 64 ? 64 : (int)n, name);
            answer_problem(s, x, &p);
            return;
        }
        if (in->version.at && !same(in->version.at, in->version.n, "1")) {
            problem_set(&p, 404, "not_found", "model '%s' has version 1 only", found->name);
            answer_problem(s, x, &p);
            return;
        }
        r->model = found;
        r->model_in_path = true;
        r->task = in->task.at;
        r->task_bytes = in->task.n;
        r->ratio = model_ratio(found, s->config->ratio);
    }
    routes[r->route].handle(s, x, r);
}

static void on_request(void *ctx, http_exchange *x)
{
    server *s = ctx;
    places in;
    request_state *r = state_create(s, x);
    if (!r) {
        buffer none = {0};
        http_answer(x, 500, "application/json", &none);
        return;
    }
    r->route = find_route(http_path(x), &in);
    dispatch(s, x, r, &in);
}

static void on_resumed(void *ctx, http_exchange *x)
{
    finish_inference(ctx, x, http_state(x));
}

static void on_too_large(void *ctx, http_exchange *x)
{
    server *s = ctx;
    places in;
    problem p;
    request_state *r = state_create(s, x);
    problem_set(&p, 413, "body_too_large", "the body is over %d bytes (--max-body-bytes)",
                s->config->max_body_bytes);
    if (!r) {
        buffer none = {0};
        http_answer(x, 413, "application/json", &none);
        return;
    }
    r->route = find_route(http_path(x), &in);
    answer_problem(s, x, &p);
}

static void write_log(const server *s, const http_exchange *x, const request_state *r, int status,
                      int64_t ns)
{
    log_request line = {
        .id = r->id, .method = http_method(x), .path = http_path(x),
        .status = status, .total_ns = ns,
    };
    if (r->inferred) {
        line.model = r->model->name;
        line.n_inputs = r->body.n_inputs;
        line.n_tokens = r->n_tokens;
        line.ratio = r->ratio;
        line.queue_ns = r->job->started_ns - r->job->pushed_ns;
        line.compute_ns = r->job->finished_ns - r->job->started_ns;
    }
    log_line(s->config->log, &line);
}

static void on_finished(void *ctx, http_exchange *x)
{
    server *s = ctx;
    request_state *r = http_state(x);
    int64_t ns = clock_ns() - http_begun_ns(x);
    /* Without an answer the peer was gone before there was one. */
    int status = http_status(x) ? http_status(x) : 499;
    server_stats_count(&s->stats, r ? r->route : ROUTE_OTHER, status, ns);
    if (!r)
        return;
    write_log(s, x, r, status, ns);
    request_free(&r->body);
    job_free(r->job);
    free(r->first_window);
    free(r);
}

http_handlers routes_handlers(server *s)
{
    return (http_handlers){s, on_request, on_resumed, on_too_large, on_finished};
}

/* ---- the small handlers ----------------------------------------------- */

static void answer_state(server *s, http_exchange *x, int status, const char *state)
{
    buffer b = {0};
    jw_open(&b, '{');
    jw_pair_string(&b, "status", state);
    jw_close(&b, '}');
    answer_json(s, x, status, &b);
}

/* Whether requests should be sent here: not while draining. */
static void handle_health(server *s, http_exchange *x, request_state *r)
{
    bool draining = http_draining(s->http);
    (void)r;
    answer_state(s, x, draining ? 503 : 200, draining ? "draining" : "ok");
}

/* Whether the process is worth keeping: it answers, so it is. */
static void handle_live(server *s, http_exchange *x, request_state *r)
{
    (void)r;
    answer_state(s, x, 200, "ok");
}

static void handle_index(server *s, http_exchange *x, request_state *r)
{
    buffer b = {0};
    (void)r;
    jw_open(&b, '{');
    jw_pair_string(&b, "name", "moefied");
    jw_pair_string(&b, "version", MOE_VERSION);
    jw_key(&b, "routes");
    jw_open(&b, '[');
    for (int i = 0; i < ROUTE_OTHER; i++) {
        char text[96];
        unsigned m = routes[i].methods;
        snprintf(text, sizeof text, "%s%s%s %s", m & GET ? "GET" : "", m & POST ? "POST" : "",
                 m & DELETE ? "|DELETE" : "", route_name((route_id)i));
        jw_string(&b, text);
    }
    jw_close(&b, ']');
    jw_close(&b, '}');
    answer_json(s, x, 200, &b);
}
