/* envelope.c: what the answers under /v1 share around their results, and what is said of
 * an input that can't be taken. */
#include "server/clock.h"
#include "server/json_out.h"
#include "server/server.h"

enum { RATIO_DIGITS = 6 };

void envelope_open(buffer *b, const request_state *r)
{
    jw_open(b, '{');
    jw_pair_string(b, "id", r->id);
    jw_pair_string(b, "model", r->model->name);
    jw_key(b, "results");
    jw_open(b, '[');
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

void envelope_close(buffer *b, const request_state *r, int64_t total_ns)
{
    jw_close(b, ']');
    write_ratio(b, r);
    jw_key(b, "usage");
    jw_open(b, '{');
    jw_pair_int(b, "tokens", r->n_tokens);
    jw_close(b, '}');
    write_timing(b, r, total_ns);
    jw_close(b, '}');
}

void input_place(const request_state *r, int i, char out[40])
{
    if (r->body.list)
        snprintf(out, 40, "inputs[%d]: ", i);
    else
        snprintf(out, 40, "inputs: ");
}

bool input_problem(const request_state *r, int i, moe_status status, const moe_error *err,
                   problem *p)
{
    char place[40];
    input_place(r, i, place);
    if (status == MOE_E_LIMIT)
        return problem_set(p, 422, "too_long", "%s%s", place, err->message);
    if (status == MOE_E_ARGUMENT)
        return problem_set(p, 422, "invalid_value", "%s%s", place, err->message);
    return problem_set(p, 500, "internal", "%s%s", place, err->message);
}
