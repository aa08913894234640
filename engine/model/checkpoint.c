/* checkpoint.c: a Hugging Face BertForSequenceClassification to packed weights.
 *
 * Each tensor is found by name, checked (shape, dtype, no NaN or infinity),
 * converted to fp32 rows in a scratch array and packed. Queries, keys and values
 * become one linear [3 d, d]. d_ff neurons become ceil(d_ff / 32) experts, places
 * past d_ff being dead. Sizes are allocated only once a tensor of that size has
 * been found, so that a config cannot ask for more than the files hold.
 *
 * The first failure is kept in the loader; the steps after it do nothing. */
#include "engine/model/checkpoint.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/dtype.h"
#include "engine/model/pack.h"

typedef struct {
    moe_model_memory *m;
    const char *prefix;    /* "bert." or "" */
    float *scratch;
    size_t scratch_floats;
    moe_status status;     /* of the first failure */
    moe_error *err;
} loader;

enum { MAX_PARTS = 3 };

/* A tensor's name, or the stem that its ".weight" and ".bias" share. */
typedef struct { char text[128]; } tensor_name;

__attribute__((format(printf, 1, 2))) static tensor_name name_of(const char *format, ...)
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

static void check_tensor(loader *l, const st_tensor *t, int rows, int columns)
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
static const st_tensor *need(loader *l, const char *name, int rows, int columns)
{
    if (l->status)
        return NULL;
    bool head = strncmp(name, "classifier.", 11) == 0 || strncmp(name, "qa_outputs.", 11) == 0;
    const char *prefix = head ? "" : l->prefix;
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

static void *or_no_memory(loader *l, void *p, size_t bytes)
{
    if (!p && !l->status)
        l->status = moe_fail(l->err, MOE_E_MEMORY, "%s: out of memory for %zu bytes",
                             l->m->dir, bytes);
    return p;
}

static float *take_floats(loader *l, size_t n)
{
    return l->status ? NULL : or_no_memory(l, memory_floats(l->m, n), n * sizeof(float));
}

static float *scratch_floats(loader *l, size_t n)
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
static void load_values(loader *l, const char *stem, const char *part, int n, float *to)
{
    const st_tensor *t = need(l, name_of("%s.%s", stem, part).text, n, 0);
    if (t && to)
        dtype_to_f32(t->dtype, t->data, (size_t)n, to);
}

static const float *load_vector(loader *l, const char *stem, const char *part, int n)
{
    float *to = take_floats(l, (size_t)n);
    load_values(l, stem, part, n, to);
    return to;
}

/* The weights [n, k] of n_parts modules below each other, in the scratch. */
static float *load_rows(loader *l, const tensor_name *stems, int n_parts, int n, int k)
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

/* One linear [n_parts * n, k] from n_parts modules of [n, k] and bias [n]. */
static moe_linear load_linear(loader *l, const tensor_name *stems, int n_parts, int n,
                              int k)
{
    moe_linear out = {.n = n * n_parts, .k = k};
    const float *rows = load_rows(l, stems, n_parts, n, k);
    float *w = take_floats(l, pack_linear_floats(out.n, k));
    float *b = take_floats(l, (size_t)out.n);
    if (rows && w)
        pack_linear(rows, out.n, k, w);
    for (int i = 0; i < n_parts; i++)
        load_values(l, stems[i].text, "bias", n, b ? b + i * n : NULL);
    out.w = w;
    out.b = b;
    return out;
}

static moe_norm load_norm(loader *l, const char *stem)
{
    const model_config *c = &l->m->config;
    return (moe_norm){.d = c->d_model, .eps = c->norm_eps,
                      .gamma = load_vector(l, stem, "weight", c->d_model),
                      .beta = load_vector(l, stem, "bias", c->d_model)};
}

/* Rows stay where they are mapped, unless the file has them misaligned. */
static moe_table load_table(loader *l, const char *name, int n)
{
    int d = l->m->config.d_model;
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

static moe_ffn load_ffn(loader *l, const tensor_name *up, const tensor_name *down)
{
    const model_config *c = &l->m->config;
    int d = c->d_model, d_ff = c->d_ff, n_experts = c->n_experts;
    const float *rows = load_rows(l, up, 1, d_ff, d);
    float *w1 = take_floats(l, pack_linear_floats(d_ff, d));
    if (rows && w1)
        pack_w1(rows, d_ff, d, n_experts, NULL, w1);
    rows = load_rows(l, down, 1, d, d_ff);
    float *w2 = take_floats(l, pack_w2_floats(n_experts, d));
    if (rows && w2)
        pack_w2(rows, d_ff, d, n_experts, NULL, w2);
    float *bias = scratch_floats(l, (size_t)d_ff);
    load_values(l, up->text, "bias", d_ff, bias);
    float *b1 = take_floats(l, (size_t)n_experts * MOE_EXPERT_SIZE);
    if (bias && b1)
        pack_b1(bias, d_ff, n_experts, NULL, b1);
    return (moe_ffn){.d = d, .n_experts = n_experts, .d_ff = d_ff, .act = c->act,
                     .w1 = w1, .b1 = b1, .w2 = w2, .b2 = load_vector(l, down->text, "bias", d)};
}

/* ---- the network ---------------------------------------------------------- */

static void load_layer(loader *l, int i, moe_layer *layer)
{
    int d = l->m->config.d_model;
    const char *in = "encoder.layer";
    const tensor_name qkv[MAX_PARTS] = {
        name_of("%s.%d.attention.self.query", in, i),
        name_of("%s.%d.attention.self.key", in, i),
        name_of("%s.%d.attention.self.value", in, i),
    };
    const tensor_name out = name_of("%s.%d.attention.output.dense", in, i);
    const tensor_name up = name_of("%s.%d.intermediate.dense", in, i);
    const tensor_name down = name_of("%s.%d.output.dense", in, i);
    layer->qkv = load_linear(l, qkv, 3, d, d);
    layer->attention_out = load_linear(l, &out, 1, d, d);
    layer->attention_norm =
        load_norm(l, name_of("%s.%d.attention.output.LayerNorm", in, i).text);
    layer->ffn = load_ffn(l, &up, &down);
    layer->ffn_norm = load_norm(l, name_of("%s.%d.output.LayerNorm", in, i).text);
}

moe_status checkpoint_load(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    const model_config *c = &m->config;
    const char *words = "embeddings.word_embeddings.weight";
    loader l = {.m = m, .prefix = safetensors_find(m->files, words) ? "" : "bert.",
                .err = err};
    const tensor_name pooler = {"pooler.dense"}, classifier = {"classifier"};
    const tensor_name positions = {"qa_outputs"};
    w->words = load_table(&l, words, c->n_vocab);
    w->positions = load_table(&l, "embeddings.position_embeddings.weight", c->max_positions);
    w->types = load_table(&l, "embeddings.token_type_embeddings.weight", c->n_types);
    w->embed_norm = load_norm(&l, "embeddings.LayerNorm");
    for (int i = 0; i < c->n_layers && !l.status; i++)
        load_layer(&l, i, &w->layers[i]);
    if (c->task != MOE_TASK_ANSWER)
        w->pooler = load_linear(&l, &pooler, 1, c->d_model, c->d_model);
    w->classifier = load_linear(&l, c->task == MOE_TASK_ANSWER ? &positions : &classifier, 1,
                                c->n_labels, c->d_model);
    free(l.scratch);
    return l.status;
}
