/* config_encoder.c: config.json of BERT, DistilBERT, RoBERTa and XLM-RoBERTa, each with a
 * head for classification or for question answering.
 *
 * The families differ in what they call their sizes, in whether tokens have types, and in
 * where positions start: a RoBERTa model's first token has the row after its padding
 * token's id. Sizes come first, each within a bound that keeps every later product within
 * 64 bits; then what the network computes; then labels and task. */
#include <stdio.h>
#include <string.h>

#include "engine/model/config.h"
#include "engine/model/json.h"

/* A family as its config.json shows it. NULL: it has no such key. */
typedef struct {
    const char *model_type, *stem; /* of the architectures: "Bert" */
    moe_family family;
    const char *d_model, *n_layers, *n_heads, *d_ff, *activation, *norm_eps;
    bool typed;         /* tokens have types */
    int64_t pad_id;     /* where positions start behind it: its default; -1: they do not */
} encoder_keys;

#define BERT_KEYS "hidden_size", "num_hidden_layers", "num_attention_heads", \
                  "intermediate_size", "hidden_act", "layer_norm_eps"
static const encoder_keys families[] = {
    {"bert", "Bert", MOE_FAMILY_BERT, BERT_KEYS, true, -1},
    {"distilbert", "DistilBert", MOE_FAMILY_DISTILBERT, "dim", "n_layers", "n_heads",
     "hidden_dim", "activation", NULL, false, -1},
    {"roberta", "Roberta", MOE_FAMILY_ROBERTA, BERT_KEYS, true, 1},
    {"xlm-roberta", "XLMRoberta", MOE_FAMILY_ROBERTA, BERT_KEYS, true, 1},
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static moe_status unsupported(const model_config *c, const char *key, const char *found,
                              const char *expected, moe_error *err)
{
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s is %.100s, expected %s", c->path, key,
                    found, expected);
}

/* Refuses a string that is not the one expected; `missing` stands for none. */
static moe_status expect_string(const model_config *c, const char *key,
                                const char *expected, const char *missing,
                                moe_error *err)
{
    const char *v;
    moe_status status = json_string_or(c->root, c->path, key, missing, &v, err);
    if (status)
        return status;
    if (strcmp(v, expected) != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s is \"%.100s\", expected \"%s\"",
                        c->path, key, v, expected);
    return MOE_OK;
}

/* model_type names the family. */
static moe_status read_family(const model_config *c, const encoder_keys **keys, moe_error *err)
{
    const char *type;
    moe_status status = json_string_or(c->root, c->path, "model_type", NULL, &type, err);
    if (status)
        return status;
    for (int i = 0; type && i < N_FAMILIES; i++)
        if (strcmp(type, families[i].model_type) == 0) {
            *keys = &families[i];
            return MOE_OK;
        }
    static const char expected[] = "\"bert\", \"distilbert\", \"roberta\", \"xlm-roberta\" or "
                                   "\"t5\"";
    return type ? moe_fail(err, MOE_E_UNSUPPORTED, "%s: model_type is \"%.100s\", expected %s",
                           c->path, type, expected)
                : moe_fail(err, MOE_E_FORMAT, "%s: model_type is nothing, expected %s", c->path,
                           expected);
}

static moe_status read_architecture(model_config *c, const encoder_keys *keys, moe_error *err)
{
    static const struct { const char *head; moe_task task; } heads[] = {
        {"ForSequenceClassification", MOE_TASK_CLASSIFY},
        {"ForQuestionAnswering", MOE_TASK_ANSWER},
    };
    char name[2][64], expected[160];
    for (int i = 0; i < 2; i++)
        snprintf(name[i], sizeof name[i], "%s%s", keys->stem, heads[i].head);
    snprintf(expected, sizeof expected, "[\"%s\" or \"%s\"]", name[0], name[1]);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(c->root, "architectures");
    const cJSON *first = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(first) || first->next)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: architectures is not an array of one name, expected %s", c->path,
                        expected);
    for (int i = 0; i < 2; i++)
        if (strcmp(first->valuestring, name[i]) == 0) {
            c->architecture = first->valuestring;
            c->task = heads[i].task;
            return MOE_OK;
        }
    return moe_fail(err, MOE_E_UNSUPPORTED,
                    "%s: architectures is [\"%.100s\"], expected %s", c->path,
                    first->valuestring, expected);
}

static moe_status read_sizes(model_config *c, const encoder_keys *keys, moe_error *err)
{
    const struct { const char *key; int64_t min, max, missing; int *to; } sizes[] = {
        {keys->d_model, 1, 65536, 0, &c->d_model},
        {keys->n_layers, 1, 1024, 0, &c->n_layers},
        {keys->n_heads, 1, 1024, 0, &c->n_heads},
        {keys->d_ff, 1, 1 << 20, 0, &c->d_ff},
        {"vocab_size", 1, 1 << 22, 0, &c->n_vocab},
        {"max_position_embeddings", 3, 1 << 20, 0, &c->max_positions},
        {"type_vocab_size", 1, 1024, 2, &c->n_types},
    };
    c->family = keys->family;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes - !keys->typed; i++) {
        int64_t v;
        moe_status status =
            sizes[i].missing
                ? json_int_or(c->root, c->path, sizes[i].key, sizes[i].min, sizes[i].max,
                              sizes[i].missing, &v, err)
                : json_int(c->root, c->path, sizes[i].key, sizes[i].min, sizes[i].max, &v,
                           err);
        if (status)
            return status;
        *sizes[i].to = (int)v;
    }
    if (c->d_model % c->n_heads)
        return moe_fail(err, MOE_E_FORMAT, "%s: %s is %d, expected a multiple of %s, %d", c->path,
                        keys->d_model, c->d_model, keys->n_heads, c->n_heads);
    c->d_head = c->d_model / c->n_heads;
    c->n_experts = (c->d_ff + MOE_EXPERT_SIZE - 1) / MOE_EXPERT_SIZE;
    double eps = 1e-12;
    moe_status status = MOE_OK;
    if (keys->norm_eps)
        status = json_number_or(c->root, c->path, keys->norm_eps, 0, 0.1, eps, &eps, err);
    c->norm_eps = (float)eps;
    return status;
}

/* Where positions start, for max_position_embeddings of them. */
static moe_status read_positions(model_config *c, const encoder_keys *keys, moe_error *err)
{
    int64_t pad;
    c->pad_id = -1;
    if (keys->pad_id < 0)
        return MOE_OK;
    moe_status status = json_int_or(c->root, c->path, "pad_token_id", 0, c->n_vocab - 1,
                                    keys->pad_id, &pad, err);
    if (status)
        return status;
    c->pad_id = (int)pad;
    c->first_position = c->pad_id + 1;
    if (c->max_positions - c->first_position < 3)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: max_position_embeddings is %d, expected at least %d: positions start "
                        "behind pad_token_id, %d", c->path, c->max_positions,
                        c->first_position + 3, c->pad_id);
    return MOE_OK;
}

static moe_status read_activation(model_config *c, const encoder_keys *keys, moe_error *err)
{
    static const struct { const char *key, *name; moe_activation act; } known[] = {
        {"relu", "relu", MOE_ACT_RELU},
        {"gelu", "gelu", MOE_ACT_GELU_ERF},
        {"gelu_new", "gelu_new", MOE_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", "gelu_new", MOE_ACT_GELU_TANH},
    };
    const char *v, *expected = "\"relu\", \"gelu\", \"gelu_new\" or \"gelu_pytorch_tanh\"";
    moe_status status = json_string_or(c->root, c->path, keys->activation, NULL, &v, err);
    if (status)
        return status;
    if (!v)
        return moe_fail(err, MOE_E_FORMAT, "%s: %s is nothing, expected %s", c->path,
                        keys->activation, expected);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(v, known[i].key) == 0) {
            c->activation = known[i].name;
            c->act = known[i].act;
            return MOE_OK;
        }
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s is \"%.100s\", expected %s", c->path,
                    keys->activation, v, expected);
}

/* Features that change the answers and are not implemented. */
static moe_status refuse_unsupported(const model_config *c, moe_error *err)
{
    static const char *const must_be_false[] = {"is_decoder", "add_cross_attention"};
    for (size_t i = 0; i < 2; i++) {
        bool on;
        moe_status status =
            json_bool_or(c->root, c->path, must_be_false[i], false, &on, err);
        if (status)
            return status;
        if (on)
            return unsupported(c, must_be_false[i], "true", "false", err);
    }
    const cJSON *pruned = cJSON_GetObjectItemCaseSensitive(c->root, "pruned_heads");
    if (pruned && pruned->child)
        return unsupported(c, "pruned_heads", "not empty", "no pruned heads", err);
    const cJSON *quantized =
        cJSON_GetObjectItemCaseSensitive(c->root, "quantization_config");
    if (quantized && !cJSON_IsNull(quantized))
        return unsupported(c, "quantization_config", "there", "a checkpoint without it", err);
    return expect_string(c, "position_embedding_type", "absolute", "absolute", err);
}

moe_status config_read_encoder(model_config *c, moe_error *err)
{
    moe_status (*const steps[])(model_config *, const encoder_keys *, moe_error *) = {
        read_architecture, read_sizes, read_positions, read_activation,
    };
    const encoder_keys *keys = NULL;
    moe_status status = read_family(c, &keys, err);
    for (size_t i = 0; !status && i < sizeof steps / sizeof *steps; i++)
        status = steps[i](c, keys, err);
    if (!status)
        status = config_read_labels(c, err);
    return status ? status : refuse_unsupported(c, err);
}
