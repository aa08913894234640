/* router.c: scores of experts, by the router or, as the ground truth of an
 * evaluation, by the positive activation mass itself. Routers run in blocks of
 * rows whose normalised input and hidden rows are kept in scratch. */
#include "engine/cpu/cpu.h"
#include "engine/cpu/ffn_tile.h"

enum { ROWS_PER_TASK = 16 };

typedef struct {
    const cpu_kernels *kernels;
    const float *x;
    int n_rows, d;
    float *y;
} normalize_job;

static void normalize_task(void *ctx, int task, int thread)
{
    (void)thread;
    const normalize_job *j = ctx;
    int end = (task + 1) * ROWS_PER_TASK;
    end = end > j->n_rows ? j->n_rows : end;
    for (int i = task * ROWS_PER_TASK; i < end; i++) {
        size_t at = (size_t)i * (size_t)j->d;
        j->kernels->normalize(j->x + at, j->d, j->y + at);
    }
}

static void score_block(cpu_backend *b, const moe_router *w, const float *x, int n_rows,
                        float *scores)
{
    if (w->normalize) {
        normalize_job j = {.kernels = b->kernels, .x = x, .n_rows = n_rows,
                           .d = w->first.k, .y = b->router_x};
        pool_run(b->pool, normalize_task, &j, cpu_ceil(n_rows, ROWS_PER_TASK));
        x = b->router_x;
    }
    if (w->n_linears == 2) {
        cpu_linear(&b->base, &w->first, MOE_ACT_TANH, x, n_rows, b->router_hidden);
        cpu_linear(&b->base, &w->second, MOE_ACT_NONE, b->router_hidden, n_rows, scores);
    } else {
        cpu_linear(&b->base, &w->first, MOE_ACT_NONE, x, n_rows, scores);
    }
}

void cpu_router_scores(moe_backend *base, const moe_router *w, const float *x,
                       int n_tokens, float *scores)
{
    cpu_backend *b = (cpu_backend *)base;
    const moe_linear *last = w->n_linears == 2 ? &w->second : &w->first;
    for (int t = 0; t < n_tokens; t += CPU_ROUTER_ROWS) {
        int n_rows = n_tokens - t < CPU_ROUTER_ROWS ? n_tokens - t : CPU_ROUTER_ROWS;
        score_block(b, w, x + (size_t)t * (size_t)w->first.k, n_rows,
                    scores + (size_t)t * (size_t)last->n);
    }
}

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    const float *x;
    int n_tokens;
    float *mass;
} mass_job;

/* Positive values; of a gated FFN, whose values mean as much below zero, all sizes. */
static float sum_mass(const float *h, bool gated)
{
    float sum = 0;
    for (int i = 0; i < MOE_EXPERT_SIZE; i++)
        sum += h[i] > 0 ? h[i] : gated ? -h[i] : 0;
    return sum;
}

/* One expert's hidden rows of one block of tokens. */
static void mass_tile(const mass_job *j, int e, int t, int n_rows, float *tile)
{
    const moe_ffn *w = j->w;
    const cpu_backend *b = j->b;
    const float *a[CPU_PAIR_ROWS];
    float *c[CPU_PAIR_ROWS];
    for (int i = 0; i < n_rows; i++) {
        a[i] = w->dtype == MOE_F32 ? j->x + (size_t)(t + i) * (size_t)w->d
                                   : (const float *)b->low_x + (size_t)(t + i) * b->ld_low;
        c[i] = tile + i * MOE_EXPERT_SIZE;
    }
    cpu_gemm g = ffn_hidden_gemm(w, e, n_rows, a, c);
    const float *w1 = ffn_w1(w, e);
    g.b = &w1;
    g.a_scale = b->low_scale + t;
    cpu_gemm_run(b->kernels, w->dtype, &g);
    ffn_multiply_up(b->kernels, w, e, &g, tile + CPU_PAIR_ROWS * MOE_EXPERT_SIZE);
    for (int i = 0; i < n_rows; i++)
        j->mass[(size_t)(t + i) * (size_t)w->n_experts + (size_t)e] = sum_mass(c[i], w->up);
}

static void mass_task(void *ctx, int task, int thread)
{
    const mass_job *j = ctx;
    float *tile = cpu_thread_scratch(j->b, thread);
    int t = task * CPU_PAIR_ROWS;
    int n_rows = j->n_tokens - t < CPU_PAIR_ROWS ? j->n_tokens - t : CPU_PAIR_ROWS;
    for (int e = 0; e < j->w->n_experts; e++)
        mass_tile(j, e, t, n_rows, tile);
}

void cpu_expert_mass(moe_backend *base, const moe_ffn *w, const float *x, int n_tokens,
                     float *mass)
{
    cpu_backend *b = (cpu_backend *)base;
    if (w->dtype != MOE_F32)
        cpu_lower_rows(b, w->dtype, x, (size_t)w->d, n_tokens, w->d);
    mass_job j = {.b = b, .w = w, .x = x, .n_tokens = n_tokens, .mass = mass};
    pool_run(b->pool, mass_task, &j, cpu_ceil(n_tokens, CPU_PAIR_ROWS));
}
