/* ffn.c: the feed-forward network with all experts. Tokens go in blocks, so that
 * the hidden rows of a block fit the scratch, whatever the batch. Per block:
 *
 *   1. hidden = act(x w1 + b1): a product like any other. Its columns stand in
 *      planes [tokens][128] of four experts each, so that a step of 2. reads one
 *      stretch of memory;
 *   2. tasks own (64 output columns) x (some tokens): an output tile starts from
 *      b2 and takes in the experts in ascending order, a plane at a time, whose
 *      32 KB of w2 stay in L1 while the tile's rows pass.
 *
 * ffn_sparse.c adds the same products in the same order. So a route may be computed
 * here too: hidden values of experts that a token did not select become 0 between the
 * steps, and add nothing. */
#include <string.h>

#include "engine/cpu/cpu.h"
#include "engine/cpu/ffn_tile.h"

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    int n_tokens, token_parts;
    const int32_t *bound, *expert; /* of a route, or NULL */
    float *y;
} job;

enum { PLANE = CPU_PLANE_EXPERTS * MOE_EXPERT_SIZE, /* columns */
       MASK_TOKENS = 16 };                          /* of a task */

/* w2 of a plane's experts; returns how many there are, 0 past the last plane. */
static int list_w2(const moe_ffn *w, int plane, int panel, const float **w2)
{
    int first = plane * CPU_PLANE_EXPERTS, n = 0;
    for (; n < CPU_PLANE_EXPERTS && first + n < w->n_experts; n++)
        w2[n] = ffn_w2_panel(w, first + n, panel);
    return n;
}

static void out_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    const moe_ffn *w = j->w;
    int panel = task / j->token_parts, part = task % j->token_parts;
    int first = cpu_part(j->n_tokens, j->token_parts, part);
    int n_rows = cpu_part(j->n_tokens, j->token_parts, part + 1) - first;
    float *tile = cpu_thread_scratch(j->b, thread);
    const float *a[CPU_DENSE_TOKENS], *hidden = j->b->hidden + (size_t)first * PLANE;
    float *c[CPU_DENSE_TOKENS];
    const float *w2[2][CPU_PLANE_EXPERTS]; /* of this plane and the next */
    int n = list_w2(w, 0, panel, w2[0]), n_next;
    ffn_tile_start(w, panel, n_rows, tile);
    for (int plane = 0; n > 0; plane++, n = n_next) {
        for (int i = 0; i < n_rows; i++) {
            a[i] = hidden + (size_t)i * PLANE;
            c[i] = tile + i * MOE_W2_PANEL;
        }
        n_next = list_w2(w, plane + 1, panel, w2[(plane + 1) % 2]);
        cpu_gemm g = ffn_tile_add(n_rows, a, c, n, w2[plane % 2]);
        g.ahead = n_next == n ? w2[(plane + 1) % 2] : NULL;
        j->b->kernels->gemm(&g);
        hidden += (size_t)j->n_tokens * PLANE;
    }
    ffn_tile_finish(w, panel, n_rows, tile, j->y + (size_t)first * (size_t)w->d);
}

/* Clears what the tokens of a task did not select. */
static void mask_task(void *ctx, int task, int thread)
{
    (void)thread;
    const job *j = ctx;
    int end = (task + 1) * MASK_TOKENS < j->n_tokens ? (task + 1) * MASK_TOKENS : j->n_tokens;
    for (int t = task * MASK_TOKENS; t < end; t++) {
        int next = j->bound[t];
        for (int e = 0; e < j->w->n_experts; e++) {
            size_t plane = (size_t)(e / CPU_PLANE_EXPERTS) * (size_t)j->n_tokens + (size_t)t;
            if (next < j->bound[t + 1] && j->expert[next] == e)
                next++;
            else
                memset(j->b->hidden + plane * PLANE + e % CPU_PLANE_EXPERTS * MOE_EXPERT_SIZE, 0,
                       MOE_EXPERT_SIZE * sizeof(float));
        }
    }
}

void cpu_ffn_dense(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                   const int32_t *bound, const int32_t *expert, float *y)
{
    cpu_product_run(b, &(cpu_product){
        .x = x, .ldx = (size_t)w->d, .n_rows = n_tokens, .k = w->d,
        .n = w->n_experts * MOE_EXPERT_SIZE, .w = w->w1, .bias = w->b1, .act = w->act,
        .y = b->hidden, .ldy = PLANE,
        .plane_panels = CPU_PLANE_EXPERTS, .plane_stride = (size_t)n_tokens * PLANE,
    });
    job j = {.b = b, .w = w, .n_tokens = n_tokens, .bound = bound, .expert = expert, .y = y};
    if (bound)
        pool_run(b->pool, mask_task, &j, cpu_ceil(n_tokens, MASK_TOKENS));
    int n_panels = cpu_ceil(w->d, MOE_W2_PANEL);
    j.token_parts = ffn_token_parts(b, n_tokens, n_panels, CPU_DENSE_TOKENS);
    pool_run(b->pool, out_task, &j, n_panels * j.token_parts);
}

/* How many tokens from t on fit the scratch together. At least one does, since
 * max_pairs is at least n_experts. */
static int count_block(const cpu_backend *b, const moe_ffn *w, const moe_route *route, int t,
                       int n_tokens)
{
    const int32_t *bound = route->bound;
    int end = t + 1, most = CPU_SPARSE_TOKENS;
    if (b->kernels->add_group_bf16 && w->dtype == MOE_BF16)
        most = 2 * CPU_FFN_TOKENS; /* rows of all experts fit the scratch */
    while (end < n_tokens && end - t < most &&
           (size_t)(bound[end + 1] - bound[t]) <= b->max_pairs)
        end++;
    return end - t;
}

/* Of the next tokens, as many as a dense block takes. */
static bool block_prefers_dense(const cpu_backend *b, const moe_ffn *w, const moe_route *route,
                                int t, int n_tokens)
{
    int n = n_tokens - t < CPU_FFN_TOKENS ? n_tokens - t : CPU_FFN_TOKENS;
    return cpu_ffn_prefers_dense(b, w, n, (size_t)(route->bound[t + n] - route->bound[t]));
}

void cpu_ffn(moe_backend *base, const moe_ffn *w, const float *x, int n_tokens,
             const moe_route *route, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    int n;
    for (int t = 0; t < n_tokens; t += n) {
        const float *block_x = x + (size_t)t * (size_t)w->d;
        float *block_y = y + (size_t)t * (size_t)w->d;
        if (w->dtype != MOE_F32 && !route) {
            n = n_tokens - t < CPU_FFN_TOKENS ? n_tokens - t : CPU_FFN_TOKENS;
            cpu_ffn_low(b, w, block_x, n, NULL, NULL, block_y);
        } else if (w->dtype != MOE_F32) {
            n = count_block(b, w, route, t, n_tokens);
            cpu_ffn_low(b, w, block_x, n, route->bound + t, route->expert, block_y);
        } else if (route && block_prefers_dense(b, w, route, t, n_tokens)) {
            n = n_tokens - t < CPU_FFN_TOKENS ? n_tokens - t : CPU_FFN_TOKENS;
            cpu_ffn_dense(b, w, block_x, n, route->bound + t, route->expert, block_y);
        } else if (route) {
            n = count_block(b, w, route, t, n_tokens);
            cpu_ffn_sparse(b, w, block_x, n, route->bound + t, route->expert, block_y);
        } else {
            n = n_tokens - t < CPU_FFN_TOKENS ? n_tokens - t : CPU_FFN_TOKENS;
            if (w->up) /* two products a neuron: not a plain one any more */
                cpu_ffn_sparse(b, w, block_x, n, NULL, NULL, block_y);
            else
                cpu_ffn_dense(b, w, block_x, n, NULL, NULL, block_y);
        }
    }
}
