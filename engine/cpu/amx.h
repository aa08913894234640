/* amx.h: what the kernels on AMX tiles share. A tile is 16 rows of 64 bytes:
 * C [16][16] += A [16 rows][16 units] B [16 units][16 columns]. The packed layouts are B's
 * as they stand. A product costs the more the more rows A has, whatever its depth; loads
 * from L1 go on meanwhile, four for four products when C is 2 x 2 tiles. */
#ifndef MOE_CPU_AMX_H
#define MOE_CPU_AMX_H

#include "engine/cpu/vec_avx512.h"

enum {
    TILE_ROWS = 16, TILE_UNITS = 16,
    TILE_COLUMNS = 16,
    PAIR_ROWS = 2 * TILE_ROWS, /* of 2 x 2 tiles of C */
    PAIR_COLUMNS = 2 * TILE_COLUMNS,
};

/* The compiler does not know which memory tiles read and write. */
#define SETTLE() __asm__ volatile("" ::: "memory")

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) tile_config;

/* All eight of 16 rows of 64 bytes: 0 to 3 are C, 4 and 5 A, 6 and 7 B. Setting it takes
 * as long as some twenty products; _tile_release ends it. */
static inline void tiles_begin(void)
{
    static const tile_config whole = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    _tile_loadconfig(&whole);
}

/* c [32][ldc] from the tiles of C, the lower two only where told. */
static inline void tiles_store(void *c, size_t ldc, bool both)
{
    char *at = c;
    _tile_stored(0, at, ldc * 4);
    _tile_stored(1, at + 4 * TILE_COLUMNS, ldc * 4);
    if (both) {
        at += TILE_ROWS * ldc * 4;
        _tile_stored(2, at, ldc * 4);
        _tile_stored(3, at + 4 * TILE_COLUMNS, ldc * 4);
    }
    SETTLE();
}

static inline void tiles_zero(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* C += A B for a depth of one tile: a [16 or 32][lda], b [16][ldb] units. */
#define TILES_MULTIPLY(DOT, a, lda, b, ldb, both)                                       \
    do {                                                                                \
        _tile_loadd(6, (b), (ldb) * 4);                                                 \
        _tile_loadd(4, (a), (lda) * 4);                                                 \
        DOT(0, 4, 6);                                                                   \
        _tile_loadd(7, (b) + TILE_COLUMNS, (ldb) * 4);                                  \
        DOT(1, 4, 7);                                                                   \
        if (both) {                                                                     \
            _tile_loadd(5, (a) + TILE_ROWS * (lda), (lda) * 4);                         \
            DOT(2, 5, 6);                                                               \
            DOT(3, 5, 7);                                                               \
        }                                                                               \
    } while (0)

#endif
