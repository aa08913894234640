/* cmd_bench.c: moefy bench - how fast a model runs: options and output. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/bench.h"
#include "convert/json.h"
#include "convert/shape.h"
#include "convert/table.h"
#include "engine/model/lower.h"

static const char usage[] =
    "moefy bench MODEL [options]   or   moefy bench --shape NAME [options]\n"
    "Times a model, or one of a known shape with random weights, at each batch size,\n"
    "length and ratio: interleaved runs, shares of the FMA peak measured among them.\n"
    "moefy bench --peak measures only that. --shape: t5-large-enc4, t5-large, t5-base,\n"
    "bert-base, minilm.";

enum { MAX_LIST = 32, MAX_RUNS = 10000, MAX_BATCH = 4096, MAX_SEQ = 65536,
       MAX_TOKENS = 1 << 22, DIGITS = 6 };
static const double peak_only_seconds = 0.3;

static const char *const layer_kinds[] = {"model", "ffn", "attention", "linear", NULL};
static const char *const dtypes[] = {"f32", "bf16", "int8", NULL};

typedef struct {
    const char *model, *shape, *layer, *batch_text, *seq_text, *ratio_text, *dtype, *backend_text;
    int n_positional, threads, runs, n_batches, n_seqs, n_ratios;
    int batches[MAX_LIST], seqs[MAX_LIST], what;
    double ratios[MAX_LIST];
    moe_backend_kind backend;
    bool json, peak;
} arguments;

/* ---- output ----------------------------------------------------------------- */

static double median(const double *sorted, int n)
{
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static json *peak_json(peak_isa isa, double gflops)
{
    json *j = json_object();
    json_add_string(j, "isa", peak_name(isa));
    json_add_number(j, "gflops", gflops, DIGITS);
    return j;
}

static void add_case(json *list, const bench_plan *p, const bench_case *c, double peak)
{
    json *row = json_add(list, NULL, json_object());
    double gflops = c->gflop / (median(c->ms, p->n_runs) * 1e-3);
    json_add_int(row, "batch", c->batch);
    json_add_int(row, "seq", c->seq);
    json_add_number(row, "ratio", c->ratio, DIGITS);
    json_add_number(row, "effective_ratio", c->effective_ratio, DIGITS);
    json_add_string(row, "dtype", p->dtype);
    json_add_int(row, "runs", p->n_runs);
    json *ms = json_add(row, "ms", json_object());
    json_add_number(ms, "min", c->ms[0], DIGITS);
    json_add_number(ms, "median", median(c->ms, p->n_runs), DIGITS);
    json_add_number(ms, "p90", bench_percentile(c->ms, p->n_runs, 0.9), DIGITS);
    json_add_number(row, "gflops", gflops, DIGITS);
    json_add_number(row, "peak_share", gflops / peak, DIGITS);
}

static moe_status print_json(const arguments *a, const bench_plan *p, moe_error *err)
{
    double peak = median(p->peak, p->n_runs);
    json *j = json_object();
    json_add_string(j, a->shape ? "shape" : "model", a->shape ? a->shape : a->model);
    json_add_string(j, "layer", layer_kinds[p->what]);
    json_add_string(j, "isa", p->isa);
    json_add_int(j, "threads", p->threads_used);
    json_add(j, "peak", peak_json(p->peak_isa, peak));
    json *list = json_add(j, "results", json_array());
    for (int i = 0; i < p->n_cases; i++)
        add_case(list, p, &p->cases[i], peak);
    return json_answer(j, err);
}

/* The same batch and length at ratio 1, NULL where it was not asked for. */
static const bench_case *dense_of(const bench_plan *p, const bench_case *c)
{
    for (int i = 0; i < p->n_cases; i++)
        if (p->cases[i].batch == c->batch && p->cases[i].seq == c->seq &&
            p->cases[i].ratio == 1)
            return &p->cases[i];
    return NULL;
}

static void print_heading(const arguments *a, const bench_plan *p, const moe_model_info *info)
{
    static const char *const timed[] = {
        "the whole model", "one layer's FFN", "one layer's attention without its projections",
        "one layer's query, key and value projection"};
    printf("%s%s%s: %d layers, width %d, FFN %d (%s), %d heads, %s\n", table_bold(),
           a->shape ? a->shape : a->model, table_plain(), info->n_layers, info->d_model,
           info->d_ff, info->activation, info->n_heads, info->dtype);
    for (const model_shape *s = model_shapes; a->shape && s->name; s++)
        if (strcmp(s->name, a->shape) == 0)
            printf("stands for %s; random weights, uniformly random experts\n", s->about);
    printf("%s on %s, %d thread%s, medians of %d interleaved runs; FMA peak %.0f GF/s (%s)\n\n",
           timed[p->what], p->isa, p->threads_used, p->threads_used == 1 ? "" : "s", p->n_runs,
           median(p->peak, p->n_runs), peak_name(p->peak_isa));
}

static void print_case(const bench_plan *p, const bench_case *c)
{
    double ms = median(c->ms, p->n_runs), gflops = c->gflop / (ms * 1e-3);
    const bench_case *dense = dense_of(p, c);
    printf("%5d  %5d  %6g  %9.3f  %9.3f  %9.3f  %8.1f  %6.1f%%", c->batch, c->seq, c->ratio,
           c->ms[0], ms, bench_percentile(c->ms, p->n_runs, 0.9), gflops,
           100 * gflops / median(p->peak, p->n_runs));
    if (dense)
        printf("  %6.2fx\n", median(dense->ms, p->n_runs) / ms);
    else
        printf("  %7s\n", "-");
}

static void print_table(const arguments *a, const bench_plan *p, const moe_model_info *info)
{
    print_heading(a, p, info);
    printf("%sbatch    seq   ratio     min ms     median        p90      GF/s     peak  "
           "against ratio 1%s\n", table_dim(), table_plain());
    for (int i = 0; i < p->n_cases; i++)
        print_case(p, &p->cases[i]);
}

/* ---- the command ------------------------------------------------------------ */

static int bench_peak(const arguments *a)
{
    moe_pool *pool;
    moe_error err;
    if (moe_pool_create(a->threads, &pool, &err) != MOE_OK)
        return cli_failed(&err);
    int threads = moe_pool_threads(pool);
    moe_pool_destroy(pool);
    json *j = json_object();
    json_add_int(j, "threads", threads);
    json *list = json_add(j, "peaks", json_array());
    for (int i = PEAK_N - 1; i >= 0; i--) {
        if (!peak_supported((peak_isa)i))
            continue;
        double gflops = peak_gflops((peak_isa)i, threads, peak_only_seconds);
        json_add(list, NULL, peak_json((peak_isa)i, gflops));
        if (!a->json)
            printf("%-8s%8.1f GF/s fp32 on %d thread%s\n", peak_name((peak_isa)i), gflops,
                   threads, threads == 1 ? "" : "s");
    }
    if (a->json && json_answer(j, &err) != MOE_OK)
        return cli_failed(&err);
    if (!a->json)
        json_free(j);
    return EXIT_DONE;
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

static moe_status run(const arguments *a, const moe_model *m, moe_error *err)
{
    const moe_model_info *info = moe_model_describe(m);
    bench_plan p = {.what = (bench_what)a->what, .backend = a->backend, .dtype = info->dtype, .n_threads = a->threads,
                    .n_runs = a->runs,
                    .n_cases = a->n_batches * a->n_seqs * a->n_ratios,
                    .peak_isa = peak_widest()};
    progress bar;
    moe_status status = check_cases(a, info, err);
    if (status != MOE_OK)
        return status;
    double *times = malloc((size_t)p.n_cases * (size_t)p.n_runs * sizeof *times);
    p.cases = malloc((size_t)p.n_cases * sizeof *p.cases);
    p.peak = malloc((size_t)p.n_runs * sizeof *p.peak);
    if (times && p.cases && p.peak) {
        make_cases(a, &p, times);
        progress_begin(&bar, "bench", p.n_runs);
        status = bench_run(m, &p, &bar, err);
        progress_end(&bar);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d cases", p.n_cases);
    }
    if (status == MOE_OK && a->json)
        status = print_json(a, &p, err);
    else if (status == MOE_OK)
        print_table(a, &p, info);
    free(times);
    free(p.cases);
    free(p.peak);
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
    a->what = cli_choice("bench", "--layer", a->layer, layer_kinds);
    if (a->what < 0 || cli_choice("bench", "--dtype", a->dtype, dtypes) < 0 ||
        !cli_backend("bench", a->backend_text, &a->backend))
        return EXIT_USAGE;
    a->n_batches = cli_ints("bench", "--batch", a->batch_text, 1, MAX_BATCH, MAX_LIST,
                            a->batches);
    if (a->n_batches)
        a->n_seqs = cli_ints("bench", "--seq", a->seq_text, 1, MAX_SEQ, MAX_LIST, a->seqs);
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
         "model, ffn, attention or linear (default model: all of it)"},
        {"--batch", OPT_STRING, &a->batch_text, 0, 0, "LIST", "sequences (default 1,8)"},
        {"--seq", OPT_STRING, &a->seq_text, 0, 0, "LIST", "tokens of each (default 16,128)"},
        {"--ratio", OPT_STRING, &a->ratio_text, 0, 0, "LIST",
         "shares of the FFN neurons (default 1,0.25; attention and linear have none)"},
        {"--dtype", OPT_STRING, &a->dtype, 0, 0, "TYPE", "of a shape's weights: f32, bf16 or int8 (default f32)"},
        {"--backend", OPT_STRING, &a->backend_text, 0, 0, "NAME",
         "auto, cpu or cuda (default auto)"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--runs", OPT_INT, &a->runs, 1, MAX_RUNS, "N", "timed runs of each case (default 11)"},
        {"--peak", OPT_FLAG, &a->peak, 0, 0, NULL, "alone: measure the FMA peaks only"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 1, &a->model, &a->n_positional);
    return code >= 0 ? code : check(a);
}

static int bench_shape(const arguments *a)
{
    const char *names[16] = {0};
    moe_model *m;
    moe_error err;
    for (int i = 0; model_shapes[i].name; i++)
        names[i] = model_shapes[i].name;
    moe_dtype dtype = MOE_F32;
    int i = cli_choice("bench", "--shape", a->shape, names);
    lower_find(a->dtype, &dtype);
    if (i < 0)
        return EXIT_USAGE;
    moe_status status = shape_model_create(&model_shapes[i], dtype, &m, &err);
    if (status == MOE_OK)
        status = run(a, m, &err);
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
        status = run(&a, m, &err);
    moe_model_close(m);
    return status == MOE_OK ? EXIT_DONE : cli_failed(&err);
}
