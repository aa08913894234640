/* simd_gemm.h: the matrix kernel, a template over vec_*.h, GEMM_DOT(a, b, sum), which
 * multiplies and adds 4 bytes of each lane, and GEMM_I8, defined where they are int8. A
 * tile of R rows by P
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

#include <string.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd_math.h"
#include "engine/cpu/split.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif

enum {
    PANEL = MOE_LINEAR_PANEL,
    VECS = PANEL / LANES,              /* vectors of a panel's row */
    TILE_ROWS = LANES == 16 ? 12 : 3,
    TILE_VECS = LANES == 16 ? 24 : 12, /* sums of a tile, at most */
};

/* What the tiles of some panels share. Every column of a tile exists. Prefetching is
 * spread over all steps, since a core can wait for some ten lines only: after every
 * four of them some rows of the next blocks, and two lines of the next rows. */
typedef struct {
    const cpu_gemm *g;
    size_t column;          /* of c and bias */
    size_t offset;          /* of the panel in each block of b, in floats */
    const float *const *ahead;
    size_t ahead_offset;
    int ahead_rows, ahead_pause; /* rows at a time; groups of four steps between */
    const float *ahead_a;
    const float *a_scale;   /* of the tile's rows */
} place;

/* a [R], c [R], b [n_blocks]: as in cpu_gemm, from the tile's first row on. They
 * come in registers: on the way to the first product every load counts. */
typedef void tile_fn(const float *const *a, float *const *c, const float *const *b,
                     const place *at);

/* There are more rows than registers for their pointers. Left alone, the compiler
 * keeps some in vector registers, and moving them back takes the multipliers'
 * ports. So a tile holds HELD pointers and reads the others from memory each time,
 * which load units have room for; the asm stops the compiler from hoisting that. */
enum { HELD = 4 };
#define FORGET(pointer) __asm__ volatile("" : "+r"(pointer))

/* One step of depth: sum[r][v] += a[r][i] b[v]. Broadcasts come first where few
 * rows meet many vectors, so that no more registers are needed than there are. */
static ALWAYS_INLINE void tile_step(const float *const *held, const float *const *a, size_t i,
                                    const float *b, size_t panel_stride,
                                    vec (*sum)[TILE_VECS], const int R, const int P)
{
    vec wide[TILE_ROWS], row[TILE_VECS];
    if (R <= 3) {
        UNROLL for (int r = 0; r < R; r++)
            wide[r] = v_set(held[r][i]);
        UNROLL for (int v = 0; v < P * VECS; v++) {
            row[v] = v_load(b + (size_t)(v / VECS) * panel_stride + v % VECS * LANES);
            UNROLL for (int r = 0; r < R; r++)
                sum[r][v] = GEMM_DOT(wide[r], row[v], sum[r][v]);
        }
    } else {
        UNROLL for (int v = 0; v < P * VECS; v++)
            row[v] = v_load(b + (size_t)(v / VECS) * panel_stride + v % VECS * LANES);
        UNROLL for (int r = 0; r < R; r++) {
            wide[r] = v_set(r < HELD ? held[r][i] : a[r][i]);
            UNROLL for (int v = 0; v < P * VECS; v++)
                sum[r][v] = GEMM_DOT(wide[r], row[v], sum[r][v]);
        }
    }
}

#ifdef GEMM_I8
static ALWAYS_INLINE void tile_start(const place *at, float *const *c,
                                     vec (*sum)[TILE_VECS], const int R, const int P)
{
    (void)at;
    (void)c;
    UNROLL for (int v = 0; v < P * VECS; v++)
        UNROLL for (int r = 0; r < R; r++)
            sum[r][v] = v_set(0); /* the bits of an integer's 0 too */
}

/* From exact sums to fp32, scaled, and added to c or to the bias. */
static ALWAYS_INLINE void tile_scale(const place *at, float *const *c,
                                     vec (*sum)[TILE_VECS], const int R, const int P)
{
    const cpu_gemm *g = at->g;
    UNROLL for (int v = 0; v < P * VECS; v++) {
        size_t j = at->column + (size_t)(v * LANES);
        vec bias = v_set(0), by = bias;
        if (!g->add) {
            bias = g->bias ? v_load(g->bias + j) : bias;
            by = v_load(g->b_scale + j);
        }
        UNROLL for (int r = 0; r < R; r++) {
            vec scale = v_set(at->a_scale[r]);
            vec whole = v_from_ints(sum[r][v], g->b_offset ? g->b_offset + j : NULL);
            sum[r][v] = g->add ? v_fma(whole, scale, v_load(c[r] + j))
                               : v_fma(whole, v_mul(scale, by), bias);
        }
    }
}
#else
static ALWAYS_INLINE void tile_start(const place *at, float *const *c,
                                     vec (*sum)[TILE_VECS], const int R, const int P)
{
    const cpu_gemm *g = at->g;
    UNROLL for (int v = 0; v < P * VECS; v++) {
        vec start = v_set(0);
        if (!g->add && g->bias)
            start = v_load(g->bias + at->column + v * LANES);
        UNROLL for (int r = 0; r < R; r++)
            sum[r][v] = start;
    }
    if (g->add) {
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < P * VECS; v++)
                sum[r][v] = v_load(c[r] + at->column + v * LANES);
    }
}
#endif

static ALWAYS_INLINE void tile_finish(const place *at, float *const *c,
                                      vec (*sum)[TILE_VECS], const int R, const int P)
{
#ifdef GEMM_I8
    tile_scale(at, c, sum, R, P);
#endif
    if (at->g->act == MOE_ACT_RELU) {
        UNROLL for (int r = 0; r < R; r++)
            UNROLL for (int v = 0; v < P * VECS; v++)
                sum[r][v] = v_max(v_set(0), sum[r][v]);
    }
    UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int v = 0; v < P * VECS; v++)
            v_store(c[r] + at->column + v * LANES, sum[r][v]);
}

static ALWAYS_INLINE void tile(const float *const *a, float *const *c,
                               const float *const *b_block, const place *at, const int R,
                               const int P)
{
    vec sum[TILE_ROWS][TILE_VECS];
    const cpu_gemm *g = at->g;
    const float *held[HELD], *next_a = at->ahead_a;
    size_t ldb = (size_t)g->ldb, panel_stride = g->panel_stride, i = 0, end = 0;
    UNROLL for (int r = 0; r < R && r < HELD; r++)
        held[r] = a[r];
    tile_start(at, c, sum, R, P);
    FORGET(c); /* or the addresses in c stay in registers meanwhile */
    for (int s = 0; s < g->n_blocks; s++) {
        const float *b = b_block[s] + at->offset;
        const float *next = at->ahead ? at->ahead[s] + at->ahead_offset : NULL;
        int pause = 0;
        for (end += (size_t)g->k; i + 4 <= end;) {
            if (next && pause-- == 0) {
                for (int n = 0; n < at->ahead_rows; n++, next += ldb) {
                    _mm_prefetch((const char *)next, _MM_HINT_T1);
                    _mm_prefetch((const char *)(next + 16), _MM_HINT_T1);
                }
                pause = at->ahead_pause;
            }
            if (next_a) {
                _mm_prefetch((const char *)next_a, _MM_HINT_T0);
                _mm_prefetch((const char *)(next_a + 16), _MM_HINT_T0);
                next_a += 32;
            }
            UNROLL for (int step = 0; step < 4; step++, i++, b += ldb) {
                FORGET(a);
                tile_step(held, a, i, b, panel_stride, sum, R, P);
            }
        }
        for (; i < end; i++, b += ldb) {
            FORGET(a);
            tile_step(held, a, i, b, panel_stride, sum, R, P);
        }
    }
    tile_finish(at, c, sum, R, P);
}

#define TILE(R, P)                                                                     \
    static void tile_##R##x##P(const float *const *a, float *const *c,                 \
                               const float *const *b, const place *at)                 \
    {                                                                                  \
        tile(a, c, b, at, R, P);                                                       \
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

/* ReLU is the tiles' own affair; these would fill each of them with code. */
static void activate_columns(const cpu_gemm *g, int column, int n)
{
    if (g->act == MOE_ACT_NONE || g->act == MOE_ACT_RELU)
        return;
    for (int r = 0; r < g->m; r++) {
        float *c = g->c[r] + column;
        int i = 0;
        for (; i + LANES <= n; i += LANES)
            v_store(c + i, v_activate(v_load(c + i), g->act));
        if (i < n) {
            lanes rest = v_first(n - i);
            v_store_some(c + i, rest, v_activate(v_load_some(c + i, rest), g->act));
        }
    }
}

/* All rows of `step` panels, meanwhile prefetching what comes next. */
static void gemm_panels(const cpu_gemm *g, int panel, int step, int n_tiles, bool last)
{
    place at = {.g = g, .column = (size_t)panel * PANEL,
                .offset = (size_t)panel * g->panel_stride};
    if (g->ahead) {
        at.ahead = g->ahead;
        at.ahead_offset = at.offset;
    } else if (g->n_blocks == 1 && !last) {
        at.ahead = g->b;
        at.ahead_offset = at.offset + (size_t)step * g->panel_stride;
    }
    /* The tiles share the k rows of the next blocks. */
    at.ahead_rows = n_tiles == 1 ? 4 : n_tiles < 4 ? 2 : 1;
    at.ahead_pause = n_tiles < 4 ? 0 : n_tiles / 4 - 1;
    int share = cpu_ceil(g->k / 4, at.ahead_pause + 1) * at.ahead_rows;
    size_t per_tile = (size_t)g->n_blocks * (size_t)(g->k / 4) * 32; /* of ahead_a */
    for (int i = 0, row = 0, end; i < n_tiles; i++, row = end) {
        end = cpu_part(g->m, n_tiles, i + 1);
        if (i * share >= g->k)
            at.ahead = NULL;
        size_t seen = (size_t)(panel / step * n_tiles + i) * per_tile;
        at.ahead_a = seen < g->ahead_a_floats ? g->ahead_a + seen : NULL;
        at.a_scale = g->a_scale ? g->a_scale + row : NULL;
        tiles[step][end - row](g->a + row, g->c + row, g->b, &at);
        at.ahead_offset += (size_t)share * (size_t)g->ldb;
    }
}

/* The last panel where it is not whole: by way of a buffer of whole rows. */
static void gemm_rest(const cpu_gemm *g, int panel, int n_tiles)
{
    float buffer[TILE_ROWS][PANEL], bias[PANEL] = {0}, *c[TILE_ROWS];
    int column = panel * PANEL;
    size_t bytes = (size_t)(g->n - column) * sizeof(float);
    cpu_gemm whole = *g;
    if (g->b_scale)
        whole.b_scale = g->b_scale + column;
    if (g->b_offset)
        whole.b_offset = g->b_offset + column;
    if (g->bias) {
        memcpy(bias, g->bias + column, bytes);
        whole.bias = bias;
    }
    for (int i = 0; i < n_tiles; i++) {
        int row = cpu_part(g->m, n_tiles, i), n = cpu_part(g->m, n_tiles, i + 1) - row;
        place at = {.g = &whole, .offset = (size_t)panel * g->panel_stride,
                    .a_scale = g->a_scale ? g->a_scale + row : NULL};
        for (int r = 0; r < n; r++) {
            c[r] = buffer[r];
            if (g->add)
                memcpy(memset(buffer[r], 0, sizeof buffer[r]), g->c[row + r] + column, bytes);
        }
        tiles[1][n](g->a + row, c, g->b, &at);
        for (int r = 0; r < n; r++)
            memcpy(g->c[row + r] + column, buffer[r], bytes);
    }
}

static void gemm(const cpu_gemm *g)
{
    if (g->m == 0)
        return;
    int whole = g->n / PANEL, rest = g->n % PANEL;
    int n_tiles = cpu_ceil(g->m, TILE_ROWS), rows = cpu_ceil(g->m, n_tiles);
    int step;
    for (int panel = 0; panel < whole; panel += step) {
        step = tile_panels(rows, whole - panel);
        gemm_panels(g, panel, step, n_tiles, panel + step == whole);
        activate_columns(g, panel * PANEL, step * PANEL);
    }
    if (rest) {
        gemm_rest(g, whole, n_tiles);
        activate_columns(g, whole * PANEL, rest);
    }
}

#endif
