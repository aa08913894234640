/* t5.h: the T5 encoder and decoder (Raffel et al. 2020) over a chunk, for engine/.
 *
 * Every function runs on the engine's thread. Rows of the residual stream are e->x; what
 * enters a part of a layer is e->y, what leaves it e->z. The next part begins with adding
 * e->z to e->x: `pending` says that it has yet to be done. */
#ifndef MOE_GRAPH_T5_H
#define MOE_GRAPH_T5_H

#include "engine/engine.h"

enum {
    T5_HEAD_ROWS = 32,   /* whose logits of all words are kept at a time */
    T5_KEYS_PER_ROW = 16 /* of the lists of keys, on average and at most */
};

/* What a text-to-text engine has besides. Rows: chunk_tokens of it. */
typedef struct t5_arena {
    /* Backend memory. */
    float *memory;       /* [rows, d_model] the encoder's states */
    float *self;         /* [decoder layers][rows, 3 d_inner] queries, keys, values */
    float *cross;        /* [decoder layers][rows, 2 d_inner] keys, values of memory */
    float *q;            /* [rows, d_inner] */
    float *encoder_bias, *decoder_bias; /* [n_heads, 2 span - 1], span max_tokens */
    float *logits;       /* [T5_HEAD_ROWS, n_vocab] */
    int span;

    /* Host memory. */
    float *host_logits;  /* the same */
    int32_t *cu_targets; /* [rows + 1] */
    int32_t *ids, *positions, *text; /* [rows] of decoder rows: what goes in, where it
                                        stands, and which sequence of the chunk it is of */
    moe_selection *selection;        /* [rows] */
    int32_t *cu_rows, *cu_one;       /* [rows + 1]; cu_one: 0, 1, 2, ... */
    int32_t *cu_self, *cu_cross;     /* [rows + 1] */
    int32_t *self_row;   /* [T5_KEYS_PER_ROW rows] */
    int32_t *cross_row;  /* [rows] */
    int32_t *history, *first_history; /* [rows] cache rows of each text; where it begins */
    uint64_t *kept, *all;            /* [rows] neurons of a sequence, computed and all */
    double *kept_mass, *total_mass;  /* [rows] */
} t5_arena;

/* Makes e->t5 of a T5 engine. */
moe_status t5_arena_create(moe_engine *e, moe_error *err);
void t5_arena_free(t5_arena *a);

/* Rows of a decoder that run through its layers together. c: as they are routed and
 * counted, rows in line. */
typedef struct {
    const chunk *c;
    int base;                 /* row of the self cache that the first of them gets */
    const int32_t *cu_self, *self_row;   /* the cache's rows that each sees, its own the
                                 last; self_row NULL: those up to it of its sequence */
    int n_texts;              /* texts whose memory is looked at: of cu_rows rows each, */
    const int32_t *cu_rows, *cu_cross;   /* with keys cu_cross in line or */
    const int32_t *cross_row; /* as listed, one row each */
} t5_pass;

/* The encoder over a chunk; the states of its tokens are in memory, keys and values of
 * all decoder layers in cross. With a capture, its status. */
moe_status t5_encode(moe_engine *e, const chunk *c, moe_error *err);
void t5_cross_keys(moe_engine *e, int layer, int n_tokens);
/* All decoder layers; leaves normed rows, the head's input, in e->y. */
moe_status t5_run_decoder(moe_engine *e, const t5_pass *p, moe_error *err);
/* Calls row(ctx, i, logits) for each of n rows of e->y; logits [n_vocab] are to be
 * multiplied by the model's logit_scale. */
typedef void (*t5_row)(void *ctx, int row, const float *logits);
void t5_head(moe_engine *e, int n_rows, t5_row row, void *ctx);
/* Log of the sum of e^(scale logit): what makes them log-probabilities. */
double t5_log_sum(const float *logits, int n, float scale);

/* Adds what the chunk's rows computed to the sums of their texts; text NULL: of the
 * sequences in order. t5_begin clears the sums of n texts, t5_share is the ratio. */
void t5_begin(moe_engine *e, int n);
void t5_account(moe_engine *e, const chunk *c, const int32_t *text);
double t5_share(const moe_engine *e, int text);

/* moe_forward of a chunk. */
moe_status t5_forward(moe_engine *e, const chunk *c, moe_error *err);
/* Sets c's targets from the batch, whose sequence `first` it begins with. */
void t5_set_targets(moe_engine *e, const moe_batch *b, int first, chunk *c);
/* The teacher-forced decoder rows of c, which has targets. */
chunk t5_target_chunk(moe_engine *e, const chunk *c);

/* The parts, for moe_step_*; c: the encoder's tokens or t5_target_chunk's. */
void t5_embed(moe_engine *e, const chunk *c);
void t5_self_attention(moe_engine *e, const chunk *c, int layer, bool pending);
void t5_decoder_attention(moe_engine *e, const t5_pass *p, int layer, bool pending);
moe_status t5_ffn(moe_engine *e, const chunk *c, int layer, bool pending, moe_error *err);
void t5_settle(moe_engine *e, int n_rows);   /* e->x += e->z */
void t5_norm(moe_engine *e, const moe_norm *w, int n_rows, bool pending); /* to e->y */

#endif
