/* backend.h: the table of operations that a backend fills in. graph/ calls
 * these and nothing below them; cpu/ (and later cuda/) know nothing of graphs,
 * tasks or text.
 *
 * Arrays called x, y, scores, ... are backend memory from alloc(); graph/ never
 * dereferences them. On the CPU they are plain 64-byte aligned memory. Index
 * arrays marked "host" are read during the call. Operations on one backend are
 * called from one thread and finish (or are ordered) before the next one reads
 * their result. They allocate nothing.
 *
 * Determinism: every output element is a sum in a fixed order that depends on
 * the weights' shape and the ISA alone, never on the number of rows, the row's
 * place, or the threads. The FFN sums experts in ascending order, neurons in
 * order within, so that a token with all experts selected gets the dense bits. */
#ifndef MOE_BACKEND_H
#define MOE_BACKEND_H

#include "engine/model/weights.h"

/* Which experts each token computes: ragged, ascending within a token.
 * All arrays are backend memory, owned by the engine. */
typedef struct {
    int32_t *bound;  /* [n_tokens + 1]; token t has expert[bound[t] .. bound[t+1]) */
    int32_t *expert; /* [bound[n_tokens]], room for n_tokens * n_experts */
} moe_route;

/* How the experts of a sequence's tokens follow from their scores. NaN is less than
 * every number, and reaches no threshold. */
typedef struct {
    int32_t n_pairs; /* > 0: so many (token, expert) pairs, the best of the sequence's;
                        at most its tokens * n_experts. Ties go to the lower token, then
                        the lower expert. 0: */
    int32_t k;       /* > 0: each token's k best, at most n_experts; ties go to the lower
                        expert. 0: */
    float threshold; /* those of each token whose score is at least this; may be none */
} moe_choice;

/* Softmax(scale q k^T + bias) v per sequence and head. Sequence s has the queries
 * cu_q[s] .. cu_q[s+1] and the keys and values cu_k[s] .. cu_k[s+1]; its queries are the
 * last of as many positions as it has keys: query i of n_q stands at n_k - n_q + i. Head h
 * has the columns [h head, (h+1) head) of every row. cu_q, cu_k: host. */
typedef struct {
    int n_seqs, n_heads, head;
    const int32_t *cu_q, *cu_k;   /* [n_seqs + 1]; at least one key where there is a query */
    const float *q, *k, *v;
    size_t ldq, ldkv;             /* floats from row to row */
    const int32_t *key_row;       /* NULL, or host [cu_k[n_seqs]]: key j of the lists is not
                                     row j but row key_row[j]. Every sequence then has one
                                     query, s being that of sequence s; cu_q is not read */
    float scale;                  /* over 0 */
    bool causal;                  /* a query sees no key past its own position */
    const float *bias;            /* [n_heads, 2 span - 1] of key - query + span - 1, or NULL;
                                     with it scale is 1, and n_q <= n_k <= span */
    int span;
    float *y;                     /* rows of the queries */
    size_t ldy;
} moe_attention;

/* Which of an FFN's shifts a sequence's tokens get: (1 - part) of row and part of the next
 * one; row -1: none. */
typedef struct { int32_t row; float part; } moe_shift;

typedef struct moe_backend moe_backend;

typedef struct {
    const char *name;
    void (*destroy)(moe_backend *b);

    /* Backend memory for `bytes`, freed with the backend. NULL: out of memory. */
    void *(*alloc)(moe_backend *b, size_t bytes);
    /* Hands a host array of weights over; returns the pointer that operations
     * take in its place. The CPU returns host itself, which must stay valid. */
    const void *(*upload)(moe_backend *b, const void *host, size_t bytes);
    /* Copies host memory into backend memory. */
    void (*put)(moe_backend *b, void *to, const void *host, size_t bytes);
    /* Copies backend memory to the host, waiting for what writes it. */
    void (*download)(moe_backend *b, void *host, const void *from, size_t bytes);

    /* y[t, :] = norm(words[id[t]] + positions[p] + types[type[t]]), p counting from
     * w->first_position in each sequence, but for padding (weights.h); tables without rows
     * are left out, and so is a norm without gamma. ids, types (or NULL), cu_seqlens: host. */
    void (*embed)(moe_backend *b, const moe_weights *w, const int32_t *ids,
                  const int32_t *types, const int32_t *cu_seqlens, int n_seqs,
                  float *y);
    /* y[t, :] = act(x[t, :] W + b): x [n_rows, k], y [n_rows, n]. */
    void (*linear)(moe_backend *b, const moe_linear *w, moe_activation act,
                   const float *x, int n_rows, float *y);
    void (*attention)(moe_backend *b, const moe_attention *a);
    /* y = norm(x + residual), rows of w->d; y may be x or residual. */
    void (*add_norm)(moe_backend *b, const moe_norm *w, const float *x,
                     const float *residual, int n_rows, float *y);
    /* The same before a part of the network instead of after it: sum = x + residual, which
     * may be either of them, and y = norm(sum). x NULL: y = norm(residual) and no sum. */
    void (*pre_norm)(moe_backend *b, const moe_norm *w, const float *x,
                     const float *residual, int n_rows, float *sum, float *y);
    /* y[i, :] = x[row[i], :], rows of d. row: host. */
    void (*gather_rows)(moe_backend *b, const float *x, int d,
                        const int32_t *row, int n_rows, float *y);

    /* scores[t, e] by the router: x [n_tokens, d], scores [n_tokens, E]. */
    void (*router_scores)(moe_backend *b, const moe_router *w, const float *x,
                          int n_tokens, float *scores);
    /* mass[t, e] = sum of max(0, h_n) over the expert's neurons: the paper's
     * ground truth; of a gated FFN the sum of |h_n|. Computes every neuron. mass [n_tokens, E]. */
    void (*expert_mass)(moe_backend *b, const moe_ffn *w, const float *x,
                        int n_tokens, float *mass);
    /* Each token's experts, by its sequence's choice. scores [n_tokens, n_experts];
     * choice [n_seqs], cu_seqlens [n_seqs + 1], from 0 to n_tokens: host. n_seqs is
     * bounded as n_tokens is. A sequence's selection depends on its own scores only. */
    void (*select)(moe_backend *b, const float *scores, const moe_choice *choice,
                   const int32_t *cu_seqlens, int n_seqs, int n_experts,
                   moe_route *route);
    /* y[t, :] = b2 + sum over selected e of h_e w2_e, h_e = act(x w1_e + b1_e), gated
     * times x up_e; just b2 for a token without experts.
     * route NULL: all experts (dense). x, y [n_tokens, d], not the same. */
    void (*ffn)(moe_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                const moe_route *route, float *y);

    /* Adds w's shift to y [n_tokens, d]: each sequence its own. shift [n_seqs],
     * cu_seqlens [n_seqs + 1]: host. */
    void (*add_shift)(moe_backend *b, const moe_ffn *w, const moe_shift *shift,
                      const int32_t *cu_seqlens, int n_seqs, float *y);

    /* Measures from which share of selected pairs on this machine computes all of w's
     * experts faster than the selected ones; until then a built-in table holds. Results
     * have the same bits either way. Takes some forward passes of w over 64 tokens. */
    void (*measure_plan)(moe_backend *b, const moe_ffn *w);
    /* The table in use: *rows of the backend, ascending; returns how many, 0: none. */
    int (*plan)(const moe_backend *b, const moe_plan_row **rows);
} moe_backend_ops;

struct moe_backend {
    const moe_backend_ops *ops;
    const char *isa;
};

/* Makes the CPU backend. max_tokens bounds n_tokens and n_rows of later calls;
 * the scratch is sized from it and the model's largest shapes.
 * MOE_ISA=c|avx2|avx2vnni|avx512|avx512vnni|avx512bf16|avx512amx in the environment
 * forces an ISA; one that this machine lacks is MOE_E_UNSUPPORTED. */
typedef struct {
    int max_tokens, max_seq; /* rows of a call; tokens of one sequence */
    int d_model, n_heads, n_experts;
    int d_head;              /* columns of a head; 0: d_model / n_heads */
    int router_width;        /* largest hidden width of a two-layer router */
} moe_backend_shape;
moe_status moe_cpu_backend(moe_pool *pool, const moe_backend_shape *shape,
                           moe_backend **out, moe_error *err);

/* Makes the backend of a kind. MOE_E_UNSUPPORTED: this build or this machine lacks
 * it; AUTO then is the CPU's. */
moe_status backend_create(moe_backend_kind kind, moe_pool *pool,
                          const moe_backend_shape *shape, moe_backend **out,
                          moe_error *err);

#endif
