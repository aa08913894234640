/* weights.h: the typed weight table of an open model, as graph/ and the
 * backends read it. All linear weights lie in the kernels' packed layouts, the
 * same in memory as in a MoEfied file (docs/model-format.md):
 *
 *   linear   W[ceil(n/32)][k][32]            y[j] = sum_k x[k] W[j/32][k][j%32] + b[j]
 *   experts  w1[E][d][32]  b1[E][32]         h_e = act(x w1_e + b1_e)
 *            w2[E][ceil(d/64)][32][64]  b2[d]  y = b2 + sum_e h_e w2_e
 *
 * A dense FFN is E = ceil(d_ff/32) experts that are always selected; places
 * past n, d or d_ff hold zeros. Packed arrays start on 64-byte boundaries.
 *
 * That is fp32. Where dtype says BF16 or I8, v = 2 or 4 values that follow each
 * other in depth lie together in 4 bytes, a unit, as the dot product instructions
 * take them; depth is padded with zeros to whole units:
 *
 *   linear   W[ceil(n/32)][ceil(k/v)][32][v]
 *   experts  w1[E][ceil(d/v)][32][v]   w2[E][ceil(d/64)][32/v][64][v]
 *
 * An I8 weight stands for q times its column's scale, q in [-127, 127]. Its input is
 * made of 8 bits a row at a time, as q + 128; offset, 128 times the sum of a column's
 * q, is what the 128 add. Routers, biases and norms are fp32 throughout. */
#ifndef MOE_MODEL_WEIGHTS_H
#define MOE_MODEL_WEIGHTS_H

#include "engine/moe.h"

typedef enum {
    MOE_F32, MOE_F16, MOE_BF16, MOE_I8, MOE_U8, MOE_I32, MOE_I64,
    MOE_N_DTYPES
} moe_dtype;

size_t moe_dtype_bytes(moe_dtype t);
const char *moe_dtype_name(moe_dtype t); /* safetensors' name: "F32" */

typedef enum { MOE_ACT_NONE, MOE_ACT_RELU, MOE_ACT_GELU_ERF, MOE_ACT_GELU_TANH,
               MOE_ACT_TANH } moe_activation;

enum { MOE_LINEAR_PANEL = 32, MOE_W2_PANEL = 64 }; /* columns of a packed panel */

typedef struct {
    int n, k;        /* outputs, inputs */
    const void *w;   /* packed, see above */
    const float *b;  /* [n], or NULL */
    moe_dtype dtype; /* of w: F32, BF16 or I8 */
    const float *scale;    /* [ceil(n/32) * 32] of I8, else NULL */
    const int32_t *offset; /* the same */
} moe_linear;

typedef struct {
    int d, n_experts;
    int d_ff;                    /* real neurons: the last expert may be padded */
    moe_activation act;
    moe_dtype dtype;             /* of w1 and w2 */
    const void *w1, *w2;
    const float *b1, *b2;        /* T5 has none: zeros */
    bool gated;
    const void *up;              /* of a gated FFN, like w1, else NULL:
                                    h_e = act(x w1_e + b1_e) * (x up_e) */
    const float *scale_up;       /* of I8, like scale1 */
    const int32_t *offset_up;
    const float *scale1;         /* [n_experts, 32] of I8, else NULL */
    const int32_t *offset1;      /* the same */
    const float *scale2;         /* [ceil(d/64) * 64] of I8: of a column of all experts */
    const int32_t *offset2;      /* [n_experts, ceil(d/64) * 64] of I8; NULL where the
                                    hidden values are never negative (ReLU, no gate): they are
                                    then made of 8 bits without the 128 */
    int n_shifts;                /* rows of the model's ratio table, or 0 */
    const float *shift;          /* [n_shifts, d] what is added to a token's output at that
                                    ratio, for the experts that are left out; NULL: none.
                                    Zeros at ratio 1 */
    const int32_t *neurons;      /* [n_experts * 32] source neuron, -1 padding;
                                    NULL where not moefied (the identity) */
} moe_ffn;

/* scores = second(tanh(first(x'))) or first(x'); x' = x / ||x|| if normalize. */
typedef struct {
    bool present, normalize;
    int n_linears;               /* 1 or 2 */
    moe_linear first, second;
    const float *frequency;      /* [n_experts] share of the calibration tokens'
                                    activation mass, for MOE_SELECT_FREQUENCY */
} moe_router;

/* y = (x - mean) / sqrt(variance + eps) gamma + beta. rms: mean is taken for 0, and
 * beta is NULL. */
typedef struct { int d; float eps; const float *gamma, *beta; bool rms; } moe_norm;

/* Rows to look up, kept in the source's dtype: F32, F16 or BF16. */
typedef struct { int n, d; moe_dtype dtype; const void *rows; } moe_table;

typedef struct {
    moe_linear qkv;              /* n = 3 n_heads d_head: queries, keys, values */
    moe_linear attention_out;
    moe_norm attention_norm;     /* after the attention in BERT, before it in T5 */
    moe_linear cross_q, cross_kv, cross_out; /* of a decoder's layer: queries of its own */
    moe_norm cross_norm;         /* rows; keys and values of the encoder's */
    moe_ffn ffn;
    moe_router router;
    moe_norm ffn_norm;
} moe_layer;

typedef struct {
    moe_table words, positions, types;
    int first_position;          /* row of positions that a sequence's first token has */
    int32_t pad_id;              /* where that is over 0: tokens of this id have the row
                                    before, and do not count; they are RoBERTa's */
    moe_norm embed_norm;
    int n_layers;
    int n_decoder_layers;        /* the last of them; 0 but in T5 */
    moe_layer *layers;           /* [n_layers] */
    moe_linear pooler;           /* n 0: none, the classifier reads every token */
    bool pooler_relu;            /* DistilBERT: relu behind it; else tanh */
    moe_linear classifier;       /* n = n_labels; T5 has none */

    /* T5 alone: the norms after the last layer of each half, what a distance adds to a
     * score of attention, [n_buckets, n_heads], and the logits of the words. */
    moe_norm encoder_norm, decoder_norm;
    moe_table encoder_distances, decoder_distances;
    moe_linear lm_head;          /* n = n_vocab */
} moe_weights;

#endif
