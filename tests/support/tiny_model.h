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
    snprintf(path, sizeof path, "%s/%s", dir, name);
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

#endif
