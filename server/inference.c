/* inference.c: POST /v1/classify and POST /predict, from body to answer.
 *
 * First half (the request's HTTP thread): parse, resolve model and ratio,
 * reserve room in the queue, tokenise, reserve the tokens, suspend, push. What
 * can be refused is refused before the work that follows it. Second half (the
 * same connection, resumed by the batcher): logits to scores to JSON. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/clock.h"
#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 7, RATIO_DIGITS = 6 };

/* ---- before the queue ------------------------------------------------- */

static bool parse_body(server *s, const http_exchange *x, request_state *r, problem *p)
{
    request_limits limits = {s->config->max_inputs, s->config->max_json_depth};
    size_t n;
    const char *body = http_body(x, &n);
    return r->route == ROUTE_PREDICT ? request_parse_predict(body, n, &limits, &r->body, p)
                                     : request_parse_classify(body, n, &limits, &r->body, p);
}

/* Body beats header beats the server's default. */
static bool choose_ratio(server *s, const http_exchange *x, request_state *r, problem *p)
{
    const char *header = http_header(x, "X-Moe-Ratio");
    r->requested_ratio = s->config->ratio;
    if (header && !request_parse_ratio(header, &r->requested_ratio))
        return problem_set(p, 422, "invalid_value", "X-Moe-Ratio: expected a number over 0 and "
                           "at most 1, found '%.40s'", header);
    if (r->body.has_ratio)
        r->requested_ratio = r->body.ratio;
    r->ratio = model_ratio(r->model, r->requested_ratio);
    return true;
}

static bool check_policy(const request_state *r, problem *p)
{
    const char *lacks = moe_policy_lacks(r->model->info, r->body.policy);
    if (!lacks)
        return true;
    return problem_set(p, 422, "invalid_value", "policy: model '%.64s' has no %s, expected "
                       "'topk'", r->model->name, lacks);
}

static bool choose_model(server *s, request_state *r, problem *p)
{
    served_model *m = models_find(&s->models, r->body.model);
    if (!m)
        return problem_set(p, 404, "not_found", "no model '%.64s'", r->body.model);
    r->model = m;
    return true;
}

/* About how long until the queue has room, in whole seconds. */
static void set_retry_after(http_exchange *x, const served_model *m)
{
    uint64_t speed = counter_get(&m->stats.tokens_per_second);
    double seconds = speed ? ceil((double)m->line.n_tokens / (double)speed) : 1;
    char text[16];
    snprintf(text, sizeof text, "%d", seconds < 1 ? 1 : seconds > 60 ? 60 : (int)seconds);
    http_answer_header(x, "Retry-After", text);
}

static bool refuse_full(server *s, http_exchange *x, const request_state *r, problem *p)
{
    if (http_draining(s->http))
        return problem_set(p, 503, "draining", "the server is stopping");
    set_retry_after(x, r->model);
    return problem_set(p, 429, "overloaded", "the queue is full: %d texts and %d tokens wait",
                       r->model->line.n_sequences, r->model->line.n_tokens);
}

/* The input's place in a message: nothing where there is just one. */
static void input_place(const request_state *r, int i, char out[40])
{
    if (r->body.list)
        snprintf(out, 40, "inputs[%d]: ", i);
    else
        snprintf(out, 40, "inputs: ");
}

static bool tokenize_one(const request_state *r, int i, moe_tokens *out, problem *p)
{
    const request_input *in = &r->body.inputs[i];
    moe_text text = {
        .text = in->text, .text_bytes = in->text_bytes,
        .pair = in->pair, .pair_bytes = in->pair_bytes,
        .truncation = r->body.truncate ? MOE_TRUNCATE_LONGEST_FIRST : MOE_TRUNCATE_NEVER,
        .strict_utf8 = true,
    };
    char place[40];
    moe_error err = {0};
    moe_status status = moe_tokenize(r->model->model, &text, out, &err);
    input_place(r, i, place);
    /* Refused rather than cut at the wrong end. */
    if (status == MOE_OK && r->body.truncate_left && out->n_truncated > 0)
        return problem_set(p, 422, "too_long", "%s%d tokens too many, and only the right end of a "
                           "text can be cut", place, out->n_truncated);
    if (status == MOE_OK)
        return true;
    if (status == MOE_E_LIMIT)
        return problem_set(p, 422, "too_long", "%s%s", place, err.message);
    if (status == MOE_E_ARGUMENT)
        return problem_set(p, 422, "invalid_value", "%s%s", place, err.message);
    return problem_set(p, 500, "internal", "%s%s", place, err.message);
}

static bool tokenize(request_state *r, problem *p)
{
    int64_t begin = clock_ns(), n_tokens = 0;
    for (int i = 0; i < r->body.n_inputs; i++) {
        moe_tokens *t = &r->job->sequences[i].tokens;
        if (!tokenize_one(r, i, t, p))
            return false;
        n_tokens += t->n;
        counter_add(&r->model->stats.truncated, t->n_truncated > 0);
    }
    r->tokenize_ns = clock_ns() - begin;
    if (n_tokens > r->model->line.max_tokens)
        return problem_set(p, 422, "too_many_tokens", "the request has %lld tokens, at most %d "
                           "fit the queue", (long long)n_tokens, r->model->line.max_tokens);
    r->n_tokens = (int)n_tokens;
    return true;
}

static void wake(void *exchange)
{
    http_resume(exchange);
}

/* Room for the texts is held. Makes the job and takes room for its tokens. */
static bool prepare(server *s, http_exchange *x, request_state *r, problem *p)
{
    r->job = job_create(r->body.n_inputs, r->model->info->n_labels);
    if (!r->job)
        return problem_set(p, 500, "internal", "out of memory");
    if (!tokenize(r, p))
        return false;
    if (!queue_reserve(&r->model->line, 0, r->n_tokens))
        return refuse_full(s, x, r, p);
    int64_t timeout_ns = (int64_t)s->config->request_timeout_ms * 1000000;
    r->job->ratio = r->ratio;
    r->job->policy = r->body.policy;
    r->job->n_tokens = r->n_tokens;
    r->job->deadline_ns = timeout_ns ? clock_ns() + timeout_ns : 0;
    r->job->socket = http_socket(x);
    r->job->done = wake;
    r->job->ctx = x;
    return true;
}

/* true: pushed, the exchange is suspended and no longer ours. */
static bool admit(server *s, http_exchange *x, request_state *r, problem *p)
{
    if (http_draining(s->http))
        return problem_set(p, 503, "draining", "the server is stopping");
    if (!parse_body(s, x, r, p) || !choose_model(s, r, p) || !choose_ratio(s, x, r, p) ||
        !check_policy(r, p))
        return false;
    if (!queue_reserve(&r->model->line, r->body.n_inputs, 0))
        return refuse_full(s, x, r, p);
    if (!prepare(s, x, r, p)) {
        queue_release(&r->model->line, r->body.n_inputs, 0);
        return false;
    }
    http_suspend(x);
    queue_push(&r->model->line, r->job);
    return true;
}

void handle_inference(server *s, http_exchange *x, request_state *r)
{
    problem p;
    if (!admit(s, x, r, &p))
        answer_problem(s, x, &p);
}

/* ---- after the engine ------------------------------------------------- */

typedef struct { int label; float score; } scored;

static int higher_first(const void *pa, const void *pb)
{
    const scored *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->label - b->label;
}

/* Labels by falling score into out [n_labels]; scores [n_labels] is scratch. */
static void rank(const request_state *r, int i, float *scores, scored *out)
{
    int n = r->job->n_labels;
    const float *logits = r->job->logits + (size_t)i * (size_t)n;
    if (r->body.raw_scores)
        memcpy(scores, logits, (size_t)n * sizeof *scores);
    else
        moe_scores(r->model->model, logits, scores);
    for (int l = 0; l < n; l++)
        out[l] = (scored){l, scores[l]};
    qsort(out, (size_t)n, sizeof *out, higher_first);
}

static void write_scores(buffer *b, const request_state *r, const scored *ranked, int n)
{
    jw_open(b, '[');
    for (int i = 0; i < n; i++) {
        jw_open(b, '{');
        jw_pair_string(b, "label", r->model->info->labels[ranked[i].label]);
        jw_pair_number(b, "score", ranked[i].score, SCORE_DIGITS);
        jw_close(b, '}');
    }
    jw_close(b, ']');
}

static void write_result(buffer *b, const request_state *r, const scored *ranked)
{
    int n = r->job->n_labels;
    int shown = r->body.top_k && r->body.top_k < n ? r->body.top_k : n;
    jw_open(b, '{');
    jw_pair_string(b, "label", r->model->info->labels[ranked[0].label]);
    jw_pair_number(b, "score", ranked[0].score, SCORE_DIGITS);
    jw_key(b, "scores");
    write_scores(b, r, ranked, shown);
    jw_close(b, '}');
}

static void write_timing(buffer *b, const request_state *r, int64_t total_ns)
{
    jw_key(b, "timing_ms");
    jw_open(b, '{');
    jw_pair_fixed(b, "tokenize", ns_to_ms(r->tokenize_ns), 3);
    jw_pair_fixed(b, "queue", ns_to_ms(r->job->started_ns - r->job->pushed_ns), 3);
    jw_pair_fixed(b, "compute", ns_to_ms(r->job->finished_ns - r->job->started_ns), 3);
    jw_pair_fixed(b, "total", ns_to_ms(total_ns), 3);
    jw_close(b, '}');
}

/* The policy stands there where it is of interest: asked for, or not topk. */
static void write_ratio(buffer *b, const request_state *r)
{
    moe_policy policy = moe_policy_resolve(r->model->info, r->body.policy);
    jw_key(b, "ratio");
    jw_open(b, '{');
    jw_pair_number(b, "requested", r->requested_ratio, RATIO_DIGITS);
    jw_pair_number(b, "effective", r->ratio, RATIO_DIGITS);
    if (r->body.policy != MOE_POLICY_MODEL || policy != MOE_POLICY_TOPK)
        jw_pair_string(b, "policy", moe_policy_name(policy));
    jw_close(b, '}');
}

static void write_classify(buffer *b, const request_state *r, int64_t total_ns, float *scores,
                           scored *ranked)
{
    jw_open(b, '{');
    jw_pair_string(b, "id", r->id);
    jw_pair_string(b, "model", r->model->name);
    jw_key(b, "results");
    jw_open(b, '[');
    for (int i = 0; i < r->job->n_sequences; i++) {
        rank(r, i, scores, ranked);
        write_result(b, r, ranked);
    }
    jw_close(b, ']');
    write_ratio(b, r);
    jw_key(b, "usage");
    jw_open(b, '{');
    jw_pair_int(b, "tokens", r->n_tokens);
    jw_close(b, '}');
    write_timing(b, r, total_ns);
    jw_close(b, '}');
}

static void write_predict(buffer *b, const request_state *r, float *scores, scored *ranked)
{
    if (r->body.list)
        jw_open(b, '[');
    for (int i = 0; i < r->job->n_sequences; i++) {
        rank(r, i, scores, ranked);
        write_scores(b, r, ranked, r->job->n_labels);
    }
    if (r->body.list)
        jw_close(b, ']');
}

/* Over all inputs, weighted by their tokens: neurons computed / neurons. */
static double effective_ratio(const job *j)
{
    double sum = 0;
    for (int i = 0; i < j->n_sequences; i++)
        sum += j->sequences[i].effective_ratio * j->sequences[i].tokens.n;
    return sum / j->n_tokens;
}

static void answer_results(server *s, http_exchange *x, request_state *r)
{
    size_t n = (size_t)r->job->n_labels;
    float *scores = malloc(n * sizeof *scores);
    scored *ranked = malloc(n * sizeof *ranked);
    int64_t total_ns = clock_ns() - http_begun_ns(x);
    buffer b = {0};
    r->inferred = true;
    r->ratio = effective_ratio(r->job);
    if (!scores || !ranked)
        b.failed = true;
    else if (r->route == ROUTE_PREDICT)
        write_predict(&b, r, scores, ranked);
    else
        write_classify(&b, r, total_ns, scores, ranked);
    free(scores);
    free(ranked);
    model_stats_count_answer(&r->model->stats, r->job->ratio, r->job->n_sequences, r->n_tokens,
                             r->job->started_ns - r->job->pushed_ns,
                             r->job->finished_ns - r->job->started_ns, total_ns);
    answer_json(s, x, 200, &b);
}

void finish_inference(server *s, http_exchange *x, request_state *r)
{
    problem p;
    switch (r->job->outcome) {
    case JOB_FINE:
        answer_results(s, x, r);
        return;
    case JOB_LATE:
        problem_set(&p, 503, "timeout", "waited over %d ms (--request-timeout-ms)",
                    s->config->request_timeout_ms);
        set_retry_after(x, r->model);
        break;
    case JOB_GONE: /* seldom read by anyone: a peer that only shut its sending side */
        problem_set(&p, 499, "client_left", "the client left");
        break;
    case JOB_REFUSED:
        problem_set(&p, 503, "draining", "the server is stopping");
        break;
    default:
        problem_set(&p, 500, "internal", "the engine failed; the server's log says why");
    }
    answer_problem(s, x, &p);
}
