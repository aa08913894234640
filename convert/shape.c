/* shape.c: fills a moe_model with random weights in the packed layouts. All floats
 * lie in one block; two passes over the same code, one that counts and one that
 * hands out and fills. Weights are uniform with variance 1/k, so that activations
 * neither vanish nor overflow over the layers. */
#include "convert/shape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/model/lower.h"
#include "engine/model/memory.h"
#include "engine/model/pack.h"

enum { VOCABULARY = 1000, POSITIONS = 512, TYPES = 2, LABELS = 2, ALIGN = 64 };

const model_shape model_shapes[] = {
    {"t5-large-enc4", 4, 1024, 4096, 16, "relu",
     "4 of the encoder layers of T5-Large, as post-norm BERT-style layers"},
    {"t5-large", 24, 1024, 4096, 16, "relu",
     "the encoder of T5-Large, as post-norm BERT-style layers"},
    {"t5-base", 12, 768, 3072, 12, "relu",
     "the encoder of T5-Base, as post-norm BERT-style layers"},
    {"bert-base", 12, 768, 3072, 12, "gelu", "BERT-base"},
    {"minilm", 6, 384, 1536, 12, "relu", "MiniLM-L6 with ReLU"},
    {.name = NULL},
};

/* The model and what it owns. */
typedef struct {
    moe_model model; /* first: a moe_model * is one of these */
    moe_layer *layers;
    float *floats;   /* NULL while counting */
    size_t n_floats;
    uint64_t random;
    bool lower;      /* the layers' linear weights are arrays of their own */
} shape_memory;

/* n floats from the block, 64-byte aligned, uniform with the given standard
 * deviation around centre; NULL while counting. */
static float *take(shape_memory *s, size_t n, float deviation, float centre)
{
    float *p = s->floats ? s->floats + s->n_floats : NULL;
    s->n_floats += (n + ALIGN / sizeof(float) - 1) / (ALIGN / sizeof(float)) *
                   (ALIGN / sizeof(float));
    float scale = deviation * 1.7320508f / (float)(1 << 23); /* uniform: width is sqrt(12) s */
    for (size_t i = 0; p && i < n; i++) {
        s->random = s->random * 6364136223846793005u + 1442695040888963407u;
        p[i] = centre + ((float)(s->random >> 40) - (float)(1 << 23)) * scale;
    }
    return p;
}

static moe_linear take_linear(shape_memory *s, int n, int k)
{
    return (moe_linear){.n = n, .k = k,
                        .w = take(s, pack_linear_floats(n, k), 1 / sqrtf((float)k), 0),
                        .b = take(s, (size_t)n, 0.01f, 0)};
}

static moe_norm take_norm(shape_memory *s, int d)
{
    return (moe_norm){.d = d, .eps = 1e-12f, .gamma = take(s, (size_t)d, 0, 1),
                      .beta = take(s, (size_t)d, 0.01f, 0)};
}

static moe_table take_table(shape_memory *s, int n, int d)
{
    return (moe_table){.n = n, .d = d, .dtype = MOE_F32,
                       .rows = take(s, (size_t)n * (size_t)d, 0.5f, 0)};
}

static moe_ffn take_ffn(shape_memory *s, const model_shape *shape)
{
    int d = shape->d_model, experts = shape->d_ff / MOE_EXPERT_SIZE;
    return (moe_ffn){
        .d = d, .n_experts = experts, .d_ff = shape->d_ff,
        .act = strcmp(shape->activation, "relu") ? MOE_ACT_GELU_ERF : MOE_ACT_RELU,
        .w1 = take(s, (size_t)shape->d_ff * (size_t)d, 1 / sqrtf((float)d), 0),
        .b1 = take(s, (size_t)shape->d_ff, 0.01f, 0),
        .w2 = take(s, pack_w2_floats(experts, d), 1 / sqrtf((float)shape->d_ff), 0),
        .b2 = take(s, (size_t)d, 0.01f, 0),
    };
}

static void take_weights(shape_memory *s, const model_shape *shape)
{
    moe_weights *w = &s->model.weights;
    int d = shape->d_model;
    s->n_floats = 0;
    s->random = 1;
    w->words = take_table(s, VOCABULARY, d);
    w->positions = take_table(s, POSITIONS, d);
    w->types = take_table(s, TYPES, d);
    w->embed_norm = take_norm(s, d);
    for (int l = 0; l < shape->n_layers; l++)
        s->layers[l] = (moe_layer){
            .qkv = take_linear(s, 3 * d, d),
            .attention_out = take_linear(s, d, d),
            .attention_norm = take_norm(s, d),
            .ffn = take_ffn(s, shape),
            .ffn_norm = take_norm(s, d),
        };
    w->pooler = take_linear(s, d, d);
    w->classifier = take_linear(s, LABELS, d);
}

static void describe(shape_memory *s, const model_shape *shape)
{
    static const char *const labels[LABELS] = {"0", "1"};
    s->model.attention_scale = 1 / sqrtf((float)shape->d_model / (float)shape->n_heads);
    s->model.weights.n_layers = shape->n_layers;
    s->model.weights.layers = s->layers;
    s->model.info = (moe_model_info){
        .dir = shape->name, .architecture = "BertForSequenceClassification",
        .task = MOE_TASK_CLASSIFY, .moefied = true, .n_layers = shape->n_layers,
        .d_model = shape->d_model, .n_heads = shape->n_heads, .d_ff = shape->d_ff,
        .n_vocab = VOCABULARY, .max_tokens = POSITIONS, .n_labels = LABELS, .labels = labels,
        .activation = shape->activation, .dtype = "f32",
        .n_experts = shape->d_ff / MOE_EXPERT_SIZE, .expert_size = MOE_EXPERT_SIZE,
        .router = "random", .split = "", .moefication_json = "",
        .weight_bytes = s->n_floats * sizeof(float),
    };
}

/* Zeroes what cannot be made, so that all can be released. */
static moe_status lower_layers(shape_memory *s, moe_dtype t, moe_error *err)
{
    moe_status status = MOE_OK;
    s->lower = true;
    for (int l = 0; l < s->model.info.n_layers; l++) {
        moe_layer f32 = s->layers[l], *to = &s->layers[l];
        to->qkv = to->attention_out = (moe_linear){.n = 0};
        to->ffn = (moe_ffn){.d = 0};
        if (status == MOE_OK)
            status = lower_linear(&f32.qkv, t, NULL, &to->qkv, err);
        if (status == MOE_OK)
            status = lower_linear(&f32.attention_out, t, NULL, &to->attention_out, err);
        if (status == MOE_OK)
            status = lower_ffn(&f32.ffn, t, NULL, NULL, &to->ffn, err);
    }
    s->model.info.dtype = lower_name(t);
    return status;
}

moe_status shape_model_create(const model_shape *shape, moe_dtype dtype, moe_model **out,
                              moe_error *err)
{
    shape_memory *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s)
        s->layers = calloc((size_t)shape->n_layers, sizeof *s->layers);
    if (s && s->layers) {
        take_weights(s, shape); /* counts */
        s->floats = memory_alloc(s->n_floats * sizeof(float));
    }
    if (!s || !s->floats) {
        shape_model_free(s ? &s->model : NULL);
        return moe_fail(err, MOE_E_MEMORY, "out of memory for the weights of %s", shape->name);
    }
    take_weights(s, shape);
    describe(s, shape);
    moe_status status = dtype == MOE_F32 ? MOE_OK : lower_layers(s, dtype, err);
    if (status == MOE_OK)
        *out = &s->model;
    else
        shape_model_free(&s->model);
    return status;
}

void shape_model_free(moe_model *m)
{
    shape_memory *s = (shape_memory *)m;
    if (!s)
        return;
    for (int l = 0; s->lower && l < s->model.info.n_layers; l++) {
        lower_linear_release(&s->layers[l].qkv);
        lower_linear_release(&s->layers[l].attention_out);
        lower_ffn_release(&s->layers[l].ffn);
    }
    free(s->floats);
    free(s->layers);
    free(s);
}
