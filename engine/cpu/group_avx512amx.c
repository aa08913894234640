/* group_avx512amx.c: hidden rows of a group of experts times their w2, by AMX. Sums stay
 * in tiles for the whole depth of the group: adding to memory after each expert, 32 deep,
 * would take five times as long as the products. */
#include <stdbool.h>

#include "engine/cpu/amx.h"
#include "engine/cpu/kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

enum { WIDE = MOE_W2_PANEL };

/* What comes next, prefetched some lines at every step of depth. */
typedef struct {
    const cpu_group *g;
    int piece, lines;
    size_t at; /* bytes into the piece */
} ahead;

static inline void fetch_ahead(ahead *f)
{
    const cpu_group *g = f->g;
    for (int i = 0; i < f->lines && f->piece < g->n_ahead; i++) {
        _mm_prefetch((const char *)g->ahead[f->piece] + f->at, _MM_HINT_T1);
        f->at += 64;
        if (f->at == g->ahead_bytes) {
            f->at = 0;
            f->piece++;
        }
    }
}

static ahead look_ahead(const cpu_group *g)
{
    int steps = 2 * g->n_steps * ((g->n_rows + PAIR_ROWS - 1) / PAIR_ROWS);
    int lines = (int)((size_t)g->n_ahead * (g->ahead_bytes / 64));
    return (ahead){.g = g, .lines = steps > 0 ? (lines + steps - 1) / steps : 0};
}

/* All steps of 32 rows and columns, or fewer rows. */
#define MULTIPLY(DOT)                                                                   \
    for (int s = 0; s < g->n_steps; s++, hidden += TILE_UNITS) {                        \
        const uint32_t *w2 = g->w2[s] + column;                                         \
        TILES_MULTIPLY(DOT, hidden, g->ld, w2, WIDE, both);                             \
        fetch_ahead(f);                                                                 \
    }

void cpu_add_group_bf16_avx512amx(const cpu_group *g)
{
    ahead next = look_ahead(g), *f = &next;
    tiles_begin();
    for (int row = 0; row < g->n_rows; row += PAIR_ROWS)
        for (int column = 0; column < WIDE; column += PAIR_COLUMNS) {
            const uint32_t *hidden = g->hidden + (size_t)row * g->ld;
            float *tile = g->tile + (size_t)row * WIDE + column;
            bool both = g->n_rows - row > TILE_ROWS;
            SETTLE();
            _tile_loadd(0, tile, WIDE * 4);
            _tile_loadd(1, tile + TILE_COLUMNS, WIDE * 4);
            if (both) {
                _tile_loadd(2, tile + TILE_ROWS * WIDE, WIDE * 4);
                _tile_loadd(3, tile + TILE_ROWS * WIDE + TILE_COLUMNS, WIDE * 4);
            }
            MULTIPLY(_tile_dpbf16ps)
            tiles_store(tile, WIDE, both);
        }
    _tile_release();
}

static ALWAYS_INLINE void add_scaled(const cpu_group *g, int row, int n, int column,
                                     float (*sum)[PAIR_COLUMNS])
{
    float *tile = g->tile + (size_t)row * WIDE + column;
    for (int i = 0; i < n; i++, tile += WIDE) {
        vec scale = v_set(g->scale[row + i]);
        for (int j = 0; j < PAIR_COLUMNS; j += LANES)
            v_store(tile + j, v_fma(v_from_ints(v_load(sum[i] + j), NULL), scale,
                                    v_load(tile + j)));
    }
}

void cpu_add_group_i8_avx512amx(const cpu_group *g)
{
    float sum[PAIR_ROWS][PAIR_COLUMNS] __attribute__((aligned(64)));
    ahead next = look_ahead(g), *f = &next;
    tiles_begin();
    for (int row = 0, n; row < g->n_rows; row += n) {
        n = g->n_rows - row < PAIR_ROWS ? g->n_rows - row : PAIR_ROWS;
        bool both = n > TILE_ROWS;
        for (int column = 0; column < WIDE; column += PAIR_COLUMNS) {
            const uint32_t *hidden = g->hidden + (size_t)row * g->ld;
            tiles_zero();
            if (g->is_signed)
                MULTIPLY(_tile_dpbssd)
            else
                MULTIPLY(_tile_dpbusd)
            tiles_store(sum, PAIR_COLUMNS, both);
            add_scaled(g, row, n, column, sum);
        }
    }
    _tile_release();
}

float cpu_largest_hidden_avx512amx(const float *h)
{
    return v_greatest(v_max(v_abs(v_load(h)), v_abs(v_load(h + LANES))));
}

void cpu_hidden_to_i8_avx512amx(const float *h, float inverse, uint32_t *y)
{
    for (int i = 0; i < MOE_EXPERT_SIZE; i += LANES) {
        __m512i whole = _mm512_cvtps_epi32(v_mul(v_load(h + i), v_set(inverse)));
        _mm_storeu_si128((__m128i *)(void *)(y + i / 4), _mm512_cvtepi32_epi8(whole));
    }
}
