/* config.c: config.json of a BertForSequenceClassification checkpoint.
 *
 * Sizes come first, each within a bound that keeps every later product within
 * 64 bits; then what the network computes (activation, positions); then labels
 * and task. A value that would change the answers and is not implemented is
 * refused rather than ignored. */
#include "engine/model/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/json.h"

enum { MAX_CONFIG_BYTES = 16 << 20, MAX_LABELS = 65536 };

static moe_status unsupported(const model_config *c, const char *key, const char *found,
                              const char *expected, moe_error *err)
{
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s is %.100s, expected %s", c->path, key,
                    found, expected);
}

/* Refuses a string that is there and is not the one expected. */
static moe_status expect_string(const model_config *c, const char *key,
                                const char *expected, const char *missing,
                                moe_error *err)
{
    const char *v;
    moe_status status = json_string_or(c->root, c->path, key, missing, &v, err);
    if (status)
        return status;
    if (!v)
        return moe_fail(err, MOE_E_FORMAT, "%s: %s is nothing, expected \"%s\"", c->path,
                        key, expected);
    if (strcmp(v, expected) != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s is \"%.100s\", expected \"%s\"",
                        c->path, key, v, expected);
    return MOE_OK;
}

/* The heads that are known, by architecture. */
static const struct { const char *name; bool answers; } heads[] = {
    {"BertForSequenceClassification", false},
    {"BertForQuestionAnswering", true},
};

static moe_status read_architecture(model_config *c, moe_error *err)
{
    static const char expected[] = "BertForSequenceClassification\" or "
                                   "\"BertForQuestionAnswering";
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(c->root, "architectures");
    const cJSON *first = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(first) || first->next)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: architectures is not an array of one name, expected [\"%s\"]",
                        c->path, expected);
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strcmp(first->valuestring, heads[i].name) == 0) {
            c->architecture = first->valuestring;
            c->task = heads[i].answers ? MOE_TASK_ANSWER : MOE_TASK_CLASSIFY;
        }
    if (!c->architecture)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: architectures is [\"%.100s\"], expected [\"%s\"]", c->path,
                        first->valuestring, expected);
    return expect_string(c, "model_type", "bert", NULL, err);
}

static moe_status read_sizes(model_config *c, moe_error *err)
{
    const struct { const char *key; int64_t min, max, missing; int *to; } sizes[] = {
        {"hidden_size", 1, 65536, 0, &c->d_model},
        {"num_hidden_layers", 1, 1024, 0, &c->n_layers},
        {"num_attention_heads", 1, 1024, 0, &c->n_heads},
        {"intermediate_size", 1, 1 << 20, 0, &c->d_ff},
        {"vocab_size", 1, 1 << 22, 0, &c->n_vocab},
        {"max_position_embeddings", 3, 1 << 20, 0, &c->max_positions},
        {"type_vocab_size", 1, 1024, 2, &c->n_types},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
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
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: hidden_size is %d, expected a multiple of num_attention_heads, %d",
                        c->path, c->d_model, c->n_heads);
    c->d_head = c->d_model / c->n_heads;
    c->n_experts = (c->d_ff + MOE_EXPERT_SIZE - 1) / MOE_EXPERT_SIZE;
    double eps = 0;
    moe_status status = json_number_or(c->root, c->path, "layer_norm_eps", 0, 0.1, 1e-12,
                                       &eps, err);
    c->norm_eps = (float)eps;
    return status;
}

static moe_status read_activation(model_config *c, moe_error *err)
{
    static const struct { const char *key, *name; moe_activation act; } known[] = {
        {"relu", "relu", MOE_ACT_RELU},
        {"gelu", "gelu", MOE_ACT_GELU_ERF},
        {"gelu_new", "gelu_new", MOE_ACT_GELU_TANH},
        {"gelu_pytorch_tanh", "gelu_new", MOE_ACT_GELU_TANH},
    };
    const char *v, *expected = "\"relu\", \"gelu\", \"gelu_new\" or \"gelu_pytorch_tanh\"";
    moe_status status = json_string_or(c->root, c->path, "hidden_act", NULL, &v, err);
    if (status)
        return status;
    if (!v)
        return moe_fail(err, MOE_E_FORMAT, "%s: hidden_act is nothing, expected %s", c->path,
                        expected);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(v, known[i].key) == 0) {
            c->activation = known[i].name;
            c->act = known[i].act;
            return MOE_OK;
        }
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: hidden_act is \"%.100s\", expected %s",
                    c->path, v, expected);
}

/* Features of BertConfig that change the answers and are not implemented. */
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

/* ---- labels and task --------------------------------------------------- */

/* "17" to 17; -1 if it is no number below `limit` written plainly. */
static int label_id(const char *text, int limit)
{
    int id = 0;
    size_t n = strlen(text);
    if (n == 0 || n > 6 || (n > 1 && text[0] == '0'))
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        id = id * 10 + (*text - '0');
    }
    return id < limit ? id : -1;
}

/* n entries with n distinct ids in [0, n) are every id once. */
static moe_status read_id2label(model_config *c, const cJSON *map, moe_error *err)
{
    const cJSON *v;
    cJSON_ArrayForEach(v, map) {
        int id = label_id(v->string, c->n_labels);
        if (id < 0 || c->labels[id] || !cJSON_IsString(v))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: id2label has \"%.40s\", expected a text for each of 0 to %d, "
                            "once", c->path, v->string, c->n_labels - 1);
        c->labels[id] = v->valuestring;
    }
    return MOE_OK;
}

/* LABEL_0, LABEL_1, ...: kept in the tree, as every other label is. */
static moe_status name_labels(model_config *c, moe_error *err)
{
    cJSON *names = cJSON_AddArrayToObject(c->root, "moe_default_labels");
    for (int i = 0; i < c->n_labels; i++) {
        char text[32];
        snprintf(text, sizeof text, "LABEL_%d", i);
        cJSON *name = cJSON_CreateString(text);
        if (!name || !cJSON_AddItemToArray(names, name)) {
            cJSON_Delete(name);
            return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
        }
        c->labels[i] = name->valuestring;
    }
    return MOE_OK;
}

static moe_status check_label2id(const model_config *c, moe_error *err)
{
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(c->root, "label2id"), *v;
    cJSON_ArrayForEach(v, map) {
        int id = cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble < c->n_labels
                     ? v->valueint : -1;
        if (!v->string || id < 0 || strcmp(c->labels[id], v->string) != 0)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: label2id gives \"%.60s\" the id %g, which id2label calls "
                            "\"%.60s\"", c->path, v->string ? v->string : "",
                            cJSON_IsNumber(v) ? v->valuedouble : -1,
                            id < 0 ? "(nothing)" : c->labels[id]);
    }
    return MOE_OK;
}

/* Of every token: whether an answer starts or ends there. */
static moe_status label_positions(model_config *c, moe_error *err)
{
    c->n_labels = 2;
    c->labels = calloc(2, sizeof *c->labels);
    if (!c->labels)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
    c->labels[0] = "start";
    c->labels[1] = "end";
    return MOE_OK;
}

static moe_status read_labels(model_config *c, moe_error *err)
{
    if (c->task == MOE_TASK_ANSWER)
        return label_positions(c, err);
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(c->root, "id2label");
    int64_t n = 0;
    bool named = cJSON_IsObject(map);
    if (map && !named && !cJSON_IsNull(map))
        return moe_fail(err, MOE_E_FORMAT, "%s: id2label is not an object", c->path);
    int size = named ? cJSON_GetArraySize(map) : 2;
    moe_status status = json_int_or(c->root, c->path, "num_labels", 1, MAX_LABELS, size,
                                    &n, err);
    if (status)
        return status;
    if (n < 1 || n > MAX_LABELS || (named && n != size))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: id2label has %d labels, expected %" PRId64 " in [1, %d]",
                        c->path, size, n, MAX_LABELS);
    c->n_labels = (int)n;
    c->labels = calloc((size_t)n, sizeof *c->labels);
    if (!c->labels)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
    if (!named)
        return name_labels(c, err);
    status = read_id2label(c, map, err);
    return status ? status : check_label2id(c, err);
}

static moe_status read_task(model_config *c, moe_error *err)
{
    static const struct { const char *name; moe_task task; int min, max; } known[] = {
        {"single_label_classification", MOE_TASK_CLASSIFY, 2, MAX_LABELS},
        {"multi_label_classification", MOE_TASK_MULTI_LABEL, 1, MAX_LABELS},
        {"regression", MOE_TASK_REGRESS, 1, 1},
    };
    const char *v, *missing = known[c->n_labels == 1 ? 2 : 0].name;
    if (c->task == MOE_TASK_ANSWER)
        return MOE_OK;
    moe_status status =
        json_string_or(c->root, c->path, "problem_type", missing, &v, err);
    if (status)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(v, known[i].name) != 0)
            continue;
        if (c->n_labels < known[i].min || c->n_labels > known[i].max)
            return moe_fail(err, MOE_E_UNSUPPORTED,
                            "%s: problem_type is \"%s\" with %d labels, expected %s", c->path,
                            v, c->n_labels, known[i].max == 1 ? "1" : "2 or more");
        c->task = known[i].task;
        return MOE_OK;
    }
    return moe_fail(err, MOE_E_UNSUPPORTED,
                    "%s: problem_type is \"%.100s\", expected single_label_classification, "
                    "multi_label_classification or regression", c->path, v);
}

/* ---- the whole ---------------------------------------------------------- */

static moe_status read_bert(model_config *c, moe_error *err)
{
    moe_status (*const steps[])(model_config *, moe_error *) = {
        read_architecture, read_sizes, read_activation, read_labels, read_task,
    };
    moe_status status = MOE_OK;
    for (size_t i = 0; !status && i < sizeof steps / sizeof *steps; i++)
        status = steps[i](c, err);
    return status ? status : refuse_unsupported(c, err);
}

static moe_status read_root(model_config *c, moe_error *err)
{
    if (!cJSON_IsObject(c->root))
        return moe_fail(err, MOE_E_FORMAT, "%s: not a JSON object", c->path);
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(c->root, "model_type");
    bool t5 = cJSON_IsString(type) && strcmp(type->valuestring, "t5") == 0;
    moe_status status = t5 ? config_read_t5(c, err) : read_bert(c, err);
    const cJSON *moe = cJSON_GetObjectItemCaseSensitive(c->root, "moefication");
    c->moefied = moe != NULL;
    return status || !moe ? status : config_read_moefication(moe, c, err);
}

/* Takes root, whatever happens. */
static moe_status finish(moe_status status, cJSON *root, model_config *out,
                         moe_error *err)
{
    out->root = root;
    if (!status)
        status = read_root(out, err);
    if (status)
        config_free(out);
    return status;
}

moe_status config_parse(const char *path, const char *text, size_t n,
                        model_config *out, moe_error *err)
{
    *out = (model_config){.path = strdup(path)};
    if (!out->path)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
    cJSON *root = NULL;
    moe_status status = json_parse(path, text, n, &root, err);
    return finish(status, root, out, err);
}

moe_status config_read(const char *dir, model_config *out, moe_error *err)
{
    *out = (model_config){0};
    if (asprintf(&out->path, "%s/config.json", dir) < 0) {
        out->path = NULL;
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", dir);
    }
    cJSON *root = NULL;
    moe_status status = json_read_file(out->path, MAX_CONFIG_BYTES, &root, err);
    return finish(status, root, out, err);
}

void config_free(model_config *c)
{
    free(c->moe.has_router);
    free(c->moe.rows);
    free(c->moe.experts);
    free(c->moe.thresholds);
    free(c->moe.mean_experts);
    cJSON_free(c->moe.json);
    free(c->labels);
    for (int i = 0; i < c->n_tasks; i++)
        free((void *)(uintptr_t)c->tasks[i].labels);
    free(c->tasks);
    cJSON_Delete(c->root);
    free(c->path);
    *c = (model_config){0};
}
