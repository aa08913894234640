/* request_answer.c: the body of POST /v1/answer: a question and a context, or a list of
 * both under "inputs", and the parameters of Hugging Face's question-answering pipeline
 * by their names. Keys that it does not know are refused. */
#include <string.h>

#include "server/request_keys.h"

enum { MAX_LENGTH = 1 << 20, MAX_TOP_K = 1000 };

/* ---- inputs ------------------------------------------------------------ */

static bool set_part(request_input *in, const jnode *v, const char *key, problem *p)
{
    bool context = strcmp(key, "context") == 0;
    if (jnode_type(v) != JNODE_STRING)
        return request_wrong(p, key, "a string", v);
    if (context ? in->pair : in->text)
        return problem_set(p, 422, "duplicate_key", "'%s' comes twice", key);
    *(context ? &in->pair : &in->text) = jnode_string(v);
    *(context ? &in->pair_bytes : &in->text_bytes) = jnode_length(v);
    return true;
}

/* {"question", "context"} */
static bool read_question(const jnode *node, request_input *in, problem *p)
{
    if (jnode_type(node) != JNODE_OBJECT)
        return request_wrong(p, "inputs", "an object of question and context, or a list of them",
                             node);
    for (const jnode *m = jnode_first(node); m; m = jnode_next(m)) {
        const char *key = jnode_key(m);
        if (strcmp(key, "question") != 0 && strcmp(key, "context") != 0)
            return problem_set(p, 422, "unknown_key", "inputs: unknown key '%.60s', expected "
                               "question and context", key);
        if (!set_part(in, m, key, p))
            return false;
    }
    if (!in->text || !in->pair)
        return problem_set(p, 422, "invalid_value", "inputs: an object without %s",
                           in->text ? "context" : "question");
    return true;
}

static bool no_inputs(const inference_request *r, const char *key, problem *p)
{
    return !r->inputs || problem_set(p, 422, "invalid_value", "%s: expected either inputs or a "
                                     "question and a context, found both", key);
}

bool request_set_questions(inference_request *r, const jnode *v, const request_limits *l,
                           problem *p)
{
    if (r->single.text || r->single.pair)
        return problem_set(p, 422, "invalid_value", "inputs: expected either inputs or a "
                           "question and a context, found both");
    return jnode_type(v) == JNODE_ARRAY ? request_read_list(r, v, read_question, l, p)
                                        : request_read_one(r, v, read_question, l, p);
}

static bool set_question(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    return no_inputs(r, "question", p) && set_part(&r->single, v, "question", p);
}

static bool set_context(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    return no_inputs(r, "context", p) && set_part(&r->single, v, "context", p);
}

/* ---- parameters ---------------------------------------------------------- */

#define LENGTH(field)                                                                     \
    static bool set_##field(inference_request *r, const jnode *v, const request_limits *l, \
                            problem *p)                                                    \
    {                                                                                      \
        (void)l;                                                                           \
        return request_int(#field, 1, MAX_LENGTH, &r->field, v, p);                        \
    }
LENGTH(doc_stride)
LENGTH(max_seq_len)
LENGTH(max_question_len)
LENGTH(max_answer_len)

static bool set_top_k(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    return request_int("top_k", 1, MAX_TOP_K, &r->top_k, v, p);
}

static bool set_impossible(inference_request *r, const jnode *v, const request_limits *l,
                           problem *p)
{
    (void)l;
    return request_bool("handle_impossible_answer", &r->handle_impossible_answer, v, p);
}

static bool set_align(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    (void)l;
    return request_bool("align_to_words", &r->align_to_words, v, p);
}

const request_key request_question_keys[] = {
    {"ratio", request_set_ratio}, {"policy", request_set_policy}, {"top_k", set_top_k},
    {"doc_stride", set_doc_stride}, {"max_seq_len", set_max_seq_len},
    {"max_question_len", set_max_question_len}, {"max_answer_len", set_max_answer_len},
    {"handle_impossible_answer", set_impossible}, {"align_to_words", set_align}, {NULL, NULL},
};

/* ---- the grammar ---------------------------------------------------------- */

/* One question and context become the one input. */
static bool take_single(inference_request *r, problem *p)
{
    if (r->inputs)
        return true;
    if (!r->single.text || !r->single.pair)
        return problem_set(p, 422, "invalid_value", "%s: missing",
                           r->single.text ? "context" : "question");
    r->inputs = &r->single;
    r->n_inputs = 1;
    return true;
}

static const request_key keys[] = {
    {"inputs", request_set_questions}, {"question", set_question}, {"context", set_context},
    {"model", request_set_model}, {"ratio", request_set_ratio}, {"policy", request_set_policy},
    {"top_k", set_top_k}, {"doc_stride", set_doc_stride}, {"max_seq_len", set_max_seq_len},
    {"max_question_len", set_max_question_len}, {"max_answer_len", set_max_answer_len},
    {"handle_impossible_answer", set_impossible}, {"align_to_words", set_align}, {NULL, NULL},
};
static const request_grammar answer = {
    .keys = keys, .check = take_single,
    .expected = "question, context, inputs, model, ratio, policy, top_k, doc_stride, "
                "max_seq_len, max_question_len, max_answer_len, handle_impossible_answer or "
                "align_to_words",
};

bool request_parse_answer(const char *body, size_t n, const request_limits *limits,
                          inference_request *out, problem *p)
{
    return request_parse(body, n, &answer, limits, out, p);
}
