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
    int64_t tokenize_ns;
    int n_tokens;
} request_state;

/* Answers with a JSON buffer, which is taken over. */
void answer_json(server *s, http_exchange *x, int status, buffer *body);
void answer_text(server *s, http_exchange *x, int status, const char *type, buffer *body);
/* Answers with {"error": ...} in the shape of the request's route. */
void answer_problem(server *s, http_exchange *x, const problem *p);

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
