/* ffn_tile.h: an output tile of the FFN, [n_rows][64] in scratch, for 64 columns
 * of some tokens: begun from b2, added to, written out. */
#ifndef MOE_CPU_FFN_TILE_H
#define MOE_CPU_FFN_TILE_H

#include <string.h>

#include "engine/cpu/cpu.h"
#include "engine/model/lower.h"

static inline int ffn_panel_columns(const moe_ffn *w, int panel)
{
    int left = w->d - panel * MOE_W2_PANEL;
    return left < MOE_W2_PANEL ? left : MOE_W2_PANEL;
}

/* Units of depth of w1. */
static inline int ffn_units(const moe_ffn *w)
{
    return cpu_ceil(w->d, lower_unit(w->dtype));
}

static inline const float *ffn_w1(const moe_ffn *w, int e)
{
    return (const float *)w->w1 + (size_t)e * (size_t)ffn_units(w) * MOE_EXPERT_SIZE;
}

/* c[i] = act(a[i] w1_e + b1_e), all but b and, of int8, a_scale. */
static inline cpu_gemm ffn_hidden_gemm(const moe_ffn *w, int e, int n_rows,
                                       const float *const *a, float *const *c)
{
    size_t at = (size_t)e * MOE_EXPERT_SIZE;
    return (cpu_gemm){
        .m = n_rows, .n = MOE_EXPERT_SIZE, .k = ffn_units(w), .a = a, .c = c,
        .n_blocks = 1, .ldb = MOE_EXPERT_SIZE, .bias = w->b1 + at, .act = w->act,
        .b_scale = w->scale1 ? w->scale1 + at : NULL,
        .b_offset = w->offset1 ? w->offset1 + at : NULL,
    };
}

/* Of a gated FFN, after g gave its gate's rows in g->c: multiplies them by x up_e. other:
 * scratch of g->m rows of 32. Nothing without a gate. */
static inline void ffn_multiply_up(const cpu_kernels *kernels, const moe_ffn *w, int e,
                                   const cpu_gemm *g, float *other)
{
    size_t at = (size_t)e * MOE_EXPERT_SIZE;
    const float *up = (const float *)w->up;
    float *c[CPU_PAIR_ROWS];
    cpu_gemm h = *g;
    if (!up)
        return;
    up += at * (size_t)ffn_units(w);
    for (int i = 0; i < g->m; i++)
        c[i] = other + i * MOE_EXPERT_SIZE;
    h.c = c;
    h.b = &up;
    h.bias = NULL;
    h.act = MOE_ACT_NONE;
    h.ahead = NULL;
    h.b_scale = w->scale_up ? w->scale_up + at : NULL;
    h.b_offset = w->offset_up ? w->offset_up + at : NULL;
    cpu_gemm_run(kernels, w->dtype, &h);
    for (int i = 0; i < g->m; i++)
        for (int j = 0; j < MOE_EXPERT_SIZE; j++)
            g->c[i][j] *= c[i][j];
}

/* w2 of one expert's 32 neurons and the panel's 64 columns. */
static inline const float *ffn_w2_panel(const moe_ffn *w, int e, int panel)
{
    size_t panels = (size_t)cpu_ceil(w->d, MOE_W2_PANEL);
    size_t rows = MOE_EXPERT_SIZE / (size_t)lower_unit(w->dtype);
    return (const float *)w->w2 + ((size_t)e * panels + (size_t)panel) * rows * MOE_W2_PANEL;
}

static inline void ffn_tile_start(const moe_ffn *w, int panel, int n_rows, float *tile)
{
    size_t columns = (size_t)ffn_panel_columns(w, panel);
    float start[MOE_W2_PANEL] = {0};
    if (w->b2)
        memcpy(start, w->b2 + panel * MOE_W2_PANEL, columns * sizeof *start);
    for (int i = 0; i < n_rows; i++)
        memcpy(tile + i * MOE_W2_PANEL, start, sizeof start);
}

/* c[i] += a[i] w2 over n_experts experts; a[i] holds their hidden rows in line. */
static inline cpu_gemm ffn_tile_add(int n_rows, const float *const *a, float *const *c,
                                    int n_experts, const float *const *w2)
{
    return (cpu_gemm){
        .m = n_rows, .n = MOE_W2_PANEL, .k = MOE_EXPERT_SIZE, .a = a, .c = c,
        .n_blocks = n_experts, .b = w2, .panel_stride = MOE_LINEAR_PANEL,
        .ldb = MOE_W2_PANEL, .add = true,
    };
}

static inline void ffn_tile_finish(const moe_ffn *w, int panel, int n_rows,
                                   const float *tile, float *y)
{
    size_t columns = (size_t)ffn_panel_columns(w, panel);
    y += panel * MOE_W2_PANEL;
    for (int i = 0; i < n_rows; i++, y += w->d, tile += MOE_W2_PANEL)
        if (columns == MOE_W2_PANEL)
            memcpy(y, tile, MOE_W2_PANEL * sizeof *y); /* a known size is inlined */
        else
            memcpy(y, tile, columns * sizeof *y);
}

/* Parts of the tokens such that a tile stays within max_rows and panels x parts
 * keeps the threads busy, without parts of a few rows only. */
static inline int ffn_token_parts(const cpu_backend *b, int n_tokens, int n_panels,
                                  int max_rows)
{
    int parts = cpu_ceil(n_tokens, max_rows);
    while (parts * n_panels < 3 * b->n_threads && n_tokens / (2 * parts) >= 24)
        parts *= 2;
    return parts;
}

#endif
