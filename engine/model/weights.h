/* weights.h: the typed weight table of an open model, as graph/ and the
 * backends read it. All linear weights lie in the kernels' packed layouts, the
 * same in memory as in a MoEfied file (docs/model-format.md):
 *
 *   linear   W[ceil(n/32)][k][32]            y[j] = sum_k x[k] W[j/32][k][j%32] + b[j]
 *   experts  w1[E][d][32]  b1[E][32]         h_e = act(x w1_e + b1_e)
 *            w2[E][ceil(d/64)][32][64]  b2[d]  y = b2 + sum_e h_e w2_e
 *
 * A dense FFN is E = ceil(d_ff/32) experts that are always selected; places
 * past n, d or d_ff hold zeros. Packed arrays start on 64-byte boundaries. */
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
    const float *w;  /* packed, see above */
    const float *b;  /* [n], or NULL */
} moe_linear;

typedef struct {
    int d, n_experts;
    int d_ff;                    /* real neurons: the last expert may be padded */
    moe_activation act;
    const float *w1, *b1, *w2, *b2;
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

typedef struct { int d; float eps; const float *gamma, *beta; } moe_norm;

/* Rows to look up, kept in the source's dtype: F32, F16 or BF16. */
typedef struct { int n, d; moe_dtype dtype; const void *rows; } moe_table;

typedef struct {
    moe_linear qkv;              /* n = 3 d: queries, keys, values */
    moe_linear attention_out;
    moe_norm attention_norm;
    moe_ffn ffn;
    moe_router router;
    moe_norm ffn_norm;
} moe_layer;

typedef struct {
    moe_table words, positions, types;
    moe_norm embed_norm;
    int n_layers;
    moe_layer *layers;           /* [n_layers] */
    moe_linear pooler;           /* tanh */
    moe_linear classifier;       /* n = n_labels */
} moe_weights;

#endif
