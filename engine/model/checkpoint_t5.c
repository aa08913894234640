/* checkpoint_t5.c: a Hugging Face T5ForConditionalGeneration, or
 * T5ForSequenceClassification, to packed weights. Queries,
 * keys and values become one linear [3 n_heads d_kv, d], cross-attention's keys and values
 * one of [2 n_heads d_kv, d]. Where lm_head is tied it is packed from the words. */
#include <stdlib.h>

#include "engine/model/checkpoint.h"
#include "engine/model/checkpoint_loader.h"

/* The stem of a module of a block. */
static tensor_name part(const char *half, int block, int layer, const char *module)
{
    return name_of("%s.block.%d.layer.%d.%s", half, block, layer, module);
}

static void load_self(checkpoint_loader *l, const char *half, int i, moe_layer *layer)
{
    const model_config *c = &l->m->config;
    int d = c->d_model, inner = c->n_heads * c->d_head;
    const tensor_name qkv[MAX_PARTS] = {
        part(half, i, 0, "SelfAttention.q"),
        part(half, i, 0, "SelfAttention.k"),
        part(half, i, 0, "SelfAttention.v"),
    };
    const tensor_name out = part(half, i, 0, "SelfAttention.o");
    layer->qkv = load_linear(l, qkv, 3, inner, d, false);
    layer->attention_out = load_linear(l, &out, 1, d, inner, false);
    layer->attention_norm = load_norm(l, part(half, i, 0, "layer_norm").text, true);
}

static void load_cross(checkpoint_loader *l, int i, moe_layer *layer)
{
    const model_config *c = &l->m->config;
    const char *half = "decoder";
    int d = c->d_model, inner = c->n_heads * c->d_head;
    const tensor_name q = part(half, i, 1, "EncDecAttention.q");
    const tensor_name out = part(half, i, 1, "EncDecAttention.o");
    const tensor_name kv[2] = {part(half, i, 1, "EncDecAttention.k"),
                               part(half, i, 1, "EncDecAttention.v")};
    layer->cross_q = load_linear(l, &q, 1, inner, d, false);
    layer->cross_kv = load_linear(l, kv, 2, inner, d, false);
    layer->cross_out = load_linear(l, &out, 1, d, inner, false);
    layer->cross_norm = load_norm(l, part(half, i, 1, "layer_norm").text, true);
}

static void load_feed_forward(checkpoint_loader *l, const char *half, int i, int at,
                              moe_layer *layer)
{
    bool gated = l->m->config.t5.gated;
    const tensor_name gate = part(half, i, at, "DenseReluDense.wi_0");
    const tensor_name up = part(half, i, at, gated ? "DenseReluDense.wi_1" : "DenseReluDense.wi");
    const tensor_name down = part(half, i, at, "DenseReluDense.wo");
    layer->ffn = load_ffn(l, gated ? &gate : NULL, &up, &down, false);
    layer->ffn_norm = load_norm(l, part(half, i, at, "layer_norm").text, true);
}

static moe_table load_distances(checkpoint_loader *l, const char *half)
{
    const model_config *c = &l->m->config;
    tensor_name name = part(half, 0, 0, "SelfAttention.relative_attention_bias.weight");
    return load_table(l, name.text, c->t5.n_buckets, c->n_heads);
}

static void load_lm_head(checkpoint_loader *l, moe_weights *w)
{
    const model_config *c = &l->m->config;
    const tensor_name head = {"lm_head"}, words = {"shared"};
    w->lm_head = load_linear(l, c->t5.tied ? &words : &head, 1, c->n_vocab, c->d_model, false);
}

static void load_classifier(checkpoint_loader *l, moe_weights *w)
{
    const model_config *c = &l->m->config;
    const tensor_name dense = {"classification_head.dense"};
    const tensor_name last = {"classification_head.out_proj"};
    l->prefix = ""; /* stands beside the transformer */
    w->pooler = load_linear(l, &dense, 1, c->d_model, c->d_model, true);
    w->classifier = load_linear(l, &last, 1, c->n_labels, c->d_model, true);
}

moe_status checkpoint_load_t5(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    const model_config *c = &m->config;
    const bool says_text = c->task == MOE_TASK_TEXT;
    checkpoint_loader l = {.m = m, .prefix = says_text ? "" : "transformer.", .err = err};
    int encoder = c->n_layers - c->n_decoder_layers;
    w->words = load_table(&l, "shared.weight", c->n_vocab, c->d_model);
    w->encoder_distances = load_distances(&l, "encoder");
    w->decoder_distances = load_distances(&l, "decoder");
    for (int i = 0; i < encoder && !l.status; i++) {
        load_self(&l, "encoder", i, &w->layers[i]);
        load_feed_forward(&l, "encoder", i, 1, &w->layers[i]);
    }
    for (int i = 0; i < c->n_decoder_layers && !l.status; i++) {
        load_self(&l, "decoder", i, &w->layers[encoder + i]);
        load_cross(&l, i, &w->layers[encoder + i]);
        load_feed_forward(&l, "decoder", i, 2, &w->layers[encoder + i]);
    }
    w->encoder_norm = load_norm(&l, "encoder.final_layer_norm", true);
    w->decoder_norm = load_norm(&l, "decoder.final_layer_norm", true);
    if (says_text)
        load_lm_head(&l, w);
    else
        load_classifier(&l, w);
    free(l.scratch);
    return l.status;
}
