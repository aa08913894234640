/* request_keys.h: how the bodies of requests are read, for request*.c: a grammar is a
 * list of keys, each with a function that takes its value. */
#ifndef SERVER_REQUEST_KEYS_H
#define SERVER_REQUEST_KEYS_H

#include "server/request.h"

/* Takes a value into r, or says what is wrong with it. */
typedef bool (*key_setter)(inference_request *r, const jnode *v, const request_limits *limits,
                           problem *p);

typedef struct { const char *name; key_setter set; } request_key;

typedef struct {
    const request_key *keys; /* ended by a NULL name; fewer than 32 */
    bool lenient;            /* unknown keys are passed over */
    const char *expected;    /* the keys, for a message; not lenient */
    /* What only the whole body shows; NULL: nothing. */
    bool (*check)(inference_request *r, problem *p);
} request_grammar;

/* A key that comes twice is refused; null counts as absent, but for "inputs". */
bool request_parse(const char *body, size_t n, const request_grammar *g,
                   const request_limits *limits, inference_request *out, problem *p);

/* "key: expected ..., found a list" */
bool request_wrong(problem *p, const char *key, const char *expected, const jnode *found);

/* Values: a whole number in [min, max]; true or false; a string without NUL. */
bool request_int(const char *key, int min, int max, int *to, const jnode *v, problem *p);
bool request_bool(const char *key, bool *to, const jnode *v, problem *p);
bool request_is_name(const jnode *v);

/* A key of several grammars that takes a text, an object of text and text_pair or a list
 * of them; and an object of question and context, or a list of them. */
bool request_set_texts(inference_request *r, const jnode *v, const request_limits *l, problem *p);
bool request_set_questions(inference_request *r, const jnode *v, const request_limits *l,
                           problem *p);
/* The keys of TEI: truncate, truncation_direction, raw_scores. */
bool request_set_truncate(inference_request *r, const jnode *v, const request_limits *l,
                          problem *p);
bool request_set_direction(inference_request *r, const jnode *v, const request_limits *l,
                           problem *p);
bool request_set_raw(inference_request *r, const jnode *v, const request_limits *l, problem *p);
/* The parameters of a question; see request_answer.c. */
extern const request_key request_question_keys[];

/* Takes the members of an object by a list of keys, passing over others. */
bool request_read_object(inference_request *r, const jnode *object, const request_key *keys,
                         const request_limits *limits, problem *p);

/* Room for n inputs, or for those of a list, each read by a function. */
typedef bool (*input_reader)(const jnode *node, request_input *in, problem *p);
bool request_make_inputs(inference_request *r, int n, const request_limits *limits, problem *p);
bool request_read_one(inference_request *r, const jnode *node, input_reader read,
                      const request_limits *limits, problem *p);
bool request_read_list(inference_request *r, const jnode *list, input_reader read,
                       const request_limits *limits, problem *p);

/* Setters that several grammars share. */
bool request_set_model(inference_request *r, const jnode *v, const request_limits *l, problem *p);
bool request_set_ratio(inference_request *r, const jnode *v, const request_limits *l, problem *p);
bool request_set_policy(inference_request *r, const jnode *v, const request_limits *l, problem *p);
bool request_set_top_k(inference_request *r, const jnode *v, const request_limits *l, problem *p);

/* request_generate.c */
bool request_set_task(inference_request *r, const jnode *v, const request_limits *l, problem *p);
bool request_set_new_tokens(inference_request *r, const jnode *v, const request_limits *l,
                            problem *p);

#endif
