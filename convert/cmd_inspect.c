/* cmd_inspect.c: moefy inspect - what a model is, how it was MoEfied, and what a
 * ratio means for each of its layers. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "convert/cli.h"
#include "convert/fidelity.h"
#include "convert/json.h"
#include "convert/session.h"
#include "convert/table.h"
#include "engine/model/model.h"

static const char usage[] =
    "moefy inspect MODEL [--json]\n"
    "Shows a model's facts: shape, labels, experts, router, policy, provenance, files,\n"
    "ratio table, and how close it stays to dense, as far as its conversion measured it.";

enum { MAX_FILES = 256, BAR_WIDTH = 48, DIGITS = 9 };

/* ---- files ------------------------------------------------------------------ */

typedef struct { char name[256]; size_t bytes; } file_size;
typedef struct { int n; file_size *file; } file_list;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const file_size *)a)->name, ((const file_size *)b)->name);
}

/* The regular files of a directory by name, at most MAX_FILES of them. */
static moe_status list_files(const char *dir, file_list *out, moe_error *err)
{
    *out = (file_list){.file = malloc(MAX_FILES * sizeof *out->file)};
    DIR *d = opendir(dir);
    if (!d || !out->file) {
        free(out->file);
        if (d)
            closedir(d);
        return moe_fail(err, MOE_E_IO, "%s: could not list its files", dir);
    }
    for (struct dirent *e; (e = readdir(d)) && out->n < MAX_FILES;) {
        struct stat st;
        if (fstatat(dirfd(d), e->d_name, &st, 0) != 0 || !S_ISREG(st.st_mode))
            continue;
        file_size *f = &out->file[out->n++];
        snprintf(f->name, sizeof f->name, "%s", e->d_name);
        f->bytes = (size_t)st.st_size;
    }
    closedir(d);
    qsort(out->file, (size_t)out->n, sizeof *out->file, by_name);
    return MOE_OK;
}

/* ---- JSON ------------------------------------------------------------------- */

static void add_shape(json *j, const moe_model_info *info)
{
    json_add_string(j, "model", info->dir);
    json_add_string(j, "architecture", info->architecture);
    json_add_string(j, "task", task_name(info->task));
    json *labels = json_add(j, "labels", json_array());
    for (int i = 0; i < info->n_labels; i++)
        json_add_string(labels, NULL, info->labels[i]);
    json_add_int(j, "n_layers", info->n_layers);
    json_add_int(j, "d_model", info->d_model);
    json_add_int(j, "n_heads", info->n_heads);
    json_add_int(j, "d_ff", info->d_ff);
    json_add_int(j, "n_vocab", info->n_vocab);
    json_add_int(j, "max_tokens", info->max_tokens);
    json_add_string(j, "activation", info->activation);
    json_add_string(j, "dtype", info->dtype);
    json_add_int(j, "weight_bytes", (int64_t)info->weight_bytes);
    json_add_bool(j, "moefied", info->moefied);
    json_add_int(j, "n_experts", info->n_experts);
    json_add_int(j, "expert_size", info->expert_size);
}

static void add_layers(json *j, const moe_model *m)
{
    json *layers = json_add(j, "layers", json_array());
    for (int l = 0; l < m->weights.n_layers; l++) {
        json *layer = json_add(layers, NULL, json_object());
        json_add_int(layer, "layer", l);
        json_add_int(layer, "n_experts", m->weights.layers[l].ffn.n_experts);
        json_add_bool(layer, "router", m->weights.layers[l].router.present);
    }
}

/* values [n]; NULL: nothing is added. */
static void add_floats(json *j, const char *key, const float *values, int n)
{
    json *list = values ? json_add(j, key, json_array()) : NULL;
    for (int i = 0; values && i < n; i++)
        json_add_number(list, NULL, (double)values[i], DIGITS);
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
        add_floats(row, "thresholds", info->ratio_rows[i].thresholds, info->n_layers);
        add_floats(row, "mean_experts", info->ratio_rows[i].mean_experts, info->n_layers);
    }
}

static moe_status print_json(const moe_model *m, const file_list *files, moe_error *err)
{
    const moe_model_info *info = &m->info;
    json *j = json_object();
    add_shape(j, info);
    add_layers(j, m);
    if (info->moefied) {
        json_add_string(j, "split", info->split);
        json_add_string(j, "router", info->router);
        json_add_string(j, "policy", moe_policy_name(info->policy));
        add_ratio_table(j, info);
        json_add(j, "moefication",
                 json_parse_text(info->moefication_json, strlen(info->moefication_json)));
    }
    json *list = json_add(j, "files", json_array());
    for (int i = 0; i < files->n; i++) {
        json *file = json_add(list, NULL, json_object());
        json_add_string(file, "name", files->file[i].name);
        json_add_int(file, "bytes", (int64_t)files->file[i].bytes);
    }
    return json_answer(j, err);
}

/* ---- for people -------------------------------------------------------------- */

static void print_field(const char *name)
{
    printf("  %s%-12s%s", table_dim(), name, table_plain());
}

static void print_shape(const moe_model_info *info)
{
    char size[32];
    printf("%s%s%s\n", table_bold(), info->dir, table_plain());
    print_field("task");
    printf("%s (%s)\n", task_name(info->task), info->architecture);
    print_field("labels");
    for (int i = 0; i < info->n_labels && i < 12; i++)
        printf("%s%s", i ? ", " : "", info->labels[i]);
    printf(info->n_labels > 12 ? ", ... (%d)\n" : "\n", info->n_labels);
    print_field("shape");
    printf("%d layers, width %d, %d heads, FFN %d (%s)\n", info->n_layers, info->d_model,
           info->n_heads, info->d_ff, info->activation);
    print_field("text");
    printf("up to %d tokens of a vocabulary of %d\n", info->max_tokens, info->n_vocab);
    table_bytes(info->weight_bytes, size, sizeof size);
    print_field("weights");
    printf("%s, %s\n", info->dtype, size);
}

/* The default and what may be asked for besides topk, which always may: "topk, or
 * threshold, sequence where asked for". */
static void print_policies(const moe_model_info *info)
{
    int others = 0;
    print_field("policy");
    printf("%s", moe_policy_name(info->policy));
    for (moe_policy p = MOE_POLICY_THRESHOLD; p <= MOE_POLICY_SEQUENCE; p++)
        if (p != info->policy && !moe_policy_lacks(info, p))
            printf("%s%s", others++ ? ", " : ", or ", moe_policy_name(p));
    printf("%s\n", others ? " where asked for" : "");
}

static void print_files(const file_list *files)
{
    for (int i = 0; i < files->n; i++) {
        char size[32];
        table_bytes(files->file[i].bytes, size, sizeof size);
        print_field(i == 0 ? "files" : "");
        printf("%8s  %s\n", size, files->file[i].name);
    }
}

/* One line about where the model came from; what is not stated is left out. */
static void print_provenance(const moe_model_info *info)
{
    json *j = json_parse_text(info->moefication_json, strlen(info->moefication_json));
    const json *p = json_get(j, "provenance"), *data = json_get(p, "calibration");
    const char *tool = json_get_string(p, "tool"), *name = json_get_string(data, "name");
    const char *source = json_get_string(json_get(p, "source"), "name");
    double seed, rows, tokens;
    print_field("made");
    printf("%s%s", tool ? "by " : "by an unknown tool", tool ? tool : "");
    if (source)
        printf(" from %s", source);
    if (json_get_number(p, "seed", &seed))
        printf(", seed %.0f", seed);
    if (name)
        printf(", calibrated on %s", name);
    if (json_get_number(data, "rows", &rows) && json_get_number(data, "tokens", &tokens))
        printf(" (%.0f rows, %.0f tokens)", rows, tokens);
    printf("\n");
    json_free(j);
}

static void print_ratio_table(const moe_model_info *info)
{
    enum { MAX_COLUMNS = 24 }; /* a wider table wraps and helps nobody */
    int n = info->n_layers < MAX_COLUMNS ? info->n_layers : MAX_COLUMNS;
    printf("\nexperts computed of %d, by layer%s\n\n", info->n_experts,
           n < info->n_layers ? " (the first 24)" : "");
    printf("%s   ratio ", table_dim());
    for (int l = 0; l < n; l++)
        printf("%5d", l);
    printf("    mean%s\n", table_plain());
    for (int i = 0; i < info->n_ratio_rows; i++) {
        double sum = 0;
        printf("  %6g ", info->ratio_rows[i].ratio);
        for (int l = 0; l < info->n_layers; l++) {
            sum += info->ratio_rows[i].experts[l];
            if (l < n)
                printf("%5d", info->ratio_rows[i].experts[l]);
        }
        printf("  %6.2f\n", sum / info->n_layers);
    }
}

/* The row nearest to a quarter, as a picture. */
static void print_picture(const moe_model *m)
{
    const moe_model_info *info = &m->info;
    const moe_ratio_row *row = &info->ratio_rows[0];
    for (int i = 1; i < info->n_ratio_rows; i++)
        if (info->ratio_rows[i].ratio <= 0.25)
            row = &info->ratio_rows[i];
    printf("\nat ratio %g\n\n", row->ratio);
    for (int l = 0; l < info->n_layers; l++) {
        char bar[BAR_WIDTH + 1];
        bool routed = m->weights.layers[l].router.present;
        int k = routed ? row->experts[l] : info->n_experts;
        table_bar((double)k / info->n_experts, BAR_WIDTH, bar, sizeof bar);
        printf("  layer %2d  %s  %4d%s\n", l, bar, k, routed ? "" : "  no router: dense");
    }
}

/* The quality at each ratio, if the conversion wrote it down. */
static void print_fidelity(const moe_model_info *info)
{
    enum { MAX_CURVES = 8 };
    fidelity series[MAX_CURVES];
    moe_error err;
    int n = 0;
    if (fidelity_stored(info, MAX_CURVES, series, &n, &err) == MOE_OK)
        fidelity_print(info, series, n);
    else
        fprintf(stderr, "moefy: note: %s\n", err.message);
    for (int i = 0; i < n; i++)
        free(series[i].at);
}

static void print_human(const moe_model *m, const file_list *files)
{
    const moe_model_info *info = &m->info;
    print_shape(info);
    if (info->moefied) {
        print_field("experts");
        printf("%d of %d neurons in each layer; split by %s, router %s\n", info->n_experts,
               info->expert_size, info->split, info->router);
        print_policies(info);
        print_provenance(info);
    }
    print_files(files);
    if (info->moefied && info->n_ratio_rows > 0) {
        print_ratio_table(info);
        print_picture(m);
        print_fidelity(info);
    }
    if (info->moefied)
        printf("\nnext: moefy run %s --ratio 0.25 \"TEXT\"\n", info->dir);
    else if (cli_refuse_classifier(info, "convert", NULL) != MOE_OK)
        printf("\nruns dense\n");
    else
        printf("\nnot MoEfied: runs dense\nnext: moefy convert %s -o OUT --calibrate FILE\n",
               info->dir);
}

int cmd_inspect(int argc, char **argv)
{
    const char *dir = NULL;
    int n_positional;
    bool as_json = false;
    moe_model *m;
    moe_error err;
    file_list files;
    const cli_option options[] = {
        {"--json", OPT_FLAG, &as_json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 1, &dir, &n_positional);
    if (code >= 0)
        return code;
    if (!dir)
        return cli_usage("inspect: needs the directory of a model");
    if (moe_model_open(dir, &m, &err) != MOE_OK)
        return cli_failed(&err);
    moe_status status = list_files(dir, &files, &err);
    if (status == MOE_OK) {
        if (as_json)
            status = print_json(m, &files, &err);
        else
            print_human(m, &files);
        free(files.file);
    }
    moe_model_close(m);
    return status == MOE_OK ? EXIT_DONE : cli_failed(&err);
}
