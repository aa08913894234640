/* cmd_bench.c: moefy bench - how fast a model runs: its options. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/bench_print.h"
#include "engine/model/lower.h"

static const char usage[] =
    "moefy bench MODEL [options]   or   moefy bench --shape NAME [options]\n"
    "Times a model, or one of a known shape with random weights, at each batch size,\n"
    "length and ratio: interleaved runs, shares of the peak measured among them. Text is\n"
    "random, or real (--data, --tokens). A text-to-text model is timed by the steps of its\n"
    "decoder (--layer step). moefy bench --peak alone measures what the\n"
    "machine can do. --shape: t5-large-enc4, t5-large, t5-base, bert-base, minilm.";

enum { MAX_LIST = 32, MAX_RUNS = 10000, MAX_BATCH = 4096, MAX_SEQ = 65536,
       MAX_TOKENS = 1 << 22 };
static const double peak_seconds = 0.3;

static const char *const dtypes[] = {"f32", "bf16", "int8", NULL};
static const char *const routings[] = {"model", "random", NULL};

typedef struct {
    const char *model, *shape, *layer, *batch_text, *seq_text, *ratio_text, *dtype, *backend_text,
        *data, *tokens, *routing;
    int n_positional, threads, runs, n_batches, n_seqs, n_ratios;
    int batches[MAX_LIST], seqs[MAX_LIST], what;
    double ratios[MAX_LIST];
    moe_backend_kind backend;
    bool json, peak, drive, random_routing;
} arguments;

/* ---- the command ------------------------------------------------------------ */

static int bench_peak(const arguments *a)
{
    moe_pool *pool;
    moe_error err;
    if (moe_pool_create(a->threads, &pool, &err) != MOE_OK)
        return cli_failed(&err);
    int threads = moe_pool_threads(pool);
    moe_pool_destroy(pool);
    bench_peaks peaks;
    bench_peaks_measure(threads, peak_seconds, &peaks);
    if (!a->json)
        bench_print_peaks(&peaks);
    else if (bench_print_peaks_json(&peaks, &err) != MOE_OK)
        return cli_failed(&err);
    return EXIT_DONE;
}

/* A text-to-text model is timed by its decoder's steps, and no other can be. */
static moe_status check_kind(const arguments *a, const moe_model_info *info, moe_error *err)
{
    bool text = info->n_decoder_layers > 0;
    if (text == (a->what == BENCH_STEP))
        return MOE_OK;
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: is a %s, found --layer %s, expected %s", info->dir,
                    info->architecture, a->layer, text ? "step" : "any but step");
}

static moe_status check_cases(const arguments *a, const moe_model_info *info, moe_error *err)
{
    for (int i = 0; i < a->n_seqs; i++)
        if (a->seqs[i] > info->max_tokens)
            return moe_fail(err, MOE_E_ARGUMENT, "%s: --seq %d, the model takes at most %d tokens",
                            info->dir, a->seqs[i], info->max_tokens);
    for (int b = 0; b < a->n_batches; b++)
        for (int s = 0; s < a->n_seqs; s++)
            if ((int64_t)a->batches[b] * a->seqs[s] > MAX_TOKENS)
                return moe_fail(err, MOE_E_LIMIT, "--batch %d by --seq %d is more than %d tokens",
                                a->batches[b], a->seqs[s], MAX_TOKENS);
    return MOE_OK;
}

/* All combinations, ratio fastest; ms points into times. */
static void make_cases(const arguments *a, bench_plan *p, double *times)
{
    int i = 0;
    for (int b = 0; b < a->n_batches; b++)
        for (int s = 0; s < a->n_seqs; s++)
            for (int r = 0; r < a->n_ratios; r++, i++)
                p->cases[i] = (bench_case){.batch = a->batches[b], .seq = a->seqs[s],
                                           .ratio = a->ratios[r],
                                           .ms = times + (size_t)i * (size_t)p->n_runs};
}

/* The text; in place of defaults that were not asked for, one batch of it all. */
static moe_status read_text(arguments *a, const moe_model *m, bench_text *out, moe_error *err)
{
    *out = (bench_text){0};
    if (a->tokens) {
        moe_status status = bench_text_read_ids(m, a->tokens, out, err);
        a->n_batches = a->n_seqs = 1;
        a->batches[0] = out->n_seqs;
        a->seqs[0] = 0;
        return status;
    }
    return a->data ? bench_text_read(m, a->data, out, err) : MOE_OK;
}

static moe_status measure(const arguments *a, const model_shape *shape, const moe_model *m,
                          bench_plan *p, moe_error *err)
{
    const moe_model_info *info = moe_model_describe(m);
    const char *name = shape ? shape->name : a->model;
    if (a->drive)
        return bench_drive(m, p, err);
    progress bar;
    progress_begin(&bar, "bench", p->n_runs);
    moe_status status = bench_run(m, p, &bar, err);
    progress_end(&bar);
    if (status != MOE_OK)
        return status;
    bench_peaks peaks;
    if (a->peak)
        bench_peaks_measure(p->threads_used, peak_seconds, &peaks);
    if (a->json)
        return bench_print_json(name, shape, p, info, a->peak ? &peaks : NULL, err);
    bench_print_table(name, shape, p, info, a->peak ? &peaks : NULL);
    return MOE_OK;
}

static moe_status run(arguments *a, const model_shape *shape, const moe_model *m,
                      moe_error *err)
{
    bench_text text;
    moe_status status = read_text(a, m, &text, err);
    if (status == MOE_OK)
        status = check_cases(a, moe_model_describe(m), err);
    bench_plan p = {.what = (bench_what)a->what, .backend = a->backend, .n_threads = a->threads,
                    .n_runs = a->runs, .n_cases = a->n_batches * a->n_seqs * a->n_ratios,
                    .text = &text, .random_routing = a->random_routing};
    double *times = malloc((size_t)p.n_cases * (size_t)p.n_runs * sizeof *times);
    p.cases = malloc((size_t)p.n_cases * sizeof *p.cases);
    p.peak = malloc((size_t)p.n_runs * sizeof *p.peak);
    if (status == MOE_OK && (!times || !p.cases || !p.peak))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d cases", p.n_cases);
    if (status == MOE_OK) {
        make_cases(a, &p, times);
        status = measure(a, shape, m, &p, err);
    }
    free(times);
    free(p.cases);
    free(p.peak);
    bench_text_free(&text);
    return status;
}

/* -1: go on. */
static int check(arguments *a)
{
    const char *const needs = "bench: needs either the directory of a model or --shape NAME";
    if (a->peak && !a->n_positional && !a->shape)
        return -1;
    if (!a->shape == !a->n_positional)
        return cli_usage("%s", needs);
    a->what = cli_choice("bench", "--layer", a->layer, bench_kinds);
    if (a->what < 0 || cli_choice("bench", "--dtype", a->dtype, dtypes) < 0 ||
        !cli_backend("bench", a->backend_text, &a->backend))
        return EXIT_USAGE;
    int routing = cli_choice("bench", "--routing", a->routing ? a->routing : "model", routings);
    if (routing < 0)
        return EXIT_USAGE;
    a->random_routing = routing == 1;
    if (a->what == BENCH_STEP && a->shape)
        return cli_usage("bench: --layer step needs a text-to-text model's directory, found "
                         "--shape");
    if (a->data && a->tokens)
        return cli_usage("bench: expected --data or --tokens, found both");
    if ((a->data || a->tokens) && (!bench_runs_model(a->what) || a->shape))
        return cli_usage("bench: --data and --tokens are for whole models from a directory");
    a->n_batches = cli_ints("bench", "--batch", a->batch_text, 1, MAX_BATCH, MAX_LIST,
                            a->batches);
    if (a->n_batches)
        a->n_seqs = cli_ints("bench", "--seq", a->seq_text, a->data ? 0 : 1, MAX_SEQ, MAX_LIST, a->seqs);
    if (a->n_seqs)
        a->n_ratios = cli_ratios("bench", "--ratio", a->ratio_text, MAX_LIST, a->ratios);
    if (a->what == BENCH_ATTENTION || a->what == BENCH_LINEAR) {
        a->n_ratios = 1; /* they have no experts */
        a->ratios[0] = 1;
    }
    return a->n_ratios ? -1 : EXIT_USAGE;
}

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.layer = "model", .batch_text = "1,8", .seq_text = "16,128",
                     .ratio_text = "1,0.25", .dtype = "f32", .runs = 11};
    const cli_option options[] = {
        {"--shape", OPT_STRING, &a->shape, 0, 0, "NAME", "a known shape with random weights"},
        {"--layer", OPT_STRING, &a->layer, 0, 0, "KIND",
         "model (all of it; the default), ffn, attention, linear; step: of a T5's decoder"},
        {"--batch", OPT_STRING, &a->batch_text, 0, 0, "LIST", "sequences (default 1,8)"},
        {"--seq", OPT_STRING, &a->seq_text, 0, 0, "LIST",
         "tokens of each (default 16,128); 0 with --data: as long as they are"},
        {"--ratio", OPT_STRING, &a->ratio_text, 0, 0, "LIST",
         "shares of the FFN neurons (default 1,0.25; attention and linear have none)"},
        {"--data", OPT_STRING, &a->data, 0, 0, "FILE",
         "text: TSV with a header or JSONL (default: random token ids)"},
        {"--tokens", OPT_STRING, &a->tokens, 0, 0, "FILE",
         "token ids, one sequence a line: the one batch to time"},
        {"--routing", OPT_STRING, &a->routing, 0, 0, "KIND",
         "model or random (default: the model's router, where it has one)"},
        {"--dtype", OPT_STRING, &a->dtype, 0, 0, "TYPE",
         "of a shape's weights: f32, bf16 or int8 (default f32)"},
        {"--backend", OPT_STRING, &a->backend_text, 0, 0, "NAME",
         "auto, cpu or cuda (default auto)"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--runs", OPT_INT, &a->runs, 1, MAX_RUNS, "N", "timed runs of each case (default 11)"},
        {"--peak", OPT_FLAG, &a->peak, 0, 0, NULL,
         "measure the machine's peaks too; alone: nothing else"},
        {"--drive", OPT_FLAG, &a->drive, 0, 0, NULL,
         "run the case whose index each line of standard input holds, print its ms"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 1, &a->model, &a->n_positional);
    return code >= 0 ? code : check(a);
}

static int bench_shape(arguments *a)
{
    const char *names[16] = {0};
    moe_model *m;
    moe_error err;
    for (int i = 0; model_shapes[i].name; i++)
        names[i] = model_shapes[i].name;
    moe_dtype dtype = MOE_F32;
    lower_find(a->dtype, &dtype);
    int i = cli_choice("bench", "--shape", a->shape, names);
    if (i < 0)
        return EXIT_USAGE;
    moe_status status = shape_model_create(&model_shapes[i], dtype, &m, &err);
    if (status == MOE_OK)
        status = run(a, &model_shapes[i], m, &err);
    shape_model_free(m);
    return status == MOE_OK ? EXIT_DONE : cli_failed(&err);
}

int cmd_bench(int argc, char **argv)
{
    arguments a;
    moe_model *m;
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code >= 0)
        return code;
    if (a.peak && !a.shape && !a.n_positional)
        return bench_peak(&a);
    if (a.shape)
        return bench_shape(&a);
    moe_status status = moe_model_open(a.model, &m, &err);
    if (status == MOE_OK)
        status = check_kind(&a, moe_model_describe(m), &err);
    if (status == MOE_OK)
        status = run(&a, NULL, m, &err);
    moe_model_close(m);
    return status == MOE_OK ? EXIT_DONE : cli_failed(&err);
}
