/* simd_gemm.h: the matrix kernel, a template over vec_*.h. A tile of R rows by P
 * panels of 32 columns keeps its sums in registers for the whole depth; per step
 * it loads a row of each panel and broadcasts one value of each row of a. R and
 * P are constants after inlining, so the loops below unroll away.
 *
 * With AVX-512 12 x 32 fills 24 of 32 registers, with AVX2 3 x 32 fills 12 of 16.
 * A sum is a chain of dependent multiply-adds of 4 cycles each, two issued per
 * cycle: fewer than 8 chains leave the units idle. So with few rows a tile takes
 * several panels. Rows left over are spread: 13 are 7 + 6, not 12 + 1. */
#ifndef MOE_CPU_SIMD_GEMM_H
#define MOE_CPU_SIMD_GEMM_H

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd_math.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 24")

enum {
    PANEL = MOE_LINEAR_PANEL,
    VECS = PANEL / LANES,              /* vectors of a panel's row */
    TILE_ROWS = LANES == 16 ? 12 : 3,
    TILE_VECS = LANES == 16 ? 24 : 12, /* sums of a tile, at most */
};

/* What a tile prefetches, spread over its steps: so many rows of the next blocks
 * per four steps, from a row and panel (an offset in floats) on. */
typedef struct { const float *const *block; size_t offset; int rows; } prefetch;

typedef void tile_fn(const cpu_gemm *g, int row, int panel, const prefetch *ahead);

/* Columns of the vector at `column` that exist: all, some or none. */
static ALWAYS_INLINE vec load_columns(const float *p, int column, int n)
{
    if (column + LANES <= n)
        return v_load(p + column);
    return column < n ? v_load_some(p + column, v_first(n - column)) : v_set(0);
}

static ALWAYS_INLINE void store_columns(float *p, int column, int n, vec v)
{
    if (column + LANES <= n)
        v_store(p + column, v);
    else if (column < n)
        v_store_some(p + column, v_first(n - column), v);
}

/* There are more rows than registers for their pointers. Left alone, the compiler
 * keeps some in vector registers, and moving them back takes the multipliers'
 * ports. So a tile holds HELD pointers and reads the others from memory each time,
 * which load units have room for; the asm stops the compiler from hoisting that. */
enum { HELD = 4 };
#define FORGET(pointer) __asm__ volatile("" : "+r"(pointer))

/* One step of depth: sum[r][v] += a[r][i] b[v]. Broadcasts come first where few
 * rows meet many vectors, so that no more registers are needed than there are. */
static ALWAYS_INLINE void tile_step(const float *const *held, const float *const *rows,
                                    size_t i, const float *b, size_t panel_stride,
                                    vec (*sum)[TILE_VECS], const int R, const int P)
{
    vec wide[TILE_ROWS], row[TILE_VECS];
    if (R <= 3) {
        UNROLL for (int r = 0; r < R; r++)
            wide[r] = v_set(r < HELD ? held[r][i] : rows[r][i]);
        UNROLL for (int v = 0; v < P * VECS; v++) {
            row[v] = v_load(b + (size_t)(v / VECS) * panel_stride + v % VECS * LANES);
            UNROLL for (int r = 0; r < R; r++)
                sum[r][v] = v_fma(wide[r], row[v], sum[r][v]);
        }
    } else {
        UNROLL for (int v = 0; v < P * VECS; v++)
            row[v] = v_load(b + (size_t)(v / VECS) * panel_stride + v % VECS * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            wide[r] = v_set(r < HELD ? held[r][i] : rows[r][i]);
            UNROLL for (int v = 0; v < P * VECS; v++)
                sum[r][v] = v_fma(wide[r], row[v], sum[r][v]);
        }
    }
}

/* whole: every column of the tile exists, which saves asking for each vector. */
static ALWAYS_INLINE void tile_start(const cpu_gemm *g, int row, int column, bool whole,
                                     vec (*sum)[TILE_VECS], const int R, const int P)
{
    int n = whole ? column + P * PANEL : g->n;
    if (g->add) {
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < P * VECS; v++)
                sum[r][v] = load_columns(g->c[row + r], column + v * LANES, n);
        return;
    }
    UNROLL for (int v = 0; v < P * VECS; v++) {
        vec start = g->bias ? load_columns(g->bias, column + v * LANES, n) : v_set(0);
        UNROLL for (int r = 0; r < R; r++)
            sum[r][v] = start;
    }
}

/* Not inlined: the transcendental activations would fill every tile with code. */
static __attribute__((noinline)) void activate_columns(float *c, int n, moe_activation act)
{
    for (int i = 0; i < n; i += LANES)
        store_columns(c, i, n, v_activate(load_columns(c, i, n), act));
}

static ALWAYS_INLINE void tile_finish(const cpu_gemm *g, int row, int column, bool whole,
                                      vec (*sum)[TILE_VECS], const int R, const int P)
{
    int n = whole ? column + P * PANEL : g->n;
    if (g->act == MOE_ACT_RELU) {
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < P * VECS; v++)
                sum[r][v] = v_max(v_set(0), sum[r][v]);
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < P * VECS; v++)
            store_columns(g->c[row + r], column + v * LANES, n, sum[r][v]);
    if (g->act != MOE_ACT_NONE && g->act != MOE_ACT_RELU) {
        int left = g->n - column, columns = left < P * PANEL ? left : P * PANEL;
        for (int r = 0; r < R; r++)
            activate_columns(g->c[row + r] + column, columns, g->act);
    }
}

static ALWAYS_INLINE void tile(const cpu_gemm *g, int row, int panel, const prefetch *ahead,
                               const int R, const int P)
{
    vec sum[TILE_ROWS][TILE_VECS];
    const float *const *rows = g->a + row, *held[HELD];
    int column = panel * PANEL;
    bool whole = column + P * PANEL <= g->n;
    UNROLL for (int r = 0; r < R && r < HELD; r++)
        held[r] = rows[r];
    if (whole)
        tile_start(g, row, column, true, sum, R, P);
    else
        tile_start(g, row, column, false, sum, R, P);
    size_t i = 0;
    for (int s = 0; s < g->n_blocks; s++) {
        const float *b = g->b[s] + (size_t)panel * g->panel_stride;
        const float *next = ahead->block ? ahead->block[s] + ahead->offset : NULL;
        size_t end = i + (size_t)g->k;
        while (i + 4 <= end) {
            for (int n = 0; next && n < ahead->rows; n++, next += g->ldb) {
                _mm_prefetch((const char *)next, _MM_HINT_T1);
                _mm_prefetch((const char *)(next + 16), _MM_HINT_T1);
            }
            UNROLL for (int step = 0; step < 4; step++, i++, b += g->ldb) {
                FORGET(rows);
                tile_step(held, rows, i, b, g->panel_stride, sum, R, P);
            }
        }
        for (; i < end; i++, b += g->ldb) {
            FORGET(rows);
            tile_step(held, rows, i, b, g->panel_stride, sum, R, P);
        }
    }
    if (whole)
        tile_finish(g, row, column, true, sum, R, P);
    else
        tile_finish(g, row, column, false, sum, R, P);
}

#define TILE(R, P)                                                                     \
    static void tile_##R##x##P(const cpu_gemm *g, int row, int panel, const prefetch *ahead) \
    {                                                                                  \
        tile(g, row, panel, ahead, R, P);                                              \
    }

#if LANES == 16
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(7, 1) TILE(8, 1) TILE(9, 1) TILE(10, 1) TILE(11, 1) TILE(12, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(1, 4) TILE(2, 4) TILE(3, 4)
/* [panels][rows]; NULL where the registers do not suffice */
static tile_fn *const tiles[5][TILE_ROWS + 1] = {
    [1] = {NULL, tile_1x1, tile_2x1, tile_3x1, tile_4x1, tile_5x1, tile_6x1, tile_7x1,
           tile_8x1, tile_9x1, tile_10x1, tile_11x1, tile_12x1},
    [2] = {NULL, tile_1x2, tile_2x2, tile_3x2, tile_4x2, tile_5x2, tile_6x2},
    [4] = {NULL, tile_1x4, tile_2x4, tile_3x4},
};
#else
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(1, 2)
static tile_fn *const tiles[5][TILE_ROWS + 1] = {
    [1] = {NULL, tile_1x1, tile_2x1, tile_3x1},
    [2] = {NULL, tile_1x2},
};
#endif

/* Panels of a tile of so many rows, of those left. */
static int tile_panels(int rows, int left)
{
    int panels = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    while (!tiles[panels][rows])
        panels /= 2;
    return panels;
}

static void gemm(const cpu_gemm *g)
{
    if (g->m == 0)
        return;
    int n_panels = (g->n + PANEL - 1) / PANEL;
    int n_tiles = (g->m + TILE_ROWS - 1) / TILE_ROWS;
    int most = (g->m + n_tiles - 1) / n_tiles; /* rows of a tile */
    int step;
    for (int panel = 0; panel < n_panels; panel += step) {
        step = tile_panels(most, n_panels - panel);
        const float *following = g->b[0] + (size_t)step * g->panel_stride;
        prefetch ahead = {g->ahead, (size_t)panel * g->panel_stride, 0};
        if (!ahead.block && g->n_blocks == 1 && panel + step < n_panels)
            ahead.block = &following;
        /* The first four tiles share the k rows; with fewer, each has more. */
        ahead.rows = n_tiles == 1 ? 4 : n_tiles < 4 ? 2 : 1;
        int share = (g->k + 3) / 4 * ahead.rows;
        for (int i = 0, row = 0; i < n_tiles; i++) {
            int end = (int)((int64_t)g->m * (i + 1) / n_tiles);
            if (i * share >= g->k)
                ahead.block = NULL;
            tiles[step][end - row](g, row, panel, &ahead);
            ahead.offset += (size_t)share * (size_t)g->ldb;
            row = end;
        }
    }
}

#endif
