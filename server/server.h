/* server.h: what every handler sees, and the state of one request.
 *
 * The server itself is fixed while it runs. A request's state is touched by
 * the HTTP thread that holds its exchange; between http_suspend and resumed()
 * the job in it belongs to queue and batcher (see queue.h). */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "server/http.h"
#include "server/models.h"
#include "server/request.h"

typedef struct {
    const config *config;
    models models;
    server_stats stats;
    http_server *http;
    _Atomic uint64_t next_id; /* request ids: a random start, counted up */
} server;

enum { REQUEST_ID_BYTES = 128 };

typedef struct {
    route_id route;
    char id[REQUEST_ID_BYTES + 1];
    served_model *model;    /* in question, or the default */
    bool model_in_path;     /* so that no body chooses another */
    const char *task; size_t task_bytes; /* {task} of the path, or NULL */
    bool inferred;          /* an answer with results */
    double ratio;           /* X-Moe-Ratio of the answer */
    double requested_ratio;
    inference_request body;
    job *job;
    int *first_window;      /* [n_inputs + 1] of each question in the job's sequences, or NULL */
    int64_t tokenize_ns;
    int n_tokens;
} request_state;

/* Answers with a JSON buffer, which is taken over. */
void answer_json(server *s, http_exchange *x, int status, buffer *body);
void answer_text(server *s, http_exchange *x, int status, const char *type, buffer *body);
/* Answers with {"error": ...} in the shape of the request's route. */
void answer_problem(server *s, http_exchange *x, const problem *p);

/* What a route makes of a body and of results: one row of inference.c's table. */
typedef struct {
    bool (*parse)(const char *body, size_t n, const request_limits *limits,
                  inference_request *out, problem *p);
    /* Tokens of all inputs into r->job, which it makes. */
    bool (*tokenize)(request_state *r, problem *p);
    void (*write)(buffer *b, request_state *r, int64_t total_ns);
    bool questions; /* for a model that answers them */
    bool texts;     /* for a text-to-text model; neither: for one that gives labels */
    /* What else the model must be, and headers of the answer; each may be NULL. */
    bool (*accepts)(const request_state *r, problem *p);
    void (*headers)(http_exchange *x, const request_state *r, int64_t total_ns);
} protocol;

/* How a route tells what is wrong. */
typedef enum {
    ERROR_OWN,    /* {"error": {"type", "message"}} */
    ERROR_TEI,    /* {"error", "error_type"} */
    ERROR_PLAIN,  /* {"error"}: Hugging Face, Open Inference Protocol */
    ERROR_OPENAI, /* {"error": {"message", "type", "param", "code"}} */
} error_shape;
void error_write(buffer *b, error_shape shape, const problem *p);

/* classify.c: texts to labels. */
bool classify_tokenize(request_state *r, problem *p);
void classify_write(buffer *b, request_state *r, int64_t total_ns);
void vllm_write(buffer *b, request_state *r, int64_t total_ns);
/* Labels of one input by falling score: label ids and their scores. */
typedef struct { int label; float score; } scored;
void classify_rank(const request_state *r, int i, float *scores, scored *out);
bool classify_scratch(buffer *b, const request_state *r, float **scores, scored **ranked);
/* text.c: text-to-text models: text, and the labels of a task. */
bool generate_tokenize(request_state *r, problem *p);
void generate_write(buffer *b, request_state *r, int64_t total_ns);
/* What sequence i became; free(). NULL, and b has failed: no memory. */
char *text_generated(buffer *b, const request_state *r, int i);
/* Tokens of all inputs, in a task's template if t is one, as sequences that want at most
 * `most` new tokens each. */
bool text_tokenize(request_state *r, const moe_text_task *t, int most, problem *p);
bool label_tokenize(request_state *r, problem *p);
void label_write(buffer *b, request_state *r, int64_t total_ns);
/* text_answer.c: POST /v1/answer by a text-to-text model. */
bool text_answer_tokenize(request_state *r, problem *p);
void text_answer_write(buffer *b, request_state *r, int64_t total_ns);
/* tei.c: text-embeddings-inference. */
void predict_write(buffer *b, request_state *r, int64_t total_ns);
bool rerank_accepts(const request_state *r, problem *p);
void rerank_write(buffer *b, request_state *r, int64_t total_ns);
void tei_headers(http_exchange *x, const request_state *r, int64_t total_ns);
void handle_info(server *s, http_exchange *x, request_state *r);
/* hf.c: Hugging Face's inference API. */
bool hf_accepts(const request_state *r, problem *p);
void hf_texts_write(buffer *b, request_state *r, int64_t total_ns);
void hf_questions_write(buffer *b, request_state *r, int64_t total_ns);
void hf_generate_write(buffer *b, request_state *r, int64_t total_ns);
/* answer.c: questions to spans. */
bool answer_tokenize(request_state *r, problem *p);
void answer_write(buffer *b, request_state *r, int64_t total_ns);
/* All results without what stands around them; one is bare unless the inputs were a
 * list. */
void answer_write_bare(buffer *b, request_state *r);

/* envelope.c: what answers under /v1 share around their results: id and model before
 * them, ratio, usage and timing after. */
void envelope_open(buffer *b, const request_state *r);
void envelope_close(buffer *b, const request_state *r, int64_t total_ns);
/* The input's place in a message, "inputs[2]: ". */
void input_place(const request_state *r, int i, char out[40]);
/* A problem with input i from what the engine says of it. */
bool input_problem(const request_state *r, int i, moe_status status, const moe_error *err,
                   problem *p);

/* The best answer to question i; false: out of memory. */
bool answer_best(const request_state *r, int i, moe_answer *out);
/* oip.c: the Open Inference Protocol; oip.h has its requests. */
bool oip_tokenize(request_state *r, problem *p);
void oip_write(buffer *b, request_state *r, int64_t total_ns);
void handle_oip_server(server *s, http_exchange *x, request_state *r);
void handle_oip_model(server *s, http_exchange *x, request_state *r);
void handle_oip_ready(server *s, http_exchange *x, request_state *r);
void handle_oip_stats(server *s, http_exchange *x, request_state *r);

/* Handlers: each answers; handle_inference may suspend instead. */
typedef void (*route_handler)(server *s, http_exchange *x, request_state *r);
void handle_inference(server *s, http_exchange *x, request_state *r);
void finish_inference(server *s, http_exchange *x, request_state *r); /* after the resume */
void handle_models(server *s, http_exchange *x, request_state *r);
void handle_model(server *s, http_exchange *x, request_state *r);
void handle_routing(server *s, http_exchange *x, request_state *r);
void handle_latency(server *s, http_exchange *x, request_state *r);
void handle_openapi(server *s, http_exchange *x, request_state *r);
void handle_docs(server *s, http_exchange *x, request_state *r);
void handle_metrics(server *s, http_exchange *x, request_state *r);

/* How evenly a layer's tokens fell on its experts; zeros without any. */
typedef struct {
    double entropy; /* bits; log2(n) when even */
    double evenness; /* entropy / log2(n) */
    double gini;    /* 0 even, towards 1 when few experts get all */
    int dead;       /* experts that got none */
} routing_summary;
routing_summary routing_summarise(const uint64_t *selected, int n_experts);

#endif
