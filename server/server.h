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
    void (*write)(buffer *b, const request_state *r, int64_t total_ns);
    bool questions; /* for a model that answers them, else for one that does not */
} protocol;

/* classify.c: texts to labels. */
bool classify_tokenize(request_state *r, problem *p);
void classify_write(buffer *b, const request_state *r, int64_t total_ns);
void predict_write(buffer *b, const request_state *r, int64_t total_ns);
/* answer.c: questions to spans. */
bool answer_tokenize(request_state *r, problem *p);
void answer_write(buffer *b, const request_state *r, int64_t total_ns);

/* envelope.c: what answers under /v1 share around their results: id and model before
 * them, ratio, usage and timing after. */
void envelope_open(buffer *b, const request_state *r);
void envelope_close(buffer *b, const request_state *r, int64_t total_ns);
/* The input's place in a message, "inputs[2]: ". */
void input_place(const request_state *r, int i, char out[40]);
/* A problem with input i from what the engine says of it. */
bool input_problem(const request_state *r, int i, moe_status status, const moe_error *err,
                   problem *p);

/* Handlers: each answers; handle_inference may suspend instead. */
typedef void (*route_handler)(server *s, http_exchange *x, request_state *r);
void handle_inference(server *s, http_exchange *x, request_state *r);
void finish_inference(server *s, http_exchange *x, request_state *r); /* after the resume */
void handle_models(server *s, http_exchange *x, request_state *r);
void handle_model(server *s, http_exchange *x, request_state *r);
void handle_routing(server *s, http_exchange *x, request_state *r);
void handle_latency(server *s, http_exchange *x, request_state *r);
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
