/* request.c: from a JSON tree to a typed request, key by key.
 *
 * /v1/classify refuses keys that it does not know (a typing error in "ratio"
 * must not go unnoticed); /predict ignores them, as the servers do whose
 * clients it speaks to. A key that comes twice is refused by both; null counts
 * as absent. */
#include "server/request.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool problem_set(problem *p, int status, const char *type, const char *format, ...)
{
    va_list args;
    p->status = status;
    p->type = type;
    va_start(args, format);
    vsnprintf(p->message, sizeof p->message, format, args);
    va_end(args);
    /* A cut may have split a UTF-8 sequence of a quoted key. */
    for (char *c = p->message; *c; c++)
        if ((unsigned char)*c >= 0x7f || (unsigned char)*c < 0x20)
            *c = '?';
    return false;
}

static bool wrong(problem *p, const char *key, const char *expected, const jnode *found)
{
    return problem_set(p, 422, "invalid_value", "%s: expected %s, found %s", key, expected,
                       jnode_type_name(found));
}

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
            return wrong(p, pair ? "inputs: text_pair" : "inputs: text", "a string", m);
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
        return wrong(p, "inputs", "a string, an object or a list of them", node);
    set_text(in, node);
    return true;
}

/* ["text"] or ["text", "pair"] */
static bool read_predict_input(const jnode *node, request_input *in, problem *p)
{
    if (jnode_type(node) != JNODE_ARRAY)
        return wrong(p, "inputs", "a list of one or two strings", node);
    int n = 0;
    for (const jnode *s = jnode_first(node); s; s = jnode_next(s), n++) {
        if (jnode_type(s) != JNODE_STRING)
            return wrong(p, "inputs", "a string", s);
        if (n < 2)
            (n == 0 ? set_text : set_pair)(in, s);
    }
    if (n != 1 && n != 2)
        return problem_set(p, 422, "invalid_value", "inputs: expected one string or a pair, "
                           "found a list of %d", n);
    return true;
}

typedef bool (*input_reader)(const jnode *, request_input *, problem *);

static bool allocate_inputs(inference_request *r, int n, const request_limits *limits, problem *p)
{
    if (n == 0)
        return problem_set(p, 422, "empty", "inputs: an empty list");
    if (n > limits->max_inputs)
        return problem_set(p, 422, "too_many_inputs", "inputs: %d of them, at most %d in a "
                           "request", n, limits->max_inputs);
    r->inputs = calloc((size_t)n, sizeof *r->inputs);
    r->n_inputs = n;
    return r->inputs || problem_set(p, 500, "internal", "out of memory");
}

static bool read_list(inference_request *r, const jnode *list, input_reader read,
                      const request_limits *limits, problem *p)
{
    r->list = true;
    if (!allocate_inputs(r, jnode_count(list), limits, p))
        return false;
    int i = 0;
    for (const jnode *n = jnode_first(list); n; n = jnode_next(n))
        if (!read(n, &r->inputs[i++], p))
            return false;
    return true;
}

static bool read_one(inference_request *r, const jnode *node, input_reader read,
                     const request_limits *limits, problem *p)
{
    return allocate_inputs(r, 1, limits, p) && read(node, &r->inputs[0], p);
}

static bool classify_inputs(inference_request *r, const jnode *v, const request_limits *limits,
                            problem *p)
{
    return jnode_type(v) == JNODE_ARRAY ? read_list(r, v, read_classify_input, limits, p)
                                        : read_one(r, v, read_classify_input, limits, p);
}

/* "s", ["s"], ["a", "b"] are one input; a list of lists is a batch. */
static bool predict_inputs(inference_request *r, const jnode *v, const request_limits *limits,
                           problem *p)
{
    if (jnode_type(v) == JNODE_STRING)
        return read_one(r, v, read_classify_input, limits, p);
    if (jnode_type(v) != JNODE_ARRAY)
        return wrong(p, "inputs", "a string, a pair or a list of lists", v);
    const jnode *first = jnode_first(v);
    return first && jnode_type(first) == JNODE_STRING
        ? read_one(r, v, read_predict_input, limits, p)
        : read_list(r, v, read_predict_input, limits, p);
}

/* ---- the other keys --------------------------------------------------- */

static bool set_ratio(inference_request *r, const jnode *v, problem *p)
{
    if (jnode_type(v) != JNODE_NUMBER)
        return wrong(p, "ratio", "a number over 0 and at most 1", v);
    r->ratio = jnode_number(v);
    r->has_ratio = true;
    if (r->ratio > 0 && r->ratio <= 1)
        return true;
    return problem_set(p, 422, "invalid_value",
                       "ratio: expected a number over 0 and at most 1, found %g", r->ratio);
}

static bool set_top_k(inference_request *r, const jnode *v, problem *p)
{
    if (jnode_type(v) != JNODE_NUMBER)
        return wrong(p, "top_k", "a whole number from 1", v);
    double k = jnode_number(v);
    if (!(k >= 1) || k > 1e9 || k != (double)(int)k)
        return problem_set(p, 422, "invalid_value", "top_k: expected a whole number from 1, "
                           "found %g", k);
    r->top_k = (int)k;
    return true;
}

static bool set_bool(const char *key, bool *to, const jnode *v, problem *p)
{
    if (jnode_type(v) != JNODE_BOOL)
        return wrong(p, key, "true or false", v);
    *to = jnode_bool(v);
    return true;
}

/* A string that is a name, not a text: a NUL would cut it. */
static bool is_name(const jnode *v)
{
    return jnode_type(v) == JNODE_STRING && strlen(jnode_string(v)) == jnode_length(v);
}

static bool set_model(inference_request *r, const jnode *v, problem *p)
{
    if (!is_name(v))
        return wrong(p, "model", "a string without NUL", v);
    r->model = jnode_string(v);
    return true;
}

static bool set_policy(inference_request *r, const jnode *v, problem *p)
{
    if (!is_name(v))
        return wrong(p, "policy", "'topk', 'threshold' or 'sequence'", v);
    return moe_policy_find(jnode_string(v), &r->policy) ||
           problem_set(p, 422, "invalid_value", "policy: expected 'topk', 'threshold' or "
                       "'sequence', found '%.40s'", jnode_string(v));
}

static bool set_direction(inference_request *r, const jnode *v, problem *p)
{
    if (!is_name(v))
        return wrong(p, "truncation_direction", "'right' or 'left'", v);
    const char *s = jnode_string(v);
    r->truncate_left = strcasecmp(s, "left") == 0;
    if (r->truncate_left || strcasecmp(s, "right") == 0)
        return true;
    return problem_set(p, 422, "invalid_value",
                       "truncation_direction: expected 'right' or 'left', found '%.40s'", s);
}

enum { KEY_INPUTS, KEY_MODEL, KEY_RATIO, KEY_POLICY, KEY_TOP_K, KEY_TRUNCATE, KEY_DIRECTION,
       KEY_RAW, N_KEYS };
static const char *const key_names[N_KEYS] = {
    "inputs", "model", "ratio", "policy", "top_k", "truncate", "truncation_direction",
    "raw_scores",
};
enum { CLASSIFY_KEYS = KEY_TRUNCATE + 1 };

static bool set_key(inference_request *r, int key, const jnode *v, bool predict,
                    const request_limits *limits, problem *p)
{
    switch (key) {
    case KEY_INPUTS: return predict ? predict_inputs(r, v, limits, p)
                                    : classify_inputs(r, v, limits, p);
    case KEY_MODEL: return set_model(r, v, p);
    case KEY_RATIO: return set_ratio(r, v, p);
    case KEY_POLICY: return set_policy(r, v, p);
    case KEY_TOP_K: return set_top_k(r, v, p);
    case KEY_TRUNCATE: return set_bool("truncate", &r->truncate, v, p);
    case KEY_DIRECTION: return set_direction(r, v, p);
    default: return set_bool("raw_scores", &r->raw_scores, v, p);
    }
}

static bool read_member(inference_request *r, const jnode *m, bool predict, unsigned *seen,
                        const request_limits *limits, problem *p)
{
    int key = 0, n_keys = predict ? N_KEYS : CLASSIFY_KEYS;
    while (key < n_keys && strcmp(key_names[key], jnode_key(m)) != 0)
        key++;
    if (key == n_keys)
        return predict || problem_set(p, 422, "unknown_key", "unknown key '%.60s', expected "
                                      "inputs, model, ratio, policy, top_k or truncate",
                                      jnode_key(m));
    if (*seen & 1u << key)
        return problem_set(p, 422, "duplicate_key", "'%s' comes twice", key_names[key]);
    *seen |= 1u << key;
    if (jnode_type(m) == JNODE_NULL && key != KEY_INPUTS)
        return true;
    return set_key(r, key, m, predict, limits, p);
}

/* ---- the body --------------------------------------------------------- */

static bool parse_tree(const char *body, size_t n, const request_limits *limits, jnode **tree,
                       problem *p)
{
    /* An input is at most a list or object and two strings. */
    json_limits bounds = {limits->max_depth, 64 + 4 * limits->max_inputs, .allow_nul = true};
    json_fault fault;
    switch (jnode_parse(body, n, &bounds, tree, &fault)) {
    case JSON_FINE: return true;
    case JSON_MALFORMED:
        return problem_set(p, 400, "malformed_json", "byte %zu: %s", fault.byte, fault.message);
    case JSON_REFUSED:
        return problem_set(p, 422, "invalid_value", "byte %zu: %s", fault.byte, fault.message);
    case JSON_TOO_MANY:
        return problem_set(p, 422, "too_many_inputs", "byte %zu: %s; at most %d inputs in a "
                           "request", fault.byte, fault.message, limits->max_inputs);
    default: return problem_set(p, 500, "internal", "out of memory");
    }
}

static bool parse(const char *body, size_t n, bool predict, const request_limits *limits,
                  inference_request *r, problem *p)
{
    unsigned seen = 0;
    *r = (inference_request){.truncate = true};
    bool fine = parse_tree(body, n, limits, &r->tree, p);
    if (fine && jnode_type(r->tree) != JNODE_OBJECT)
        fine = problem_set(p, 422, "invalid_value", "the body: expected an object, found %s",
                           jnode_type_name(r->tree));
    for (const jnode *m = fine ? jnode_first(r->tree) : NULL; m && fine; m = jnode_next(m))
        fine = read_member(r, m, predict, &seen, limits, p);
    if (fine && !(seen & 1u << KEY_INPUTS))
        fine = problem_set(p, 422, "invalid_value", "inputs: missing");
    if (!fine)
        request_free(r);
    return fine;
}

bool request_parse_classify(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p)
{
    return parse(body, n, false, limits, out, p);
}

bool request_parse_predict(const char *body, size_t n, const request_limits *limits,
                           inference_request *out, problem *p)
{
    return parse(body, n, true, limits, out, p);
}

void request_free(inference_request *r)
{
    jnode_free(r->tree);
    free(r->inputs);
    *r = (inference_request){0};
}

bool request_parse_ratio(const char *text, double *out)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return false;
    if (strpbrk(text, "xX"))
        return false;
    *out = strtod(text, &end);
    while (*end == ' ' || *end == '\t')
        end++;
    return *end == '\0' && *out > 0 && *out <= 1;
}
