/* lower.c: packed fp32 weights made bf16 or int8.
 *
 * int8 is symmetric, with a scale to each output column. The largest weight over 127
 * wastes most of the steps on a few outliers, so some smaller scales, which cut those
 * off, are tried, and the one with the least squared error taken, each error weighed
 * by the mean square of the input it is multiplied with. */
#include "engine/model/lower.h"
#include "engine/model/memory.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { P = MOE_LINEAR_PANEL, Q = MOE_W2_PANEL, S = MOE_EXPERT_SIZE, N_CUTS = 9, STEPS = 127,
       ALIGN = 64 };

static const struct { const char *name; moe_dtype t; } names[] = {
    {"f32", MOE_F32}, {"bf16", MOE_BF16}, {"int8", MOE_I8}};
enum { N_NAMES = 3 };

const char *lower_name(moe_dtype t)
{
    for (int i = 0; i < N_NAMES; i++)
        if (names[i].t == t)
            return names[i].name;
    return "";
}

bool lower_find(const char *name, moe_dtype *out)
{
    for (int i = 0; i < N_NAMES; i++)
        if (strcmp(names[i].name, name) == 0) {
            *out = names[i].t;
            return true;
        }
    return false;
}

int lower_unit(moe_dtype t)
{
    return 4 / (int)moe_dtype_bytes(t);
}

static size_t ceil_to(size_t n, size_t whole)
{
    return (n + whole - 1) / whole * whole;
}

static size_t panel_bytes(moe_dtype t, int k, int columns)
{
    return ceil_to((size_t)k, (size_t)lower_unit(t)) * (size_t)columns * moe_dtype_bytes(t);
}

size_t lower_linear_bytes(moe_dtype t, int n, int k)
{
    return ceil_to((size_t)n, P) / P * panel_bytes(t, k, P);
}

size_t lower_w2_bytes(moe_dtype t, int n_experts, int d)
{
    return (size_t)n_experts * (ceil_to((size_t)d, Q) / Q) * panel_bytes(t, S, Q);
}

uint16_t lower_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Where [i][column] lies, in values. */
static size_t place(moe_dtype t, int columns, int i, int column)
{
    int v = lower_unit(t);
    return ((size_t)(i / v) * (size_t)columns + (size_t)column) * (size_t)v + (size_t)(i % v);
}

float lower_value(moe_dtype t, const void *panel, int columns, int i, int column, float scale)
{
    size_t at = place(t, columns, i, column);
    if (t == MOE_I8)
        return scale * (float)((const int8_t *)panel)[at];
    if (t == MOE_F32)
        return ((const float *)panel)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)panel)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Of a scale; 0 of one that is 0 or nearly so. */
static inline float inverse_of(float scale)
{
    return scale >= FLT_MIN ? 1 / scale : 0;
}

/* To the nearest step, ties to even: of floats as large as that no others exist. */
static inline float quantise(float x, float inverse)
{
    const float whole = 12582912; /* 1.5 * 2^23 */
    float q = x * inverse;
    q = q > STEPS ? STEPS : q < -STEPS ? -STEPS : q;
    return (q + whole) - whole;
}

/* ---- panels --------------------------------------------------------------- */

static void make_bf16(const float *panel, int k, int columns, uint16_t *out)
{
    memset(out, 0, panel_bytes(MOE_BF16, k, columns));
    for (int i = 0; i < k; i++)
        for (int j = 0; j < columns; j++)
            out[place(MOE_BF16, columns, i, j)] =
                lower_bf16(panel[(size_t)i * (size_t)columns + (size_t)j]);
}

/* offset [columns]: out. */
static void make_i8(const float *panel, int k, int columns, const float *scale, int8_t *out,
                    int32_t *offset)
{
    memset(out, 0, panel_bytes(MOE_I8, k, columns));
    for (int j = 0; j < columns; j++) {
        float inverse = inverse_of(scale[j]);
        int32_t sum = 0;
        for (int i = 0; i < k; i++) {
            int q = (int)quantise(panel[(size_t)i * (size_t)columns + (size_t)j], inverse);
            out[place(MOE_I8, columns, i, j)] = (int8_t)q;
            sum += q;
        }
        offset[j] = 128 * sum;
    }
}

/* ---- scales --------------------------------------------------------------- */

/* n rows of so many columns, at most MOE_W2_PANEL of them, and what a row's errors weigh
 * (NULL: all alike). */
typedef struct {
    const float *w, *weight;
    size_t n;
    int columns;
} strip;

static void largest(const strip *s, float *most)
{
    memset(most, 0, (size_t)s->columns * sizeof *most);
    for (size_t i = 0; i < s->n; i++)
        for (int j = 0; j < s->columns; j++) {
            float size = fabsf(s->w[i * (size_t)s->columns + (size_t)j]);
            most[j] = size > most[j] ? size : most[j];
        }
}

/* error [columns]: out. All columns of a row at a time: that is what vectors do. */
static void squared_errors(const strip *s, const float *scale, double *error)
{
    float inverse[Q];
    for (int j = 0; j < s->columns; j++) {
        inverse[j] = inverse_of(scale[j]);
        error[j] = 0;
    }
    for (size_t i = 0; i < s->n; i++) {
        const float *w = s->w + i * (size_t)s->columns;
        float weight = s->weight ? s->weight[i] : 1;
        for (int j = 0; j < s->columns; j++) {
            float off = w[j] - scale[j] * quantise(w[j], inverse[j]);
            error[j] += (double)(weight * off * off);
        }
    }
}

static void best_scales(const strip *s, float *best)
{
    float most[Q] = {0}, scale[Q] = {0};
    double error[Q], least[Q];
    largest(s, most);
    for (int i = 0; i < N_CUTS; i++) {
        for (int j = 0; j < s->columns; j++)
            scale[j] = most[j] / STEPS * (1 - 0.05f * (float)i);
        squared_errors(s, scale, error);
        for (int j = 0; j < s->columns; j++)
            if (i == 0 || error[j] < least[j]) {
                least[j] = error[j];
                best[j] = scale[j];
            }
    }
}

/* ---- linear --------------------------------------------------------------- */

/* Panels of P columns; scale and offset [n_panels * P], I8 only. */
static void make_panels(const float *from, int n_panels, int k, moe_dtype t,
                        const float *importance, void *to, float *scale, int32_t *offset)
{
    for (int p = 0; p < n_panels; p++) {
        const float *panel = from + (size_t)p * (size_t)k * P;
        char *out = (char *)to + (size_t)p * panel_bytes(t, k, P);
        if (t == MOE_BF16) {
            make_bf16(panel, k, P, (uint16_t *)(void *)out);
            continue;
        }
        best_scales(&(strip){panel, importance, (size_t)k, P}, scale + p * P);
        make_i8(panel, k, P, scale + p * P, (int8_t *)out, offset + p * P);
    }
}

moe_status lower_linear(const moe_linear *from, moe_dtype t, const float *importance,
                        moe_linear *out, moe_error *err)
{
    size_t panels = ceil_to((size_t)from->n, P) / P;
    void *w = memory_alloc(lower_linear_bytes(t, from->n, from->k));
    float *scale = t == MOE_I8 ? memory_alloc(panels * P * sizeof *scale) : NULL;
    int32_t *offset = t == MOE_I8 ? memory_alloc(panels * P * sizeof *offset) : NULL;
    *out = *from;
    out->dtype = t;
    out->w = w;
    out->scale = scale;
    out->offset = offset;
    bool ok = w && (t != MOE_I8 || (scale && offset));
    if (ok)
        make_panels(from->w, (int)panels, from->k, t, importance, w, scale, offset);
    else
        lower_linear_release(out);
    return ok ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "out of memory for %d x %d lower weights",
                                  from->n, from->k);
}

void lower_linear_release(moe_linear *w)
{
    free((void *)(uintptr_t)w->w);
    free((void *)(uintptr_t)w->scale);
    free((void *)(uintptr_t)w->offset);
    *w = (moe_linear){.n = 0};
}

/* ---- FFN ------------------------------------------------------------------ */

/* The fp32 panel of columns [p * 64, ...) of expert e's w2. */
static const float *w2_panel(const moe_ffn *f, int e, int p)
{
    size_t panels = ceil_to((size_t)f->d, Q) / Q;
    return (const float *)f->w2 + ((size_t)e * panels + (size_t)p) * S * Q;
}

/* The importance of each place's neuron; dead ones have none. */
static void order_importance(const moe_ffn *f, const float *source, float *out)
{
    for (int i = 0; i < f->n_experts * S; i++) {
        int n = f->neurons ? f->neurons[i] : i < f->d_ff ? i : -1;
        out[i] = n < 0 ? 0 : source[n];
    }
}

/* scale2 of one panel's columns over all experts; w [n_experts * 32][64] scratch. */
static void w2_scales(const moe_ffn *f, int p, const float *importance, float *w, float *scale)
{
    enum { PANEL_FLOATS = S * Q };
    for (int e = 0; e < f->n_experts; e++)
        memcpy(w + (size_t)e * PANEL_FLOATS, w2_panel(f, e, p), PANEL_FLOATS * sizeof *w);
    best_scales(&(strip){w, importance, (size_t)f->n_experts * S, Q}, scale);
}

static void make_w2(const moe_ffn *f, moe_dtype t, const float *importance, float *w, void *to,
                    float *scale, int32_t *offset)
{
    int panels = (f->d + Q - 1) / Q;
    size_t bytes = panel_bytes(t, S, Q);
    int32_t unused[Q];
    for (int p = 0; p < panels; p++) {
        if (t == MOE_I8)
            w2_scales(f, p, importance, w, scale + p * Q);
        for (int e = 0; e < f->n_experts; e++) {
            size_t at = (size_t)e * (size_t)panels + (size_t)p;
            void *out = (char *)to + at * bytes;
            if (t == MOE_I8)
                make_i8(w2_panel(f, e, p), S, Q, scale + p * Q, out,
                        offset ? offset + at * Q : unused);
            else
                make_bf16(w2_panel(f, e, p), S, Q, out);
        }
    }
}

bool lower_hidden_is_signed(const moe_ffn *f)
{
    return f->act != MOE_ACT_RELU || f->gated;
}

moe_status lower_ffn(const moe_ffn *from, moe_dtype t, const float *importance,
                     const float *hidden_importance, moe_ffn *out, moe_error *err)
{
    bool i8 = t == MOE_I8, negative = lower_hidden_is_signed(from);
    size_t places = (size_t)from->n_experts * S, wide = ceil_to((size_t)from->d, Q);
    void *w1 = memory_alloc(lower_linear_bytes(t, (int)places, from->d));
    void *w2 = memory_alloc(lower_w2_bytes(t, from->n_experts, from->d));
    float *scale1 = i8 ? memory_alloc(places * sizeof *scale1) : NULL;
    float *scale2 = i8 ? memory_alloc(wide * sizeof *scale2) : NULL;
    int32_t *offset1 = i8 ? memory_alloc(places * sizeof *offset1) : NULL;
    int32_t *offset2 =
        i8 && negative ? memory_alloc((size_t)from->n_experts * wide * sizeof *offset2) : NULL;
    void *up = from->up ? memory_alloc(lower_linear_bytes(t, (int)places, from->d)) : NULL;
    float *scale_up = i8 && up ? memory_alloc(places * sizeof *scale_up) : NULL;
    int32_t *offset_up = i8 && up ? memory_alloc(places * sizeof *offset_up) : NULL;
    float *ordered = malloc(places * sizeof *ordered);
    float *scratch = malloc(i8 ? places * Q * sizeof *scratch : 1);
    *out = *from;
    out->dtype = t;
    out->w1 = w1;
    out->w2 = w2;
    out->scale1 = scale1;
    out->scale2 = scale2;
    out->offset1 = offset1;
    out->offset2 = offset2;
    out->up = up;
    out->scale_up = scale_up;
    out->offset_up = offset_up;
    bool ok = w1 && w2 && ordered && scratch && (!from->up || up) &&
              (!i8 || !up || (scale_up && offset_up)) &&
              (!i8 || (scale1 && scale2 && offset1 && (offset2 || !negative)));
    if (ok) {
        if (hidden_importance)
            order_importance(from, hidden_importance, ordered);
        make_panels(from->w1, from->n_experts, from->d, t, importance, w1, scale1,
                    offset1);
        if (up)
            make_panels(from->up, from->n_experts, from->d, t, importance, up, scale_up,
                        offset_up);
        make_w2(from, t, hidden_importance ? ordered : NULL, scratch, w2, scale2, offset2);
    } else {
        lower_ffn_release(out);
    }
    free(ordered);
    free(scratch);
    return ok ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "out of memory for %d lower experts",
                                  from->n_experts);
}

void lower_ffn_release(moe_ffn *w)
{
    free((void *)(uintptr_t)w->w1);
    free((void *)(uintptr_t)w->w2);
    free((void *)(uintptr_t)w->up);
    free((void *)(uintptr_t)w->scale_up);
    free((void *)(uintptr_t)w->offset_up);
    free((void *)(uintptr_t)w->scale1);
    free((void *)(uintptr_t)w->scale2);
    free((void *)(uintptr_t)w->offset1);
    free((void *)(uintptr_t)w->offset2);
    *w = (moe_ffn){.d = 0};
}
