/* request_hf.c: the bodies of Hugging Face's inference API, {"inputs", "parameters"?}; keys
 * that are not known are passed over, as its clients send such. And vLLM's {"input"}. */
#include <string.h>

#include "server/request_keys.h"

static bool set_function(inference_request *r, const jnode *v, const request_limits *l, problem *p)
{
    static const struct { const char *name; request_function f; } known[] = {
        {"none", FUNCTION_NONE}, {"sigmoid", FUNCTION_SIGMOID}, {"softmax", FUNCTION_SOFTMAX},
        {"default", FUNCTION_DEFAULT},
    };
    (void)l;
    for (size_t i = 0; request_is_name(v) && i < sizeof known / sizeof *known; i++)
        if (strcmp(jnode_string(v), known[i].name) == 0) {
            r->function = known[i].f;
            return true;
        }
    return request_wrong(p, "function_to_apply", "'sigmoid', 'softmax' or 'none'", v);
}

static bool check_object(const jnode *v, problem *p)
{
    return jnode_type(v) == JNODE_OBJECT || request_wrong(p, "parameters", "an object", v);
}

static bool set_text_parameters(inference_request *r, const jnode *v, const request_limits *l,
                                problem *p)
{
    static const request_key keys[] = {
        {"top_k", request_set_top_k}, {"function_to_apply", set_function},
        {"ratio", request_set_ratio}, {"policy", request_set_policy}, {NULL, NULL},
    };
    return check_object(v, p) && request_read_object(r, v, keys, l, p);
}

static bool set_question_parameters(inference_request *r, const jnode *v, const request_limits *l,
                                    problem *p)
{
    return check_object(v, p) && request_read_object(r, v, request_question_keys, l, p);
}

bool request_parse_hf_texts(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p)
{
    static const request_key keys[] = {
        {"inputs", request_set_texts}, {"parameters", set_text_parameters},
        {"ratio", request_set_ratio}, {NULL, NULL},
    };
    static const request_grammar texts = {.keys = keys, .lenient = true};
    return request_parse(body, n, &texts, limits, out, p);
}

bool request_parse_hf_questions(const char *body, size_t n, const request_limits *limits,
                                inference_request *out, problem *p)
{
    static const request_key keys[] = {
        {"inputs", request_set_questions}, {"parameters", set_question_parameters},
        {"ratio", request_set_ratio}, {NULL, NULL},
    };
    static const request_grammar questions = {.keys = keys, .lenient = true};
    return request_parse(body, n, &questions, limits, out, p);
}

static bool set_generate_parameters(inference_request *r, const jnode *v, const request_limits *l,
                                    problem *p)
{
    static const request_key keys[] = {
        {"max_new_tokens", request_set_new_tokens}, {"task", request_set_task},
        {"ratio", request_set_ratio}, {"policy", request_set_policy}, {NULL, NULL},
    };
    return check_object(v, p) && request_read_object(r, v, keys, l, p);
}

bool request_parse_hf_generate(const char *body, size_t n, const request_limits *limits,
                               inference_request *out, problem *p)
{
    static const request_key keys[] = {
        {"inputs", request_set_texts}, {"parameters", set_generate_parameters},
        {"ratio", request_set_ratio}, {NULL, NULL},
    };
    static const request_grammar generate = {.keys = keys, .lenient = true};
    return request_parse(body, n, &generate, limits, out, p);
}

bool request_parse_vllm(const char *body, size_t n, const request_limits *limits,
                        inference_request *out, problem *p)
{
    static const request_key keys[] = {
        {"input", request_set_texts}, {"model", request_set_model}, {"ratio", request_set_ratio},
        {"policy", request_set_policy}, {NULL, NULL},
    };
    static const request_grammar vllm = {.keys = keys, .lenient = true};
    return request_parse(body, n, &vllm, limits, out, p);
}
