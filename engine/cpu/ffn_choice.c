/* ffn_choice.c: sparse or dense. A sparse block gathers rows, so where its tokens select
 * most pairs anyway, computing all of them in line and taking the others for zero costs
 * less: the same sums in the same order, hence the same bits. From which share on that
 * is depends on the machine and the number of tokens: a small table, built in or
 * measured on the layer's own weights. fp32 only: bf16 and int8 have one path. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/cpu/cpu.h"

enum { RUNS = 4 };
static const double least_share = 0.25, low_share = 0.5, high_share = 0.9;

void cpu_ffn_plan_default(cpu_backend *b)
{
    static const moe_plan_row rows[CPU_PLAN_ROWS] = {{1, 1}, {8, 0.95}, {64, 0.8}};
    memcpy(b->plan, rows, sizeof rows);
}

bool cpu_ffn_prefers_dense(const cpu_backend *b, const moe_ffn *w, int n_tokens, size_t pairs)
{
    if (w->dtype != MOE_F32 || w->up || n_tokens < b->plan[0].n_tokens)
        return false;
    int i = CPU_PLAN_ROWS - 1;
    while (b->plan[i].n_tokens > n_tokens)
        i--;
    return (double)pairs > b->plan[i].dense_above * (double)n_tokens * w->n_experts;
}

/* ---- measuring -------------------------------------------------------------- */

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    float *x, *y;           /* [CPU_PLAN_TOKENS, d] */
    int32_t *bound, *expert;
} probe;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Every token's own experts, share of them, spread over all. */
static void route_share(const probe *p, int n_tokens, double share)
{
    int n = p->w->n_experts, k = (int)(share * n + 0.5);
    k = k < 1 ? 1 : k;
    uint32_t random = 1;
    p->bound[0] = 0;
    for (int t = 0; t < n_tokens; t++) {
        int32_t *out = p->expert + p->bound[t];
        int taken = 0;
        for (int e = 0; e < n; e++) { /* k of n: each with the chance that is left */
            random = random * 1664525u + 1013904223u;
            if ((uint64_t)random * (uint64_t)(n - e) < (uint64_t)(k - taken) << 32)
                out[taken++] = e;
        }
        p->bound[t + 1] = p->bound[t] + taken;
    }
}

/* One run: sparse, or dense where share is 0. */
static double time_ffn(const probe *p, int n_tokens, double share)
{
    if (share > 0)
        route_share(p, n_tokens, share);
    double start = seconds();
    if (share > 0)
        cpu_ffn_sparse(p->b, p->w, p->x, n_tokens, p->bound, p->expert, p->y);
    else
        cpu_ffn_dense(p->b, p->w, p->x, n_tokens, NULL, NULL, p->y);
    return seconds() - start;
}

/* Where the straight line through two sparse times meets the dense one: the least of
 * some runs in turn each, so that whatever else the machine does meets all alike. */
static double crossing(const probe *p, int n_tokens)
{
    const double shares[3] = {0, low_share, high_share};
    double best[3] = {0};
    for (int i = -1; i < RUNS; i++) /* -1 warms up */
        for (int j = 0; j < 3; j++) {
            double taken = time_ffn(p, n_tokens, shares[j]);
            if (i < 1 || taken < best[j])
                best[j] = taken;
        }
    double dense = best[0], low = best[1], high = best[2];
    if (high <= dense)
        return 1;
    double share = 0;
    if (high > low)
        share = low_share + (high_share - low_share) * (dense - low) / (high - low);
    return share < least_share ? least_share : share > 1 ? 1 : share;
}

void cpu_measure_plan(moe_backend *base, const moe_ffn *w)
{
    cpu_backend *b = (cpu_backend *)base;
    size_t most = CPU_PLAN_TOKENS, floats = most * (size_t)w->d;
    probe p = {.b = b, .w = w};
    if (w->dtype != MOE_F32 || w->up || b->shape.max_tokens < CPU_PLAN_TOKENS)
        return;
    p.x = malloc(floats * sizeof *p.x);
    p.y = malloc(floats * sizeof *p.y);
    p.bound = malloc((most + 1) * sizeof *p.bound);
    p.expert = malloc(most * (size_t)w->n_experts * sizeof *p.expert);
    if (p.x && p.y && p.bound && p.expert) {
        for (size_t i = 0; i < floats; i++)
            p.x[i] = (float)((i * 2654435761u) % 1024) / 512 - 1;
        for (int i = 0; i < CPU_PLAN_ROWS; i++)
            b->plan[i].dense_above = crossing(&p, b->plan[i].n_tokens);
    }
    free(p.x);
    free(p.y);
    free(p.bound);
    free(p.expert);
}

int cpu_plan(const moe_backend *base, const moe_plan_row **rows)
{
    *rows = ((const cpu_backend *)base)->plan;
    return CPU_PLAN_ROWS;
}
