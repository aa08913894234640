/* kernels.h: the inner loops, one table per ISA. Everything above it (tasks,
 * blocks, scratch) is the same code on every ISA; everything below runs on one
 * thread and knows no model.
 *
 * Every output element of gemm is one chain of multiply-adds in ascending k that
 * starts from the bias or from c, so it has the same bits in a tile of any
 * shape. AVX2 and AVX-512 use fused multiply-adds, plain C does not. */
#ifndef MOE_CPU_KERNELS_H
#define MOE_CPU_KERNELS_H

#include "engine/model/weights.h"

/* Weights and inputs lower than fp32 come in units of 4 bytes, 2 bf16 or 4 int8, in
 * place of floats: then k, strides and blocks count units, and "float" below is a
 * unit's bits. Sums are fp32 for bf16. int8 sums are exact, and
 *   c[i][j] = act(bias[j] + b_scale[j] a_scale[i] (sum - b_offset[j])), or, to add,
 *   c[i][j] += a_scale[i] (sum - b_offset[j])
 * with a made of unsigned bytes; one block only.
 *
 * c[i][j] = act(start + sum over s, kk of a[i][s k + kk] b_s[kk][j]), j < n.
 * Row kk, column j of block s lies at b[s][(j/32) panel_stride + kk ldb + j%32].
 * Whole panels of b are read, of n columns only c and bias. */
typedef struct {
    int m, n, k;            /* rows, columns, depth of a block */
    const float *const *a;  /* [m] rows of n_blocks * k */
    float *const *c;        /* [m] rows of n */
    int n_blocks;
    const float *const *b;  /* [n_blocks] */
    size_t panel_stride;    /* in floats */
    int ldb;                /* in floats, at least 32 */
    bool add;               /* start is c: bias is not read */
    const float *bias;      /* [n], or NULL: start is 0 */
    const float *a_scale;   /* [m], int8 only, as the next two */
    const float *b_scale;   /* [n] up to whole panels; not read when adding */
    const int32_t *b_offset; /* the same, or NULL: 0 */
    moe_activation act;
    /* What the next call will read, to prefetch meanwhile; each may be NULL. */
    const float *const *ahead; /* [n_blocks] its b */
    const float *ahead_a;      /* its rows of a, lying in line */
    size_t ahead_a_floats;
} cpu_gemm;

/* Where a product wants more depth than one expert has (AMX): some experts' hidden rows
 * times their w2, for 64 columns of y.
 *   tile[i][j] += sum over s, u of hidden[i][s 16 + u] w2[s][u][j], a unit's values each
 * (bf16), or that sum, which is exact, times scale[i] (int8, of unsigned bytes, or signed
 * ones where is_signed). Rows of hidden and tile are read up to a multiple of 16. */
typedef struct {
    int n_rows, n_steps;
    const uint32_t *hidden;
    size_t ld;                  /* in units */
    const uint32_t *const *w2;  /* [n_steps], each [16 units][64] */
    const float *scale;         /* [n_rows], int8 only */
    bool is_signed;
    float *tile;                /* [n_rows][64] */
    /* What the next call will read, to prefetch meanwhile. */
    const uint32_t *const *ahead;
    int n_ahead;                /* pieces, ahead_bytes each: a multiple of 64 */
    size_t ahead_bytes;
} cpu_group;

typedef struct {
    const char *isa;
    void (*gemm)(const cpu_gemm *g);
    void (*gemm_bf16)(const cpu_gemm *g);
    void (*gemm_i8)(const cpu_gemm *g);
    /* NULL where sums over the experts are kept by gemm. */
    void (*add_group_bf16)(const cpu_group *g);
    void (*add_group_i8)(const cpu_group *g);
    /* A row of n floats as units, the last padded with zeros. */
    void (*to_bf16)(const float *x, int n, uint32_t *y);
    /* The same as bytes q + 128, q = x / scale in [-127, 127], or, where unsigned, q in
     * [0, 255] of x that is never negative. Returns scale: the largest |x| is 127 or
     * 255 of it. */
    float (*to_i8)(const float *x, int n, bool is_unsigned, uint32_t *y);
    /* Of a row of 32 hidden values, the largest |h|; and bytes of inverse h, from -127, or,
     * where unsigned, 0 on. Only where there is add_group_i8. */
    float (*largest_hidden)(const float *h);
    void (*hidden_to_i8)(const float *h, float inverse, uint32_t *y);
    /* row = e^(scale (row - its maximum)), scale > 0, n > 0. Returns 1 / its sum, by
     * which the caller turns it, or what it makes of it, into a softmax. */
    float (*softmax)(float *row, int n, float scale);
    /* y = norm(x + residual), rows of w->d; residual may be NULL, y either. */
    void (*norm)(const moe_norm *w, const float *x, const float *residual, float *y);
    /* Row `row` of a table, as fp32. */
    void (*widen)(const moe_table *table, int row, float *y);
    /* y = x / ||x||, zeros where the norm is 0. */
    void (*normalize)(const float *x, int n, float *y);
    /* Rows of k at stride ldx, up to 32 of them, to panel [k][32]; absent rows
     * become zero columns. */
    void (*transpose)(const float *x, size_t ldx, int n_rows, int k, float *panel);
    /* y[r] = x . row[r], of n floats each. */
    void (*dot_rows)(const float *x, int n, const float *const *row, int n_rows, float *y);
    /* y = sum over r, ascending, of weight[r] row[r], of n floats; y overlaps none. */
    void (*mix_rows)(const float *weight, const float *const *row, int n_rows, int n,
                     float *y);
} cpu_kernels;

extern const cpu_kernels cpu_kernels_c;
#if defined(__x86_64__)
extern const cpu_kernels cpu_kernels_avx2, cpu_kernels_avx2vnni;
extern const cpu_kernels cpu_kernels_avx512, cpu_kernels_avx512vnni, cpu_kernels_avx512bf16;
extern const cpu_kernels cpu_kernels_avx512amx;
#endif

/* A row whose largest |x| is not above it counts as zeros when it is made int8. */
#define CPU_LEAST_SCALED 1e-30f

/* gemm_*.c: one instruction's way each; a table has those of its ISA. */
void cpu_gemm_bf16_avx2(const cpu_gemm *g);
void cpu_gemm_i8_avx2(const cpu_gemm *g);
void cpu_gemm_i8_avx2vnni(const cpu_gemm *g);
void cpu_gemm_bf16_avx512(const cpu_gemm *g);
void cpu_gemm_i8_avx512(const cpu_gemm *g);
void cpu_gemm_bf16_avx512bf16(const cpu_gemm *g);
void cpu_gemm_i8_avx512vnni(const cpu_gemm *g);
void cpu_gemm_bf16_avx512amx(const cpu_gemm *g);
void cpu_gemm_i8_avx512amx(const cpu_gemm *g);
void cpu_add_group_bf16_avx512amx(const cpu_group *g);
void cpu_add_group_i8_avx512amx(const cpu_group *g);
float cpu_largest_hidden_avx512amx(const float *h);
void cpu_hidden_to_i8_avx512amx(const float *h, float inverse, uint32_t *y);

/* The best table of this machine, or the one named; NULL if name is unknown or
 * the machine lacks it. name may be NULL or "": the best. */
const cpu_kernels *cpu_kernels_find(const char *name);

/* Values of the reduced dtypes; exact. */
float float_from_f16(uint16_t bits);
float float_from_bf16(uint16_t bits);

#endif
