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
    const int32_t *positions;       /* [n_tokens] in their sequence; NULL: from 0 */
    const moe_selection *selection; /* [n_seqs], NULL: dense */
    int first_layer, end_layer;     /* the layers that it goes through */
    float *logits;                  /* out [n_seqs, n_labels]; ANSWER: [n_tokens, 2] */
    double *effective_ratio, *mass; /* out [n_seqs], or NULL */
    bool uncounted;                 /* stays out of the statistics */
    const int32_t *cu_targets, *target_ids; /* T5: the batch's, or NULL; as cu_seqlens */
    float *states, *target_logprob; /* T5: out, or NULL */
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
    int d_head, d_inner;       /* columns of one head, of all heads */

    /* Backend memory, rows of chunk_tokens. */
    float *x;                  /* [chunk_tokens, d_model] */
    float *y, *z;              /* [chunk_tokens, the larger of d_model and d_inner] */
    float *qkv;                /* [chunk_tokens, 3 d_inner] */
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
    moe_shift *shift;          /* [chunk_tokens] of each sequence */
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
    struct t5_arena *t5;       /* NULL but for T5; graph/t5.h */
};

/* Hands rows [c->n_tokens, d_model] that enter a layer's FFN to the capture, if any. */
moe_status engine_capture(moe_engine *e, const chunk *c, int layer, const float *rows,
                          moe_error *err);

/* Checks a batch as moe_forward does, but for its targets. */
moe_status engine_check_batch(const moe_engine *e, const moe_batch *b, moe_error *err);
/* The same with the targets, if there are any. */
moe_status engine_check_all(const moe_engine *e, const moe_batch *b, moe_error *err);
/* The chunk of at most most_seqs whole sequences from `first` on: e->cu_seqlens. */
chunk engine_cut_chunk(moe_engine *e, const moe_batch *b, int first, int most_seqs);
/* Where the logits of sequence `first` begin in those of the batch. */
float *engine_logits_of(const moe_engine *e, const moe_batch *b, float *logits, int first);
/* The chunk from `first` on with its targets, if any, which fit as its tokens do. */
chunk engine_cut_all(moe_engine *e, const moe_batch *b, int first);

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
    if (e->model->family == MOE_FAMILY_T5)
        return false;
    return t == MOE_TASK_CLASSIFY || t == MOE_TASK_MULTI_LABEL || t == MOE_TASK_REGRESS;
}

#endif
