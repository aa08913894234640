/* write.c: config.json with its moefication object, and the copies of what stays
 * the source's. The weights are engine/model/moefied.c's work, the card card.c's. */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/card.h"
#include "convert/write.h"
#include "engine/model/lower.h"
#include "engine/model/moefied.h"
#include "engine/model/sha256.h"
#include "engine/model/tokenizer_files.h"
#include "engine/task/template.h"

enum { MAX_CONFIG_BYTES = 16 << 20 };

char *path_base(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/')
        start--;
    return strndup(path + start, end - start);
}

/* The name a directory goes by, also where it was given as ".". */
static char *directory_name(const char *dir)
{
    char *real = realpath(dir, NULL);
    char *name = path_base(real ? real : dir);
    free(real);
    return name;
}

/* ---- the moefication object ---------------------------------------------- */

static void add_router(json *parent, const converted *c, const convert_options *o)
{
    json *router = json_add(parent, "router", json_object());
    json_add_string(router, "kind", o->router->name);
    for (int l = 0; l < c->model.weights.n_layers; l++) {
        const moe_router *r = &c->model.weights.layers[l].router;
        if (!c->layers[l].converted)
            continue;
        json_add_bool(router, "normalize", r->normalize);
        json_add_int(router, "linears", r->n_linears);
        if (r->n_linears == 2)
            json_add_int(router, "width", r->first.n);
        return; /* all layers have the same shape */
    }
}

static void add_floats(json *row, const char *key, const float *values, int n)
{
    json *list = json_add(row, key, json_array());
    for (int l = 0; l < n; l++)
        json_add_number(list, NULL, (double)values[l], 9);
}

static void add_ratio_table(json *parent, const converted *c)
{
    const int n_layers = c->model.weights.n_layers;
    json *table = json_add(parent, "ratio_table", json_array());
    for (int i = 0; i < c->model.info.n_ratio_rows; i++) {
        const moe_ratio_row *r = &c->model.info.ratio_rows[i];
        json *row = json_add(table, NULL, json_object());
        json_add_number(row, "ratio", r->ratio, 6);
        json *experts = json_add(row, "experts", json_array());
        for (int l = 0; l < n_layers; l++)
            json_add_int(experts, NULL, r->experts[l]);
        if (r->mean_experts)
            add_floats(row, "mean_experts", r->mean_experts, n_layers);
        if (r->thresholds)
            add_floats(row, "thresholds", r->thresholds, n_layers);
    }
}

static void add_if_known(json *row, const char *key, double value)
{
    if (!isnan(value))
        json_add_number(row, key, value, 6);
}

static void add_fidelity(json *parent, const converted *c)
{
    json *list = json_add(parent, "fidelity", json_array());
    for (int i = 0; i < c->fidelity.n_rows; i++) {
        const curve_row *r = &c->fidelity.rows[i];
        json *row = json_add(list, NULL, json_object());
        json_add_string(row, "policy", moe_policy_name(r->policy));
        json_add_number(row, "ratio", r->ratio, 6);
        json_add_number(row, "effective_ratio", r->effective_ratio, 6);
        add_if_known(row, "agreement", r->agreement);
        add_if_known(row, "kl", r->kl);
        add_if_known(row, "accuracy", r->accuracy);
        add_if_known(row, "mean_abs_difference", r->mean_abs_difference);
    }
}

static moe_status add_file_hash(json *parent, const char *key, const char *dir,
                                const char *name, moe_error *err)
{
    char *path, hex[65];
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to hash it", name);
    moe_status status = file_sha256(path, hex, err);
    if (status == MOE_OK)
        json_add_string(parent, key, hex);
    free(path);
    return status;
}

static int is_shard(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && !strcmp(dot, ".safetensors");
}

/* weights_sha256: of model.safetensors, or an object with each shard's. */
static moe_status add_weight_hashes(json *source, const char *dir, moe_error *err)
{
    char *single;
    if (asprintf(&single, "%s/model.safetensors", dir) < 0)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to hash it", dir);
    const bool sharded = access(single, F_OK) != 0;
    free(single);
    if (!sharded)
        return add_file_hash(source, "weights_sha256", dir, "model.safetensors", err);
    struct dirent **entries;
    const int n = scandir(dir, &entries, is_shard, alphasort);
    if (n < 0)
        return moe_fail(err, MOE_E_IO, "%s: cannot be listed: %s", dir, strerror(errno));
    json *shards = json_add(source, "weights_sha256", json_object());
    moe_status status = MOE_OK;
    for (int i = 0; i < n; i++) {
        if (status == MOE_OK)
            status = add_file_hash(shards, entries[i]->d_name, dir, entries[i]->d_name,
                                   err);
        free(entries[i]);
    }
    free(entries);
    return status;
}

void write_add_calibration(json *parent, const dataset *data, int rows, int sequences,
                           int tokens)
{
    char *name = path_base(data->path);
    json *text = json_add(parent, "calibration", json_object());
    json_add_string(text, "name", name ? name : "");
    json_add_string(text, "sha256", data->sha256);
    json_add_int(text, "rows", rows);
    json_add_int(text, "sequences", sequences);
    json_add_int(text, "tokens", tokens);
    free(name);
}

moe_status write_add_source(json *parent, const moe_model *m, moe_error *err)
{
    char *name = directory_name(m->info.dir);
    json *source = json_add(parent, "source", json_object());
    json_add_string(source, "name", name ? name : "");
    free(name);
    moe_status status =
        add_file_hash(source, "config_sha256", m->info.dir, "config.json", err);
    if (status == MOE_OK)
        status = add_weight_hashes(source, m->info.dir, err);
    return status;
}

static moe_status add_provenance(json *parent, const moe_model *m, const converted *c,
                                 const convert_options *o, const dataset *data,
                                 moe_error *err)
{
    json *provenance = json_add(parent, "provenance", json_object());
    json_add_string(provenance, "tool", "moefy " MOE_VERSION);
    json_add_int(provenance, "seed", (int64_t)o->seed);
    json_add_int(provenance, "max_tokens", o->max_tokens);
    json_add_string(provenance, "budget",
                    o->budget == BUDGET_UNIFORM ? "uniform" : "measured");
    if (o->router->by_norm) {
        json_add_string(provenance, "target", o->sensitivity ? "answer" : "output");
        json_add_string(provenance, "states", o->refit ? "sparse" : "dense");
    }
    json_add_string(provenance, "shift", o->shift ? "measured" : "none");
    json_add_int(provenance, "held_out_sequences", c->fidelity.n_seqs);
    write_add_calibration(provenance, data, c->n_rows, c->n_seqs, c->n_tokens);
    return write_add_source(provenance, m, err);
}

/* What a text-to-text model is asked, if it states that. */
static void add_tasks(json *parent, const moe_model *m)
{
    json *list = m->info.n_tasks ? json_add(parent, "tasks", json_array()) : NULL;
    for (int i = 0; i < m->info.n_tasks; i++) {
        const moe_text_task *t = &m->info.tasks[i];
        json *task = json_add(list, NULL, json_object());
        json_add_string(task, "name", t->name);
        json_add_string(task, "kind", template_kind_name(t->kind));
        json_add_string(task, "template", t->format);
        json *labels = t->n_labels ? json_add(task, "labels", json_array()) : NULL;
        for (int k = 0; k < t->n_labels; k++)
            json_add_string(labels, NULL, t->labels[k]);
    }
}

/* All that the result depends on, as JSON. */
moe_status write_conversion_key(const moe_model *m, const convert_options *o,
                                const dataset *data, char key[65], moe_error *err)
{
    json *all = json_object();
    const converted nothing = {.n_tokens = 0};
    json_add_string(all, "split", o->split->name);
    json_add_string(all, "router", o->router->name);
    json_add_string(all, "task", o->task ? o->task : "");
    add_tasks(all, m);
    json *layers = json_add(all, "layers", json_array());
    for (int l = 0; l < m->info.n_layers; l++)
        json_add_bool(layers, NULL, o->wanted[l]);
    moe_status status = add_provenance(all, m, &nothing, o, data, err);
    char *text = status == MOE_OK ? json_print(all, false) : NULL;
    if (text)
        bytes_sha256(text, strlen(text), key);
    else if (status == MOE_OK)
        status = moe_fail(err, MOE_E_MEMORY, "no memory for the key of a conversion");
    free(text);
    json_free(all);
    return status;
}

static moe_status add_moefication(json *config, const moe_model *m, const converted *c,
                                  const convert_options *o, const dataset *data,
                                  moe_error *err)
{
    json *moe = json_add(config, "moefication", json_object());
    json_add_int(moe, "format_version", 1);
    json_add_int(moe, "expert_size", MOE_EXPERT_SIZE);
    json_add_int(moe, "n_experts", m->info.n_experts);
    json_add_string(moe, "dtype", lower_name(o->dtype));
    json_add_string(moe, "split", o->split->name);
    add_router(moe, c, o);
    json *layers = json_add(moe, "layers", json_array());
    for (int l = 0; l < c->model.weights.n_layers; l++)
        if (c->layers[l].converted)
            json_add_int(layers, NULL, l);
    json_add_string(moe, "policy", moe_policy_name(c->model.info.policy));
    json_add_bool(moe, "shift", c->shifted);
    add_ratio_table(moe, c);
    add_tasks(moe, m);
    add_fidelity(moe, c);
    return add_provenance(moe, m, c, o, data, err);
}

/* ---- files --------------------------------------------------------------- */

/* The source's config.json as a tree. */
moe_status write_read_config(const char *dir, json **config, moe_error *err)
{
    char *path, *bytes;
    size_t n;
    *config = NULL;
    if (asprintf(&path, "%s/config.json", dir) < 0)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to read its config", dir);
    moe_status status = outdir_read_file(path, MAX_CONFIG_BYTES, &bytes, &n, err);
    if (status == MOE_OK && !(*config = json_parse_text(bytes, n)))
        status = moe_fail(err, MOE_E_FORMAT, "%s: not JSON", path);
    free(bytes);
    free(path);
    return status;
}

moe_status write_config(const outdir *o, const json *config, moe_error *err)
{
    char *text = json_print(config, true), *line;
    if (!text || asprintf(&line, "%s\n", text) < 0) {
        free(text);
        return moe_fail(err, MOE_E_MEMORY, "no memory to write config.json");
    }
    moe_status status = outdir_write(o, "config.json", line, strlen(line), err);
    free(line);
    free(text);
    return status;
}

moe_status write_tokenizer(const outdir *o, const char *from, moe_error *err)
{
    moe_status status = MOE_OK;
    for (const char *const *name = tokenizer_file_names; *name && status == MOE_OK; name++)
        status = outdir_copy(o, from, *name, err);
    return status;
}

static moe_status write_weights(const outdir *o, const moe_weights *w, moe_error *err)
{
    char *path = outdir_file(o, "model.safetensors");
    moe_status status = path ? moefied_write_tensors(path, w, err)
                             : moe_fail(err, MOE_E_MEMORY, "no memory to write weights");
    free(path);
    return status;
}

moe_status write_model(const outdir *o, const moe_model *m, const converted *c,
                       const convert_options *options, const dataset *data,
                       moe_error *err)
{
    json *config;
    moe_status status = write_read_config(m->info.dir, &config, err);
    if (status == MOE_OK)
        status = add_moefication(config, m, c, options, data, err);
    if (status == MOE_OK)
        status = write_config(o, config, err);
    if (status == MOE_OK)
        status = write_weights(o, &c->model.weights, err);
    if (status == MOE_OK)
        status = write_tokenizer(o, m->info.dir, err);
    if (status == MOE_OK)
        status = card_write(o, m, c, options, data, err);
    json_free(config);
    return status;
}
