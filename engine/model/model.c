/* model.c: opening a model directory, of either kind.
 *
 * config.json says what the tensors must look like; model.safetensors (or its
 * shards) is mapped and checked; then a MoEfied directory is used in place, and
 * a Hugging Face checkpoint is converted to packed fp32. The tokenizer comes
 * last. Everything hangs on one moe_model_memory, freed on failure too. */
#include "engine/model/lower.h"
#include "engine/model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/checkpoint.h"
#include "engine/model/moefied.h"
#include "engine/model/tokenizer_files.h"

static moe_status open_weights(moe_model *m, moe_error *err)
{
    moe_model_memory *memory = m->memory;
    const model_config *c = &memory->config;
    moe_status status = safetensors_open(memory->dir, &memory->files, err);
    if (status)
        return status;
    memory->layers = calloc((size_t)c->n_layers, sizeof *memory->layers);
    if (!memory->layers)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", memory->dir);
    m->weights.n_layers = c->n_layers;
    m->weights.n_decoder_layers = c->n_decoder_layers;
    m->weights.layers = memory->layers;
    if (c->moefied)
        return moefied_load(memory, &m->weights, err);
    status = checkpoint_load(memory, &m->weights, err);
    safetensors_drop_pages(memory->files); /* packed: all but the tables */
    return status;
}

enum { MAX_TEXT_TOKENS = 1 << 16 };

static int max_tokens(const model_config *c, const moe_tokenizer *t)
{
    int stated = tokenizer_model_max_length(t);
    if (c->family == MOE_FAMILY_T5) /* relative positions end nowhere */
        return stated > 0 && stated < MAX_TEXT_TOKENS ? stated : c->max_positions;
    int most = c->max_positions - c->first_position;
    return stated > 0 && stated < most ? stated : most;
}

static void describe(moe_model *m)
{
    const model_config *c = &m->memory->config;
    bool t5 = c->family == MOE_FAMILY_T5;
    m->attention_scale = t5 ? 1 : 1.0f / sqrtf((float)(c->d_model / c->n_heads));
    m->family = c->family;
    m->d_head = c->d_head;
    m->t5 = c->t5;
    m->logit_scale = c->t5.tied ? 1.0f / sqrtf((float)c->d_model) : 1;
    m->info = (moe_model_info){
        .dir = m->memory->dir, .architecture = c->architecture, .task = c->task,
        .moefied = c->moefied, .n_layers = c->n_layers,
        .n_decoder_layers = c->n_decoder_layers, .d_model = c->d_model,
        .n_heads = c->n_heads, .d_ff = c->d_ff, .n_vocab = c->n_vocab,
        .max_tokens = max_tokens(c, m->tokenizer), .n_labels = c->n_labels,
        .labels = c->labels, .activation = c->activation, .dtype = lower_name(c->moe.dtype),
        .n_experts = c->n_experts, .expert_size = MOE_EXPERT_SIZE,
        .router = c->moefied ? c->moe.router_kind : "",
        .split = c->moefied ? c->moe.split : "",
        .n_ratio_rows = c->moe.n_rows, .ratio_rows = c->moe.rows,
        .has_thresholds = c->moe.thresholds != NULL,
        .has_mean_experts = c->moe.mean_experts != NULL,
        .policy = c->moefied ? c->moe.policy : MOE_POLICY_TOPK,
        .n_tasks = c->n_tasks, .tasks = c->tasks,
        .weight_bytes = safetensors_bytes(m->memory->files) + m->memory->owned_bytes,
        .moefication_json = c->moefied ? c->moe.json : "",
    };
}

static moe_status open_all(moe_model *m, const char *dir, moe_error *err)
{
    m->memory = calloc(1, sizeof *m->memory);
    if (!m->memory || !(m->memory->dir = strdup(dir)))
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", dir);
    moe_status status = config_read(dir, &m->memory->config, err);
    if (!status)
        status = open_weights(m, err);
    const model_config *c = &m->memory->config;
    if (!status && c->family == MOE_FAMILY_T5)
        status = tokenizer_load_t5(dir, c->n_vocab, c->t5.end_id, &m->tokenizer, err);
    else if (!status)
        status = tokenizer_load(dir, c->n_vocab, &m->tokenizer, err);
    if (!status && c->n_types < 2)
        tokenizer_drop_types(m->tokenizer);
    if (!status)
        describe(m);
    return status;
}

moe_status moe_model_open(const char *dir, moe_model **out, moe_error *err)
{
    *out = NULL;
    moe_model *m = calloc(1, sizeof *m);
    if (!m)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", dir);
    moe_status status = open_all(m, dir, err);
    if (status)
        moe_model_close(m);
    else
        *out = m;
    return status;
}

void moe_model_close(moe_model *m)
{
    if (!m)
        return;
    tokenizer_destroy(m->tokenizer);
    if (m->memory)
        memory_free(m->memory);
    free(m);
}

const moe_model_info *moe_model_describe(const moe_model *m)
{
    return &m->info;
}
