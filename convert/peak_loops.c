/* peak_loops.c: one loop per instruction set and data type: independent
 * multiply-adds over registers, nothing from memory. Twelve accumulators hide the
 * latency (4 to 5 cycles, two units); the fp32 constants keep the values near 1,
 * far from denormals; sums of the others may grow or wrap, which costs no time.
 * AMX multiplies tiles of 16 rows of 64 bytes, four sums at a time. */
#include "convert/peak_loops.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { ROUNDS = 20000, ACCUMULATORS = 12, AMX_ROUNDS = 4000, AMX_SUMS = 4 };
static const float factor = 0.999f, addend = 0.001f;

#define EACH(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float rounds_avx512(void)
{
    const __m512 x = _mm512_set1_ps(factor), y = _mm512_set1_ps(addend);
#define BEGIN(i) __m512 a##i = _mm512_set1_ps(1 + i * 0.01f);
#define STEP(i) a##i = _mm512_fmadd_ps(a##i, x, y);
#define SUM(i) sum = _mm512_add_ps(sum, a##i);
    EACH(BEGIN)
    for (int n = 0; n < ROUNDS; n++) {
        EACH(STEP)
    }
    __m512 sum = _mm512_setzero_ps();
    EACH(SUM)
#undef BEGIN
#undef STEP
#undef SUM
    return _mm512_reduce_add_ps(sum);
}

__attribute__((target("avx2,fma"))) static float rounds_avx2(void)
{
    const __m256 x = _mm256_set1_ps(factor), y = _mm256_set1_ps(addend);
#define BEGIN(i) __m256 a##i = _mm256_set1_ps(1 + i * 0.01f);
#define STEP(i) a##i = _mm256_fmadd_ps(a##i, x, y);
#define SUM(i) sum = _mm256_add_ps(sum, a##i);
    EACH(BEGIN)
    for (int n = 0; n < ROUNDS; n++) {
        EACH(STEP)
    }
    __m256 sum = _mm256_setzero_ps();
    EACH(SUM)
#undef BEGIN
#undef STEP
#undef SUM
    float lanes[8], all = 0;
    _mm256_storeu_ps(lanes, sum);
    for (int i = 0; i < 8; i++)
        all += lanes[i];
    return all;
}

#define BEGIN(i) __m512 a##i = _mm512_set1_ps((float)(i)); /* alike, they would be one */
#define SUM(i) sum = _mm512_add_ps(sum, a##i);
__attribute__((target("avx512f,avx512bf16"))) static float rounds_avx512_bf16(void)
{
    const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
    EACH(BEGIN)
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, x, x);
    for (int n = 0; n < ROUNDS; n++) {
        EACH(STEP)
    }
#undef STEP
    __m512 sum = _mm512_setzero_ps();
    EACH(SUM)
    return _mm512_reduce_add_ps(sum);
}
#undef BEGIN
#undef SUM

#define BEGIN(i) __m512i a##i = _mm512_set1_epi32(i);
#define STEP(i) a##i = _mm512_dpbusd_epi32(a##i, x, x);
#define SUM(i) sum = _mm512_add_epi32(sum, a##i);
__attribute__((target("avx512f,avx512vnni"))) static float rounds_avx512_int8(void)
{
    const __m512i x = _mm512_set1_epi8(1);
    EACH(BEGIN)
    for (int n = 0; n < ROUNDS; n++) {
        EACH(STEP)
    }
    __m512i sum = _mm512_setzero_si512();
    EACH(SUM)
    return (float)_mm512_reduce_add_epi32(sum);
}
#undef BEGIN
#undef STEP
#undef SUM

#define BEGIN(i) __m256i a##i = _mm256_set1_epi32(i);
#define STEP(i) a##i = _mm256_dpbusd_avx_epi32(a##i, x, x);
#define SUM(i) sum = _mm256_add_epi32(sum, a##i);
__attribute__((target("avx2,avxvnni"))) static float rounds_avx2_int8(void)
{
    const __m256i x = _mm256_set1_epi8(1);
    EACH(BEGIN)
    for (int n = 0; n < ROUNDS; n++) {
        EACH(STEP)
    }
    __m256i sum = _mm256_setzero_si256();
    EACH(SUM)
    return (float)_mm256_extract_epi32(sum, 0);
}
#undef BEGIN
#undef STEP
#undef SUM

/* What ldtilecfg reads: all eight tiles of 16 rows of 64 bytes. */
typedef struct {
    _Alignas(64) uint8_t palette;
    uint8_t start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

static const tile_shapes whole_tiles = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* Tiles 0 to 3 sum the products of 4 or 5 with 6 or 7. */
#define AMX_LOOP(MULTIPLY, NAME)                                                       \
    __attribute__((target("amx-tile,amx-int8,amx-bf16"))) static float NAME(void)      \
    {                                                                                  \
        int32_t out[16][16] = {{0}};                                                   \
        const tile_shapes *shapes = &whole_tiles;                                      \
        __asm__ volatile("" : "+r"(shapes) : : "memory"); /* reads all of it */        \
        _tile_loadconfig(shapes);                                                      \
        _tile_zero(0);                                                                 \
        _tile_zero(1);                                                                 \
        _tile_zero(2);                                                                 \
        _tile_zero(3);                                                                 \
        _tile_zero(4);                                                                 \
        _tile_zero(5);                                                                 \
        _tile_zero(6);                                                                 \
        _tile_zero(7);                                                                 \
        for (int n = 0; n < AMX_ROUNDS; n++) {                                         \
            MULTIPLY(0, 4, 6);                                                         \
            MULTIPLY(1, 4, 7);                                                         \
            MULTIPLY(2, 5, 6);                                                         \
            MULTIPLY(3, 5, 7);                                                         \
        }                                                                              \
        _tile_stored(0, out, 64);                                                      \
        _tile_release();                                                               \
        return (float)out[0][0];                                                       \
    }
AMX_LOOP(_tile_dpbf16ps, rounds_amx_bf16)
AMX_LOOP(_tile_dpbusd, rounds_amx_int8)
#endif

/* What the compiler makes of plain C: a multiplication and an addition. */
static float rounds_c(void)
{
    float a[ACCUMULATORS], sum = 0;
    for (int i = 0; i < ACCUMULATORS; i++)
        a[i] = 1 + (float)i * 0.01f;
    for (int n = 0; n < ROUNDS; n++)
        for (int i = 0; i < ACCUMULATORS; i++)
            a[i] = a[i] * factor + addend;
    for (int i = 0; i < ACCUMULATORS; i++)
        sum += a[i];
    return sum;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f");
}

static bool has_avx512_bf16(void)
{
    return __builtin_cpu_supports("avx512bf16");
}

static bool has_avx512_vnni(void)
{
    return __builtin_cpu_supports("avx512vnni");
}

/* CPUID leaf 7: what older compilers have no name for. */
static bool has_avx_vnni(void)
{
    unsigned a = 0, b, c, d;
    if (__get_cpuid_max(0, NULL) < 7)
        return false;
    __cpuid_count(7, 1, a, b, c, d);
    return has_avx2() && (a & (1u << 4));
}

/* The kernel gives a process tiles on request (arch_prctl, Linux 5.16). */
static bool has_amx(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    const unsigned tiles = 1u << 22 | 1u << 24 | 1u << 25; /* bf16, tile, int8 */
    unsigned a, b, c, d = 0;
    if (__get_cpuid_max(0, NULL) < 7)
        return false;
    __cpuid_count(7, 0, a, b, c, d);
    return (d & tiles) == tiles &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

static bool always(void)
{
    return true;
}

#define VECTORS(lanes) (2.0 * ROUNDS * ACCUMULATORS * (lanes))
#define TILES(depth) (2.0 * AMX_ROUNDS * AMX_SUMS * 16 * 16 * (depth))

const peak_loop peak_loops[PEAK_N] = {
    [PEAK_C] = {"c", "f32", VECTORS(1), always, rounds_c},
#if defined(__x86_64__)
    [PEAK_AVX2] = {"avx2", "f32", VECTORS(8), has_avx2, rounds_avx2},
    [PEAK_AVX512] = {"avx512", "f32", VECTORS(16), has_avx512, rounds_avx512},
    [PEAK_AVX512_BF16] = {"avx512", "bf16", VECTORS(32), has_avx512_bf16, rounds_avx512_bf16},
    [PEAK_AMX_BF16] = {"amx", "bf16", TILES(32), has_amx, rounds_amx_bf16},
    [PEAK_AVX2_INT8] = {"avx2", "int8", VECTORS(32), has_avx_vnni, rounds_avx2_int8},
    [PEAK_AVX512_INT8] = {"avx512", "int8", VECTORS(64), has_avx512_vnni, rounds_avx512_int8},
    [PEAK_AMX_INT8] = {"amx", "int8", TILES(64), has_amx, rounds_amx_int8},
#else
    [PEAK_AVX2] = {"avx2", "f32", 0, NULL, NULL},
    [PEAK_AVX512] = {"avx512", "f32", 0, NULL, NULL},
    [PEAK_AVX512_BF16] = {"avx512", "bf16", 0, NULL, NULL},
    [PEAK_AMX_BF16] = {"amx", "bf16", 0, NULL, NULL},
    [PEAK_AVX2_INT8] = {"avx2", "int8", 0, NULL, NULL},
    [PEAK_AVX512_INT8] = {"avx512", "int8", 0, NULL, NULL},
    [PEAK_AMX_INT8] = {"amx", "int8", 0, NULL, NULL},
#endif
};
