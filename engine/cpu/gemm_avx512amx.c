/* gemm_avx512amx.c: bf16 and int8 products by AMX, 32 rows by a panel at a time.
 *
 * Rows of A that do not lie at one stride, or the last ones, are copied together first;
 * what stands in the rows past them goes nowhere. The weights of a panel stay in L1 while
 * rows at one stride pass. A sum is the same chain whatever the rows, so bf16 takes this
 * way for a single row too. int8 sums are exact: few rows are left to the vectors. So are
 * depths of no whole tiles, or larger than the copy, and sums to be added: those are
 * short, see group_avx512amx.c. */
#include <stdbool.h>
#include <string.h>

#include "engine/cpu/amx.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/simd_math.h"
#include "engine/cpu/split.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

enum {
    PANEL = MOE_LINEAR_PANEL,
    MAX_UNITS = 1024, /* of a row that is copied */
    PAD = 16,         /* units between copied rows: not all in one cache set */
    FEW_ROWS = 8,     /* of int8 that vectors are faster for */
};

/* 1 to 32 rows of A and where they go. */
typedef struct {
    const float *a;
    size_t lda; /* in units */
    int row, n; /* of g's */
} block;

/* What comes next, prefetched a little at every step of depth. */
typedef struct {
    const char *next, *end;
    int lines; /* at a time */
} ahead;

static inline void fetch_ahead(ahead *f)
{
    for (int i = 0; i < f->lines && f->next < f->end; i++, f->next += 64)
        _mm_prefetch(f->next, _MM_HINT_T1);
}

/* C of a block and a panel. */
static ALWAYS_INLINE void multiply(const cpu_gemm *g, const block *s, const float *b, ahead *f,
                                   float (*c)[PANEL], const bool bytes)
{
    bool both = s->n > TILE_ROWS;
    tiles_zero();
    for (int k = 0; k < g->k; k += TILE_UNITS, b += TILE_UNITS * PANEL) {
        if (bytes)
            TILES_MULTIPLY(_tile_dpbusd, s->a + k, s->lda, b, PANEL, both);
        else
            TILES_MULTIPLY(_tile_dpbf16ps, s->a + k, s->lda, b, PANEL, both);
        fetch_ahead(f);
    }
    tiles_store(c, PANEL, both);
}

/* ---- what becomes of the sums ------------------------------------------------ */

/* The lanes of a panel's half that exist. */
static lanes columns_of(const cpu_gemm *g, int column)
{
    int left = g->n - column;
    return left >= LANES ? (lanes)0xffff : left > 0 ? v_first(left) : 0;
}

/* int8 as simd_gemm.h's tile_scale has it, so that the bits are the same. */
static ALWAYS_INLINE void finish_half(const cpu_gemm *g, const block *s, int j,
                                      float (*c)[PANEL], const bool bytes,
                                      const moe_activation act)
{
    lanes m = columns_of(g, j);
    if (!m)
        return;
    vec bias = g->bias ? v_load_some(g->bias + j, m) : v_set(0);
    vec by = bytes ? v_load(g->b_scale + j) : bias;
    float none[LANES] = {0};
    const int32_t *offset = g->b_offset ? g->b_offset + j : (const int32_t *)(void *)none;
    for (int i = 0; i < s->n; i++) {
        vec sum = v_load(c[i] + j % PANEL);
        if (bytes)
            sum = v_fma(v_from_ints(sum, offset), v_mul(v_set(g->a_scale[s->row + i]), by), bias);
        else
            sum = v_add(sum, bias);
        v_store_some(g->c[s->row + i] + j, m, v_activate(sum, act));
    }
}

static ALWAYS_INLINE void finish(const cpu_gemm *g, const block *s, int column,
                                 float (*c)[PANEL], const bool bytes)
{
    for (int j = column; j < column + PANEL; j += LANES)
        if (g->act == MOE_ACT_NONE)
            finish_half(g, s, j, c, bytes, MOE_ACT_NONE);
        else if (g->act == MOE_ACT_RELU)
            finish_half(g, s, j, c, bytes, MOE_ACT_RELU);
        else
            finish_half(g, s, j, c, bytes, g->act);
}

/* ---- rows -------------------------------------------------------------------- */

/* Whether the first n rows lie at one stride; *stride: in units. */
static bool one_stride(const float *const *a, int n, size_t *stride)
{
    ptrdiff_t first = n > 1 ? a[1] - a[0] : 0;
    for (int i = 2; i < n; i++)
        if (a[i] - a[i - 1] != first)
            return false;
    *stride = (size_t)first;
    return first >= 0;
}

static block copy_rows(const cpu_gemm *g, int row, int n, float *copy)
{
    size_t apart = (size_t)g->k + PAD;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < g->k; k += LANES)
            v_store(copy + (size_t)i * apart + k, v_load(g->a[row + i] + k));
    SETTLE();
    return (block){copy, apart, row, n};
}

static ALWAYS_INLINE void panels(const cpu_gemm *g, const block *s, int first, int end, ahead *f,
                                 const bool bytes)
{
    float c[PAIR_ROWS][PANEL] __attribute__((aligned(64)));
    for (int p = first; p < end; p++) {
        multiply(g, s, g->b[0] + (size_t)p * g->panel_stride, f, c, bytes);
        finish(g, s, p * PANEL, c, bytes);
    }
}

/* What to prefetch while `steps` steps of depth are computed. */
static ahead look_ahead(const float *b, int k, int steps)
{
    size_t bytes = b ? (size_t)k * PANEL * sizeof *b : 0;
    int lines = (int)((bytes / 64 + (size_t)steps - 1) / (size_t)steps);
    return (ahead){(const char *)b, (const char *)b + bytes, lines};
}

/* Rows [0, n_rows), whole tiles, at one stride: each panel meets all of them. */
static ALWAYS_INLINE void panels_in_place(const cpu_gemm *g, size_t stride, int n_rows,
                                          const bool bytes)
{
    int n_panels = cpu_ceil(g->n, PANEL), blocks = cpu_ceil(n_rows, PAIR_ROWS);
    for (int p = 0; p < n_panels; p++) {
        const float *next = g->ahead ? g->ahead[0] : NULL;
        if (p + 1 < n_panels)
            next = g->b[0] + (size_t)(p + 1) * g->panel_stride;
        ahead f = look_ahead(next, g->k, g->k / TILE_UNITS * blocks);
        for (int row = 0; row < n_rows; row += PAIR_ROWS) {
            int n = n_rows - row < PAIR_ROWS ? n_rows - row : PAIR_ROWS;
            block s = {g->a[row], stride, row, n};
            panels(g, &s, p, p + 1, &f, bytes);
        }
    }
}

/* The same for rows that are copied: they pass all panels in turn. */
static ahead look_ahead_of_few(const cpu_gemm *g, int n_panels, int in_place)
{
    int steps = g->k / TILE_UNITS;
    if (in_place || g->m > PAIR_ROWS * n_panels)
        return (ahead){.lines = 0};
    if (n_panels > 1)
        return look_ahead(g->b[0] + g->panel_stride, g->k * (n_panels - 1),
                          steps * (n_panels - 1));
    return look_ahead(g->ahead ? g->ahead[0] : NULL, g->k, steps);
}

static ALWAYS_INLINE void run(const cpu_gemm *g, const bool bytes)
{
    float copy[PAIR_ROWS * (MAX_UNITS + PAD)] __attribute__((aligned(64)));
    int n_panels = cpu_ceil(g->n, PANEL), in_place = 0;
    size_t stride = 0;
    tiles_begin();
    if (one_stride(g->a, g->m, &stride))
        in_place = g->m / TILE_ROWS * TILE_ROWS;
    if (in_place)
        panels_in_place(g, stride, in_place, bytes);
    ahead f = look_ahead_of_few(g, n_panels, in_place);
    for (int row = in_place; row < g->m; row += PAIR_ROWS) {
        int n = g->m - row < PAIR_ROWS ? g->m - row : PAIR_ROWS;
        block s = copy_rows(g, row, n, copy);
        panels(g, &s, 0, n_panels, &f, bytes);
    }
    _tile_release();
}

static bool fits(const cpu_gemm *g)
{
    return g->k % TILE_UNITS == 0 && g->k <= MAX_UNITS && g->ldb == PANEL &&
           g->n_blocks == 1 && !g->add;
}

void cpu_gemm_bf16_avx512amx(const cpu_gemm *g)
{
    if (fits(g))
        run(g, false);
    else
        cpu_gemm_bf16_avx512bf16(g);
}

void cpu_gemm_i8_avx512amx(const cpu_gemm *g)
{
    if (g->m >= FEW_ROWS && fits(g))
        run(g, true);
    else
        cpu_gemm_i8_avx512vnni(g);
}
