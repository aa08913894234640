/* moefied_tensors.c: names, shapes and places of a MoEfied file's tensors, and
 * the checks of those that are looked at when a model opens: routers and neuron
 * tables, about 1% of the file. docs/model-format.md has the same list. */
#include "engine/model/moefied_tensors.h"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/model/dtype.h"
#include "engine/model/lower.h"
#include "engine/model/pack.h"

enum { PER_LAYER = 48, AROUND = 14 };

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

static void add_table(list *l, const char *stem, moe_table *table)
{
    moefied_tensor *t = add(l, "%s.weight", stem);
    t->n_dims = 2;
    t->dims[0] = table->n;
    t->dims[1] = table->d;
    t->table = table;
}

static void add_norm(list *l, const char *stem, moe_norm *norm)
{
    add_vector(l, stem, "weight", norm->d, &norm->gamma);
    if (!norm->rms)
        add_vector(l, stem, "bias", norm->d, &norm->beta);
}

/* packed [panels][depth][columns] or, of units, [panels][units][columns][v]. */
static void add_packed(list *l, const char *stem, const char *part, int panels, int depth,
                       int columns, moe_dtype dtype, const void **place)
{
    moefied_tensor *t = add(l, "%s.%s", stem, part);
    int v = lower_unit(dtype);
    t->n_dims = v > 1 ? 4 : 3;
    t->dims[0] = panels;
    t->dims[1] = (depth + v - 1) / v;
    t->dims[2] = columns;
    t->dims[3] = v > 1 ? v : 0;
    t->packed = place;
    t->packed_dtype = dtype;
}

static void add_offsets(list *l, const char *stem, const char *part, int rows, int columns,
                        const int32_t **place)
{
    moefied_tensor *t = add(l, "%s.%s", stem, part);
    t->n_dims = rows ? 2 : 1;
    t->dims[0] = rows ? rows : columns;
    t->dims[1] = columns;
    t->ints = place;
}

static void add_linear(list *l, const char *stem, moe_linear *linear, bool optional_bias)
{
    int panels = (linear->n + MOE_LINEAR_PANEL - 1) / MOE_LINEAR_PANEL;
    add_packed(l, stem, "packed", panels, linear->k, MOE_LINEAR_PANEL, linear->dtype,
               &linear->w);
    if (linear->dtype == MOE_I8) {
        add_vector(l, stem, "scale", panels * MOE_LINEAR_PANEL, &linear->scale);
        add_offsets(l, stem, "offset", 0, panels * MOE_LINEAR_PANEL, &linear->offset);
    }
    add_vector(l, stem, "bias", linear->n, &linear->b);
    l->to[l->n - 1].optional = optional_bias;
}

static void add_w2(list *l, int layer, moe_ffn *f)
{
    int v = lower_unit(f->dtype);
    moefied_tensor *t = add(l, "layers.%d.ffn.w2", layer);
    t->n_dims = v > 1 ? 5 : 4;
    t->dims[0] = f->n_experts;
    t->dims[1] = (f->d + MOE_W2_PANEL - 1) / MOE_W2_PANEL;
    t->dims[2] = MOE_EXPERT_SIZE / v;
    t->dims[3] = MOE_W2_PANEL;
    t->dims[4] = v > 1 ? v : 0;
    t->packed = &f->w2;
    t->packed_dtype = f->dtype;
}

static void add_ffn_scales(list *l, int layer, moe_ffn *f)
{
    char stem[64];
    int columns = (f->d + MOE_W2_PANEL - 1) / MOE_W2_PANEL * MOE_W2_PANEL;
    snprintf(stem, sizeof stem, "layers.%d.ffn", layer);
    moefied_tensor *t = add(l, "%s.scale1", stem);
    t->n_dims = 2;
    t->dims[0] = f->n_experts;
    t->dims[1] = MOE_EXPERT_SIZE;
    t->floats = &f->scale1;
    add_offsets(l, stem, "offset1", f->n_experts, MOE_EXPERT_SIZE, &f->offset1);
    add_vector(l, stem, "scale2", columns, &f->scale2);
    if (lower_hidden_is_signed(f))
        add_offsets(l, stem, "offset2", f->n_experts, columns, &f->offset2);
}

static void add_up(list *l, const char *stem, moe_ffn *f)
{
    add_packed(l, stem, "up", f->n_experts, f->d, MOE_EXPERT_SIZE, f->dtype, &f->up);
    if (f->dtype != MOE_I8)
        return;
    moefied_tensor *t = add(l, "%s.scale_up", stem);
    t->n_dims = 2;
    t->dims[0] = f->n_experts;
    t->dims[1] = MOE_EXPERT_SIZE;
    t->floats = &f->scale_up;
    add_offsets(l, stem, "offset_up", f->n_experts, MOE_EXPERT_SIZE, &f->offset_up);
}

static void add_ffn(list *l, int layer, moe_ffn *f, bool moefied)
{
    char stem[64];
    snprintf(stem, sizeof stem, "layers.%d.ffn", layer);
    add_packed(l, stem, "w1", f->n_experts, f->d, MOE_EXPERT_SIZE, f->dtype, &f->w1);
    moefied_tensor *t = add(l, "layers.%d.ffn.b1", layer);
    t->n_dims = 2;
    t->dims[0] = f->n_experts;
    t->dims[1] = MOE_EXPERT_SIZE;
    t->floats = &f->b1;
    if (f->gated)
        add_up(l, stem, f);
    add_w2(l, layer, f);
    if (f->dtype == MOE_I8)
        add_ffn_scales(l, layer, f);
    t = add(l, "layers.%d.ffn.b2", layer);
    t->dims[0] = f->d;
    t->floats = &f->b2;
    if (f->n_shifts) {
        t = add(l, "layers.%d.ffn.shift", layer);
        t->n_dims = 2;
        t->dims[0] = f->n_shifts;
        t->dims[1] = f->d;
        t->floats = &f->shift;
    }
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

/* A layer's linear weights; only BERT's must have biases. */
static void add_layer_linear(list *l, int i, const char *part, moe_linear *linear, bool bert)
{
    char stem[80];
    snprintf(stem, sizeof stem, "layers.%d.%s", i, part);
    add_linear(l, stem, linear, !bert);
}

static void add_layer(list *l, int i, moe_layer *layer)
{
    char stem[80];
    add_layer_linear(l, i, "qkv", &layer->qkv, true);
    add_layer_linear(l, i, "attention_out", &layer->attention_out, true);
    snprintf(stem, sizeof stem, "bert.encoder.layer.%d.attention.output.LayerNorm", i);
    add_norm(l, stem, &layer->attention_norm);
    add_ffn(l, i, &layer->ffn, layer->router.present);
    snprintf(stem, sizeof stem, "bert.encoder.layer.%d.output.LayerNorm", i);
    add_norm(l, stem, &layer->ffn_norm);
    if (layer->router.present)
        add_router(l, i, &layer->router, layer->ffn.n_experts);
}

/* The norm of a part of block i of a T5 half. */
static void add_t5_norm(list *l, bool decoder, int i, int part, moe_norm *norm)
{
    char stem[80];
    snprintf(stem, sizeof stem, "%s.block.%d.layer.%d.layer_norm",
             decoder ? "decoder" : "encoder", i, part);
    add_norm(l, stem, norm);
}

static void add_t5_layer(list *l, int i, int n_encoder, moe_layer *layer)
{
    bool decoder = i >= n_encoder;
    int block = decoder ? i - n_encoder : i;
    add_layer_linear(l, i, "qkv", &layer->qkv, false);
    add_layer_linear(l, i, "attention_out", &layer->attention_out, false);
    add_t5_norm(l, decoder, block, 0, &layer->attention_norm);
    if (decoder) {
        add_layer_linear(l, i, "cross_q", &layer->cross_q, false);
        add_layer_linear(l, i, "cross_kv", &layer->cross_kv, false);
        add_layer_linear(l, i, "cross_out", &layer->cross_out, false);
        add_t5_norm(l, decoder, block, 1, &layer->cross_norm);
    }
    add_ffn(l, i, &layer->ffn, layer->router.present);
    add_t5_norm(l, decoder, block, decoder ? 2 : 1, &layer->ffn_norm);
    if (layer->router.present)
        add_router(l, i, &layer->router, layer->ffn.n_experts);
}

static int list_t5(list *l, moe_weights *w)
{
    static const char distances[] = "block.0.layer.0.SelfAttention.relative_attention_bias";
    char stem[96];
    add_table(l, "shared", &w->words);
    snprintf(stem, sizeof stem, "encoder.%s", distances);
    add_table(l, stem, &w->encoder_distances);
    snprintf(stem, sizeof stem, "decoder.%s", distances);
    add_table(l, stem, &w->decoder_distances);
    for (int i = 0; i < w->n_layers; i++)
        add_t5_layer(l, i, w->n_layers - w->n_decoder_layers, &w->layers[i]);
    add_norm(l, "encoder.final_layer_norm", &w->encoder_norm);
    add_norm(l, "decoder.final_layer_norm", &w->decoder_norm);
    add_linear(l, "lm_head", &w->lm_head, true);
    return l->n;
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
    if (w->n_decoder_layers)
        return list_t5(&l, w);
    add_table(&l, "bert.embeddings.word_embeddings", &w->words);
    add_table(&l, "bert.embeddings.position_embeddings", &w->positions);
    if (w->types.n)
        add_table(&l, "bert.embeddings.token_type_embeddings", &w->types);
    add_norm(&l, "bert.embeddings.LayerNorm", &w->embed_norm);
    for (int i = 0; i < w->n_layers; i++)
        add_layer(&l, i, &w->layers[i]);
    if (w->pooler.n)
        add_linear(&l, "pooler", &w->pooler, false);
    add_linear(&l, w->pooler.n ? "classifier" : "qa_outputs", &w->classifier, false);
    return l.n;
}

const void *moefied_tensor_data(const moefied_tensor *t)
{
    if (t->table)
        return t->table->rows;
    if (t->packed)
        return *t->packed;
    return t->ints ? (const void *)*t->ints : (const void *)*t->floats;
}

moe_dtype moefied_tensor_dtype(const moefied_tensor *t)
{
    if (t->table)
        return t->table->dtype;
    if (t->packed)
        return t->packed_dtype;
    return t->ints ? MOE_I32 : MOE_F32;
}

/* ---- checks of values ---------------------------------------------------- */

static moe_status check_finite(const char *path, int layer, const char *part,
                               const float *values, size_t n, moe_error *err)
{
    size_t odd = values ? dtype_first_not_finite(MOE_F32, values, n) : n;
    if (odd < n)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: tensor 'layers.%d.%s': value %zu of %zu is %g, expected "
                        "a finite number", path, layer, part, odd, n, (double)values[odd]);
    return MOE_OK;
}

static moe_status check_router(const char *path, int layer, const moe_router *r,
                               int n_experts, moe_error *err)
{
    const struct { const char *part; const float *values; size_t n; } parts[] = {
        {"router.first.packed", r->first.w, pack_linear_floats(r->first.n, r->first.k)},
        {"router.first.bias", r->first.b, (size_t)r->first.n},
        {"router.second.packed", r->second.w, pack_linear_floats(r->second.n, r->second.k)},
        {"router.second.bias", r->second.b, (size_t)r->second.n},
        {"router.frequency", r->frequency, (size_t)n_experts},
    };
    moe_status status = MOE_OK;
    for (size_t i = 0; !status && i < sizeof parts / sizeof *parts; i++)
        status = check_finite(path, layer, parts[i].part, parts[i].values, parts[i].n, err);
    return status;
}

static moe_status check_scale(const char *path, int layer, const char *part, const float *scale,
                              int n, moe_error *err)
{
    for (int i = 0; scale && i < n; i++)
        if (!(scale[i] >= 0 && scale[i] <= FLT_MAX))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: tensor 'layers.%d.%s': value %d of %d is %g, expected a number "
                            "from 0 on", path, layer, part, i, n, (double)scale[i]);
    return MOE_OK;
}

static int whole_panels(int n, int panel)
{
    return (n + panel - 1) / panel * panel;
}

static moe_status check_scales(const char *path, int i, const moe_layer *layer, moe_error *err)
{
    const moe_ffn *f = &layer->ffn;
    const struct { const char *part; const moe_linear *w; } linears[] = {
        {"qkv.scale", &layer->qkv}, {"attention_out.scale", &layer->attention_out},
        {"cross_q.scale", &layer->cross_q}, {"cross_kv.scale", &layer->cross_kv},
        {"cross_out.scale", &layer->cross_out},
    };
    moe_status status = MOE_OK;
    for (size_t k = 0; !status && k < sizeof linears / sizeof *linears; k++)
        status = check_scale(path, i, linears[k].part, linears[k].w->scale,
                             whole_panels(linears[k].w->n, MOE_LINEAR_PANEL), err);
    if (!status)
        status = check_scale(path, i, "ffn.scale_up", f->scale_up,
                             f->n_experts * MOE_EXPERT_SIZE, err);
    if (!status)
        status = check_scale(path, i, "ffn.scale1", f->scale1, f->n_experts * MOE_EXPERT_SIZE,
                             err);
    if (!status)
        status = check_scale(path, i, "ffn.scale2", f->scale2,
                             whole_panels(f->d, MOE_W2_PANEL), err);
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
        status = check_scales(path, i, layer, err);
        if (!status)
            status = check_finite(path, i, "ffn.shift", layer->ffn.shift,
                                  (size_t)layer->ffn.n_shifts * (size_t)layer->ffn.d, err);
        if (status || !layer->router.present)
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
