/* gemm_avx512amx.c: bf16 and int8 products by AMX, whose tiles are 16 rows of 64 bytes:
 * C [16][16] += A [16 rows][16 units] B [16 units][16 columns]. The packed layout is B's
 * as it stands, half a panel to a tile. Eight tiles hold 2 x 2 of C, 2 of A and 2 of B:
 * four products to four loads.
 *
 * Rows of A that do not lie at one stride, or are fewer than 16, are copied together
 * first; what stands in the rows past them goes nowhere. A sum is the same chain
 * whatever the rows, so bf16 takes this way for a single row too. int8 sums are exact:
 * few rows are left to the vectors. So are weights whose depth is not whole tiles, or
 * more than fit the copy. */
#include "engine/cpu/vec_avx512.h"

#include <stdbool.h>
#include <string.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd_math.h"

enum {
    ROWS = 16, UNITS = 16,    /* of a tile */
    PANEL = MOE_LINEAR_PANEL,
    MAX_UNITS = 1024,         /* of a row that is copied */
    PAD = 16,                 /* units between copied rows: not all in one cache set */
    FEW_ROWS = 8,             /* of int8 that vectors are faster for */
};

/* The compiler does not know that tiles are read from memory. */
#define SETTLE() __asm__ volatile("" ::: "memory")

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) tile_config;

/* Tiles 0 to 3: C; 4 and 5: A; 6 and 7: B. All of them 16 x 64 bytes, or with a depth of
 * 8 units only, as a row of 32 int8 hidden values has. */
#define CONFIG(units)                                                                   \
    {.palette = 1,                                                                      \
     .row_bytes = {64, 64, 64, 64, 4 * (units), 4 * (units), 64, 64},                   \
     .rows = {16, 16, 16, 16, 16, 16, (units), (units)}}

static const tile_config whole = CONFIG(16), half = CONFIG(8);

/* Rows of A, 1 to 32 of them. */
typedef struct {
    const float *first, *second; /* of rows 0 and 16 */
    size_t stride;               /* in bytes */
    int n_rows;
} rows;

/* What a product's rows have in common. */
typedef struct {
    const cpu_gemm *g;
    int step;   /* units of depth of a tile */
    bool bytes; /* int8 */
} shape;

static bool one_stride(const float *const *a, int n, ptrdiff_t *stride)
{
    *stride = a[1] - a[0];
    for (int i = 2; i < n; i++)
        if (a[i] - a[i - 1] != *stride)
            return false;
    return true;
}

/* Rows [at, at + n) of g->a as tiles want them; copy: room for 32 of them. */
static rows take_rows(const cpu_gemm *g, int at, int n, float *copy)
{
    const float *const *a = g->a + at;
    ptrdiff_t stride;
    if (n % ROWS == 0 && one_stride(a, n, &stride))
        return (rows){a[0], a[n - ROWS], (size_t)stride * sizeof(float), n};
    size_t apart = (size_t)g->k + PAD;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < g->k; k += 8)
            _mm256_store_ps(copy + (size_t)i * apart + k, _mm256_loadu_ps(a[i] + k));
    SETTLE();
    return (rows){copy, copy + ROWS * apart, apart * sizeof(float), n};
}

/* C += A B over the depth, two columns of tiles by one or two rows of them. */
#define MULTIPLY(DOT)                                                                   \
    for (int k = 0; k < g->k; k += s->step, b += (size_t)s->step * (size_t)g->ldb) {    \
        _tile_loadd(6, b, g->ldb * sizeof *b);                                          \
        _tile_loadd(7, b + 16, g->ldb * sizeof *b);                                     \
        _tile_loadd(4, a->first + k, a->stride);                                        \
        DOT(0, 4, 6);                                                                   \
        DOT(1, 4, 7);                                                                   \
        if (a->n_rows > ROWS) {                                                         \
            _tile_loadd(5, a->second + k, a->stride);                                   \
            DOT(2, 5, 6);                                                               \
            DOT(3, 5, 7);                                                               \
        }                                                                               \
    }

/* Sums of a panel: start and sums stand in c [32][32]. */
static void multiply(const shape *s, const rows *a, const float *b, bool add,
                     float (*c)[PANEL])
{
    const cpu_gemm *g = s->g;
    const size_t stride = sizeof *c;
    if (add) {
        SETTLE();
        _tile_loadd(0, c, stride);
        _tile_loadd(1, &c[0][16], stride);
        _tile_loadd(2, c + ROWS, stride);
        _tile_loadd(3, &c[ROWS][16], stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    if (s->bytes)
        MULTIPLY(_tile_dpbusd)
    else
        MULTIPLY(_tile_dpbf16ps)
    _tile_stored(0, c, stride);
    _tile_stored(1, &c[0][16], stride);
    if (a->n_rows > ROWS) {
        _tile_stored(2, c + ROWS, stride);
        _tile_stored(3, &c[ROWS][16], stride);
    }
    SETTLE();
}

/* ---- before and after -------------------------------------------------------- */

/* The lanes of a panel's half that exist. */
static lanes columns_of(const cpu_gemm *g, int column)
{
    int left = g->n - column;
    return left >= LANES ? (lanes)0xffff : left > 0 ? v_first(left) : 0;
}

/* What bf16 sums start from. */
static void begin_sums(const cpu_gemm *g, int row, int n, int column, float (*c)[PANEL])
{
    for (int h = 0; h < PANEL; h += LANES) {
        lanes m = columns_of(g, column + h);
        for (int i = 0; i < n; i++)
            v_store(c[i] + h, g->add ? v_load_some(g->c[row + i] + column + h, m)
                              : g->bias ? v_load_some(g->bias + column + h, m) : v_set(0));
    }
}

/* As simd_gemm.h's tile_scale has it, so that the bits are the same. */
static void scale_sums(const cpu_gemm *g, int row, int n, int column, float (*c)[PANEL])
{
    for (int h = 0; h < PANEL; h += LANES) {
        int j = column + h;
        lanes m = columns_of(g, j);
        vec bias = g->bias && !g->add ? v_load_some(g->bias + j, m) : v_set(0);
        vec by = g->add ? v_set(0) : v_load(g->b_scale + j);
        for (int i = 0; i < n; i++) {
            vec scale = v_set(g->a_scale[row + i]);
            vec sum = v_from_ints(v_load(c[i] + h), g->b_offset ? g->b_offset + j : NULL);
            v_store(c[i] + h, g->add ? v_fma(sum, scale, v_load_some(g->c[row + i] + j, m))
                                     : v_fma(sum, v_mul(scale, by), bias));
        }
    }
}

static void finish_sums(const cpu_gemm *g, int row, int n, int column, float (*c)[PANEL])
{
    for (int h = 0; h < PANEL; h += LANES) {
        lanes m = columns_of(g, column + h);
        for (int i = 0; m && i < n; i++)
            v_store_some(g->c[row + i] + column + h, m, v_activate(v_load(c[i] + h), g->act));
    }
}

static void run(const shape *s)
{
    const cpu_gemm *g = s->g;
    float copy[2 * ROWS * (MAX_UNITS + PAD)] __attribute__((aligned(64)));
    float c[2 * ROWS][PANEL] __attribute__((aligned(64)));
    _tile_loadconfig(s->step == UNITS ? &whole : &half);
    for (int row = 0, n; row < g->m; row += n) {
        n = g->m - row < 2 * ROWS ? g->m - row : 2 * ROWS;
        rows a = take_rows(g, row, n, copy);
        for (int column = 0; column < g->n; column += PANEL) {
            const float *b = g->b[0] + (size_t)(column / PANEL) * g->panel_stride;
            if (!s->bytes)
                begin_sums(g, row, n, column, c);
            multiply(s, &a, b, !s->bytes, c);
            if (s->bytes)
                scale_sums(g, row, n, column, c);
            finish_sums(g, row, n, column, c);
        }
    }
    _tile_release();
}

/* Whether the depth is whole tiles; *step: the units of one. */
static bool fits(const cpu_gemm *g, int *step)
{
    *step = g->k % UNITS == 0 ? UNITS : 8;
    return g->k <= MAX_UNITS && g->n_blocks == 1 && (g->k % UNITS == 0 || g->k == 8);
}

void cpu_gemm_bf16_avx512amx(const cpu_gemm *g)
{
    shape s = {.g = g, .bytes = false};
    if (fits(g, &s.step))
        run(&s);
    else
        cpu_gemm_bf16_avx512bf16(g);
}

void cpu_gemm_i8_avx512amx(const cpu_gemm *g)
{
    shape s = {.g = g, .bytes = true};
    if (g->m >= FEW_ROWS && fits(g, &s.step))
        run(&s);
    else
        cpu_gemm_i8_avx512vnni(g);
}
