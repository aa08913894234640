/* harness.h: what the kernel tests share: random numbers with a printed seed,
 * arrays that end at a page nobody may touch, a CPU backend per ISA, and packing
 * written anew (not pack.c's), so that a fault there cannot hide one here. */
#ifndef MOE_TEST_HARNESS_H
#define MOE_TEST_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/backend.h"

/* ---- random numbers: xorshift64* -------------------------------------- */

typedef struct { uint64_t state; } rng;

static inline rng rng_seed(uint64_t seed)
{
    print_message("seed %llu\n", (unsigned long long)seed);
    return (rng){seed * 2685821657736338717u + 1};
}
static inline uint32_t rng_u32(rng *r)
{
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return (uint32_t)((r->state * 2685821657736338717u) >> 32);
}
static inline int rng_int(rng *r, int low, int high) /* [low, high] */
{
    return low + (int)(rng_u32(r) % (uint32_t)(high - low + 1));
}
static inline float rng_float(rng *r) /* [-1, 1) */
{
    return (float)(int32_t)rng_u32(r) * 0x1p-31f;
}

/* ---- guarded arrays ---------------------------------------------------- */

enum { MAX_GUARDED = 256, CANARY = 64 };
typedef struct { unsigned char *map; size_t map_bytes; unsigned char *data; } guarded;
static guarded guarded_list[MAX_GUARDED];
static int n_guarded;

/* bytes that end where an inaccessible page begins, with canaries before. The
 * start is as aligned as bytes is a multiple. */
static inline void *guarded_bytes(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t data = (bytes + CANARY + page - 1) / page * page;
    unsigned char *map = mmap(NULL, data + page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mprotect(map + data, page, PROT_NONE), 0);
    memset(map, 0xa5, data - bytes);
    assert_true(n_guarded < MAX_GUARDED);
    guarded_list[n_guarded++] = (guarded){map, data + page, map + data - bytes};
    return map + data - bytes;
}
static inline float *guarded_floats(size_t n)
{
    return guarded_bytes(n * sizeof(float));
}
static inline float *random_floats(rng *r, size_t n, float scale)
{
    float *x = guarded_floats(n);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * rng_float(r);
    return x;
}
/* Checks the canaries and frees every guarded array. */
static inline void guarded_release(void)
{
    for (int i = 0; i < n_guarded; i++) {
        for (int c = 1; c <= CANARY; c++)
            assert_int_equal(guarded_list[i].data[-c], 0xa5);
        munmap(guarded_list[i].map, guarded_list[i].map_bytes);
    }
    n_guarded = 0;
}

/* ---- backends ---------------------------------------------------------- */

static const char *const all_isas[] = {"c", "avx2", "avx512"};
enum { N_ISAS = 3 };

typedef struct { moe_pool *pool; moe_backend *b; } machine;

/* False where this machine lacks the ISA. */
static inline bool machine_open(machine *m, const char *isa, int n_threads,
                                const moe_backend_shape *shape)
{
    moe_error err;
    setenv("MOE_ISA", isa, 1);
    assert_int_equal(moe_pool_create(n_threads, &m->pool, &err), MOE_OK);
    moe_status status = moe_cpu_backend(m->pool, shape, &m->b, &err);
    if (status == MOE_OK)
        return true;
    moe_pool_destroy(m->pool);
    assert_int_equal(status, MOE_E_UNSUPPORTED);
    assert_true(strcmp(isa, "c") != 0);
    return false;
}
static inline void machine_close(machine *m)
{
    m->b->ops->destroy(m->b);
    moe_pool_destroy(m->pool);
}

/* ---- packing ------------------------------------------------------------ */

/* w [n, k] rows, b [n] or NULL. */
static inline moe_linear pack_random_linear(const float *w, const float *b, int n, int k)
{
    int panels = (n + 31) / 32;
    float *packed = guarded_floats((size_t)panels * (size_t)k * 32);
    for (int j = 0; j < panels * 32; j++)
        for (int i = 0; i < k; i++)
            packed[((size_t)(j / 32) * (size_t)k + (size_t)i) * 32 + (size_t)(j % 32)] =
                j < n ? w[(size_t)j * (size_t)k + (size_t)i] : 0;
    return (moe_linear){.n = n, .k = k, .w = packed, .b = b};
}

typedef struct { float *w1, *b1, *w2, *b2; } plain_ffn; /* [d_ff, d] [d_ff] [d, d_ff] [d] */

static inline plain_ffn random_ffn(rng *r, int d, int d_ff)
{
    size_t n = (size_t)d * (size_t)d_ff;
    float by_d = 1 / sqrtf((float)d), by_ff = 1 / sqrtf((float)d_ff);
    plain_ffn p = {random_floats(r, n, by_d), random_floats(r, (size_t)d_ff, 0.1f),
                   random_floats(r, n, by_ff), random_floats(r, (size_t)d, 0.1f)};
    return p;
}
static inline moe_ffn pack_plain_ffn(const plain_ffn *p, int d, int d_ff, moe_activation act)
{
    int n_experts = (d_ff + 31) / 32, panels = (d + 63) / 64;
    float *b1 = guarded_floats((size_t)n_experts * 32);
    float *w1 = guarded_floats((size_t)n_experts * 32 * (size_t)d);
    float *w2 = guarded_floats((size_t)n_experts * 32 * (size_t)panels * 64);
    for (int f = 0; f < n_experts * 32; f++) {
        int e = f / 32, lane = f % 32;
        b1[f] = f < d_ff ? p->b1[f] : 0;
        for (int i = 0; i < d; i++)
            w1[((size_t)e * (size_t)d + (size_t)i) * 32 + (size_t)lane] =
                f < d_ff ? p->w1[(size_t)f * (size_t)d + (size_t)i] : 0;
        for (int j = 0; j < panels * 64; j++)
            w2[(((size_t)e * (size_t)panels + (size_t)(j / 64)) * 32 + (size_t)lane) * 64 +
               (size_t)(j % 64)] =
                f < d_ff && j < d ? p->w2[(size_t)j * (size_t)d_ff + (size_t)f] : 0;
    }
    return (moe_ffn){.d = d, .n_experts = n_experts, .d_ff = d_ff, .act = act,
                     .w1 = w1, .b1 = b1, .w2 = w2, .b2 = p->b2};
}

/* ---- references and comparison ------------------------------------------ */

static inline double plain_activate(double v, moe_activation act)
{
    switch (act) {
    case MOE_ACT_RELU: return v > 0 ? v : 0;
    case MOE_ACT_GELU_ERF: return 0.5 * v * (1 + erf(v / sqrt(2)));
    case MOE_ACT_GELU_TANH:
        return 0.5 * v * (1 + tanh(sqrt(2 / 3.14159265358979323846) *
                                   (v + 0.044715 * v * v * v)));
    case MOE_ACT_TANH: return tanh(v);
    case MOE_ACT_NONE: break;
    }
    return v;
}

static inline void assert_near(float found, double expected, double tolerance,
                               const char *what, int i, int j)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s [%d, %d]: expected %.9g, found %.9g, off by %.3g of %.3g", what, i, j,
                 expected, (double)found, fabs(found - expected), tolerance);
}
static inline void assert_same_bits(const float *a, const float *b, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s: element %zu: %.9g and %.9g", what, i, (double)a[i], (double)b[i]);
}

#endif
