/* peak.c: runs a loop on every thread at once. Each thread counts its own rounds
 * against its own clock after a common start; the rates are added. */
#include "convert/peak.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/cli.h"
#include "convert/peak_loops.h"

const char *peak_isa(peak_kind k)
{
    return peak_loops[k].isa;
}

const char *peak_dtype(peak_kind k)
{
    return peak_loops[k].dtype;
}

bool peak_supported(peak_kind k)
{
    return peak_loops[k].supported && peak_loops[k].supported();
}

static int width_of(const char *isa)
{
    static const char *const ascending[] = {"c", "avx2", "avx512", "amx"};
    int n = sizeof ascending / sizeof *ascending, i = 0;
    while (i < n && strcmp(isa, ascending[i]))
        i++;
    return i;
}

peak_kind peak_for(const char *isa, const char *dtype)
{
    peak_kind best = PEAK_N; /* kinds of a dtype stand in ascending width */
    for (int k = 0; k < PEAK_N; k++)
        if (strcmp(peak_dtype(k), dtype) == 0 && width_of(peak_isa(k)) <= width_of(isa) &&
            peak_supported(k))
            best = (peak_kind)k;
    return best == PEAK_N ? peak_for(isa, "f32") : best;
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
    const peak_loop *loop;  /* NULL: reads words instead */
    const uint64_t *words;
    size_t n_words;
    double seconds, rate;   /* out: operations or bytes a second, in billions */
    float sink;             /* keeps the loop's result alive */
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

enum { READ_WORDS = 1 << 14 }; /* between two looks at the clock */

static uint64_t read_words(const uint64_t *w)
{
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < READ_WORDS; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] ^= w[i + (size_t)j];
    for (int j = 1; j < 8; j++)
        sum[0] ^= sum[j];
    return sum[0];
}

static double run_loop(runner *r)
{
    r->sink += r->loop->rounds();
    return r->loop->operations;
}

static double run_read(runner *r, size_t *at)
{
    if (*at + READ_WORDS > r->n_words)
        *at = 0;
    r->sink += (float)(read_words(r->words + *at) & 1);
    *at += READ_WORDS;
    return READ_WORDS * sizeof(uint64_t);
}

static void *run(void *arg)
{
    runner *r = arg;
    size_t at = 0;
    double done = 0, begin, now;
    if (r->loop)
        run_loop(r); /* the clock may change with the width */
    if (!gate_pass(r->start))
        return NULL;
    begin = cli_seconds();
    do {
        done += r->loop ? run_loop(r) : run_read(r, &at);
        now = cli_seconds();
    } while (now - begin < r->seconds);
    r->rate = done / (now - begin) * 1e-9;
    return NULL;
}

/* Runs all; the sum of their rates, 0: a thread could not be made. */
static double run_all(runner *r, int n_threads)
{
    gate start = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, n_threads, false};
    double sum = 0;
    int made = 1; /* the caller is the first */
    for (int i = 0; i < n_threads; i++)
        r[i].start = &start;
    while (made < n_threads && pthread_create(&r[made].thread, NULL, run, &r[made]) == 0)
        made++;
    if (made < n_threads)
        gate_close(&start);
    else
        run(&r[0]);
    for (int i = 1; i < made; i++)
        pthread_join(r[i].thread, NULL);
    for (int i = 0; i < made; i++)
        sum += r[i].rate;
    return made == n_threads ? sum : 0;
}

double peak_gflops(peak_kind k, int n_threads, double seconds)
{
    runner *r = calloc((size_t)n_threads, sizeof *r);
    if (!r)
        return 0;
    for (int i = 0; i < n_threads; i++)
        r[i] = (runner){.loop = &peak_loops[k], .seconds = seconds};
    double gflops = run_all(r, n_threads);
    free(r);
    return gflops;
}

/* Words of a thread's part: all parts together twice the last cache, 128 MB to 1 GB. */
static size_t part_words(int n_threads)
{
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = cache > 0 ? 2 * (size_t)cache : 0;
    bytes = bytes < 128u << 20 ? 128u << 20 : bytes > 1u << 30 ? 1u << 30 : bytes;
    size_t words = bytes / sizeof(uint64_t) / (size_t)n_threads;
    return words / READ_WORDS * READ_WORDS + READ_WORDS;
}

double peak_read_gbytes(int n_threads, double seconds)
{
    size_t words = part_words(n_threads), bytes = words * sizeof(uint64_t);
    runner *r = calloc((size_t)n_threads, sizeof *r);
    uint64_t *all = malloc((size_t)n_threads * bytes);
    double gbytes = 0;
    if (r && all) {
        memset(all, 1, (size_t)n_threads * bytes); /* or all would be one zero page */
        for (int i = 0; i < n_threads; i++)
            r[i] = (runner){.words = all + (size_t)i * words, .n_words = words,
                            .seconds = seconds};
        gbytes = run_all(r, n_threads);
    }
    free(all);
    free(r);
    return gbytes;
}
