/* t5_moefied.h: a MoEfied directory made from a T5 checkpoint for tests: neurons in a
 * random order, a random router of one linear layer in every layer, in any dtype. */
#ifndef MOE_TEST_T5_MOEFIED_H
#define MOE_TEST_T5_MOEFIED_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "engine/model/lower.h"
#include "engine/model/model.h"
#include "engine/model/moefied.h"
#include "engine/model/pack.h"

enum { T5_MAX_ARRAYS = 2048 };

/* Owns what it makes, until freed. */
typedef struct { void *list[T5_MAX_ARRAYS]; int n; unsigned seed; } t5_arrays;

static inline void *t5_room(t5_arrays *a, size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    assert_true(a->n < T5_MAX_ARRAYS);
    return a->list[a->n++] = p;
}

static inline unsigned t5_draw(t5_arrays *a)
{
    a->seed = a->seed * 1664525u + 1013904223u;
    return a->seed >> 8;
}

static inline float *t5_floats(t5_arrays *a, size_t n, float scale)
{
    float *x = t5_room(a, n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * ((float)(t5_draw(a) % 20001) / 10000 - 1);
    return x;
}

/* Source neurons in a random order, dead places last. */
static inline int32_t *t5_neurons(t5_arrays *a, const moe_ffn *f)
{
    int places = f->n_experts * MOE_EXPERT_SIZE;
    int32_t *order = t5_room(a, (size_t)places * sizeof *order);
    for (int i = 0; i < places; i++)
        order[i] = i < f->d_ff ? i : -1;
    for (int i = f->d_ff - 1; i > 0; i--) {
        int at = (int)(t5_draw(a) % (unsigned)(i + 1));
        int32_t other = order[at];
        order[at] = order[i];
        order[i] = other;
    }
    return order;
}

/* Packed rows of w1 or up in the new order. */
static inline float *t5_reorder(t5_arrays *a, const moe_ffn *f, const void *w1,
                                const int32_t *neurons)
{
    moe_ffn from = *f;
    from.w1 = w1;
    float *rows = t5_room(a, (size_t)f->d_ff * (size_t)f->d * sizeof *rows);
    float *packed = t5_room(a, pack_linear_floats(f->n_experts * MOE_EXPERT_SIZE, f->d) *
                                   sizeof *packed);
    unpack_w1(&from, rows);
    pack_w1(rows, f->d_ff, f->d, f->n_experts, neurons, packed);
    return packed;
}

static inline void t5_split(t5_arrays *a, moe_layer *l)
{
    moe_ffn *f = &l->ffn;
    int32_t *neurons = t5_neurons(a, f);
    float *rows = t5_room(a, (size_t)f->d_ff * (size_t)f->d * sizeof *rows);
    float *w2 = t5_room(a, pack_w2_floats(f->n_experts, f->d) * sizeof *w2);
    unpack_w2(f, rows);
    pack_w2(rows, f->d_ff, f->d, f->n_experts, neurons, w2);
    f->up = f->up ? t5_reorder(a, f, f->up, neurons) : NULL;
    f->w1 = t5_reorder(a, f, f->w1, neurons);
    f->w2 = w2;
    f->neurons = neurons;
    l->router = (moe_router){
        .present = true, .n_linears = 1,
        .first = {.n = f->n_experts, .k = f->d,
                  .w = t5_floats(a, pack_linear_floats(f->n_experts, f->d), 1)},
        .frequency = t5_floats(a, (size_t)f->n_experts, 1),
    };
}

static inline void t5_lower_linear(t5_arrays *a, moe_linear *w, moe_dtype t)
{
    moe_error err;
    moe_linear from = *w;
    if (!w->n)
        return;
    assert_int_equal(lower_linear(&from, t, NULL, w, &err), MOE_OK);
    a->list[a->n++] = (void *)(uintptr_t)w->w;
    a->list[a->n++] = (void *)(uintptr_t)w->scale;
    a->list[a->n++] = (void *)(uintptr_t)w->offset;
}

static inline void t5_lower(t5_arrays *a, moe_weights *w, moe_dtype t)
{
    moe_error err;
    for (int l = 0; l < w->n_layers; l++) {
        moe_layer *layer = &w->layers[l];
        moe_ffn from = layer->ffn;
        moe_linear *const linears[] = {&layer->qkv, &layer->attention_out, &layer->cross_q,
                                       &layer->cross_kv, &layer->cross_out};
        for (int i = 0; i < 5; i++)
            t5_lower_linear(a, linears[i], t);
        assert_int_equal(lower_ffn(&from, t, NULL, NULL, &layer->ffn, &err), MOE_OK);
        const moe_ffn *f = &layer->ffn;
        const void *const made[] = {f->w1, f->w2, f->up, f->scale1, f->scale2, f->scale_up,
                                    f->offset1, f->offset2, f->offset_up};
        for (size_t i = 0; i < sizeof made / sizeof *made; i++)
            a->list[a->n++] = (void *)(uintptr_t)made[i];
    }
    t5_lower_linear(a, &w->lm_head, t);
    assert_true(a->n < T5_MAX_ARRAYS);
}

static inline void t5_copy_file(const char *from_dir, const char *to_dir, const char *name)
{
    char path[1024], bytes[4096];
    size_t n;
    snprintf(path, sizeof path, "%s/%s", from_dir, name);
    FILE *from = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/%s", to_dir, name);
    FILE *to = fopen(path, "wb");
    assert_true(from && to);
    while ((n = fread(bytes, 1, sizeof bytes, from)) > 0)
        assert_int_equal(fwrite(bytes, 1, n, to), n);
    fclose(from);
    fclose(to);
}

/* Row of the table: a quarter of the experts, or all. */
static inline cJSON *t5_row(const moe_model_info *info, double ratio)
{
    cJSON *row = cJSON_CreateObject(), *counts = cJSON_AddArrayToObject(row, "experts");
    cJSON_AddNumberToObject(row, "ratio", ratio);
    for (int l = 0; l < info->n_layers; l++)
        cJSON_AddItemToArray(counts, cJSON_CreateNumber(
            ratio == 1 ? info->n_experts : (info->n_experts + 3) / 4));
    return row;
}

static inline void t5_write_config(const char *source, const char *dir,
                                   const moe_model_info *info, moe_dtype t)
{
    char path[512];
    static char text[16384];
    snprintf(path, sizeof path, "%s/config.json", source);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    cJSON *config = cJSON_ParseWithLength(text, n);
    cJSON *moe = cJSON_AddObjectToObject(config, "moefication");
    cJSON_AddNumberToObject(moe, "format_version", 1);
    cJSON_AddNumberToObject(moe, "expert_size", MOE_EXPERT_SIZE);
    cJSON_AddNumberToObject(moe, "n_experts", info->n_experts);
    cJSON_AddStringToObject(moe, "dtype", lower_name(t));
    cJSON_AddStringToObject(moe, "split", "random");
    cJSON *router = cJSON_AddObjectToObject(moe, "router");
    cJSON_AddStringToObject(router, "kind", "random");
    cJSON_AddNumberToObject(router, "linears", 1);
    cJSON *layers = cJSON_AddArrayToObject(moe, "layers");
    for (int l = 0; l < info->n_layers; l++)
        cJSON_AddItemToArray(layers, cJSON_CreateNumber(l));
    cJSON *table = cJSON_AddArrayToObject(moe, "ratio_table");
    cJSON_AddItemToArray(table, t5_row(info, 0.25));
    cJSON_AddItemToArray(table, t5_row(info, 1));
    char *printed = cJSON_Print(config);
    snprintf(path, sizeof path, "%s/config.json", dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    fputs(printed, f);
    fclose(f);
    free(printed);
    cJSON_Delete(config);
}

/* Writes dir, which it makes, from a checkpoint's directory. */
static inline void t5_moefied_write(const char *source, const char *dir, moe_dtype t)
{
    moe_model *m;
    moe_error err;
    char path[512];
    t5_arrays *a = calloc(1, sizeof *a);
    a->seed = 1;
    assert_int_equal(moe_model_open(source, &m, &err), MOE_OK);
    moe_weights w = m->weights;
    size_t bytes = (size_t)w.n_layers * sizeof *w.layers;
    w.layers = memcpy(t5_room(a, bytes), w.layers, bytes);
    for (int l = 0; l < w.n_layers; l++)
        t5_split(a, &w.layers[l]);
    if (t != MOE_F32)
        t5_lower(a, &w, t);
    mkdir(dir, 0777);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (moefied_write_tensors(path, &w, &err) != MOE_OK)
        fail_msg("%s", err.message);
    t5_write_config(source, dir, &m->info, t);
    t5_copy_file(source, dir, "spiece.model");
    t5_copy_file(source, dir, "tokenizer_config.json");
    moe_model_close(m);
    for (int i = 0; i < a->n; i++)
        free(a->list[i]);
    free(a);
}

#endif
