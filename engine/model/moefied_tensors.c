/* moefied_tensors.c: names, shapes and places of a MoEfied file's tensors, and
 * the checks of those that are looked at when a model opens: routers and neuron
 * tables, about 1% of the file. docs/model-format.md has the same list. */
#include "engine/model/moefied_tensors.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/model/dtype.h"
#include "engine/model/pack.h"

enum { PER_LAYER = 20, AROUND = 10 };

typedef struct { moefied_tensor *to; int n; } list;

__attribute__((format(printf, 2, 3))) static moefied_tensor *add(list *l,
                                                                 const char *format, ...)
{
    moefied_tensor *t = &l->to[l->n++];
    *t = (moefied_tensor){.n_dims = 1};
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    return t;
}

static void add_vector(list *l, const char *stem, const char *part, int n,
                       const float **place)
{
    moefied_tensor *t = add(l, "%s.%s", stem, part);
    t->dims[0] = n;
    t->floats = place;
}

static void add_table(list *l, const char *part, moe_table *table)
{
    moefied_tensor *t = add(l, "bert.embeddings.%s.weight", part);
    t->n_dims = 2;
    t->dims[0] = table->n;
    t->dims[1] = table->d;
    t->table = table;
}

static void add_norm(list *l, const char *stem, moe_norm *norm)
{
    add_vector(l, stem, "weight", norm->d, &norm->gamma);
    add_vector(l, stem, "bias", norm->d, &norm->beta);
}

static void add_linear(list *l, const char *stem, moe_linear *linear, bool optional_bias)
{
    moefied_tensor *t = add(l, "%s.packed", stem);
    t->n_dims = 3;
    t->dims[0] = (linear->n + MOE_LINEAR_PANEL - 1) / MOE_LINEAR_PANEL;
    t->dims[1] = linear->k;
    t->dims[2] = MOE_LINEAR_PANEL;
    t->floats = &linear->w;
    add_vector(l, stem, "bias", linear->n, &linear->b);
    l->to[l->n - 1].optional = optional_bias;
}

static void add_ffn(list *l, int layer, moe_ffn *f, bool moefied)
{
    moefied_tensor *t = add(l, "layers.%d.ffn.w1", layer);
    t->n_dims = 3;
    t->dims[0] = f->n_experts;
    t->dims[1] = f->d;
    t->dims[2] = MOE_EXPERT_SIZE;
    t->floats = &f->w1;
    t = add(l, "layers.%d.ffn.b1", layer);
    t->n_dims = 2;
    t->dims[0] = f->n_experts;
    t->dims[1] = MOE_EXPERT_SIZE;
    t->floats = &f->b1;
    t = add(l, "layers.%d.ffn.w2", layer);
    t->n_dims = 4;
    t->dims[0] = f->n_experts;
    t->dims[1] = (f->d + MOE_W2_PANEL - 1) / MOE_W2_PANEL;
    t->dims[2] = MOE_EXPERT_SIZE;
    t->dims[3] = MOE_W2_PANEL;
    t->floats = &f->w2;
    t = add(l, "layers.%d.ffn.b2", layer);
    t->dims[0] = f->d;
    t->floats = &f->b2;
    if (!moefied)
        return;
    t = add(l, "layers.%d.ffn.neurons", layer);
    t->dims[0] = (int64_t)f->n_experts * MOE_EXPERT_SIZE;
    t->ints = &f->neurons;
}

static void add_router(list *l, int layer, moe_router *r, int n_experts)
{
    char stem[64];
    snprintf(stem, sizeof stem, "layers.%d.router.first", layer);
    add_linear(l, stem, &r->first, true);
    snprintf(stem, sizeof stem, "layers.%d.router.second", layer);
    if (r->n_linears == 2)
        add_linear(l, stem, &r->second, true);
    moefied_tensor *t = add(l, "layers.%d.router.frequency", layer);
    t->dims[0] = n_experts;
    t->floats = &r->frequency;
}

static void add_layer(list *l, int i, moe_layer *layer)
{
    char stem[80];
    snprintf(stem, sizeof stem, "layers.%d.qkv", i);
    add_linear(l, stem, &layer->qkv, false);
    snprintf(stem, sizeof stem, "layers.%d.attention_out", i);
    add_linear(l, stem, &layer->attention_out, false);
    snprintf(stem, sizeof stem, "bert.encoder.layer.%d.attention.output.LayerNorm", i);
    add_norm(l, stem, &layer->attention_norm);
    add_ffn(l, i, &layer->ffn, layer->router.present);
    snprintf(stem, sizeof stem, "bert.encoder.layer.%d.output.LayerNorm", i);
    add_norm(l, stem, &layer->ffn_norm);
    if (layer->router.present)
        add_router(l, i, &layer->router, layer->ffn.n_experts);
}

int moefied_tensors_max(const moe_weights *w)
{
    return w->n_layers * PER_LAYER + AROUND;
}

int moefied_tensors_list(const moe_weights *weights, moefied_tensor *out)
{
    /* The list holds places to fill; a caller that only reads, only reads. */
    moe_weights *w = (moe_weights *)(uintptr_t)weights;
    list l = {.to = out};
    add_table(&l, "word_embeddings", &w->words);
    add_table(&l, "position_embeddings", &w->positions);
    add_table(&l, "token_type_embeddings", &w->types);
    add_norm(&l, "bert.embeddings.LayerNorm", &w->embed_norm);
    for (int i = 0; i < w->n_layers; i++)
        add_layer(&l, i, &w->layers[i]);
    add_linear(&l, "pooler", &w->pooler, false);
    add_linear(&l, "classifier", &w->classifier, false);
    return l.n;
}

const void *moefied_tensor_data(const moefied_tensor *t)
{
    if (t->table)
        return t->table->rows;
    return t->ints ? (const void *)*t->ints : (const void *)*t->floats;
}

moe_dtype moefied_tensor_dtype(const moefied_tensor *t)
{
    if (t->table)
        return t->table->dtype;
    return t->ints ? MOE_I32 : MOE_F32;
}

/* ---- checks of values ---------------------------------------------------- */

static moe_status check_finite(const char *path, int layer, const char *part,
                               const float *values, size_t n, moe_error *err)
{
    size_t odd = values ? dtype_first_not_finite(MOE_F32, values, n) : n;
    if (odd < n)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: tensor 'layers.%d.router.%s': value %zu of %zu is %g, expected "
                        "a finite number", path, layer, part, odd, n, (double)values[odd]);
    return MOE_OK;
}

static moe_status check_router(const char *path, int layer, const moe_router *r,
                               int n_experts, moe_error *err)
{
    const struct { const char *part; const float *values; size_t n; } parts[] = {
        {"first.packed", r->first.w, pack_linear_floats(r->first.n, r->first.k)},
        {"first.bias", r->first.b, (size_t)r->first.n},
        {"second.packed", r->second.w, pack_linear_floats(r->second.n, r->second.k)},
        {"second.bias", r->second.b, (size_t)r->second.n},
        {"frequency", r->frequency, (size_t)n_experts},
    };
    moe_status status = MOE_OK;
    for (size_t i = 0; !status && i < sizeof parts / sizeof *parts; i++)
        status = check_finite(path, layer, parts[i].part, parts[i].values, parts[i].n, err);
    return status;
}

/* Every source neuron at one place, -1 at all others. seen [d_ff], zeroed. */
static moe_status check_neurons(const char *path, int layer, const moe_ffn *f,
                                bool *seen, moe_error *err)
{
    int places = f->n_experts * MOE_EXPERT_SIZE, n = 0;
    for (int i = 0; i < places; i++) {
        int32_t s = f->neurons[i];
        if (s == -1)
            continue;
        if (s < 0 || s >= f->d_ff || seen[s])
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: tensor 'layers.%d.ffn.neurons': place %d has neuron %d%s, "
                            "expected each of [0, %d) once", path, layer, i, s,
                            s >= 0 && s < f->d_ff ? " again" : "", f->d_ff);
        seen[s] = true;
        n++;
    }
    if (n != f->d_ff)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: tensor 'layers.%d.ffn.neurons': has %d neurons, expected each of "
                        "[0, %d) once", path, layer, n, f->d_ff);
    return MOE_OK;
}

moe_status moefied_check(const char *path, const moe_weights *w, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int i = 0; !status && i < w->n_layers; i++) {
        const moe_layer *layer = &w->layers[i];
        if (!layer->router.present)
            continue;
        bool *seen = calloc((size_t)layer->ffn.d_ff, sizeof *seen);
        status = seen ? check_neurons(path, i, &layer->ffn, seen, err)
                      : moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
        free(seen);
        if (!status)
            status = check_router(path, i, &layer->router, layer->ffn.n_experts, err);
    }
    return status;
}
