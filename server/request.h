/* request.h: the bodies of POST /v1/classify, /v1/answer and /predict, typed.
 *
 * Wrong types and values out of range are a problem with the status, a type
 * and a message that names the key, what was expected and what was found. */
#ifndef SERVER_REQUEST_H
#define SERVER_REQUEST_H

#include "engine/moe.h"
#include "server/json.h"

typedef struct {
    int status;       /* HTTP */
    const char *type; /* "malformed_json", "invalid_value", ... */
    char message[400];
} problem;

/* Fills p and returns false. */
bool problem_set(problem *p, int status, const char *type, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

typedef struct {
    const char *text, *pair; /* pair NULL: a single text; of the tree */
    size_t text_bytes, pair_bytes; /* they may hold NULs */
} request_input;

typedef enum { FUNCTION_DEFAULT, FUNCTION_NONE, FUNCTION_SIGMOID, FUNCTION_SOFTMAX } request_function;

typedef struct {
    jnode *tree;        /* owns the strings */
    const char *model;  /* NULL: the default */
    bool has_ratio;
    double ratio;       /* in (0, 1], if has_ratio */
    moe_policy policy;  /* MODEL: not told */
    int top_k;          /* 0: all labels */
    bool truncate;      /* true unless told */
    bool truncate_left; /* keep the end of the text (/predict) */
    bool raw_scores;    /* logits (/predict) */
    bool return_text;   /* (/rerank) */
    request_function function; /* what makes scores of logits (Hugging Face) */
    bool list;          /* inputs were a list (a batch) */
    /* Of questions (/v1/answer), 0 where not told: */
    int doc_stride, max_seq_len, max_question_len, max_answer_len;
    bool handle_impossible_answer;
    bool align_to_words; /* true unless told */
    const char *task;    /* of a text-to-text model; NULL: none */
    int max_new_tokens;  /* (/v1/generate), 0: not told */
    struct oip_request *oip; /* oip.h: of the Open Inference Protocol, else NULL */
    request_input single; /* a question and context outside of a list */
    request_input *inputs; /* [n_inputs]; text and pair are question and context there */
    int n_inputs;
} inference_request;

typedef struct {
    int max_inputs, max_depth;
    int max_numbers; /* of token ids in a body (Open Inference Protocol) */
} request_limits;

/* On success the caller owns *out: request_free. On failure nothing is owed. */
bool request_parse_classify(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p);
bool request_parse_predict(const char *body, size_t n, const request_limits *limits,
                           inference_request *out, problem *p);
bool request_parse_answer(const char *body, size_t n, const request_limits *limits,
                          inference_request *out, problem *p);
bool request_parse_generate(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p);
/* POST /rerank: a query and texts become pairs. */
bool request_parse_rerank(const char *body, size_t n, const request_limits *limits,
                          inference_request *out, problem *p);
/* Hugging Face's {"inputs", "parameters"?}: texts for labels, questions, texts for texts. */
bool request_parse_hf_texts(const char *body, size_t n, const request_limits *limits,
                            inference_request *out, problem *p);
bool request_parse_hf_questions(const char *body, size_t n, const request_limits *limits,
                                inference_request *out, problem *p);
bool request_parse_hf_generate(const char *body, size_t n, const request_limits *limits,
                               inference_request *out, problem *p);
/* vLLM's {"model"?, "input"}. */
bool request_parse_vllm(const char *body, size_t n, const request_limits *limits,
                        inference_request *out, problem *p);
void request_free(inference_request *r);

/* A ratio as a header has it: a decimal number in (0, 1] and nothing else. */
bool request_parse_ratio(const char *text, double *out);

#endif
