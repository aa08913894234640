/* config_t5.c: config.json of a T5ForConditionalGeneration or
 * T5ForSequenceClassification checkpoint: v1.0 (relu, word
 * embedding and lm_head tied) and v1.1 or FLAN (gated-gelu, untied). Layers are counted
 * through, the encoder's first. */
#include <stdio.h>
#include <string.h>

#include "engine/model/config.h"
#include "engine/model/json.h"

enum { DEFAULT_TOKENS = 512 };

static moe_status read_architecture(model_config *c, moe_error *err)
{
    static const struct { const char *name, *why; } others[] = {
        {"T5EncoderModel", "it gives states, not answers"},
        {"T5ForTokenClassification", "its head labels tokens"},
        {"T5ForQuestionAnswering", "its head marks tokens of the text"},
        {"T5Model", "it gives states, not answers"},
    };
    const char *expected = "T5ForConditionalGeneration", *classifier = "T5ForSequenceClassification";
    const char *why = "";
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(c->root, "architectures");
    const cJSON *first = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(first) || first->next)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: architectures is not an array of one name, expected [\"%s\"]",
                        c->path, expected);
    c->architecture = first->valuestring;
    bool classifies = strcmp(c->architecture, classifier) == 0;
    c->task = classifies ? MOE_TASK_CLASSIFY : MOE_TASK_TEXT;
    if (strcmp(c->architecture, expected) == 0)
        return MOE_OK;
    if (classifies && !cJSON_GetObjectItemCaseSensitive(c->root, "moefication"))
        return MOE_OK;
    if (classifies)
        why = "it has a moefication object, which this version does not know of such a model";
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(c->architecture, others[i].name) == 0)
            why = others[i].why;
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: architectures is [\"%.100s\"]%s%s, expected "
                    "[\"%s\"] or [\"%s\"]", c->path, c->architecture, *why ? ": " : "", why,
                    expected, classifier);
}

static moe_status read_sizes(model_config *c, moe_error *err)
{
    int encoder = 0;
    const struct { const char *key; int64_t min, max, missing; int *to; } sizes[] = {
        {"d_model", 1, 65536, 0, &c->d_model},
        {"d_kv", 1, 4096, 0, &c->d_head},
        {"num_heads", 1, 1024, 0, &c->n_heads},
        {"d_ff", 1, 1 << 20, 0, &c->d_ff},
        {"num_layers", 1, 512, 0, &encoder},
        {"num_decoder_layers", 1, 512, -1, &c->n_decoder_layers},
        {"vocab_size", 1, 1 << 22, 0, &c->n_vocab},
        {"n_positions", 1, 1 << 16, DEFAULT_TOKENS, &c->max_positions},
        {"relative_attention_num_buckets", 4, 65536, 32, &c->t5.n_buckets},
        {"relative_attention_max_distance", 2, 1 << 20, 128, &c->t5.max_distance},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t v, missing = sizes[i].missing < 0 ? encoder : sizes[i].missing;
        moe_status status =
            missing ? json_int_or(c->root, c->path, sizes[i].key, sizes[i].min, sizes[i].max,
                                  missing, &v, err)
                    : json_int(c->root, c->path, sizes[i].key, sizes[i].min, sizes[i].max, &v,
                               err);
        if (status)
            return status;
        *sizes[i].to = (int)v;
    }
    if ((int64_t)c->n_heads * c->d_head > 1 << 20)
        return moe_fail(err, MOE_E_FORMAT, "%s: num_heads is %d with d_kv %d, expected at most %d "
                        "columns", c->path, c->n_heads, c->d_head, 1 << 20);
    /* Half the buckets, or all of them, for distances below that: none may be left. */
    if (c->t5.n_buckets % 4 || c->t5.max_distance <= c->t5.n_buckets / 2)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: relative_attention_num_buckets is %d with max_distance %d, expected "
                        "a multiple of 4 below twice the distance", c->path, c->t5.n_buckets,
                        c->t5.max_distance);
    c->n_layers = encoder + c->n_decoder_layers;
    c->n_experts = (c->d_ff + MOE_EXPERT_SIZE - 1) / MOE_EXPERT_SIZE;
    double eps = 0;
    moe_status status = json_number_or(c->root, c->path, "layer_norm_epsilon", 0, 0.1, 1e-6, &eps,
                                       err);
    c->norm_eps = (float)eps;
    return status;
}

/* feed_forward_proj: an activation, "gated-" before it where the FFN is gated. "gated-gelu"
 * has always meant gelu_new. */
static moe_status read_activation(model_config *c, moe_error *err)
{
    static const struct { const char *key, *name; moe_activation act; bool gated; } known[] = {
        {"relu", "relu", MOE_ACT_RELU, false},
        {"gelu", "gelu", MOE_ACT_GELU_ERF, false},
        {"gelu_new", "gelu_new", MOE_ACT_GELU_TANH, false},
        {"gated-gelu", "gelu_new", MOE_ACT_GELU_TANH, true},
        {"gated-gelu_new", "gelu_new", MOE_ACT_GELU_TANH, true},
        {"gated-relu", "relu", MOE_ACT_RELU, true},
    };
    const char *v;
    moe_status status = json_string_or(c->root, c->path, "feed_forward_proj", "relu", &v, err);
    if (status)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(v, known[i].key) == 0) {
            c->activation = known[i].name;
            c->act = known[i].act;
            c->t5.gated = known[i].gated;
            return MOE_OK;
        }
    return moe_fail(err, MOE_E_UNSUPPORTED,
                    "%s: feed_forward_proj is \"%.100s\", expected \"relu\", \"gelu\", "
                    "\"gelu_new\", \"gated-gelu\" or \"gated-relu\"", c->path, v);
}

static moe_status read_tokens(model_config *c, moe_error *err)
{
    int64_t start = 0, end = 0, pad = 0;
    moe_status status = json_bool_or(c->root, c->path, "tie_word_embeddings", true, &c->t5.tied,
                                     err);
    if (!status)
        status = json_int_or(c->root, c->path, "pad_token_id", 0, c->n_vocab - 1, 0, &pad, err);
    if (!status)
        status = json_int_or(c->root, c->path, "decoder_start_token_id", 0, c->n_vocab - 1, pad,
                             &start, err);
    if (!status)
        status = json_int_or(c->root, c->path, "eos_token_id", 0, c->n_vocab - 1, 1, &end, err);
    c->t5.start_id = (int32_t)start;
    c->t5.end_id = (int32_t)end;
    return status;
}

static moe_status refuse_unsupported(const model_config *c, moe_error *err)
{
    const cJSON *quantized = cJSON_GetObjectItemCaseSensitive(c->root, "quantization_config");
    if (quantized && !cJSON_IsNull(quantized))
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: quantization_config is there, expected a "
                        "checkpoint without it", c->path);
    return MOE_OK;
}

moe_status config_read_t5(model_config *c, moe_error *err)
{
    moe_status (*const steps[])(model_config *, moe_error *) = {
        read_architecture, read_sizes, read_activation, read_tokens,
    };
    moe_status status = MOE_OK;
    c->family = MOE_FAMILY_T5;
    for (size_t i = 0; !status && i < sizeof steps / sizeof *steps; i++)
        status = steps[i](c, err);
    if (!status && c->task != MOE_TASK_TEXT)
        status = config_read_labels(c, err);
    return status ? status : refuse_unsupported(c, err);
}
