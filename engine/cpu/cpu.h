/* cpu.h: inside of the CPU backend. One file per operation or group of them;
 * backend.c makes the thing and owns its memory. */
#ifndef MOE_CPU_CPU_H
#define MOE_CPU_CPU_H

#include "engine/backend.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/pool.h"
#include "engine/cpu/split.h"

enum {
    CPU_TASK_ROWS = 192,      /* of a task of a linear layer */
    CPU_PLANE_EXPERTS = 4,    /* experts of a plane of dense hidden rows, see ffn.c */
    CPU_PAIR_ROWS = 48,       /* rows of an expert that one task computes */
    CPU_FFN_TOKENS = 512,     /* whose hidden rows fit the scratch with all experts */
    CPU_SPARSE_TOKENS = 2048, /* most tokens of a sparse block */
    CPU_OUT_TOKENS = 128,     /* of an output tile of the sparse FFN: 32 KB, in L1 */
    CPU_GROUP_EXPERTS = 16,   /* that ffn_groups.c takes together */
    CPU_GROUP_STEP = 16,      /* units of depth of its products */
    CPU_GROUP_TOKENS = 128,   /* of one of its tasks */
    CPU_DENSE_TOKENS = 256,   /* of one of the dense FFN: each panel of w2 serves more */
    CPU_PLAN_ROWS = 3,        /* of the plan, see ffn_choice.c */
    CPU_PLAN_TOKENS = 64,     /* of its last row */
    CPU_ROUTER_ROWS = 256,    /* of a block of the router */
    CPU_QUERY_ROWS = 24,      /* queries whose scores are kept at a time */
};

typedef struct {
    moe_backend base;
    moe_pool *pool;
    const cpu_kernels *kernels;
    int n_threads;
    moe_backend_shape shape;
    struct cpu_memory *memory; /* everything allocated, the newest first */

    float *thread_scratch;     /* [n_threads][thread_floats] */
    size_t thread_floats;

    /* FFN, for a block of tokens with at most max_pairs (token, expert) pairs. */
    size_t max_pairs;
    float *hidden;        /* [pairs][32], or dense planes [tokens][128] */
    int32_t *row;         /* [max_pairs] token of each pair */
    int32_t *row_bound;   /* [n_experts + 1] */
    int32_t *cut;         /* [cuts + 1][n_experts]: see ffn_sparse.c */
    int32_t *task_expert, *task_pair; /* [max_ffn_tasks] */
    size_t max_ffn_tasks;

    /* Rows made lower or copied, ld_low units apart: a multiple of 64 bytes, not of 4096. */
    uint32_t *low_x;      /* [max_tokens][ld_low] */
    size_t ld_low;
    float *low_scale;     /* [max_tokens] of each, int8 only */
    float *hidden_scale;  /* [max_pairs] of each hidden row, int8 only */
    float *group_scale;   /* [groups][tokens of a block] likewise, see ffn_groups.c */

    moe_plan_row plan[CPU_PLAN_ROWS]; /* see ffn_choice.c */

    float *pair_cut;      /* [max_tokens] of each sequence: see selection.c */

    float *router_x;      /* [CPU_ROUTER_ROWS][d_model] */
    float *router_hidden; /* [CPU_ROUTER_ROWS][router_width] */
} cpu_backend;

/* All of a backend's own scratch, from its shape. False: out of memory. */
bool cpu_scratch_create(cpu_backend *b);
void *cpu_alloc(moe_backend *b, size_t bytes);
float *cpu_thread_scratch(const cpu_backend *b, int thread);
/* The sequence that holds token t, by bisection; sequences may be empty. */
int cpu_find_sequence(const int32_t *cu_seqlens, int n_seqs, int t);
/* Floats of a thread's scratch that an operation wants. */
size_t cpu_attention_floats(const moe_backend_shape *s);
/* Attention of one query a sequence over listed rows; attention_rows.c. */
void cpu_attention_rows(cpu_backend *b, const moe_attention *a);

/* y = act(x W + b) for rows at the given strides; linear.c. */
typedef struct {
    const float *x;
    size_t ldx;
    int n_rows, k, n;
    const void *w;
    const float *bias;
    moe_dtype dtype;     /* of w; if not F32, plane_panels is 0 */
    const float *scale;  /* of I8 */
    const int32_t *offset;
    moe_activation act;
    float *y;
    size_t ldy;
    int plane_panels;    /* where not 0, so many panels of every row of y stand */
    size_t plane_stride; /* together, and the next ones plane_stride floats on */
} cpu_product;
void cpu_product_run(cpu_backend *b, const cpu_product *p);

/* Whether rows so many floats apart fall into one set of L1's, which then holds hardly
 * more of them than a kernel reads at a time. */
static inline bool cpu_crowds(size_t ldx)
{
    return ldx > 0 && ldx * sizeof(float) % 4096 == 0;
}

/* x [n_rows, k] made lower into b->low_x and b->low_scale, on all threads, or, of F32,
 * which needs it where rows crowd, just copied; lower.c. */
void cpu_lower_rows(cpu_backend *b, moe_dtype t, const float *x, size_t ldx, int n_rows,
                    int k);
/* gemm of a dtype. */
static inline void cpu_gemm_run(const cpu_kernels *kernels, moe_dtype t, const cpu_gemm *g)
{
    (t == MOE_BF16 ? kernels->gemm_bf16 : t == MOE_I8 ? kernels->gemm_i8 : kernels->gemm)(g);
}

/* The operations of backend.h. */
void cpu_embed(moe_backend *b, const moe_weights *w, const int32_t *ids,
               const int32_t *types, const int32_t *cu_seqlens, int n_seqs, float *y);
void cpu_linear(moe_backend *b, const moe_linear *w, moe_activation act, const float *x,
                int n_rows, float *y);
void cpu_attention(moe_backend *b, const moe_attention *a);
void cpu_add_norm(moe_backend *b, const moe_norm *w, const float *x,
                  const float *residual, int n_rows, float *y);
void cpu_pre_norm(moe_backend *b, const moe_norm *w, const float *x,
                  const float *residual, int n_rows, float *sum, float *y);
void cpu_add_shift(moe_backend *b, const moe_ffn *w, const moe_shift *shift,
                   const int32_t *cu_seqlens, int n_seqs, float *y);
void cpu_gather_rows(moe_backend *b, const float *x, int d, const int32_t *row,
                     int n_rows, float *y);
void cpu_router_scores(moe_backend *b, const moe_router *w, const float *x, int n_tokens,
                       float *scores);
void cpu_expert_mass(moe_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                     float *mass);
void cpu_select(moe_backend *b, const float *scores, const moe_choice *choice,
                const int32_t *cu_seqlens, int n_seqs, int n_experts, moe_route *route);
void cpu_ffn(moe_backend *b, const moe_ffn *w, const float *x, int n_tokens,
             const moe_route *route, float *y);

/* A block of tokens with all experts, or with those of route; ffn.c. */
void cpu_ffn_dense(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                   const int32_t *bound, const int32_t *expert, float *y);
void cpu_ffn_sparse(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                    const int32_t *bound, const int32_t *expert, float *y);
/* The same of bf16 or int8 experts; bound NULL: all of them; ffn_low.c. */
void cpu_ffn_low(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                 const int32_t *bound, const int32_t *expert, float *y);

/* The same of pairs in b->row, where the kernels add groups; ffn_groups.c. */
void cpu_ffn_groups(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens, float *y);

/* What cpu_ffn_sparse, cpu_ffn_low and cpu_ffn_groups share; ffn_plan.c. */
/* Sorts the pairs of a block by expert, into row_bound and row; bound NULL: all pairs. */
void ffn_group(cpu_backend *b, const int32_t *bound, const int32_t *expert, int n_tokens,
               int n_experts);
/* Cuts every expert's pairs into hidden tasks of even size; returns how many. */
int ffn_plan_hidden(cpu_backend *b, int n_experts);
/* cut[part][e] .. cut[part + 1][e]: the pairs of expert e with part's tokens. */
void ffn_plan_out(cpu_backend *b, int n_experts, int n_tokens, int token_parts);
/* The next expert after e with pairs in the part; n_experts if none. */
int ffn_next_expert(const int32_t *cut, const int32_t *cut_end, int e, int n_experts);

/* Whether a block with so many selected pairs is better computed dense; ffn_choice.c. */
bool cpu_ffn_prefers_dense(const cpu_backend *b, const moe_ffn *w, int n_tokens, size_t pairs);
void cpu_ffn_plan_default(cpu_backend *b);
void cpu_measure_plan(moe_backend *b, const moe_ffn *w);
int cpu_plan(const moe_backend *b, const moe_plan_row **rows);

#endif
