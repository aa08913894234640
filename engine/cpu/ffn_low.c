/* ffn_low.c: the feed-forward network of bf16 or int8 experts: ffn_sparse.c with rows
 * made lower twice, x once for all experts and each pair's 32 hidden values as they are
 * computed. An int8 hidden row has a scale of its own, by which its product with w2 is
 * multiplied as it is added to the output tile; the columns' scales of w2 come last:
 *
 *   y[t] = b2 + scale2 * sum over e of hidden_scale[t, e] (hidden[t, e] w2_e)
 *
 * Dense is the same with every expert for every token. */
#include "engine/cpu/cpu.h"
#include "engine/cpu/ffn_tile.h"

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    int n_tokens, token_parts;
    float *y;
} job;

/* Units of a hidden row. */
static size_t hidden_units(const moe_ffn *w)
{
    return (size_t)(MOE_EXPERT_SIZE / lower_unit(w->dtype));
}

static float *hidden_row(const job *j, size_t pair)
{
    return j->b->hidden + pair * hidden_units(j->w);
}

/* The hidden values of a task's pairs, made lower. */
static void keep_hidden(const job *j, int first, int n_rows, const float *values)
{
    cpu_backend *b = j->b;
    for (int i = 0; i < n_rows; i++, values += MOE_EXPERT_SIZE) {
        uint32_t *to = (uint32_t *)(void *)hidden_row(j, (size_t)(first + i));
        if (j->w->dtype == MOE_BF16)
            b->kernels->to_bf16(values, MOE_EXPERT_SIZE, to);
        else
            b->hidden_scale[first + i] =
                b->kernels->to_i8(values, MOE_EXPERT_SIZE, !j->w->offset2, to);
    }
}

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
    float *c[CPU_PAIR_ROWS], a_scale[CPU_PAIR_ROWS];
    float *values = cpu_thread_scratch(b, thread);
    const int32_t *token = b->row + first;
    for (int i = 0; i < n_rows; i++) {
        a[i] = (const float *)b->low_x + (size_t)token[i] * b->ld_low;
        a_scale[i] = b->low_scale[token[i]];
        c[i] = values + i * MOE_EXPERT_SIZE;
    }
    cpu_gemm g = ffn_hidden_gemm(w, e, n_rows, a, c);
    g.b = &w1;
    g.a_scale = a_scale;
    g.ahead = changes ? &next_w1 : NULL;
    cpu_gemm_run(b->kernels, w->dtype, &g);
    ffn_multiply_up(b->kernels, w, e, &g, values + CPU_PAIR_ROWS * MOE_EXPERT_SIZE);
    keep_hidden(j, first, n_rows, values);
}

/* Adds expert e's pairs [first, end) to the tile whose first token is given. */
static void add_expert(const job *j, int e, int panel, int first, int end, int first_token,
                       float *tile)
{
    const cpu_backend *b = j->b;
    const moe_ffn *w = j->w;
    size_t columns = (size_t)cpu_ceil(w->d, MOE_W2_PANEL) * MOE_W2_PANEL;
    const float *w2 = ffn_w2_panel(w, e, panel);
    const float *a[CPU_OUT_TOKENS];
    float *c[CPU_OUT_TOKENS];
    for (int i = first; i < end; i++) {
        a[i - first] = hidden_row(j, (size_t)i);
        c[i - first] = tile + (size_t)(b->row[i] - first_token) * MOE_W2_PANEL;
    }
    cpu_gemm g = ffn_tile_add(end - first, a, c, 1, &w2);
    g.k = (int)hidden_units(w);
    g.a_scale = b->hidden_scale + first;
    g.b_offset = w->offset2 ? w->offset2 + (size_t)e * columns + (size_t)panel * MOE_W2_PANEL
                            : NULL;
    cpu_gemm_run(b->kernels, w->dtype, &g);
}

/* An int8 tile holds the sum without b2 and scale2. */
static void scale_tile(const moe_ffn *w, int panel, int n_rows, float *tile)
{
    int columns = ffn_panel_columns(w, panel);
    const float *scale = w->scale2 + panel * MOE_W2_PANEL;
    const float *bias = w->b2 ? w->b2 + panel * MOE_W2_PANEL : NULL;
    for (int i = 0; i < n_rows; i++, tile += MOE_W2_PANEL)
        for (int c = 0; c < columns; c++)
            tile[c] = (bias ? bias[c] : 0) + scale[c] * tile[c];
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
    if (w->dtype == MOE_I8)
        memset(tile, 0, (size_t)n_rows * MOE_W2_PANEL * sizeof *tile);
    else
        ffn_tile_start(w, panel, n_rows, tile);
    int e = -1;
    while ((e = ffn_next_expert(cut, cut_end, e, w->n_experts)) < w->n_experts)
        add_expert(j, e, panel, cut[e], cut_end[e], first, tile);
    if (w->dtype == MOE_I8)
        scale_tile(w, panel, n_rows, tile);
    ffn_tile_finish(w, panel, n_rows, tile, j->y + (size_t)first * (size_t)w->d);
}

void cpu_ffn_low(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens,
                 const int32_t *bound, const int32_t *expert, float *y)
{
    ffn_group(b, bound, expert, n_tokens, w->n_experts);
    if (b->kernels->add_group_i8) {
        cpu_ffn_groups(b, w, x, n_tokens, y);
        return;
    }
    cpu_lower_rows(b, w->dtype, x, (size_t)w->d, n_tokens, w->d);
    job j = {.b = b, .w = w, .n_tokens = n_tokens, .y = y};
    pool_run(b->pool, hidden_task, &j, ffn_plan_hidden(b, w->n_experts));
    int n_panels = cpu_ceil(w->d, MOE_W2_PANEL);
    j.token_parts = ffn_token_parts(b, n_tokens, n_panels, CPU_OUT_TOKENS);
    ffn_plan_out(b, w->n_experts, n_tokens, j.token_parts);
    pool_run(b->pool, out_task, &j, n_panels * j.token_parts);
}
