/* ffn.c: the feed-forward network with all experts. Tokens go in blocks, so that
 * the hidden rows of a block fit the scratch, whatever the batch. Per block:
 *
 *   1. hidden[t, 32 e ..] = act(x[t] w1_e + b1_e): a product like any other;
 *   2. tasks own (64 output columns) x (some tokens): an output tile starts from
 *      b2 and takes in the experts in ascending order, four at a time, whose
 *      32 KB of w2 stay in L1 while the tile's rows pass.
 *
 * ffn_sparse.c adds the same products in the same order. */
#include <string.h>

#include "engine/cpu/cpu.h"
#include "engine/cpu/ffn_tile.h"

enum { EXPERTS_AT_ONCE = 4, TASKS_PER_THREAD = 3 };

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    int n_tokens, token_parts;
    size_t stride; /* of hidden rows */
    float *y;
} job;

size_t cpu_hidden_stride(int n_experts)
{
    /* Rows a multiple of 4096 bytes apart would share the same few sets of the
     * cache: 64 bytes more spread them. */
    return (size_t)n_experts * MOE_EXPERT_SIZE + 16;
}

static void out_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    const moe_ffn *w = j->w;
    int panel = task / j->token_parts, part = task % j->token_parts;
    int first = cpu_part(j->n_tokens, j->token_parts, part);
    int n_rows = cpu_part(j->n_tokens, j->token_parts, part + 1) - first;
    float *tile = cpu_thread_scratch(j->b, thread);
    const float *a[CPU_OUT_TOKENS];
    float *c[CPU_OUT_TOKENS];
    ffn_tile_start(w, panel, n_rows, tile);
    for (int e = 0; e < w->n_experts; e += EXPERTS_AT_ONCE) {
        const float *w2[EXPERTS_AT_ONCE];
        int n = w->n_experts - e < EXPERTS_AT_ONCE ? w->n_experts - e : EXPERTS_AT_ONCE;
        for (int i = 0; i < n; i++)
            w2[i] = ffn_w2_panel(w, e + i, panel);
        for (int i = 0; i < n_rows; i++) {
            a[i] = j->b->hidden + (size_t)(first + i) * j->stride +
                   (size_t)e * MOE_EXPERT_SIZE;
            c[i] = tile + i * MOE_W2_PANEL;
        }
        ffn_tile_add(j->b->kernels, n_rows, a, c, n, w2, NULL);
    }
    ffn_tile_finish(w, panel, n_rows, tile, j->y + (size_t)first * (size_t)w->d);
}

void cpu_ffn_dense(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                   float *y)
{
    size_t stride = cpu_hidden_stride(w->n_experts);
    cpu_product_run(b, &(cpu_product){
        .x = x, .ldx = (size_t)w->d, .n_rows = n_tokens, .k = w->d,
        .n = w->n_experts * MOE_EXPERT_SIZE, .w = w->w1, .bias = w->b1, .act = w->act,
        .y = b->hidden, .ldy = stride,
    });
    job j = {.b = b, .w = w, .n_tokens = n_tokens, .stride = stride, .y = y};
    int n_panels = cpu_ceil(w->d, MOE_W2_PANEL);
    j.token_parts = ffn_token_parts(b, n_tokens, n_panels);
    pool_run(b->pool, out_task, &j, n_panels * j.token_parts);
}

/* How many tokens from t on fit the scratch together. At least one does, since
 * max_pairs is at least n_experts. */
static int count_block(const cpu_backend *b, const moe_route *route, int t, int n_tokens)
{
    const int32_t *bound = route->bound;
    int end = t + 1;
    while (end < n_tokens && end - t < CPU_SPARSE_TOKENS &&
           (size_t)(bound[end + 1] - bound[t]) <= b->max_pairs)
        end++;
    return end - t;
}

void cpu_ffn(moe_backend *base, const moe_ffn *w, const float *x, int n_tokens,
             const moe_route *route, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    int n;
    for (int t = 0; t < n_tokens; t += n) {
        const float *block_x = x + (size_t)t * (size_t)w->d;
        float *block_y = y + (size_t)t * (size_t)w->d;
        if (route) {
            n = count_block(b, route, t, n_tokens);
            cpu_ffn_sparse(b, w, block_x, n, route->bound + t, route->expert, block_y);
        } else {
            n = n_tokens - t < CPU_FFN_TOKENS ? n_tokens - t : CPU_FFN_TOKENS;
            cpu_ffn_dense(b, w, block_x, n, block_y);
        }
    }
}
