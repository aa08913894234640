/* engine.h: inside of an engine, for engine.c, graph/ and routing/.
 *
 * An engine owns a backend, the weights as that backend sees them, and the
 * activations of one chunk: whole sequences of at most chunk_tokens tokens.
 * Everything is allocated when the engine is made. */
#ifndef MOE_ENGINE_H
#define MOE_ENGINE_H

#include "engine/backend.h"
#include "engine/model/model.h"
#include "engine/routing/stats.h"

/* One chunk of a batch, on the host. Rows of the arrays are the chunk's own:
 * cu_seqlens starts at 0. */
typedef struct {
    int n_seqs, n_tokens;
    const int32_t *cu_seqlens;      /* [n_seqs + 1] */
    const int32_t *ids, *types;     /* [n_tokens]; types may be NULL */
    const moe_selection *selection; /* [n_seqs], NULL: dense */
    float *logits;                  /* out [n_seqs, n_labels]; ANSWER: [n_tokens, 2] */
    double *effective_ratio, *mass; /* out [n_seqs], or NULL */
    bool uncounted;                 /* stays out of the statistics */
    const int32_t *whole;           /* NULL, or: these are the first tokens of sequences
                                       with such cu_seqlens, the others are not computed */
} chunk;

struct moe_engine {
    const moe_model *model;
    moe_backend *backend;
    moe_weights weights;       /* pointers the backend understands */
    moe_capture capture;
    void *capture_ctx;
    int chunk_tokens, max_experts; /* experts of the widest layer */

    /* Backend memory, rows of chunk_tokens. */
    float *x, *y, *z;          /* [chunk_tokens, d_model] */
    float *qkv;                /* [chunk_tokens, 3 d_model] */
    float *scores;             /* [chunk_tokens, max_experts] */
    float *logits;             /* [chunk_tokens, n_labels] */
    moe_route route;

    /* Host memory. */
    int32_t *cu_seqlens;       /* [chunk_tokens + 1] */
    int32_t *rows;             /* [chunk_tokens] first token of each sequence */
    int32_t *row_ids;          /* [chunk_tokens] its id */
    int32_t *row_bounds;       /* [chunk_tokens + 1] 0, 1, 2, ...: cu_seqlens of such rows */
    moe_choice *choice;        /* [n_layers, chunk_tokens] of each sequence */
    int32_t *due_pairs;        /* [chunk_tokens] of each sequence in the last
                                  layer; -1: the first token's for each. See route.c */
    int *layer_experts;        /* [n_layers] of one sequence, as the next two */
    float *layer_thresholds;
    double *layer_means;
    float *host_scores;        /* [chunk_tokens, max_experts] */
    float *host_x;             /* [chunk_tokens, d_model], with a capture only */
    moe_route host_route;
    uint64_t *expert_tokens;   /* [max_experts] of one layer and chunk */
    double *kept_mass, *total_mass; /* [chunk_tokens] of each sequence */
    uint64_t *kept_neurons;    /* [chunk_tokens] of each sequence */
    int *real_neurons;         /* [n_layers, max_experts] without dead ones */

    routing_stats stats;
};

/* BERT: embeddings, post-norm encoder layers, pooler and classifier. */
moe_status bert_forward(moe_engine *e, const chunk *c, moe_error *err);

/* What it consists of; the rows [c->n_tokens, d_model] are e->x. */
void bert_embed(moe_engine *e, const chunk *c);
void bert_attention(moe_engine *e, const chunk *c, int layer);
void bert_ffn(moe_engine *e, const chunk *c, int layer); /* after route_begin */
void bert_head(moe_engine *e, const chunk *c);           /* of all rows, to c->logits */

/* Whether the head reads each sequence's first token only, so that the last layer
 * computes nothing else. */
static inline bool reads_first_tokens(const moe_engine *e)
{
    moe_task t = e->model->info.task;
    return t == MOE_TASK_CLASSIFY || t == MOE_TASK_MULTI_LABEL || t == MOE_TASK_REGRESS;
}

#endif
