/* tiny_model.h: a tiny random Bert classifier on disk, for tests of everything
 * that takes a model: 2 layers, d 48, 4 heads, d_ff 80 (three experts, the last
 * half dead), 60 tokens, 3 labels. tiny_model_write makes a Hugging Face
 * directory; tiny_moefied_write the same network MoEfied, with permuted neurons
 * and random routers. Equal seeds give equal weights. Include it in one file. */
#ifndef TESTS_SUPPORT_TINY_MODEL_H
#define TESTS_SUPPORT_TINY_MODEL_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/model/moefied.h"
#include "engine/model/pack.h"

enum {
    TINY_LAYERS = 2, TINY_D = 48, TINY_HEADS = 4, TINY_D_FF = 80, TINY_EXPERTS = 3,
    TINY_VOCAB = 60, TINY_POSITIONS = 40, TINY_TYPES = 2, TINY_LABELS = 3,
    TINY_MAX_TENSORS = 64, TINY_PATH = 4096,
};

typedef struct {
    char name[128];
    int n_dims, dims[2];
    float *data;
} tiny_tensor;

typedef struct {
    unsigned seed;
    int n;
    tiny_tensor tensors[TINY_MAX_TENSORS];
} tiny_weights;

/* Uniform in [-scale, scale). */
static inline float tiny_draw(unsigned *seed, float scale)
{
    *seed = *seed * 1664525u + 1013904223u;
    return ((float)(*seed >> 8) / (float)(1 << 23) - 1.0f) * scale;
}

/* Adds a random tensor; columns 0: a vector. Values lie around `centre`. */
static inline void tiny_add(tiny_weights *w, const char *name, int rows, int columns,
                     float centre, float scale)
{
    tiny_tensor *t = &w->tensors[w->n++];
    size_t n = (size_t)rows * (size_t)(columns ? columns : 1);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_dims = columns ? 2 : 1;
    t->dims[0] = rows;
    t->dims[1] = columns;
    t->data = malloc(n * sizeof *t->data);
    if (!t->data)
        abort();
    for (size_t i = 0; i < n; i++)
        t->data[i] = centre + tiny_draw(&w->seed, scale);
}

static inline void tiny_add_pair(tiny_weights *w, const char *prefix, int rows, int columns)
{
    char name[128];
    snprintf(name, sizeof name, "%s.weight", prefix);
    tiny_add(w, name, rows, columns, columns ? 0.0f : 1.0f, 0.3f);
    snprintf(name, sizeof name, "%s.bias", prefix);
    tiny_add(w, name, rows, 0, 0.0f, 0.2f);
}

static inline void tiny_make(tiny_weights *w, unsigned seed)
{
    *w = (tiny_weights){.seed = seed * 2654435761u + 1};
    tiny_add(w, "bert.embeddings.word_embeddings.weight", TINY_VOCAB, TINY_D, 0, 1);
    tiny_add(w, "bert.embeddings.position_embeddings.weight", TINY_POSITIONS, TINY_D, 0, 1);
    tiny_add(w, "bert.embeddings.token_type_embeddings.weight", TINY_TYPES, TINY_D, 0, 1);
    tiny_add_pair(w, "bert.embeddings.LayerNorm", TINY_D, 0);
    for (int l = 0; l < TINY_LAYERS; l++) {
        const struct { const char *name; int rows, columns; } parts[] = {
            {"attention.self.query", TINY_D, TINY_D},
            {"attention.self.key", TINY_D, TINY_D},
            {"attention.self.value", TINY_D, TINY_D},
            {"attention.output.dense", TINY_D, TINY_D},
            {"attention.output.LayerNorm", TINY_D, 0},
            {"intermediate.dense", TINY_D_FF, TINY_D},
            {"output.dense", TINY_D, TINY_D_FF},
            {"output.LayerNorm", TINY_D, 0},
        };
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            char prefix[100];
            snprintf(prefix, sizeof prefix, "bert.encoder.layer.%d.%s", l, parts[i].name);
            tiny_add_pair(w, prefix, parts[i].rows, parts[i].columns);
        }
    }
    tiny_add_pair(w, "bert.pooler.dense", TINY_D, TINY_D);
    tiny_add_pair(w, "classifier", TINY_LABELS, TINY_D);
}

static inline void tiny_free(tiny_weights *w)
{
    for (int i = 0; i < w->n; i++)
        free(w->tensors[i].data);
}

static inline FILE *tiny_create(const char *dir, const char *name)
{
    char path[TINY_PATH];
    mkdir(dir, 0777);
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= TINY_PATH)
        abort();
    FILE *f = fopen(path, "wb");
    if (!f)
        abort();
    return f;
}

/* Writes the tensors as fp32, in their order. */
static inline void tiny_write_safetensors(const char *dir, const tiny_weights *w)
{
    static char header[32 * 1024];
    size_t at = 0, offset = 0;
    for (int i = 0; i < w->n; i++) {
        const tiny_tensor *t = &w->tensors[i];
        size_t bytes = (size_t)t->dims[0] * (size_t)(t->n_dims == 2 ? t->dims[1] : 1) * 4;
        char columns[16] = "";
        if (t->n_dims == 2)
            snprintf(columns, sizeof columns, ",%d", t->dims[1]);
        at += (size_t)snprintf(
            header + at, sizeof header - at,
            "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d%s],\"data_offsets\":[%zu,%zu]}",
            i ? "," : "{", t->name, t->dims[0], columns, offset, offset + bytes);
        offset += bytes;
    }
    at += (size_t)snprintf(header + at, sizeof header - at, "}");
    while (at % 8)
        header[at++] = ' ';
    FILE *f = tiny_create(dir, "model.safetensors");
    uint64_t length = at;
    fwrite(&length, sizeof length, 1, f);
    fwrite(header, 1, at, f);
    for (int i = 0; i < w->n; i++) {
        const tiny_tensor *t = &w->tensors[i];
        fwrite(t->data, 4, (size_t)t->dims[0] * (size_t)(t->n_dims == 2 ? t->dims[1] : 1), f);
    }
    if (fclose(f))
        abort();
}

/* moefication: the object's text, or NULL for a plain checkpoint. */
static inline void tiny_write_config(const char *dir, const char *moefication)
{
    FILE *f = tiny_create(dir, "config.json");
    fprintf(f,
            "{\"architectures\":[\"BertForSequenceClassification\"],\"model_type\":\"bert\","
            "\"hidden_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
            "\"intermediate_size\":%d,\"vocab_size\":%d,\"max_position_embeddings\":%d,"
            "\"type_vocab_size\":%d,\"layer_norm_eps\":1e-12,\"hidden_act\":\"relu\","
            "\"id2label\":{\"0\":\"bad\",\"1\":\"good\",\"2\":\"odd\"},"
            "\"label2id\":{\"bad\":0,\"good\":1,\"odd\":2}",
            TINY_D, TINY_LAYERS, TINY_HEADS, TINY_D_FF, TINY_VOCAB, TINY_POSITIONS,
            TINY_TYPES);
    if (moefication)
        fprintf(f, ",\"moefication\":%s", moefication);
    fprintf(f, "}\n");
    if (fclose(f))
        abort();
}

/* [PAD] [UNK] [CLS] [SEP] [MASK] . , ! a-z ##a-##z: 60 tokens. */
static inline void tiny_write_vocab(const char *dir)
{
    FILE *f = tiny_create(dir, "vocab.txt");
    fprintf(f, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\n,\n!\n");
    for (char c = 'a'; c <= 'z'; c++)
        fprintf(f, "%c\n", c);
    for (char c = 'a'; c <= 'z'; c++)
        fprintf(f, "##%c\n", c);
    if (fclose(f))
        abort();
}

/* Makes dir, a Hugging Face checkpoint. Aborts if the disk refuses. */
static inline void tiny_model_write(const char *dir, unsigned seed)
{
    tiny_weights w;
    tiny_make(&w, seed);
    tiny_write_safetensors(dir, &w);
    tiny_write_config(dir, NULL);
    tiny_write_vocab(dir);
    tiny_free(&w);
}

/* ---- the same, MoEfied ---------------------------------------------------- */

enum { TINY_WIDTH = 10, TINY_MAX_ARRAYS = 32 };

typedef struct {
    tiny_weights source;
    moe_weights w;
    moe_layer layers[TINY_LAYERS];
    int n_arrays;
    void *arrays[TINY_MAX_ARRAYS];
} tiny_moefied;

static inline const float *tiny_find(const tiny_weights *w, const char *name)
{
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->tensors[i].name, name) == 0)
            return w->tensors[i].data;
    abort();
}

/* A tensor of one layer. */
static inline const float *tiny_part(const tiny_weights *w, int layer, const char *part)
{
    char name[160];
    snprintf(name, sizeof name, "bert.encoder.layer.%d.%s", layer, part);
    return tiny_find(w, name);
}

static inline void *tiny_room(tiny_moefied *t, size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p || t->n_arrays == TINY_MAX_ARRAYS)
        abort();
    return t->arrays[t->n_arrays++] = p;
}

static inline moe_linear tiny_linear(tiny_moefied *t, const float *rows, const float *b,
                                     int n, int k)
{
    float *packed = tiny_room(t, pack_linear_floats(n, k) * sizeof *packed);
    pack_linear(rows, n, k, packed);
    return (moe_linear){.n = n, .k = k, .w = packed, .b = b};
}

static inline moe_norm tiny_norm(const float *gamma, const float *beta)
{
    return (moe_norm){.d = TINY_D, .eps = 1e-12f, .gamma = gamma, .beta = beta};
}

/* A random linear [n, k] with bias, of a router. */
static inline moe_linear tiny_random_linear(tiny_moefied *t, int n, int k)
{
    float *rows = tiny_room(t, (size_t)n * (size_t)k * sizeof *rows);
    float *b = tiny_room(t, (size_t)n * sizeof *b);
    for (int i = 0; i < n * k; i++)
        rows[i] = tiny_draw(&t->source.seed, 0.5f);
    for (int i = 0; i < n; i++)
        b[i] = tiny_draw(&t->source.seed, 0.1f);
    return tiny_linear(t, rows, b, n, k);
}

/* Query, key and value below each other. */
static inline moe_linear tiny_qkv(tiny_moefied *t, int layer)
{
    const char *parts[] = {"query", "key", "value"};
    float *rows = tiny_room(t, (size_t)3 * TINY_D * TINY_D * sizeof *rows);
    float *b = tiny_room(t, (size_t)3 * TINY_D * sizeof *b);
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "attention.self.%s.weight", parts[i]);
        memcpy(rows + i * TINY_D * TINY_D, tiny_part(&t->source, layer, name),
               (size_t)TINY_D * TINY_D * sizeof *rows);
        snprintf(name, sizeof name, "attention.self.%s.bias", parts[i]);
        memcpy(b + i * TINY_D, tiny_part(&t->source, layer, name), TINY_D * sizeof *b);
    }
    return tiny_linear(t, rows, b, 3 * TINY_D, TINY_D);
}

/* 80 neurons shuffled over 96 places. */
static inline int32_t *tiny_neurons(tiny_moefied *t)
{
    int places = TINY_EXPERTS * MOE_EXPERT_SIZE;
    int32_t *neurons = tiny_room(t, (size_t)places * sizeof *neurons);
    for (int i = 0; i < places; i++)
        neurons[i] = i < TINY_D_FF ? i : -1;
    for (int i = places - 1; i > 0; i--) {
        tiny_draw(&t->source.seed, 1);
        int j = (int)((t->source.seed >> 8) % (unsigned)(i + 1));
        int32_t swap = neurons[i];
        neurons[i] = neurons[j];
        neurons[j] = swap;
    }
    return neurons;
}

static inline moe_ffn tiny_ffn(tiny_moefied *t, int layer)
{
    const int32_t *neurons = tiny_neurons(t);
    size_t wide = (size_t)TINY_EXPERTS * MOE_EXPERT_SIZE;
    float *w1 = tiny_room(t, wide * TINY_D * sizeof *w1), *b1 = tiny_room(t, wide * sizeof *b1);
    float *w2 = tiny_room(t, pack_w2_floats(TINY_EXPERTS, TINY_D) * sizeof *w2);
    pack_w1(tiny_part(&t->source, layer, "intermediate.dense.weight"), TINY_D_FF, TINY_D,
            TINY_EXPERTS, neurons, w1);
    pack_b1(tiny_part(&t->source, layer, "intermediate.dense.bias"), TINY_D_FF, TINY_EXPERTS,
            neurons, b1);
    pack_w2(tiny_part(&t->source, layer, "output.dense.weight"), TINY_D_FF, TINY_D,
            TINY_EXPERTS, neurons, w2);
    return (moe_ffn){.d = TINY_D, .n_experts = TINY_EXPERTS, .d_ff = TINY_D_FF,
                     .act = MOE_ACT_RELU, .w1 = w1, .b1 = b1, .w2 = w2,
                     .b2 = tiny_part(&t->source, layer, "output.dense.bias"),
                     .neurons = neurons};
}

static inline moe_router tiny_router(tiny_moefied *t)
{
    float *frequency = tiny_room(t, TINY_EXPERTS * sizeof *frequency);
    for (int e = 0; e < TINY_EXPERTS; e++)
        frequency[e] = 0.3f + tiny_draw(&t->source.seed, 0.2f);
    return (moe_router){.present = true, .normalize = true, .n_linears = 2,
                        .first = tiny_random_linear(t, TINY_WIDTH, TINY_D),
                        .second = tiny_random_linear(t, TINY_EXPERTS, TINY_WIDTH),
                        .frequency = frequency};
}

static inline void tiny_moefied_make(tiny_moefied *t, unsigned seed)
{
    memset(t, 0, sizeof *t);
    tiny_weights *s = &t->source;
    tiny_make(s, seed);
    const char *in = "bert.embeddings.";
    char name[4][80];
    snprintf(name[0], sizeof name[0], "%sword_embeddings.weight", in);
    snprintf(name[1], sizeof name[1], "%sposition_embeddings.weight", in);
    snprintf(name[2], sizeof name[2], "%stoken_type_embeddings.weight", in);
    t->w.words = (moe_table){TINY_VOCAB, TINY_D, MOE_F32, tiny_find(s, name[0])};
    t->w.positions = (moe_table){TINY_POSITIONS, TINY_D, MOE_F32, tiny_find(s, name[1])};
    t->w.types = (moe_table){TINY_TYPES, TINY_D, MOE_F32, tiny_find(s, name[2])};
    t->w.embed_norm = tiny_norm(tiny_find(s, "bert.embeddings.LayerNorm.weight"),
                                tiny_find(s, "bert.embeddings.LayerNorm.bias"));
    t->w.n_layers = TINY_LAYERS;
    t->w.layers = t->layers;
    for (int l = 0; l < TINY_LAYERS; l++) {
        moe_layer *layer = &t->layers[l];
        layer->qkv = tiny_qkv(t, l);
        layer->attention_out =
            tiny_linear(t, tiny_part(s, l, "attention.output.dense.weight"),
                        tiny_part(s, l, "attention.output.dense.bias"), TINY_D, TINY_D);
        layer->attention_norm = tiny_norm(tiny_part(s, l, "attention.output.LayerNorm.weight"),
                                          tiny_part(s, l, "attention.output.LayerNorm.bias"));
        layer->ffn = tiny_ffn(t, l);
        layer->router = tiny_router(t);
        layer->ffn_norm = tiny_norm(tiny_part(s, l, "output.LayerNorm.weight"),
                                    tiny_part(s, l, "output.LayerNorm.bias"));
    }
    t->w.pooler = tiny_linear(t, tiny_find(s, "bert.pooler.dense.weight"),
                              tiny_find(s, "bert.pooler.dense.bias"), TINY_D, TINY_D);
    t->w.classifier = tiny_linear(t, tiny_find(s, "classifier.weight"),
                                  tiny_find(s, "classifier.bias"), TINY_LABELS, TINY_D);
}

static inline void tiny_moefied_free(tiny_moefied *t)
{
    for (int i = 0; i < t->n_arrays; i++)
        free(t->arrays[i]);
    tiny_free(&t->source);
}

/* more: further keys; t1 to t3: further keys of the ratio table's rows. */
#define TINY_MOEFICATION_OF(more, t1, t2, t3)                                         \
    "{\"format_version\":1,\"expert_size\":32,\"n_experts\":3,\"dtype\":\"f32\"," more  \
    "\"split\":\"random\",\"router\":{\"kind\":\"mlp\",\"normalize\":true,\"linears\":2," \
    "\"width\":10},\"layers\":[0,1],\"ratio_table\":["                                \
    "{\"ratio\":0.34,\"experts\":[1,1]" t1 "},{\"ratio\":0.5,\"experts\":[1,2]" t2 "}," \
    "{\"ratio\":1,\"experts\":[3,3]" t3 "}],\"provenance\":{\"tool\":\"tiny_model.h\"}}"

#define TINY_MOEFICATION TINY_MOEFICATION_OF("", "", "", "")

/* The same with thresholds, which some of its scores reach and some do not, and a
 * default policy, "topk" or "threshold". */
#define TINY_THRESHOLDS(policy)                                                       \
    TINY_MOEFICATION_OF("\"policy\":\"" policy "\",", ",\"thresholds\":[0.3,0.25]",    \
                        ",\"thresholds\":[0.1,0]", ",\"thresholds\":[-0.2,-0.2]")

/* With mean counts beside them, and any default policy. */
#define TINY_MEANS(policy)                                                            \
    TINY_MOEFICATION_OF("\"policy\":\"" policy "\",",                                  \
                        ",\"thresholds\":[0.3,0.25],\"mean_experts\":[0.79,1.25]",      \
                        ",\"thresholds\":[0.1,0],\"mean_experts\":[1.3,1.7]",           \
                        ",\"thresholds\":[-0.2,-0.2],\"mean_experts\":[3,3]")

/* Makes dir, the MoEfied form of tiny_model_write(dir, seed)'s network, with that
 * moefication object. */
static inline void tiny_moefied_write_as(const char *dir, unsigned seed,
                                         const char *moefication)
{
    static tiny_moefied t;
    char path[TINY_PATH];
    tiny_moefied_make(&t, seed);
    tiny_write_config(dir, moefication);
    tiny_write_vocab(dir);
    if (snprintf(path, sizeof path, "%s/model.safetensors", dir) >= TINY_PATH)
        abort();
    moe_error err;
    if (moefied_write_tensors(path, &t.w, &err)) {
        fprintf(stderr, "%s\n", err.message);
        abort();
    }
    tiny_moefied_free(&t);
}

static inline void tiny_moefied_write(const char *dir, unsigned seed)
{
    tiny_moefied_write_as(dir, seed, TINY_MOEFICATION);
}

#endif
