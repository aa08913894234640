/* inference.c: the way of every request that is computed, from body to answer; what a
 * route makes of bodies and results stands in its row of `protocols`.
 *
 * First half (the request's HTTP thread): parse, resolve model and ratio,
 * reserve room in the queue, tokenise, reserve the tokens, suspend, push. What
 * can be refused is refused before the work that follows it. Second half (the
 * same connection, resumed by the batcher): values to JSON. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/clock.h"
#include "server/json_out.h"
#include "server/oip.h"
#include "server/server.h"

static const protocol protocols[N_ROUTES] = {
    [ROUTE_CLASSIFY] = {request_parse_classify, classify_tokenize, classify_write},
    [ROUTE_GENERATE] = {request_parse_generate, generate_tokenize, generate_write,
                        .texts = true},
    [ROUTE_ANSWER] = {request_parse_answer, answer_tokenize, answer_write, .questions = true},
    [ROUTE_PREDICT] = {request_parse_predict, classify_tokenize, predict_write,
                       .headers = tei_headers},
    [ROUTE_RERANK] = {request_parse_rerank, classify_tokenize, rerank_write,
                      .accepts = rerank_accepts, .headers = tei_headers},
    [ROUTE_HF_MODEL] = {request_parse_hf_texts, classify_tokenize, hf_texts_write,
                        .accepts = hf_accepts},
    [ROUTE_HF_PIPELINE] = {request_parse_hf_texts, classify_tokenize, hf_texts_write,
                           .accepts = hf_accepts},
    [ROUTE_OIP_INFER] = {NULL, oip_tokenize, oip_write},
    [ROUTE_OIP_VERSION_INFER] = {NULL, oip_tokenize, oip_write},
    [ROUTE_VLLM] = {request_parse_vllm, classify_tokenize, vllm_write},
};
/* In Hugging Face's API the model in the path says what a body is. */
static const protocol hf_questions = {
    request_parse_hf_questions, answer_tokenize, hf_questions_write, .questions = true,
    .accepts = hf_accepts,
};
static const protocol hf_generate = {
    request_parse_hf_generate, generate_tokenize, hf_generate_write, .texts = true,
    .accepts = hf_accepts,
};

/* POST /v1/classify with a task, and /v1/answer, by a text-to-text model. */
static const protocol classify_texts = {request_parse_classify, label_tokenize, label_write,
                                        .texts = true};
static const protocol answer_texts = {request_parse_answer, text_answer_tokenize,
                                      text_answer_write, .texts = true};

static bool answers(const served_model *m)
{
    return m->info->task == MOE_TASK_ANSWER;
}

static bool writes(const served_model *m)
{
    return m->info->task == MOE_TASK_TEXT;
}

static const protocol oip_questions = {NULL, oip_tokenize, oip_write, .questions = true};

static bool is_oip(const request_state *r)
{
    return r->route == ROUTE_OIP_INFER || r->route == ROUTE_OIP_VERSION_INFER;
}

static const protocol *protocol_of(const request_state *r)
{
    if (is_oip(r))
        return answers(r->model) ? &oip_questions : &protocols[r->route];
    if (r->route == ROUTE_CLASSIFY && r->body.task)
        return &classify_texts;
    if (r->route == ROUTE_ANSWER && writes(r->model))
        return &answer_texts;
    if (r->route == ROUTE_HF_MODEL || r->route == ROUTE_HF_PIPELINE)
        return answers(r->model) ? &hf_questions
             : writes(r->model)  ? &hf_generate
                                 : &protocols[r->route];
    return &protocols[r->route];
}

/* ---- before the queue ------------------------------------------------- */

static bool parse_body(server *s, const http_exchange *x, request_state *r, problem *p)
{
    request_limits limits = {s->config->max_inputs, s->config->max_json_depth,
                             .max_numbers = 4 * s->config->queue_tokens};
    size_t n;
    const char *body = http_body(x, &n);
    const char *header = http_header(x, "Inference-Header-Content-Length");
    if (is_oip(r))
        return oip_read(body, n, header ? strtoul(header, NULL, 10) : n, answers(r->model),
                        &limits, &r->body, p);
    return protocol_of(r)->parse(body, n, &limits, &r->body, p);
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
    return problem_set(p, 409, "conflict", "policy: model '%.64s' has no %s, expected "
                       "'topk'", r->model->name, lacks);
}

/* Whether a model is of the kind that the route is for. */
static bool fits(const served_model *m, const protocol *p)
{
    return answers(m) == p->questions && writes(m) == p->texts;
}

static bool wrong_task(const served_model *m, const protocol *wanted, problem *p)
{
    bool texts = writes(m);
    return problem_set(p, 404, "wrong_task",
                       answers(m) ? "model '%.64s' answers questions: POST /v1/answer"
                       : texts    ? "model '%.64s' is text to text: POST /v1/generate, or "
                                    "/v1/classify with a task"
                       : wanted->texts ? "model '%.64s' is not text to text: POST /v1/classify "
                                         "without a task"
                                       : "model '%.64s' does not answer questions: POST "
                                         "/v1/classify", m->name);
}

static served_model *first_fitting(server *s, const protocol *wanted)
{
    for (int i = 0; i < s->models.n; i++)
        if (fits(&s->models.list[i], wanted))
            return &s->models.list[i];
    return NULL;
}

/* Without a name: the default, or else the first that does what the route asks for. */
static served_model *unnamed_model(server *s, const request_state *r)
{
    served_model *m = fits(r->model, protocol_of(r)) ? r->model
                                                     : first_fitting(s, protocol_of(r));
    if (!m && r->route == ROUTE_ANSWER)
        m = first_fitting(s, &answer_texts);
    return m ? m : r->model;
}

/* In a path the protocol has followed the model. */
static bool choose_model(server *s, const http_exchange *x, request_state *r, problem *p)
{
    const char *named = r->body.model ? r->body.model : http_header(x, "X-Moe-Model");
    served_model *m = r->model_in_path ? r->model
                    : named            ? models_find(&s->models, named)
                                       : unnamed_model(s, r);
    if (!m)
        return problem_set(p, 404, "not_found", "no model '%.64s'", named);
    r->model = m;
    const protocol *wanted = protocol_of(r);
    if (is_oip(r) ? writes(r->model) : !fits(r->model, wanted))
        return wrong_task(r->model, wanted, p);
    return !wanted->accepts || wanted->accepts(r, p);
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

/* Of a sequence, or of each of its tokens. */
static int n_values(const request_state *r)
{
    if (protocol_of(r) == &classify_texts)
        return text_labels_find(r->model, r->body.task)->task->n_labels;
    if (protocol_of(r) == &answer_texts)
        return 1; /* the answer's log-probability */
    return r->model->info->n_labels;
}

/* Room for the inputs is held: more of it where they became more sequences. */
static bool tokenize(server *s, http_exchange *x, request_state *r, problem *p)
{
    int64_t begin = clock_ns(), n_tokens = 0;
    if (!protocol_of(r)->tokenize(r, p))
        return false;
    for (int i = 0; i < r->job->n_sequences; i++)
        n_tokens += r->job->sequences[i].tokens.n;
    r->tokenize_ns = clock_ns() - begin;
    if (n_tokens > r->model->line.max_tokens || r->job->n_sequences > r->model->line.max_sequences)
        return problem_set(p, 422, "too_many_tokens", "the request has %lld tokens in %d "
                           "sequences, at most %d in %d fit the queue", (long long)n_tokens,
                           r->job->n_sequences, r->model->line.max_tokens,
                           r->model->line.max_sequences);
    r->n_tokens = (int)n_tokens;
    if (!job_allot(r->job, n_values(r), protocol_of(r)->questions))
        return problem_set(p, 500, "internal", "out of memory");
    if (!queue_reserve(&r->model->line, r->job->n_sequences - r->body.n_inputs, r->n_tokens))
        return refuse_full(s, x, r, p);
    return true;
}

static void wake(void *exchange)
{
    http_resume(exchange);
}

/* Room for the inputs is held. Makes the job and takes room for its tokens. */
static bool prepare(server *s, http_exchange *x, request_state *r, problem *p)
{
    if (!tokenize(s, x, r, p))
        return false;
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
    if (r->model_in_path && !choose_model(s, x, r, p))
        return false;
    if (!parse_body(s, x, r, p) || !choose_model(s, x, r, p) || !choose_ratio(s, x, r, p) ||
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

/* Over all inputs, weighted by their tokens: neurons computed / neurons. */
static double effective_ratio(const job *j)
{
    double sum = 0;
    for (int i = 0; i < j->n_sequences; i++)
        sum += j->sequences[i].effective_ratio * j->sequences[i].tokens.n;
    return sum / j->n_tokens;
}

/* JSON, or with bytes behind it. */
static void send_results(server *s, http_exchange *x, const request_state *r, buffer *b)
{
    char length[32];
    if (!r->body.oip || !r->body.oip->header_bytes) {
        answer_json(s, x, 200, b);
        return;
    }
    snprintf(length, sizeof length, "%zu", r->body.oip->header_bytes);
    http_answer_header(x, "Inference-Header-Content-Length", length);
    answer_text(s, x, 200, "application/octet-stream", b);
}

static void answer_results(server *s, http_exchange *x, request_state *r)
{
    int64_t total_ns = clock_ns() - http_begun_ns(x);
    buffer b = {0};
    r->inferred = true;
    r->ratio = effective_ratio(r->job);
    protocol_of(r)->write(&b, r, total_ns);
    if (protocol_of(r)->headers)
        protocol_of(r)->headers(x, r, total_ns);
    model_stats_count_answer(&r->model->stats, r->job->ratio, r->body.n_inputs, r->n_tokens,
                             r->job->started_ns - r->job->pushed_ns,
                             r->job->finished_ns - r->job->started_ns, total_ns);
    send_results(s, x, r, &b);
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
