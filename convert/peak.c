/* peak.c: a loop of independent fused multiply-adds over registers, one copy a
 * thread. Twelve accumulators hide the latency (4 cycles, two units); the
 * constants keep the values near 1, far from denormals. Each thread counts its own
 * rounds against its own clock after a common start; the rates are added. */
#include "convert/peak.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "convert/cli.h"

enum { ROUNDS = 20000, ACCUMULATORS = 12 };
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

static const struct {
    const char *name;
    int lanes;
    float (*rounds)(void);
} kernels[PEAK_N] = {
    [PEAK_C] = {"c", 1, rounds_c},
#if defined(__x86_64__)
    [PEAK_AVX2] = {"avx2", 8, rounds_avx2},
    [PEAK_AVX512] = {"avx512", 16, rounds_avx512},
#else
    [PEAK_AVX2] = {"avx2", 8, NULL},
    [PEAK_AVX512] = {"avx512", 16, NULL},
#endif
};

const char *peak_name(peak_isa isa)
{
    return kernels[isa].name;
}

bool peak_supported(peak_isa isa)
{
#if defined(__x86_64__)
    if (isa == PEAK_AVX512)
        return __builtin_cpu_supports("avx512f");
    if (isa == PEAK_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == PEAK_C;
}

peak_isa peak_widest(void)
{
    return peak_supported(PEAK_AVX512) ? PEAK_AVX512
         : peak_supported(PEAK_AVX2)   ? PEAK_AVX2 : PEAK_C;
}

/* The gate opens once all threads stand before it, or closes for good when one
 * could not be made. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int missing;  /* threads yet to come; under lock */
    bool closed;  /* under lock */
} gate;

typedef struct {
    peak_isa isa;
    double seconds, gflops;
    float sink; /* keeps the loop's result alive */
    gate *start;
    pthread_t thread;
} runner;

/* false: closed. */
static bool gate_pass(gate *g)
{
    pthread_mutex_lock(&g->lock);
    if (--g->missing == 0)
        pthread_cond_broadcast(&g->changed);
    while (g->missing > 0 && !g->closed)
        pthread_cond_wait(&g->changed, &g->lock);
    bool open = !g->closed;
    pthread_mutex_unlock(&g->lock);
    return open;
}

static void gate_close(gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->closed = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static void *run(void *arg)
{
    runner *r = arg;
    int64_t calls = 0;
    r->sink += kernels[r->isa].rounds(); /* the clock may change with the width */
    if (!gate_pass(r->start))
        return NULL;
    double begin = cli_seconds(), now;
    do {
        r->sink += kernels[r->isa].rounds();
        calls++;
        now = cli_seconds();
    } while (now - begin < r->seconds);
    double operations = 2.0 * ROUNDS * ACCUMULATORS * kernels[r->isa].lanes * (double)calls;
    r->gflops = operations / (now - begin) * 1e-9;
    return NULL;
}

double peak_gflops(peak_isa isa, int n_threads, double seconds)
{
    gate start = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, n_threads, false};
    runner *r = calloc((size_t)n_threads, sizeof *r);
    double sum = 0;
    int made = 1; /* the caller is the first */
    if (!r)
        return 0;
    for (int i = 0; i < n_threads; i++)
        r[i] = (runner){.isa = isa, .seconds = seconds, .start = &start};
    while (made < n_threads && pthread_create(&r[made].thread, NULL, run, &r[made]) == 0)
        made++;
    if (made < n_threads)
        gate_close(&start);
    else
        run(&r[0]);
    for (int i = 1; i < made; i++)
        pthread_join(r[i].thread, NULL);
    for (int i = 0; i < made; i++)
        sum += r[i].gflops;
    free(r);
    return made == n_threads ? sum : 0;
}
