/* ffn_groups.c: the feed-forward network of bf16 and int8 weights where the kernels want
 * more depth than one expert has (AMX). Experts go in groups of 16, tokens in parts:
 *
 *   1. the rows of x are made lower (lower.c);
 *   2. tasks own (a group) x (a part): hidden = act(x w1 + b1), gated times x up, of each token's own experts,
 *      made lower, stands in a row of all experts of the token, with zeros for those it
 *      has not selected. Experts that no token of the part has selected take no place:
 *      the others of the group move together. int8 rows have a scale to a group, from
 *      the token's own hidden values alone;
 *   3. tasks own (64 output columns) x (a part): groups are added in ascending order,
 *      each with one product of its whole depth:
 *
 *   y[t] = b2 + scale2 * sum over groups g of scale[t, g] (hidden[t, g] w2_g)
 *
 * Zeros add nothing, so that the bits are those of a token alone; dense is the same with
 * every expert for every token. */
#include "engine/cpu/cpu.h"
#include "engine/cpu/ffn_tile.h"

typedef struct {
    cpu_backend *b;
    const moe_ffn *w;
    int n_tokens, token_parts, n_groups;
    size_t ld; /* units of a row of hidden values */
    float *y;
} job;

enum { GROUP = CPU_GROUP_EXPERTS };

static int part_first(const job *j, int part)
{
    return cpu_part(j->n_tokens, j->token_parts, part);
}

/* Units of an expert's hidden values of a token. */
static size_t expert_units(const job *j)
{
    return (size_t)(MOE_EXPERT_SIZE / lower_unit(j->w->dtype));
}

/* Units of group g in a token's row; they are whole steps of 16. */
static uint32_t *group_hidden(const job *j, int g)
{
    return (uint32_t *)(void *)j->b->hidden + (size_t)g * GROUP * expert_units(j);
}

/* The experts of group g that tokens of a part have selected. */
static int list_active(const job *j, int part, int g, int *active)
{
    int n_experts = j->w->n_experts, n = 0;
    const int32_t *cut = j->b->cut + (size_t)part * (size_t)n_experts;
    const int32_t *cut_end = cut + n_experts;
    for (int e = g * GROUP; e < (g + 1) * GROUP && e < n_experts; e++)
        if (cut_end[e] > cut[e])
            active[n++] = e;
    return n;
}

static int count_steps(const job *j, int n_active)
{
    return cpu_ceil(n_active * (int)expert_units(j), CPU_GROUP_STEP);
}

/* ---- hidden values ------------------------------------------------------------ */

/* The hidden values of n_rows pairs of expert e; other: scratch of a gated FFN. */
static void hidden_gemm(const job *j, int e, int next, int cut, int n_rows, float *values,
                        float *other)
{
    const cpu_backend *b = j->b;
    const moe_ffn *w = j->w;
    const float *w1 = ffn_w1(w, e), *next_w1 = next < w->n_experts ? ffn_w1(w, next) : NULL;
    const float *a[CPU_GROUP_TOKENS];
    float *c[CPU_GROUP_TOKENS], a_scale[CPU_GROUP_TOKENS];
    for (int i = 0; i < n_rows; i++) {
        int t = b->row[cut + i];
        a[i] = (const float *)(const void *)b->low_x + (size_t)t * b->ld_low;
        a_scale[i] = b->low_scale[t];
        c[i] = values + i * MOE_EXPERT_SIZE;
    }
    cpu_gemm g = ffn_hidden_gemm(w, e, n_rows, a, c);
    g.b = &w1;
    g.a_scale = a_scale;
    g.ahead = next_w1 ? &next_w1 : NULL;
    cpu_gemm_run(b->kernels, w->dtype, &g);
    ffn_multiply_up(b->kernels, w, e, &g, other);
}

/* Turns the largest |h| of a part's tokens into scales; inverse [n_tokens]: out. */
static void find_scales(int n, float steps, float *scale, float *inverse)
{
    for (int i = 0; i < n; i++) {
        inverse[i] = scale[i] > CPU_LEAST_SCALED ? steps / scale[i] : 0;
        scale[i] = inverse[i] > 0 ? scale[i] / steps : 0;
    }
}

/* The group's hidden values, one row of 32 to a pair, made lower and put in place. */
static void keep_hidden(const job *j, int part, int g, const int *active, int n_active,
                        const float *values)
{
    const cpu_backend *b = j->b;
    const cpu_kernels *kernels = b->kernels;
    int first = part_first(j, part), n = part_first(j, part + 1) - first;
    const int32_t *cut = b->cut + (size_t)part * (size_t)j->w->n_experts;
    const int32_t *cut_end = cut + j->w->n_experts;
    bool i8 = j->w->dtype == MOE_I8;
    float *scale = b->group_scale + (size_t)g * (size_t)j->n_tokens + first;
    float inverse[CPU_GROUP_TOKENS];
    if (i8) {
        memset(scale, 0, (size_t)n * sizeof *scale);
        const float *h = values;
        for (int s = 0; s < n_active; s++)
            for (int i = cut[active[s]]; i < cut_end[active[s]]; i++, h += MOE_EXPERT_SIZE) {
                float most = kernels->largest_hidden(h), *to = scale + (b->row[i] - first);
                *to = most > *to ? most : *to;
            }
        find_scales(n, j->w->offset2 ? 127 : 255, scale, inverse);
    }
    uint32_t *rows = group_hidden(j, g) + (size_t)first * j->ld;
    size_t bytes = (size_t)count_steps(j, n_active) * CPU_GROUP_STEP * sizeof *rows;
    for (int i = 0; i < n; i++)
        memset(rows + (size_t)i * j->ld, 0, bytes);
    for (int s = 0; s < n_active; s++, rows += expert_units(j))
        for (int i = cut[active[s]]; i < cut_end[active[s]]; i++, values += MOE_EXPERT_SIZE) {
            int t = b->row[i] - first;
            if (i8)
                kernels->hidden_to_i8(values, inverse[t], rows + (size_t)t * j->ld);
            else
                kernels->to_bf16(values, MOE_EXPERT_SIZE, rows + (size_t)t * j->ld);
        }
}

static void hidden_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    int g = task / j->token_parts, part = task % j->token_parts;
    const int32_t *cut = j->b->cut + (size_t)part * (size_t)j->w->n_experts;
    const int32_t *cut_end = cut + j->w->n_experts;
    float *values = cpu_thread_scratch(j->b, thread), *to = values;
    float *other = values + GROUP * CPU_GROUP_TOKENS * MOE_EXPERT_SIZE;
    int most = j->w->up ? CPU_PAIR_ROWS : CPU_GROUP_TOKENS;
    int active[GROUP], n_active = list_active(j, part, g, active);
    for (int s = 0; s < n_active; s++) {
        int e = active[s], next = s + 1 < n_active ? active[s + 1] : j->w->n_experts;
        for (int at = cut[e], n; at < cut_end[e]; at += n, to += n * MOE_EXPERT_SIZE) {
            n = cut_end[e] - at < most ? cut_end[e] - at : most;
            hidden_gemm(j, e, next, at, n, to, other);
        }
    }
    keep_hidden(j, part, g, active, n_active, values);
}

/* ---- output -------------------------------------------------------------------- */

/* A group's panels of w2 as steps of 16 units. bf16 has one to an expert; two of int8 are
 * put together in copy. */
static void list_w2(const job *j, int panel, const int *active, int n_active, uint32_t *copy,
                    const uint32_t **w2)
{
    size_t units = expert_units(j) * MOE_W2_PANEL;
    for (int s = 0; s < n_active; s++) {
        const float *from = ffn_w2_panel(j->w, active[s], panel);
        if (j->w->dtype == MOE_I8) {
            memcpy(copy + (size_t)s * units, from, units * sizeof *copy);
            w2[s / 2] = copy + (size_t)(s / 2 * 2) * units;
        } else {
            w2[s] = (const uint32_t *)(const void *)from;
        }
    }
}

static void finish(const moe_ffn *w, int panel, int n_rows, float *tile, float *y)
{
    int columns = ffn_panel_columns(w, panel);
    const float *scale = w->dtype == MOE_I8 ? w->scale2 + panel * MOE_W2_PANEL : NULL;
    const float *bias = w->b2 ? w->b2 + panel * MOE_W2_PANEL : NULL;
    for (int i = 0; i < n_rows; i++) {
        float *row = tile + i * MOE_W2_PANEL;
        for (int c = 0; c < columns; c++)
            /* + 0: a sum that is -0 where zeros were added is so where they were not. */
            row[c] = (bias ? bias[c] : 0) + (scale ? scale[c] : 1) * (row[c] + 0.0f);
    }
    ffn_tile_finish(w, panel, n_rows, tile, y);
}

static void out_task(void *ctx, int task, int thread)
{
    const job *j = ctx;
    const cpu_backend *b = j->b;
    int panel = task / j->token_parts, part = task % j->token_parts;
    int first = part_first(j, part), n_rows = part_first(j, part + 1) - first;
    float *tile = cpu_thread_scratch(b, thread);
    uint32_t *copy = (uint32_t *)(void *)(tile + CPU_GROUP_TOKENS * MOE_W2_PANEL);
    const uint32_t *w2[GROUP], *ahead[GROUP];
    int active[GROUP], next[GROUP], n = list_active(j, part, 0, active), n_next;
    memset(tile, 0, CPU_GROUP_TOKENS * MOE_W2_PANEL * sizeof *tile);
    for (int g = 0; g < j->n_groups; g++, n = n_next) {
        n_next = g + 1 < j->n_groups ? list_active(j, part, g + 1, next) : 0;
        for (int s = 0; s < n_next; s++)
            ahead[s] = (const uint32_t *)(const void *)ffn_w2_panel(j->w, next[s], panel);
        list_w2(j, panel, active, n, copy, w2);
        cpu_group group = {
            .n_rows = n_rows, .n_steps = count_steps(j, n),
            .hidden = group_hidden(j, g) + (size_t)first * j->ld, .ld = j->ld, .w2 = w2,
            .scale = b->group_scale + (size_t)g * (size_t)j->n_tokens + first,
            .is_signed = j->w->offset2 != NULL, .tile = tile,
            .ahead = ahead, .n_ahead = n_next,
            .ahead_bytes = expert_units(j) * MOE_W2_PANEL * sizeof **ahead,
        };
        if (n > 0 && j->w->dtype == MOE_I8)
            b->kernels->add_group_i8(&group);
        else if (n > 0)
            b->kernels->add_group_bf16(&group);
        memcpy(active, next, sizeof active);
    }
    finish(j->w, panel, n_rows, tile, j->y + (size_t)first * (size_t)j->w->d);
}

/* ---- both ---------------------------------------------------------------------- */

/* Parts of at most so many tokens that both kinds of tasks keep the threads busy. */
static int count_parts(const job *j)
{
    int n_panels = cpu_ceil(j->w->d, MOE_W2_PANEL);
    int tasks = n_panels < j->n_groups ? n_panels : j->n_groups;
    int parts = cpu_ceil(j->n_tokens, CPU_GROUP_TOKENS);
    while (parts * tasks < 3 * j->b->n_threads && j->n_tokens / (2 * parts) >= 32)
        parts *= 2;
    return parts;
}

void cpu_ffn_groups(cpu_backend *b, const moe_ffn *w, const float *x, int n_tokens, float *y)
{
    cpu_lower_rows(b, w->dtype, x, (size_t)w->d, n_tokens, w->d);
    job j = {.b = b, .w = w, .n_tokens = n_tokens, .y = y,
             .n_groups = cpu_ceil(w->n_experts, GROUP)};
    j.token_parts = count_parts(&j);
    j.ld = (size_t)j.n_groups * GROUP * expert_units(&j) + CPU_GROUP_STEP;
    ffn_plan_out(b, w->n_experts, n_tokens, j.token_parts);
    pool_run(b->pool, hidden_task, &j, j.n_groups * j.token_parts);
    pool_run(b->pool, out_task, &j, cpu_ceil(w->d, MOE_W2_PANEL) * j.token_parts);
}
