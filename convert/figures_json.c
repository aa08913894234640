/* figures_json.c: the figures as JSON, for programs. */
#include <math.h>
#include <string.h>

#include "convert/figures.h"

enum { DIGITS = 6 };

static void add_row(json *list, const figures *f, const evaluation *e)
{
    json *row = json_add(list, NULL, json_object());
    json_add_number(row, "ratio", e->ratio, DIGITS);
    json_add_number(row, "effective_ratio", e->effective_ratio, DIGITS);
    if (f->regress) {
        json_add_number(row, "mean_abs_difference", e->mean_abs_difference, DIGITS);
        json_add_number(row, "pearson", e->pearson, DIGITS);
        json_add_number(row, "spearman", e->spearman, DIGITS);
    } else {
        json_add_number(row, "agreement", e->agreement, DIGITS);
        json_add_number(row, "kl", e->kl, DIGITS);
        json_add_number(row, "accuracy", e->accuracy, DIGITS);
    }
    json_add_number(row, "mass", e->mass, DIGITS);
}

static void add_fidelity(json *j, const figures *f)
{
    json *list = json_add(j, "fidelity", json_array());
    for (int i = 0; i < f->n_series; i++) {
        json *series = json_add(list, NULL, json_object());
        json_add_string(series, "name", f->series[i].name);
        json_add_bool(series, "stored", f->series[i].stored);
        json *rows = json_add(series, "rows", json_array());
        for (int k = 0; k < f->series[i].n; k++)
            add_row(rows, f, &f->series[i].at[k]);
    }
}

static void add_group(json *layer, const char *key, const similarity *s)
{
    json *group = json_add(layer, key, json_object());
    json_add_int(group, "experts", s->n_experts);
    json_add_number(group, "self", s->self, DIGITS);
    json_add_number(group, "inter", s->inter, DIGITS);
}

static void add_experts(json *layer, const layer_figures *l)
{
    json_add_int(layer, "experts_selected", l->k_selected);
    json *list = json_add(layer, "selection_frequency", json_array());
    for (int e = 0; e < l->n_experts; e++)
        json_add_number(list, NULL, l->selected[e], DIGITS);
    add_group(layer, "most_selected", &l->most);
    add_group(layer, "least_selected", &l->least);
    json_add_number(layer, "edge_cut", l->cut, DIGITS);
    json_add_number(layer, "edge_cut_random_split", l->cut_random, DIGITS);
    json_add_int(layer, "experts_judged", l->k_judged);
    json_add_number(layer, "router_accuracy", l->picked, DIGITS);
    json_add_number(layer, "mass_router", l->mass_router, DIGITS);
    json_add_number(layer, "mass_oracle", l->mass_oracle, DIGITS);
}

static void add_layers(json *j, const figures *f)
{
    json *list = json_add(j, "layers", json_array());
    for (int i = 0; i < f->n_layers; i++) {
        const layer_figures *l = &f->layers[i];
        json *layer = json_add(list, NULL, json_object());
        json_add_int(layer, "layer", l->index);
        json_add_bool(layer, "routed", l->routed);
        json_add_number(layer, "active", l->active, DIGITS);
        json_add_int(layer, "dead_neurons", l->dead);
        json *cdf = json_add(layer, "active_cdf", json_array());
        for (int k = 0; k < CDF_POINTS; k++)
            json_add_number(cdf, NULL, layer_firing_cdf(l, figures_cdf_share(f, k)), DIGITS);
        if (l->routed)
            add_experts(layer, l);
    }
}

static void add_ratio_table(json *j, const moe_model_info *info)
{
    json *table = json_add(j, "ratio_table", json_array());
    for (int i = 0; i < info->n_ratio_rows; i++) {
        json *row = json_add(table, NULL, json_object());
        json_add_number(row, "ratio", info->ratio_rows[i].ratio, DIGITS);
        json *experts = json_add(row, "experts", json_array());
        for (int l = 0; l < info->n_layers; l++)
            json_add_int(experts, NULL, info->ratio_rows[i].experts[l]);
    }
}

/* The object of config.json; the ratio table and the curve are elsewhere. */
static void add_moefication(json *j, const moe_model_info *info)
{
    json *object = json_parse_text(info->moefication_json, strlen(info->moefication_json));
    if (object) {
        json_remove(object, "ratio_table");
        json_remove(object, "fidelity");
    }
    json_add(j, "moefication", object);
}

json *figures_json(const figures *f)
{
    json *j = json_object();
    json_add_string(j, "model", f->info->dir);
    json_add_string(j, "task", task_name(f->info->task));
    json_add_string(j, "data", f->data_name);
    json_add_string(j, "data_sha256", f->data_sha256);
    json_add_bool(j, "labelled", f->labelled);
    json_add_int(j, "rows_read", f->n_rows_read);
    json_add_int(j, "rows", f->n_rows);
    json_add_int(j, "tokens", f->n_tokens);
    json_add_int(j, "layer_rows", f->n_layer_rows);
    json_add_int(j, "layer_tokens", f->n_layer_tokens);
    add_fidelity(j, f);
    json_add_number(j, "selection_ratio", f->selected_ratio, DIGITS);
    json *shares = json_add(j, "active_cdf_shares", json_array());
    for (int i = 0; i < CDF_POINTS; i++)
        json_add_number(shares, NULL, figures_cdf_share(f, i), DIGITS);
    add_layers(j, f);
    add_ratio_table(j, f->info);
    add_moefication(j, f->info);
    return j;
}
