/* checkpoint.c: a Hugging Face checkpoint to packed weights, by its family; here BERT's,
 * a BertForSequenceClassification. Queries, keys and values become one linear [3 d, d]. */
#include "engine/model/checkpoint.h"

#include <stdlib.h>

#include "engine/model/checkpoint_loader.h"

static void load_layer(checkpoint_loader *l, int i, moe_layer *layer)
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
    layer->qkv = load_linear(l, qkv, 3, d, d, true);
    layer->attention_out = load_linear(l, &out, 1, d, d, true);
    layer->attention_norm =
        load_norm(l, name_of("%s.%d.attention.output.LayerNorm", in, i).text, false);
    layer->ffn = load_ffn(l, NULL, &up, &down, true);
    layer->ffn_norm = load_norm(l, name_of("%s.%d.output.LayerNorm", in, i).text, false);
}

static moe_status load_bert(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    const model_config *c = &m->config;
    const char *words = "embeddings.word_embeddings.weight";
    checkpoint_loader l = {.m = m, .prefix = safetensors_find(m->files, words) ? "" : "bert.",
                .err = err};
    const tensor_name pooler = {"pooler.dense"}, classifier = {"classifier"};
    const tensor_name positions = {"qa_outputs"};
    w->words = load_table(&l, words, c->n_vocab, c->d_model);
    w->positions = load_table(&l, "embeddings.position_embeddings.weight", c->max_positions,
                              c->d_model);
    w->types = load_table(&l, "embeddings.token_type_embeddings.weight", c->n_types,
                          c->d_model);
    w->embed_norm = load_norm(&l, "embeddings.LayerNorm", false);
    for (int i = 0; i < c->n_layers && !l.status; i++)
        load_layer(&l, i, &w->layers[i]);
    if (c->task != MOE_TASK_ANSWER)
        w->pooler = load_linear(&l, &pooler, 1, c->d_model, c->d_model, true);
    w->classifier = load_linear(&l, c->task == MOE_TASK_ANSWER ? &positions : &classifier, 1,
                                c->n_labels, c->d_model, true);
    free(l.scratch);
    return l.status;
}

moe_status checkpoint_load(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    return m->config.family == MOE_FAMILY_T5 ? checkpoint_load_t5(m, w, err)
                                             : load_bert(m, w, err);
}
