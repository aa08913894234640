/* checkpoint.c: a Hugging Face checkpoint to packed weights, by its family; here the
 * encoders', by the names that each gives its modules. Queries, keys and values become one
 * linear [3 d, d]. */
#include "engine/model/checkpoint.h"

#include <stdlib.h>

#include "engine/model/checkpoint_loader.h"
#include "engine/model/encoder_names.h"

static tensor_name in_layer(const encoder_names *names, int i, const char *module)
{
    return name_of("%s.%d.%s", names->layer, i, module);
}

static void load_layer(checkpoint_loader *l, const encoder_names *names, int i, moe_layer *layer)
{
    int d = l->m->config.d_model;
    const tensor_name qkv[MAX_PARTS] = {
        in_layer(names, i, names->query), in_layer(names, i, names->key),
        in_layer(names, i, names->value),
    };
    const tensor_name out = in_layer(names, i, names->attention_out);
    const tensor_name up = in_layer(names, i, names->up), down = in_layer(names, i, names->down);
    layer->qkv = load_linear(l, qkv, 3, d, d, true);
    layer->attention_out = load_linear(l, &out, 1, d, d, true);
    layer->attention_norm = load_norm(l, in_layer(names, i, names->attention_norm).text, false);
    layer->ffn = load_ffn(l, NULL, &up, &down, true);
    layer->ffn_norm = load_norm(l, in_layer(names, i, names->ffn_norm).text, false);
}

/* What reads the encoder's rows: the classifier stands beside the encoder, the pooler may
 * stand in it. */
static void load_head(checkpoint_loader *l, const encoder_names *names, moe_weights *w)
{
    const model_config *c = &l->m->config;
    bool answers = c->task == MOE_TASK_ANSWER;
    const tensor_name pooler = name_of("%s", names->pooler);
    const tensor_name last = name_of("%s", answers ? "qa_outputs" : names->classifier);
    if (!answers)
        w->pooler = load_linear(l, &pooler, 1, c->d_model, c->d_model, true);
    w->pooler_relu = c->family == MOE_FAMILY_DISTILBERT;
    w->classifier = load_linear(l, &last, 1, c->n_labels, c->d_model, true);
}

static moe_status load_encoder(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    const model_config *c = &m->config;
    const encoder_names *names = encoder_names_of(c->family);
    const char *words = "embeddings.word_embeddings.weight";
    checkpoint_loader l = {
        .m = m, .prefix = safetensors_find(m->files, words) ? "" : names->prefix, .err = err};
    w->words = load_table(&l, words, c->n_vocab, c->d_model);
    w->positions = load_table(&l, "embeddings.position_embeddings.weight", c->max_positions,
                              c->d_model);
    if (c->n_types)
        w->types = load_table(&l, "embeddings.token_type_embeddings.weight", c->n_types,
                              c->d_model);
    w->embed_norm = load_norm(&l, "embeddings.LayerNorm", false);
    w->first_position = c->first_position;
    w->pad_id = c->pad_id;
    for (int i = 0; i < c->n_layers && !l.status; i++)
        load_layer(&l, names, i, &w->layers[i]);
    load_head(&l, names, w);
    free(l.scratch);
    return l.status;
}

moe_status checkpoint_load(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    return m->config.family == MOE_FAMILY_T5 ? checkpoint_load_t5(m, w, err)
                                             : load_encoder(m, w, err);
}
