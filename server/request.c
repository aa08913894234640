/* request.c: from a JSON tree to a typed request by a grammar, and the keys that most
 * grammars have. request_classify.c and request_answer.c have the grammars. */
#include "server/oip.h"
#include "server/request_keys.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COUNT = 1000000000 };

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

bool request_wrong(problem *p, const char *key, const char *expected, const jnode *found)
{
    return problem_set(p, 422, "invalid_value", "%s: expected %s, found %s", key, expected,
                       jnode_type_name(found));
}

/* ---- inputs ----------------------------------------------------------- */

bool request_make_inputs(inference_request *r, int n, const request_limits *limits, problem *p)
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

bool request_read_list(inference_request *r, const jnode *list, input_reader read,
                      const request_limits *limits, problem *p)
{
    r->list = true;
    if (!request_make_inputs(r, jnode_count(list), limits, p))
        return false;
    int i = 0;
    for (const jnode *n = jnode_first(list); n; n = jnode_next(n))
        if (!read(n, &r->inputs[i++], p))
            return false;
    return true;
}

bool request_read_one(inference_request *r, const jnode *node, input_reader read,
                     const request_limits *limits, problem *p)
{
    return request_make_inputs(r, 1, limits, p) && read(node, &r->inputs[0], p);
}

/* ---- keys --------------------------------------------------- */

bool request_set_ratio(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    if (jnode_type(v) != JNODE_NUMBER)
        return request_wrong(p, "ratio", "a number over 0 and at most 1", v);
    r->ratio = jnode_number(v);
    r->has_ratio = true;
    if (r->ratio > 0 && r->ratio <= 1)
        return true;
    return problem_set(p, 422, "invalid_value",
                       "ratio: expected a number over 0 and at most 1, found %g", r->ratio);
}

bool request_int(const char *key, int min, int max, int *to, const jnode *v, problem *p)
{
    double x = jnode_type(v) == JNODE_NUMBER ? jnode_number(v) : NAN;
    if (jnode_type(v) == JNODE_NUMBER && x >= min && x <= max && x == (double)(int)x) {
        *to = (int)x;
        return true;
    }
    char expected[80];
    if (max == MAX_COUNT)
        snprintf(expected, sizeof expected, "a whole number from %d", min);
    else
        snprintf(expected, sizeof expected, "a whole number from %d to %d", min, max);
    if (jnode_type(v) != JNODE_NUMBER)
        return request_wrong(p, key, expected, v);
    return problem_set(p, 422, "invalid_value", "%s: expected %s, found %g", key, expected, x);
}

bool request_set_top_k(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    return request_int("top_k", 1, MAX_COUNT, &r->top_k, v, p);
}

bool request_bool(const char *key, bool *to, const jnode *v, problem *p)
{
    if (jnode_type(v) != JNODE_BOOL)
        return request_wrong(p, key, "true or false", v);
    *to = jnode_bool(v);
    return true;
}

/* A string that is a name, not a text: a NUL would cut it. */
bool request_is_name(const jnode *v)
{
    return jnode_type(v) == JNODE_STRING && strlen(jnode_string(v)) == jnode_length(v);
}

bool request_set_model(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    if (!request_is_name(v))
        return request_wrong(p, "model", "a string without NUL", v);
    r->model = jnode_string(v);
    return true;
}

bool request_set_policy(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    if (!request_is_name(v))
        return request_wrong(p, "policy", "'topk', 'threshold' or 'sequence'", v);
    return moe_policy_find(jnode_string(v), &r->policy) ||
           problem_set(p, 422, "invalid_value", "policy: expected 'topk', 'threshold' or "
                       "'sequence', found '%.40s'", jnode_string(v));
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

static const request_key *find_key(const request_grammar *g, const char *name, int *place)
{
    for (*place = 0; g->keys[*place].name; ++*place)
        if (strcmp(g->keys[*place].name, name) == 0)
            return &g->keys[*place];
    return NULL;
}

static bool read_member(inference_request *r, const jnode *m, const request_grammar *g,
                        unsigned *seen, const request_limits *limits, problem *p)
{
    int place;
    const request_key *key = find_key(g, jnode_key(m), &place);
    if (!key)
        return g->lenient || problem_set(p, 422, "unknown_key", "unknown key '%.60s', expected "
                                         "%s", jnode_key(m), g->expected);
    if (*seen & 1u << place)
        return problem_set(p, 422, "duplicate_key", "'%s' comes twice", key->name);
    *seen |= 1u << place;
    if (jnode_type(m) == JNODE_NULL && strcmp(key->name, "inputs") != 0)
        return true;
    return key->set(r, m, limits, p);
}

bool request_read_object(inference_request *r, const jnode *object, const request_key *keys,
                         const request_limits *limits, problem *p)
{
    const request_grammar g = {.keys = keys, .lenient = true};
    unsigned seen = 0;
    for (const jnode *m = jnode_first(object); m; m = jnode_next(m))
        if (!read_member(r, m, &g, &seen, limits, p))
            return false;
    return true;
}

bool request_parse(const char *body, size_t n, const request_grammar *g,
                   const request_limits *limits, inference_request *r, problem *p)
{
    unsigned seen = 0;
    *r = (inference_request){.truncate = true, .align_to_words = true};
    bool fine = parse_tree(body, n, limits, &r->tree, p);
    if (fine && jnode_type(r->tree) != JNODE_OBJECT)
        fine = problem_set(p, 422, "invalid_value", "the body: expected an object, found %s",
                           jnode_type_name(r->tree));
    for (const jnode *m = fine ? jnode_first(r->tree) : NULL; m && fine; m = jnode_next(m))
        fine = read_member(r, m, g, &seen, limits, p);
    if (fine && g->check)
        fine = g->check(r, p);
    if (fine && !r->inputs)
        fine = problem_set(p, 422, "invalid_value", "inputs: missing");
    if (!fine)
        request_free(r);
    return fine;
}

void request_free(inference_request *r)
{
    jnode_free(r->tree);
    oip_free(r->oip);
    if (r->inputs != &r->single)
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
