/* request_tei.c: the body of POST /rerank in the shape of text-embeddings-inference. */
#include "server/request_keys.h"

static bool set_query(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    if (jnode_type(v) != JNODE_STRING)
        return request_wrong(p, "query", "a string", v);
    r->single.text = jnode_string(v);
    r->single.text_bytes = jnode_length(v);
    return true;
}

static bool read_text(const jnode *v, request_input *in, problem *p)
{
    if (jnode_type(v) != JNODE_STRING)
        return request_wrong(p, "texts", "a list of strings", v);
    in->pair = jnode_string(v);
    in->pair_bytes = jnode_length(v);
    return true;
}

static bool set_texts(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    if (jnode_type(v) != JNODE_ARRAY)
        return request_wrong(p, "texts", "a list of strings", v);
    return request_read_list(r, v, read_text, l, p);
}

static bool set_return_text(inference_request *r, const jnode *v, const request_limits *l,
                            problem *p)
{
    (void)l;
    return request_bool("return_text", &r->return_text, v, p);
}

/* The query stands before every text. */
static bool pair_up(inference_request *r, problem *p)
{
    if (!r->single.text)
        return problem_set(p, 422, "invalid_value", "query: missing");
    if (!r->inputs)
        return problem_set(p, 422, "invalid_value", "texts: missing");
    for (int i = 0; i < r->n_inputs; i++) {
        r->inputs[i].text = r->single.text;
        r->inputs[i].text_bytes = r->single.text_bytes;
    }
    return true;
}

bool request_parse_rerank(const char *body, size_t n, const request_limits *limits,
                          inference_request *out, problem *p)
{
    static const request_key keys[] = {
        {"query", set_query}, {"texts", set_texts}, {"return_text", set_return_text},
        {"model", request_set_model}, {"ratio", request_set_ratio},
        {"policy", request_set_policy}, {"truncate", request_set_truncate},
        {"truncation_direction", request_set_direction}, {"raw_scores", request_set_raw},
        {NULL, NULL},
    };
    static const request_grammar rerank = {.keys = keys, .lenient = true, .check = pair_up};
    return request_parse(body, n, &rerank, limits, out, p);
}
