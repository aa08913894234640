/* request_classify.c: the bodies of POST /v1/classify and POST /predict.
 *
 * /v1/classify refuses keys that it does not know (a typing error in "ratio" must not go
 * unnoticed); /predict ignores them, as the servers do whose clients it speaks to. */
#include <string.h>
#include <strings.h>

#include "server/request_keys.h"

/* ---- inputs ----------------------------------------------------------- */

static void set_text(request_input *in, const jnode *string)
{
    in->text = jnode_string(string);
    in->text_bytes = jnode_length(string);
}

static void set_pair(request_input *in, const jnode *string)
{
    in->pair = jnode_string(string);
    in->pair_bytes = jnode_length(string);
}

/* {"text", "text_pair"?} */
static bool read_object_input(const jnode *node, request_input *in, problem *p)
{
    for (const jnode *m = jnode_first(node); m; m = jnode_next(m)) {
        bool pair = strcmp(jnode_key(m), "text_pair") == 0;
        if (!pair && strcmp(jnode_key(m), "text") != 0)
            return problem_set(p, 422, "unknown_key", "inputs: unknown key '%.60s', expected "
                               "text and text_pair", jnode_key(m));
        if (pair && jnode_type(m) == JNODE_NULL)
            continue;
        if (jnode_type(m) != JNODE_STRING)
            return request_wrong(p, pair ? "inputs: text_pair" : "inputs: text", "a string", m);
        if (pair ? in->pair : in->text)
            return problem_set(p, 422, "duplicate_key", "inputs: '%s' comes twice", jnode_key(m));
        (pair ? set_pair : set_text)(in, m);
    }
    return in->text || problem_set(p, 422, "invalid_value", "inputs: an object without text");
}

/* "text" or {"text", "text_pair"?} */
static bool read_classify_input(const jnode *node, request_input *in, problem *p)
{
    if (jnode_type(node) == JNODE_OBJECT)
        return read_object_input(node, in, p);
    if (jnode_type(node) != JNODE_STRING)
        return request_wrong(p, "inputs", "a string, an object or a list of them", node);
    set_text(in, node);
    return true;
}

/* ["text"] or ["text", "pair"] */
static bool read_predict_input(const jnode *node, request_input *in, problem *p)
{
    if (jnode_type(node) != JNODE_ARRAY)
        return request_wrong(p, "inputs", "a list of one or two strings", node);
    int n = 0;
    for (const jnode *s = jnode_first(node); s; s = jnode_next(s), n++) {
        if (jnode_type(s) != JNODE_STRING)
            return request_wrong(p, "inputs", "a string", s);
        if (n < 2)
            (n == 0 ? set_text : set_pair)(in, s);
    }
    if (n != 1 && n != 2)
        return problem_set(p, 422, "invalid_value", "inputs: expected one string or a pair, "
                           "found a list of %d", n);
    return true;
}

bool request_set_texts(inference_request *r, const jnode *v, const request_limits *limits,
                       problem *p)
{
    return jnode_type(v) == JNODE_ARRAY ? request_read_list(r, v, read_classify_input, limits, p)
                                        : request_read_one(r, v, read_classify_input, limits, p);
}

/* "s", ["s"], ["a", "b"] are one input; a list of lists is a batch. */
static bool set_predict_inputs(inference_request *r, const jnode *v,
                               const request_limits *limits, problem *p)
{
    if (jnode_type(v) == JNODE_STRING)
        return request_read_one(r, v, read_classify_input, limits, p);
    if (jnode_type(v) != JNODE_ARRAY)
        return request_wrong(p, "inputs", "a string, a pair or a list of lists", v);
    const jnode *first = jnode_first(v);
    return first && jnode_type(first) == JNODE_STRING
        ? request_read_one(r, v, read_predict_input, limits, p)
        : request_read_list(r, v, read_predict_input, limits, p);
}

/* ---- the other keys ------------------------------------------------------ */

bool request_set_truncate(inference_request *r, const jnode *v, const request_limits *l,
                          problem *p)
{
    (void)l;
    return request_bool("truncate", &r->truncate, v, p);
}

bool request_set_raw(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    return request_bool("raw_scores", &r->raw_scores, v, p);
}

bool request_set_direction(inference_request *r, const jnode *v, const request_limits *l,
                           problem *p)
{
    (void)l;
    if (!request_is_name(v))
        return request_wrong(p, "truncation_direction", "'right' or 'left'", v);
    const char *s = jnode_string(v);
    r->truncate_left = strcasecmp(s, "left") == 0;
    if (r->truncate_left || strcasecmp(s, "right") == 0)
        return true;
    return problem_set(p, 422, "invalid_value",
                       "truncation_direction: expected 'right' or 'left', found '%.40s'", s);
}

/* ---- the grammars -------------------------------------------------------- */

static const request_key classify_keys[] = {
    {"inputs", request_set_texts}, {"model", request_set_model},
    {"ratio", request_set_ratio}, {"policy", request_set_policy},
    {"top_k", request_set_top_k}, {"truncate", request_set_truncate},
    {"task", request_set_task}, {NULL, NULL},
};
static const request_grammar classify = {
    .keys = classify_keys, .expected = "inputs, model, task, ratio, policy, top_k or truncate",
};

static const request_key predict_keys[] = {
    {"inputs", set_predict_inputs}, {"model", request_set_model},
    {"ratio", request_set_ratio}, {"policy", request_set_policy},
    {"top_k", request_set_top_k}, {"truncate", request_set_truncate},
    {"truncation_direction", request_set_direction}, {"raw_scores", request_set_raw}, {NULL, NULL},
};
static const request_grammar predict = {.keys = predict_keys, .lenient = true};

bool request_parse_classify(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p)
{
    return request_parse(body, n, &classify, limits, out, p);
}

bool request_parse_predict(const char *body, size_t n, const request_limits *limits,
                           inference_request *out, problem *p)
{
    return request_parse(body, n, &predict, limits, out, p);
}
