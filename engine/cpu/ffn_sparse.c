/* ffn_sparse.c: the feed-forward network with each token's own experts. For a
 * block of tokens whose (token, expert) pairs fit the scratch:
 *
 *   1. sort the pairs by expert (group_by_expert);
 *   2. tasks of one expert and at most 48 of its pairs: hidden[pair] =
 *      act(x[token] w1_e + b1_e), the rows of x read in place through pointers, and
 *      in a gated FFN times x[token] up_e;
 *   3. after one barrier, tasks own (64 output columns) x (some tokens) and add
 *      the experts in ascending order. One owner per output, no atomics: the
 *      same bits with any number of threads, and with all experts selected the
 *      same as ffn.c. */
#include "engine/cpu/cpu.h"
#include "engine/cpu/ffn_tile.h"

enum { FEW_TOKENS = 8 }; /* that crowd nothing */

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    const float *x;
    size_t ldx;
    int n_tokens, token_parts;
    float *y;
} job;

static void hidden_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    const cpu_backend *b = j->b;
    const moe_ffn *w = j->w;
    int e = b->task_expert[task], next = b->task_expert[task + 1];
    int first = b->task_pair[task], n_rows = b->task_pair[task + 1] - first;
    bool changes = next != e && next < w->n_experts;
    const float *w1 = ffn_w1(w, e), *next_w1 = changes ? ffn_w1(w, next) : NULL;
    const float *a[CPU_PAIR_ROWS];
    float *c[CPU_PAIR_ROWS];
    float *hidden = b->hidden + (size_t)first * MOE_EXPERT_SIZE;
    const int32_t *token = b->row + first;
    for (int i = 0; i < n_rows; i++) {
        a[i] = j->x + (size_t)token[i] * j->ldx;
        c[i] = hidden + (size_t)i * MOE_EXPERT_SIZE;
    }
    cpu_gemm g = ffn_hidden_gemm(w, e, n_rows, a, c);
    g.b = &w1;
    g.ahead = changes ? &next_w1 : NULL;
    b->kernels->gemm(&g);
    ffn_multiply_up(b->kernels, w, e, &g, cpu_thread_scratch(b, thread));
}

static void out_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    const cpu_backend *b = j->b;
    const moe_ffn *w = j->w;
    int panel = task / j->token_parts, part = task % j->token_parts;
    int first = cpu_part(j->n_tokens, j->token_parts, part);
    int n_rows = cpu_part(j->n_tokens, j->token_parts, part + 1) - first;
    const int32_t *cut = b->cut + (size_t)part * (size_t)w->n_experts;
    const int32_t *cut_end = cut + w->n_experts;
    float *tile = cpu_thread_scratch(b, thread);
    const float *a[CPU_OUT_TOKENS];
    float *c[CPU_OUT_TOKENS];
    ffn_tile_start(w, panel, n_rows, tile);
    int next, e = ffn_next_expert(cut, cut_end, -1, w->n_experts);
    for (; e < w->n_experts; e = next) {
        next = ffn_next_expert(cut, cut_end, e, w->n_experts);
        int n = cut_end[e] - cut[e];
        const float *hidden = b->hidden + (size_t)cut[e] * MOE_EXPERT_SIZE;
        const int32_t *token = b->row + cut[e];
        for (int i = 0; i < n; i++) {
            a[i] = hidden + (size_t)i * MOE_EXPERT_SIZE;
            c[i] = tile + (size_t)(token[i] - first) * MOE_W2_PANEL;
        }
        const float *w2 = ffn_w2_panel(w, e, panel), *next_w2;
        cpu_gemm g = ffn_tile_add(n, a, c, 1, &w2);
        if (next < w->n_experts) {
            next_w2 = ffn_w2_panel(w, next, panel);
            g.ahead = &next_w2;
            g.ahead_a = b->hidden + (size_t)cut[next] * MOE_EXPERT_SIZE;
            g.ahead_a_floats = (size_t)(cut_end[next] - cut[next]) * MOE_EXPERT_SIZE;
        }
        b->kernels->gemm(&g);
    }
    ffn_tile_finish(w, panel, n_rows, tile, j->y + (size_t)first * (size_t)w->d);
}

void cpu_ffn_sparse(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                    const int32_t *bound, const int32_t *expert, float *y)
{
    ffn_group(b, bound, expert, n_tokens, w->n_experts);
    job j = {.b = b, .w = w, .x = x, .ldx = (size_t)w->d, .n_tokens = n_tokens, .y = y};
    if (cpu_crowds(j.ldx) && n_tokens >= FEW_TOKENS) {
        cpu_lower_rows(b, MOE_F32, x, j.ldx, n_tokens, w->d);
        j.x = (const float *)(const void *)b->low_x;
        j.ldx = b->ld_low;
    }
    pool_run(b->pool, hidden_task, &j, ffn_plan_hidden(b, w->n_experts));
    int n_panels = cpu_ceil(w->d, MOE_W2_PANEL);
    j.token_parts = ffn_token_parts(b, n_tokens, n_panels, CPU_OUT_TOKENS);
    ffn_plan_out(b, w->n_experts, n_tokens, j.token_parts);
    pool_run(b->pool, out_task, &j, n_panels * j.token_parts);
}
