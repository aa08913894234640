/* config.c: config.json, by its model_type; labels and task, which all families of
 * encoders say alike.
 *
 * A value that would change the answers and is not implemented is refused rather than
 * ignored. */
#include "engine/model/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/json.h"

enum { MAX_CONFIG_BYTES = 16 << 20, MAX_LABELS = 65536 };

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

moe_status config_read_labels(model_config *c, moe_error *err)
{
    moe_status status = read_labels(c, err);
    return status ? status : read_task(c, err);
}

/* ---- the whole ---------------------------------------------------------- */

static moe_status read_root(model_config *c, moe_error *err)
{
    if (!cJSON_IsObject(c->root))
        return moe_fail(err, MOE_E_FORMAT, "%s: not a JSON object", c->path);
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(c->root, "model_type");
    bool t5 = cJSON_IsString(type) && strcmp(type->valuestring, "t5") == 0;
    moe_status status = t5 ? config_read_t5(c, err) : config_read_encoder(c, err);
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
