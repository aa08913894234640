/* card.c: what a conversion found out, as a table, as JSON, as a model card. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/card.h"
#include "convert/write.h"

void card_print_layers(FILE *to, const converted *c, const convert_options *options)
{
    const bool trained = !strcmp(options->router->name, "mlp");
    const layer_report *any = NULL;
    for (int l = 0; l < c->model.weights.n_layers && !any; l++)
        any = c->layers[l].converted ? &c->layers[l] : NULL;
    const bool cut = any && !isnan(any->split.cut);
    const bool inertia = any && !isnan(any->split.inertia);
    const bool linear = any && !isnan(any->split.linear);
    fprintf(to, "layer  neurons firing  never  %s%s%s%s  at 20%%: router  best possible\n",
            cut ? "  edge cut" : "", inertia ? "  inertia" : "",
            linear ? "  linear at 20%" : "", trained ? "  epoch" : "");
    for (int l = 0; l < c->model.weights.n_layers; l++) {
        const layer_report *r = &c->layers[l];
        if (!r->converted) {
            fprintf(to, "%5d  stays dense\n", l);
            continue;
        }
        fprintf(to, "%5d  %13.1f%%  %5d  ", l, 100 * r->active, r->dead);
        if (cut)
            fprintf(to, "  %7.1f%%", 100 * r->split.cut);
        if (inertia)
            fprintf(to, "  %7.3f", r->split.inertia);
        if (linear)
            fprintf(to, "  %12.1f%%", 100 * r->split.linear);
        if (trained)
            fprintf(to, "  %5d", r->router.best_epoch);
        fprintf(to, "  %14.1f%%  %12.1f%%\n", 100 * r->captured, 100 * r->oracle);
    }
}

void card_add_layers(json *parent, const converted *c, const convert_options *options)
{
    json *layers = json_add(parent, "layers", json_array());
    for (int l = 0; l < c->model.weights.n_layers; l++) {
        const layer_report *r = &c->layers[l];
        json *row = json_add(layers, NULL, json_object());
        json_add_int(row, "layer", l);
        json_add_bool(row, "converted", r->converted);
        if (!r->converted)
            continue;
        json_add_int(row, "experts", c->model.weights.layers[l].ffn.n_experts);
        json_add_number(row, "active", r->active, 6);
        json_add_int(row, "dead_neurons", r->dead);
        if (!isnan(r->split.cut))
            json_add_number(row, "edge_cut", r->split.cut, 6);
        if (!isnan(r->split.inertia))
            json_add_number(row, "inertia", r->split.inertia, 6);
        if (!isnan(r->split.linear))
            json_add_number(row, "linear_at_20", r->split.linear, 6);
        if (!strcmp(options->router->name, "mlp"))
            json_add_int(row, "epoch", r->router.best_epoch);
        json_add_number(row, "mass_at_20", r->captured, 6);
        json_add_number(row, "oracle_mass_at_20", r->oracle, 6);
    }
}

static void print_card(FILE *to, const moe_model *m, const converted *c,
                       const convert_options *options, const char *name,
                       const char *data_name)
{
    fprintf(to,
            "# %s, MoEfied\n\n"
            "%s (%s, %d layers, hidden %d, %d FFN neurons a layer), its FFNs cut into "
            "experts of %d neurons.\nSplit: %s; router: %s; seed %llu. Made by moefy %s "
            "from %d tokens (%d sequences) of %s.\n"
            "Hashes of the source and of the calibration data are in config.json, "
            "`moefication.provenance`.\n\n"
            "With all experts (ratio 1) it computes what the source does, up to fp32 "
            "rounding; below, each token\ncomputes the experts that the router picks.\n\n"
            "    moefy eval DIR --data DATA.tsv --ratio 1,0.5,0.25\n"
            "    moefied --model NAME=DIR\n"
            "    moefy export DIR -o DENSE      # back to a dense checkpoint\n\n"
            "Per layer, on the calibration text: share of neurons that fire for a token, "
            "neurons that never\ndid, and the share of positive activation held by the 20%% "
            "of the experts that the router chooses\n(on held-out sequences), beside that "
            "of the truly best 20%%.\n\n```\n",
            name, name, m->info.architecture, m->info.n_layers, m->info.d_model,
            m->info.d_ff, MOE_EXPERT_SIZE, options->split->name, options->router->name,
            (unsigned long long)options->seed, MOE_VERSION, c->n_tokens, c->n_seqs,
            data_name);
    card_print_layers(to, c, options);
    fprintf(to, "```\n");
}

moe_status card_write(const outdir *o, const moe_model *m, const converted *c,
                      const convert_options *options, const dataset *data,
                      moe_error *err)
{
    char *real = realpath(m->info.dir, NULL);
    char *name = path_base(real ? real : m->info.dir);
    char *data_name = path_base(data->path), *text = NULL;
    size_t n = 0;
    moe_status status = MOE_OK;
    FILE *to = open_memstream(&text, &n);
    if (to && name && data_name)
        print_card(to, m, c, options, name, data_name);
    if (!to || fclose(to) != 0 || !name || !data_name)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to write README.md");
    else
        status = outdir_write(o, "README.md", text, n, err);
    free(real);
    free(name);
    free(data_name);
    free(text);
    return status;
}
