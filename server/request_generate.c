/* request_generate.c: the body of POST /v1/generate, and the keys of text-to-text tasks. */
#include "server/request_keys.h"

enum { MAX_NEW_TOKENS = 1 << 16 };

bool request_set_task(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    if (!request_is_name(v))
        return request_wrong(p, "task", "the name of a task", v);
    r->task = jnode_string(v);
    return true;
}

bool request_set_new_tokens(inference_request *r, const jnode *v, const request_limits *l,
                            problem *p)
{
    (void)l;
    return request_int("max_new_tokens", 1, MAX_NEW_TOKENS, &r->max_new_tokens, v, p);
}

static const request_key keys[] = {
    {"inputs", request_set_texts}, {"model", request_set_model}, {"task", request_set_task},
    {"ratio", request_set_ratio}, {"policy", request_set_policy},
    {"max_new_tokens", request_set_new_tokens}, {"truncate", request_set_truncate}, {NULL, NULL},
};
static const request_grammar generate = {
    .keys = keys, .expected = "inputs, model, task, ratio, policy, max_new_tokens or truncate",
};

bool request_parse_generate(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p)
{
    return request_parse(body, n, &generate, limits, out, p);
}
