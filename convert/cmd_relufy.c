/* cmd_relufy.c: moefy relufy - options, checks, the checkpoint's config, and the
 * report at the end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/calibration.h"
#include "convert/cli.h"
#include "convert/dense.h"
#include "convert/interrupt.h"
#include "convert/json.h"
#include "convert/relufy.h"
#include "convert/write.h"

static const char usage[] =
    "moefy relufy SRC -o OUT --calibrate FILE [options]\n"
    "Trains the FFNs of the GELU checkpoint SRC to do the same with ReLU, on the text\n"
    "of FILE (TSV with a header, or JSONL; labels are not needed), and writes a dense\n"
    "Hugging Face checkpoint in fp32. OUT must not exist, or be empty.";

enum { MAX_CALIBRATION_TOKENS = 1 << 24, MAX_EPOCHS = 1000, FEW_TOKENS = 16384 };
static const uint64_t max_seed = 1ULL << 53; /* exact in JSON */

typedef struct {
    const char *out, *calibrate, *penalty;
    int epochs, threads, max_tokens;
    uint64_t seed;
    bool json;
    const char *source;
    int n_positional;
} arguments;

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.penalty = "0.03", .epochs = 5, .max_tokens = 65536, .seed = 1};
    const cli_option options[] = {
        {"-o", OPT_STRING, &a->out, 0, 0, "OUT", "directory to write"},
        {"--calibrate", OPT_STRING, &a->calibrate, 0, 0, "FILE", "text to train on"},
        {"--epochs", OPT_INT, &a->epochs, 1, MAX_EPOCHS, "N",
         "times that each layer sees the text (default 5)"},
        {"--density-penalty", OPT_STRING, &a->penalty, 0, 0, "P",
         "weight of firing neurons beside the error (default 0.03)"},
        {"--seed", OPT_UINT64, &a->seed, 0, 0, "N",
         "the same seed gives the same model (default 1)"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--max-tokens", OPT_INT, &a->max_tokens, 1, MAX_CALIBRATION_TOKENS, "N",
         "calibration tokens to use, spread over FILE (default 65536)"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    return cli_parse(usage, options, argc, argv, 1, &a->source, &a->n_positional);
}

/* What can be checked before any file is opened. -1: go on. */
static int check(const arguments *a, relufy_options *o)
{
    char *end;
    if (a->n_positional < 1)
        return cli_usage("relufy needs the checkpoint to change: moefy relufy SRC -o OUT "
                         "--calibrate FILE");
    if (!a->out)
        return cli_usage("relufy needs -o OUT, the directory to write");
    if (!a->calibrate)
        return cli_usage("relufy needs --calibrate FILE, text to learn from");
    if (a->seed > max_seed)
        return cli_usage("--seed is %llu, expected at most %llu",
                         (unsigned long long)a->seed, (unsigned long long)max_seed);
    const double penalty = strtod(a->penalty, &end);
    if (end == a->penalty || *end || !(penalty >= 0 && penalty <= 1000))
        return cli_usage("--density-penalty is '%s', expected a number from 0 to 1000",
                         a->penalty);
    *o = (relufy_options){.epochs = a->epochs, .penalty = penalty, .seed = a->seed,
                          .max_tokens = a->max_tokens, .n_threads = a->threads};
    return -1;
}

static moe_status check_model(const char *source, const moe_model *m, moe_error *err)
{
    if (m->info.moefied)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: is MoEfied already; relufy takes the "
                        "checkpoint that it was made from", source);
    if (!strcmp(m->info.activation, "relu"))
        return moe_fail(err, MOE_E_ARGUMENT, "%s: its FFNs are ReLU already; moefy convert "
                        "takes it as it is", source);
    return MOE_OK;
}

/* ---- the checkpoint ------------------------------------------------------ */

static void add_figures(json *parent, const char *key, const relufy_figures *f)
{
    json *j = json_add(parent, key, json_object());
    json_add_number(j, "error", f->error, 4);
    json_add_number(j, "active", f->active, 4);
    json_add_number(j, "density", f->density, 4);
}

static void add_layers(json *parent, const moe_model *m, const relufied *r)
{
    json *list = json_add(parent, "layers", json_array());
    for (int l = 0; l < m->weights.n_layers; l++) {
        json *row = json_add(list, NULL, json_object());
        json_add_int(row, "layer", l);
        add_figures(row, "swapped", &r->layers[l].swapped);
        add_figures(row, "trained", &r->layers[l].trained);
    }
}

static moe_status change_config(json *config, const moe_model *m, const relufied *r,
                                const relufy_options *o, const dataset *data,
                                moe_error *err)
{
    json_remove(config, "hidden_act");
    json_add_string(config, "hidden_act", "relu");
    json_remove(config, "relufication");
    json *j = json_add(config, "relufication", json_object());
    json_add_string(j, "tool", "moefy " MOE_VERSION);
    json_add_string(j, "source_activation", m->info.activation);
    json_add_int(j, "epochs", o->epochs);
    json_add_number(j, "density_penalty", o->penalty, 6);
    json_add_int(j, "seed", (int64_t)o->seed);
    json_add_int(j, "max_tokens", o->max_tokens);
    add_layers(j, m, r);
    write_add_calibration(j, data, r->n_rows, r->n_seqs, r->n_tokens);
    return write_add_source(j, m, err);
}

static moe_status write_checkpoint(const outdir *out, const moe_model *m,
                                   const relufied *r, const relufy_options *o,
                                   const dataset *data, moe_error *err)
{
    json *config;
    moe_status status = write_read_config(m->info.dir, &config, err);
    if (status == MOE_OK)
        status = change_config(config, m, r, o, data, err);
    if (status == MOE_OK)
        status = dense_write(out, &r->model, config, err);
    json_free(config);
    return status;
}

/* Trains and writes; signals are held meanwhile. */
static moe_status relufy_to(const arguments *a, const moe_model *m, const dataset *data,
                            relufy_options *o, relufied *r, moe_error *err)
{
    outdir out;
    progress bar = {.label = NULL};
    *r = (relufied){.n_tokens = 0};
    moe_status status = outdir_create(a->out, OUTDIR_NEW, &out, err);
    if (status != MOE_OK)
        return status;
    o->spool_dir = out.temp;
    status = relufy_model(m, data, o, &bar, r, err);
    if (status == MOE_OK)
        status = write_checkpoint(&out, m, r, o, data, err);
    if (status == MOE_OK)
        status = interrupt_check(err);
    if (status == MOE_OK)
        status = outdir_commit(&out, err);
    outdir_close(&out);
    return status;
}

/* ---- the report ---------------------------------------------------------- */

static void report_json(const arguments *a, const moe_model *m, const relufied *r,
                        double seconds)
{
    json *j = json_object();
    json_add_string(j, "output", a->out);
    add_layers(j, m, r);
    json_add_number(j, "seconds", seconds, 4);
    json_add_int(j, "tokens", r->n_tokens);
    json_print_line(stdout, j);
    json_free(j);
}

static void report_text(const arguments *a, const moe_model *m, const relufied *r,
                        double seconds)
{
    printf("layer  error: %s as is   trained  neurons firing: as is  trained\n",
           m->info.activation);
    for (int l = 0; l < m->weights.n_layers; l++) {
        const relufy_figures *before = &r->layers[l].swapped, *now = &r->layers[l].trained;
        printf("%5d  %*.1f%%  %7.1f%%  %20.1f%%  %6.1f%%\n", l,
               (int)strlen(m->info.activation) + 12, 100 * before->error, 100 * now->error,
               100 * before->active, 100 * now->active);
    }
    printf("\n%s: dense, ReLU, fp32, %d tokens, %.1f s\n", a->out, r->n_tokens, seconds);
    printf("next: moefy convert %s -o MODEL --calibrate %s\n", a->out, a->calibrate);
}

static int run(const arguments *a, relufy_options *o, const moe_model *m)
{
    const double start = cli_seconds();
    dataset data;
    moe_error err;
    relufied r;
    if (dataset_read(a->calibrate, 0, &data, &err) != MOE_OK)
        return cli_failed(&err);
    interrupt_begin();
    moe_status status = relufy_to(a, m, &data, o, &r, &err);
    int code = EXIT_DONE;
    if (status != MOE_OK) {
        code = cli_failed(&err);
    } else {
        calibration_note(a->calibrate, r.n_tokens, r.n_unknown, FEW_TOKENS);
        (a->json ? report_json : report_text)(a, m, &r, cli_seconds() - start);
    }
    relufied_free(&r);
    dataset_free(&data);
    interrupt_end();
    return code;
}

int cmd_relufy(int argc, char **argv)
{
    arguments a;
    relufy_options o;
    moe_model *m;
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code < 0)
        code = check(&a, &o);
    if (code >= 0)
        return code;
    if (moe_model_open(a.source, &m, &err) != MOE_OK)
        return cli_failed(&err);
    code = cli_refuse_text(moe_model_describe(m), "relufy", &err) == MOE_OK &&
                   check_model(a.source, m, &err) == MOE_OK ? run(&a, &o, m) : cli_failed(&err);
    moe_model_close(m);
    return code;
}
