/* checkpoint_loader.c: tensors by name, checked, converted and packed. */
#include "engine/model/checkpoint_loader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/dtype.h"
#include "engine/model/encoder_names.h"
#include "engine/model/pack.h"

tensor_name name_of(const char *format, ...)
{
    tensor_name n;
    va_list args;
    va_start(args, format);
    vsnprintf(n.text, sizeof n.text, format, args);
    va_end(args);
    return n;
}

static bool shape_is(const st_tensor *t, int rows, int columns)
{
    return t->n_dims == (columns ? 2 : 1) && t->dims[0] == rows &&
           (!columns || t->dims[1] == columns);
}

static void check_tensor(checkpoint_loader *l, const st_tensor *t, int rows, int columns)
{
    char found[200], expected[200];
    const int64_t shape[2] = {rows, columns};
    if (!shape_is(t, rows, columns)) {
        l->status = moe_fail(
            l->err, MOE_E_FORMAT, "%s: tensor '%s' has shape %s, expected %s", t->path,
            t->name, st_shape_text(t->dims, t->n_dims, found, sizeof found),
            st_shape_text(shape, columns ? 2 : 1, expected, sizeof expected));
        return;
    }
    if (t->dtype != MOE_F32 && t->dtype != MOE_F16 && t->dtype != MOE_BF16) {
        l->status = moe_fail(l->err, MOE_E_UNSUPPORTED,
                             "%s: tensor '%s' is of %s, expected F32, F16 or BF16", t->path,
                             t->name, moe_dtype_name(t->dtype));
        return;
    }
    size_t n = t->bytes / moe_dtype_bytes(t->dtype);
    size_t odd = dtype_first_not_finite(t->dtype, t->data, n);
    if (odd < n)
        l->status = moe_fail(l->err, MOE_E_FORMAT,
                             "%s: tensor '%s': value %zu of %zu is NaN or infinite, expected "
                             "finite numbers", t->path, t->name, odd, n);
}

/* The tensor [rows, columns] ([rows] if columns is 0), checked; NULL once
 * anything has failed. A head has no prefix in either form. */
static const st_tensor *need(checkpoint_loader *l, const char *name, int rows, int columns)
{
    if (l->status)
        return NULL;
    const char *prefix = encoder_is_head(name) ? "" : l->prefix;
    const st_tensor *t = safetensors_find(l->m->files, name_of("%s%s", prefix, name).text);
    char expected[200];
    const int64_t shape[2] = {rows, columns};
    if (!t)
        l->status = moe_fail(
            l->err, MOE_E_FORMAT, "%s: tensor '%s%s' is missing, expected %s", l->m->dir,
            prefix, name, st_shape_text(shape, columns ? 2 : 1, expected, sizeof expected));
    else
        check_tensor(l, t, rows, columns);
    return l->status ? NULL : t;
}

static void *or_no_memory(checkpoint_loader *l, void *p, size_t bytes)
{
    if (!p && !l->status)
        l->status = moe_fail(l->err, MOE_E_MEMORY, "%s: out of memory for %zu bytes",
                             l->m->dir, bytes);
    return p;
}

static float *take_floats(checkpoint_loader *l, size_t n)
{
    return l->status ? NULL : or_no_memory(l, memory_floats(l->m, n), n * sizeof(float));
}

static float *scratch_floats(checkpoint_loader *l, size_t n)
{
    if (l->status)
        return NULL;
    if (n > l->scratch_floats) {
        free(l->scratch);
        l->scratch = malloc(n * sizeof *l->scratch);
        l->scratch_floats = l->scratch ? n : 0;
    }
    return or_no_memory(l, l->scratch, n * sizeof *l->scratch);
}

/* ---- parts of the network ----------------------------------------------- */

/* A vector [n] into to, which may be NULL once anything has failed. */
static void load_values(checkpoint_loader *l, const char *stem, const char *part, int n, float *to)
{
    const st_tensor *t = need(l, name_of("%s.%s", stem, part).text, n, 0);
    if (t && to)
        dtype_to_f32(t->dtype, t->data, (size_t)n, to);
}

const float *load_vector(checkpoint_loader *l, const char *stem, const char *part, int n)
{
    float *to = take_floats(l, (size_t)n);
    load_values(l, stem, part, n, to);
    return to;
}

/* The weights [n, k] of n_parts modules below each other, in the scratch. */
static float *load_rows(checkpoint_loader *l, const tensor_name *stems, int n_parts, int n, int k)
{
    const st_tensor *part[MAX_PARTS];
    size_t each = (size_t)n * (size_t)k;
    for (int i = 0; i < n_parts; i++)
        part[i] = need(l, name_of("%s.weight", stems[i].text).text, n, k);
    float *to = scratch_floats(l, each * (size_t)n_parts);
    for (int i = 0; to && i < n_parts; i++)
        dtype_to_f32(part[i]->dtype, part[i]->data, each, to + (size_t)i * each);
    return to;
}

const float *load_zeros(checkpoint_loader *l, int n)
{
    float *to = take_floats(l, (size_t)n);
    if (to)
        memset(to, 0, (size_t)n * sizeof *to);
    return to;
}

moe_linear load_linear(checkpoint_loader *l, const tensor_name *stems, int n_parts, int n,
                       int k, bool bias)
{
    moe_linear out = {.n = n * n_parts, .k = k};
    const float *rows = load_rows(l, stems, n_parts, n, k);
    float *w = take_floats(l, pack_linear_floats(out.n, k));
    float *b = bias ? take_floats(l, (size_t)out.n) : NULL;
    if (rows && w)
        pack_linear(rows, out.n, k, w);
    for (int i = 0; bias && i < n_parts; i++)
        load_values(l, stems[i].text, "bias", n, b ? b + i * n : NULL);
    out.w = w;
    out.b = b;
    return out;
}

moe_norm load_norm(checkpoint_loader *l, const char *stem, bool rms)
{
    const model_config *c = &l->m->config;
    return (moe_norm){.d = c->d_model, .eps = c->norm_eps, .rms = rms,
                      .gamma = load_vector(l, stem, "weight", c->d_model),
                      .beta = rms ? NULL : load_vector(l, stem, "bias", c->d_model)};
}

moe_table load_table(checkpoint_loader *l, const char *name, int n, int d)
{
    const st_tensor *t = need(l, name, n, d);
    if (!t)
        return (moe_table){0};
    const void *rows = t->data;
    if (!st_is_aligned(t)) {
        void *copy = or_no_memory(l, memory_take(l->m, t->bytes), t->bytes);
        if (copy)
            memcpy(copy, t->data, t->bytes);
        rows = copy;
    }
    return (moe_table){.n = n, .d = d, .dtype = t->dtype, .rows = rows};
}

/* Rows [d_ff, d] of a module as packed experts. */
static const float *load_w1(checkpoint_loader *l, const tensor_name *stem)
{
    const model_config *c = &l->m->config;
    const float *rows = load_rows(l, stem, 1, c->d_ff, c->d_model);
    float *w1 = take_floats(l, pack_linear_floats(c->d_ff, c->d_model));
    if (rows && w1)
        pack_w1(rows, c->d_ff, c->d_model, c->n_experts, NULL, w1);
    return w1;
}

static const float *load_b1(checkpoint_loader *l, const tensor_name *stem)
{
    const model_config *c = &l->m->config;
    float *bias = scratch_floats(l, (size_t)c->d_ff);
    load_values(l, stem->text, "bias", c->d_ff, bias);
    float *b1 = take_floats(l, (size_t)c->n_experts * MOE_EXPERT_SIZE);
    if (bias && b1)
        pack_b1(bias, c->d_ff, c->n_experts, NULL, b1);
    return b1;
}

moe_ffn load_ffn(checkpoint_loader *l, const tensor_name *gate, const tensor_name *up,
                 const tensor_name *down, bool bias)
{
    const model_config *c = &l->m->config;
    int d = c->d_model, d_ff = c->d_ff, n = c->n_experts;
    moe_ffn f = {.d = d, .n_experts = n, .d_ff = d_ff, .act = c->act,
                 .gated = gate != NULL};
    f.w1 = load_w1(l, gate ? gate : up);
    f.up = gate ? load_w1(l, up) : NULL;
    const float *rows = load_rows(l, down, 1, d, d_ff);
    float *w2 = take_floats(l, pack_w2_floats(n, d));
    if (rows && w2)
        pack_w2(rows, d_ff, d, n, NULL, w2);
    f.w2 = w2;
    f.b1 = bias ? load_b1(l, up) : load_zeros(l, n * MOE_EXPERT_SIZE);
    f.b2 = bias ? load_vector(l, down->text, "bias", d) : load_zeros(l, d);
    return f;
}
