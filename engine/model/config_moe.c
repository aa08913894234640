/* config_moe.c: the moefication object of config.json, format version 1.
 *
 * What the engine takes on trust later is checked here: the router's form, the
 * layers that have one, and the ratio table, whose counts must be in range and
 * never fall as the ratio grows, nor its thresholds rise. docs/model-format.md
 * describes every key. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/config.h"
#include "engine/model/json.h"
#include "engine/model/lower.h"

enum { FORMAT_VERSION = 1, MAX_ROWS = 1000, MAX_WIDTH = 65536, MAX_NAME = 64 };

static const char prefix[] = "moefication";

/* A number that this build knows one value of. */
static moe_status expect_int(const cJSON *o, const char *path, const char *key,
                             int expected, moe_error *err)
{
    int64_t v = 0;
    moe_status status = json_int(o, path, key, 0, 1 << 30, &v, err);
    if (!status && v != expected)
        status = moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s.%s is %lld, expected %d", path,
                          prefix, key, (long long)v, expected);
    return status;
}

static moe_status read_name(const cJSON *o, const char *path, const char *key,
                            const char **out, moe_error *err)
{
    moe_status status = json_string_or(o, path, key, "", out, err);
    if (status)
        return status;
    size_t n = strlen(*out);
    if (n == 0 || n > MAX_NAME ||
        strspn(*out, "abcdefghijklmnopqrstuvwxyz0123456789_-") != n)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s: %s is \"%.80s\", expected 1 to %d of a-z, 0-9, _ and -",
                        path, prefix, key, *out, MAX_NAME);
    return MOE_OK;
}

static moe_status read_router(const cJSON *object, model_config *c, moe_error *err)
{
    const cJSON *o = cJSON_GetObjectItemCaseSensitive(object, "router");
    int64_t linears = 0, width = 0;
    if (!cJSON_IsObject(o))
        return moe_fail(err, MOE_E_FORMAT, "%s: %s.router is missing, expected an object",
                        c->path, prefix);
    moe_status status = read_name(o, c->path, "kind", &c->moe.router_kind, err);
    if (!status)
        status = json_bool_or(o, c->path, "normalize", false, &c->moe.normalize, err);
    if (!status)
        status = json_int(o, c->path, "linears", 1, 2, &linears, err);
    if (!status && linears == 2)
        status = json_int(o, c->path, "width", 1, MAX_WIDTH, &width, err);
    c->moe.n_linears = (int)linears;
    c->moe.width = (int)width;
    return status;
}

/* Ascending ids of the layers that have a router. */
static moe_status read_layers(const cJSON *object, model_config *c, moe_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "layers"), *v;
    c->moe.has_router = calloc((size_t)c->n_layers, sizeof *c->moe.has_router);
    if (!c->moe.has_router)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
    if (!cJSON_IsArray(list))
        return moe_fail(err, MOE_E_FORMAT, "%s: %s.layers is missing, expected an array",
                        c->path, prefix);
    double last = -1;
    cJSON_ArrayForEach(v, list) {
        double id = cJSON_IsNumber(v) ? v->valuedouble : -1;
        if (!(id > last) || id >= c->n_layers || id != floor(id))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: %s.layers has %g after %g, expected ascending layers in "
                            "[0, %d)", c->path, prefix, id, last, c->n_layers);
        c->moe.has_router[(int)id] = true;
        last = id;
    }
    return MOE_OK;
}

/* ---- the ratio table ---------------------------------------------------- */

/* The ratio of row i, above the one before it. */
static moe_status read_ratio(const cJSON *row, const model_config *c, const char *table,
                             int i, double before, double *out, moe_error *err)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(row, "ratio");
    double ratio = cJSON_IsNumber(v) ? v->valuedouble : -1;
    if (!(ratio > before && ratio <= 1))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.%s[%d].ratio is %g, expected a number in (%g, 1]", c->path,
                        prefix, table, i, ratio, before);
    *out = ratio;
    return MOE_OK;
}

/* Counts of row i, no smaller than the row before; ratio 1 and layers without a
 * router have all experts. */
static moe_status read_counts(const cJSON *row, const model_config *c, int i,
                              double ratio, moe_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(row, "experts");
    const cJSON *v = cJSON_IsArray(list) ? list->child : NULL;
    int size = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (size != c->n_layers)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.ratio_table[%d].experts has %d counts, expected one for each "
                        "of %d layers", c->path, prefix, i, size, c->n_layers);
    int *counts = c->moe.experts + (size_t)i * (size_t)c->n_layers; /* [i, :] */
    for (int l = 0; l < c->n_layers; l++, v = v->next) {
        bool all = ratio == 1 || !c->moe.has_router[l];
        int min = all ? c->n_experts : i > 0 ? counts[l - c->n_layers] : 1;
        double count = cJSON_IsNumber(v) ? v->valuedouble : -1;
        if (!(count >= min && count <= c->n_experts) || count != floor(count))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: %s.ratio_table[%d].experts[%d] is %g, expected a whole number "
                            "in [%d, %d]", c->path, prefix, i, l, count, min, c->n_experts);
        counts[l] = (int)count;
    }
    return MOE_OK;
}

/* Lists of numbers that all rows have or none: thresholds, mean_experts. */
typedef struct {
    const char *key;
    /* Checks what stands at [i, l]; the cell of the row before is n_layers back. */
    moe_status (*check)(const model_config *c, int i, int l, const float *cell,
                        moe_error *err);
} column;

static moe_status check_threshold(const model_config *c, int i, int l, const float *cell,
                                  moe_error *err)
{
    if (i == 0 || !c->moe.has_router[l] || *cell <= cell[-c->n_layers])
        return MOE_OK;
    return moe_fail(err, MOE_E_FORMAT,
                    "%s: %s.ratio_table[%d].thresholds[%d] is %g, expected at most %g as in "
                    "the row before", c->path, prefix, i, l, (double)*cell,
                    (double)cell[-c->n_layers]);
}

static moe_status check_mean(const model_config *c, int i, int l, const float *cell,
                             moe_error *err)
{
    bool all = c->moe.rows[i].ratio == 1 || !c->moe.has_router[l];
    float min = all ? (float)c->n_experts : i > 0 ? cell[-c->n_layers] : 0;
    if (*cell >= min && *cell <= (float)c->n_experts)
        return MOE_OK;
    return moe_fail(err, MOE_E_FORMAT,
                    "%s: %s.ratio_table[%d].mean_experts[%d] is %g, expected a number in "
                    "[%g, %d]", c->path, prefix, i, l, (double)*cell, (double)min,
                    c->n_experts);
}

static const column thresholds = {"thresholds", check_threshold};
static const column mean_experts = {"mean_experts", check_mean};

/* A row's list, NULL: it has none. */
static const cJSON *list_of(const cJSON *row, const column *k)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(row, k->key);
    return cJSON_IsNull(list) ? NULL : list;
}

static moe_status read_cell(const cJSON *v, const model_config *c, const column *k, int i,
                            int l, float *cell, moe_error *err)
{
    if (!cJSON_IsNumber(v) || !(fabs(v->valuedouble) <= FLT_MAX))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.ratio_table[%d].%s[%d] is not a finite number", c->path,
                        prefix, i, k->key, l);
    *cell = (float)v->valuedouble;
    return k->check(c, i, l, cell, err);
}

/* The column in row i. cells [n_rows, n_layers]; NULL: the first row has none. */
static moe_status read_column(const cJSON *row, const model_config *c, const column *k,
                              int i, float *cells, moe_error *err)
{
    const cJSON *list = list_of(row, k);
    const cJSON *v = cJSON_IsArray(list) ? list->child : NULL;
    int size = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0;
    if (!list != !cells)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.ratio_table[%d] has %s%s, expected all rows or none to have "
                        "them", c->path, prefix, i, list ? "" : "no ", k->key);
    if (list && size != c->n_layers)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.ratio_table[%d].%s has %d numbers, expected one for each of "
                        "%d layers", c->path, prefix, i, k->key, size, c->n_layers);
    moe_status status = MOE_OK;
    for (int l = 0; !status && v; l++, v = v->next)
        status = read_cell(v, c, k, i, l, cells + (size_t)i * (size_t)c->n_layers + l, err);
    return status;
}

static moe_status read_rows(const cJSON *table, model_config *c, moe_error *err)
{
    const cJSON *row;
    double before = 0;
    int i = 0;
    cJSON_ArrayForEach(row, table) {
        moe_status status = read_ratio(row, c, "ratio_table", i, before, &before, err);
        if (!status)
            status = read_counts(row, c, i, before, err);
        size_t at = (size_t)i * (size_t)c->n_layers;
        c->moe.rows[i] = (moe_ratio_row){
            .ratio = before, .experts = c->moe.experts + at,
            .thresholds = c->moe.thresholds ? c->moe.thresholds + at : NULL,
            .mean_experts = c->moe.mean_experts ? c->moe.mean_experts + at : NULL};
        if (!status)
            status = read_column(row, c, &thresholds, i, c->moe.thresholds, err);
        if (!status)
            status = read_column(row, c, &mean_experts, i, c->moe.mean_experts, err);
        if (status)
            return status;
        i++;
    }
    if (before != 1)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.ratio_table ends at ratio %g, expected 1", c->path, prefix,
                        before);
    c->moe.n_rows = i;
    return MOE_OK;
}

/* Room for the column where the first row has it; false: out of memory. */
static bool make_column(const cJSON *table, const column *k, size_t cells, float **out)
{
    if (!list_of(table->child, k))
        return true;
    *out = calloc(cells, sizeof **out);
    return *out != NULL;
}

static moe_status read_table(const cJSON *object, model_config *c, moe_error *err)
{
    const cJSON *table = cJSON_GetObjectItemCaseSensitive(object, "ratio_table");
    int n = cJSON_IsArray(table) ? cJSON_GetArraySize(table) : 0;
    if (n < 1 || n > MAX_ROWS)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.ratio_table has %d rows, expected 1 to %d", c->path, prefix,
                        n, MAX_ROWS);
    c->moe.rows = calloc((size_t)n, sizeof *c->moe.rows);
    size_t cells = (size_t)n * (size_t)c->n_layers;
    c->moe.experts = calloc(cells, sizeof *c->moe.experts);
    if (!c->moe.rows || !c->moe.experts ||
        !make_column(table, &thresholds, cells, &c->moe.thresholds) ||
        !make_column(table, &mean_experts, cells, &c->moe.mean_experts))
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory for %d ratio rows", c->path, n);
    return read_rows(table, c, err);
}

/* The policy that holds where a request names none. */
static moe_status read_policy(const cJSON *object, model_config *c, moe_error *err)
{
    const char *name;
    moe_status status = json_string_or(object, c->path, "policy", "topk", &name, err);
    if (status)
        return status;
    if (!moe_policy_find(name, &c->moe.policy))
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: %s.policy is \"%.60s\", expected \"topk\", \"threshold\" "
                        "or \"sequence\"", c->path, prefix, name);
    const char *lacks = moe_policy_lacks(&(moe_model_info){
        .has_thresholds = c->moe.thresholds, .has_mean_experts = c->moe.mean_experts},
        c->moe.policy);
    if (lacks)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.policy is \"%s\", but ratio_table has no %s", c->path, prefix,
                        name, lacks);
    return MOE_OK;
}

/* ---- what is shown, not used --------------------------------------------- */

/* A row of fidelity: its policy, which *policy follows, its ratio, above *before
 * where the policy is that of the row before, and finite numbers. */
static moe_status check_fidelity_row(const cJSON *row, const model_config *c, int i,
                                     moe_policy *policy, double *before, moe_error *err)
{
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(row, "policy"), *v;
    moe_policy found = MOE_POLICY_MODEL;
    if (name && (!cJSON_IsString(name) || !moe_policy_find(name->valuestring, &found)))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %s.fidelity[%d].policy is none of \"topk\", \"threshold\" and "
                        "\"sequence\"", c->path, prefix, i);
    if (found != *policy)
        *before = 0;
    *policy = found;
    moe_status status = read_ratio(row, c, "fidelity", i, *before, before, err);
    if (status)
        return status;
    cJSON_ArrayForEach(v, row)
        if (v != name && (!cJSON_IsNumber(v) || !isfinite(v->valuedouble)))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: %s.fidelity[%d].%.60s is not a finite number", c->path,
                            prefix, i, v->string);
    return MOE_OK;
}

static moe_status check_fidelity(const cJSON *object, const model_config *c,
                                 moe_error *err)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(object, "fidelity"), *row;
    if (list && !cJSON_IsArray(list))
        return moe_fail(err, MOE_E_FORMAT, "%s: %s.fidelity is not an array", c->path,
                        prefix);
    moe_policy policy = MOE_POLICY_MODEL;
    double before = 0;
    int i = 0;
    cJSON_ArrayForEach(row, list) {
        moe_status status = check_fidelity_row(row, c, i++, &policy, &before, err);
        if (status)
            return status;
    }
    const cJSON *provenance = cJSON_GetObjectItemCaseSensitive(object, "provenance");
    if (provenance && !cJSON_IsObject(provenance))
        return moe_fail(err, MOE_E_FORMAT, "%s: %s.provenance is not an object", c->path,
                        prefix);
    return MOE_OK;
}

static moe_status read_dtype(const cJSON *object, model_config *c, moe_error *err)
{
    const char *dtype;
    moe_status status = json_string_or(object, c->path, "dtype", "nothing", &dtype, err);
    if (!status && !lower_find(dtype, &c->moe.dtype))
        status = moe_fail(err, MOE_E_UNSUPPORTED,
                          "%s: %s.dtype is \"%.60s\", expected \"f32\", \"bf16\" or \"int8\"",
                          c->path, prefix, dtype);
    return status;
}

moe_status config_read_moefication(const cJSON *object, model_config *c, moe_error *err)
{
    if (!cJSON_IsObject(object))
        return moe_fail(err, MOE_E_FORMAT, "%s: %s is not an object", c->path, prefix);
    moe_status status = expect_int(object, c->path, "format_version", FORMAT_VERSION, err);
    if (!status)
        status = expect_int(object, c->path, "expert_size", MOE_EXPERT_SIZE, err);
    if (!status)
        status = expect_int(object, c->path, "n_experts", c->n_experts, err);
    if (!status)
        status = read_dtype(object, c, err);
    if (!status)
        status = read_name(object, c->path, "split", &c->moe.split, err);
    if (!status)
        status = read_router(object, c, err);
    if (!status)
        status = read_layers(object, c, err);
    if (!status)
        status = read_table(object, c, err);
    if (!status)
        status = read_policy(object, c, err);
    if (!status)
        status = json_bool_or(object, c->path, "shift", false, &c->moe.shift, err);
    if (!status)
        status = check_fidelity(object, c, err);
    if (!status)
        status = config_read_tasks(object, c, err);
    if (status)
        return status;
    c->moe.json = cJSON_PrintUnformatted(object);
    if (!c->moe.json)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", c->path);
    return MOE_OK;
}
