/* config_tasks.c: moefication.tasks, the tasks that a text-to-text model knows. */
#include <stdlib.h>
#include <string.h>

#include "engine/model/config.h"
#include "engine/model/json.h"
#include "engine/task/template.h"

enum { MAX_TASKS = 64, MAX_LABELS = 4096, MAX_TEXT = 4096, MAX_FILE_BYTES = 16 << 20 };

static moe_status read_string(const cJSON *o, const model_config *c, int i, const char *key,
                              const char **out, moe_error *err)
{
    moe_status status = json_string_or(o, c->path, key, "", out, err);
    if (!status && (!**out || strlen(*out) > MAX_TEXT))
        status = moe_fail(err, MOE_E_FORMAT,
                          "%s: moefication.tasks[%d].%s is missing or longer than %d bytes",
                          c->path, i, key, MAX_TEXT);
    return status;
}

static moe_status read_labels(const cJSON *o, const model_config *c, int i, moe_text_task *t,
                              moe_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(o, "labels"), *v;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    bool wanted = t->kind == MOE_TASK_CLASSIFY || t->kind == MOE_TASK_REGRESS;
    if ((list && !cJSON_IsArray(list)) || n > MAX_LABELS || (n < 2) == wanted)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: moefication.tasks[%d].labels has %d words, expected %s", c->path, i,
                        n, wanted ? "2 to 4096" : "none");
    const char **labels = calloc((size_t)n + 1, sizeof *labels);
    t->labels = labels;
    if (!labels)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
    cJSON_ArrayForEach(v, list) {
        if (!cJSON_IsString(v) || !*v->valuestring)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: moefication.tasks[%d].labels[%d] is no word", c->path, i,
                            t->n_labels);
        labels[t->n_labels++] = v->valuestring;
    }
    return MOE_OK;
}

static moe_status read_task(const cJSON *o, model_config *c, int i, moe_error *err)
{
    moe_text_task *t = &c->tasks[i];
    const char *kind = "";
    if (!cJSON_IsObject(o))
        return moe_fail(err, MOE_E_FORMAT, "%s: moefication.tasks[%d] is not an object", c->path,
                        i);
    moe_status status = read_string(o, c, i, "name", &t->name, err);
    if (!status)
        status = read_string(o, c, i, "kind", &kind, err);
    if (!status)
        status = read_string(o, c, i, "template", &t->format, err);
    for (int k = 0; !status && k < i; k++)
        if (strcmp(c->tasks[k].name, t->name) == 0)
            status = moe_fail(err, MOE_E_FORMAT, "%s: moefication.tasks has '%.60s' twice",
                              c->path, t->name);
    if (!status && !template_kind_find(kind, &t->kind))
        status = moe_fail(err, MOE_E_FORMAT,
                          "%s: moefication.tasks[%d].kind is \"%.60s\", expected classification, "
                          "regression, question-answering or text", c->path, i, kind);
    moe_error why;
    if (!status && template_check(t->name, t->format, &why) != MOE_OK)
        status = moe_fail(err, MOE_E_FORMAT, "%s: %s", c->path, why.message);
    return status ? status : read_labels(o, c, i, t, err);
}

moe_status config_read_tasks(const cJSON *object, model_config *c, moe_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "tasks"), *o;
    int n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (!list || cJSON_IsNull(list))
        return MOE_OK;
    if (!cJSON_IsArray(list) || n > MAX_TASKS || c->task != MOE_TASK_TEXT)
        return moe_fail(err, MOE_E_FORMAT, "%s: moefication.tasks is not a list of at most %d "
                        "tasks of a text-to-text model", c->path, MAX_TASKS);
    c->tasks = calloc((size_t)n + 1, sizeof *c->tasks);
    if (!c->tasks)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
    moe_status status = MOE_OK;
    cJSON_ArrayForEach(o, list) {
        status = status ? status : read_task(o, c, c->n_tasks++, err);
    }
    return status;
}

moe_status config_read_tasks_file(const char *path, model_config *out, moe_error *err)
{
    *out = (model_config){.task = MOE_TASK_TEXT, .path = strdup(path)};
    moe_status status = out->path ? json_read_file(path, MAX_FILE_BYTES, &out->root, err)
                                  : moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
    if (!status && !cJSON_GetObjectItemCaseSensitive(out->root, "tasks"))
        status = moe_fail(err, MOE_E_FORMAT, "%s: has no 'tasks', expected {\"tasks\": [...]} as "
                          "in the moefication object", path);
    if (!status)
        status = config_read_tasks(out->root, out, err);
    if (status)
        config_free(out);
    return status;
}
