/* bench_print.c: see bench_print.h. */
#include "convert/bench_print.h"

#include <stdio.h>

#include "convert/json.h"
#include "convert/table.h"

enum { DIGITS = 6 };

const char *const bench_kinds[] = {"model", "ffn", "attention", "linear", "step", NULL};

static double median(const double *sorted, int n)
{
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static double case_ms(const bench_plan *p, const bench_case *c)
{
    return median(c->ms, p->n_runs);
}

void bench_peaks_measure(int n_threads, double seconds, bench_peaks *out)
{
    *out = (bench_peaks){.n_threads = n_threads};
    for (int k = 0; k < PEAK_N; k++)
        if (peak_supported((peak_kind)k))
            out->gflops[k] = peak_gflops((peak_kind)k, n_threads, seconds);
    out->read_gbytes = peak_read_gbytes(n_threads, seconds);
}

/* ---- JSON --------------------------------------------------------------------- */

static json *peak_json(peak_kind k, double gflops)
{
    json *j = json_object();
    json_add_string(j, "isa", peak_isa(k));
    json_add_string(j, "dtype", peak_dtype(k));
    json_add_number(j, "gflops", gflops, DIGITS);
    return j;
}

static void add_peaks(json *j, const bench_peaks *peaks)
{
    json *list = json_add(j, "peaks", json_array());
    for (int k = PEAK_N - 1; k >= 0; k--)
        if (peaks->gflops[k] > 0)
            json_add(list, NULL, peak_json((peak_kind)k, peaks->gflops[k]));
    json_add_number(j, "memory_read_gbytes_s", peaks->read_gbytes, DIGITS);
}

static void add_case(json *list, const bench_plan *p, const bench_case *c, const char *dtype)
{
    json *row = json_add(list, NULL, json_object());
    double seconds = case_ms(p, c) * 1e-3;
    json_add_int(row, "batch", c->batch);
    json_add_int(row, "seq", c->seq);
    json_add_number(row, "ratio", c->ratio, DIGITS);
    json_add_number(row, "effective_ratio", c->effective_ratio, DIGITS);
    json_add_string(row, "dtype", dtype);
    json_add_int(row, "runs", p->n_runs);
    json *ms = json_add(row, "ms", json_object());
    json_add_number(ms, "min", c->ms[0], DIGITS);
    json_add_number(ms, "median", case_ms(p, c), DIGITS);
    json_add_number(ms, "p90", bench_percentile(c->ms, p->n_runs, 0.9), DIGITS);
    json_add_number(row, "gflops", c->gflop / seconds, DIGITS);
    json_add_number(row, "peak_share", c->gflop / seconds / median(p->peak, p->n_runs), DIGITS);
    json_add_int(row, "weight_bytes", (int64_t)(c->gbytes * 1e9 + 0.5));
    json_add_number(row, "weight_gbytes_s", c->gbytes / seconds, DIGITS);
}

moe_status bench_print_json(const char *name, const model_shape *shape, const bench_plan *p,
                            const moe_model_info *info, const bench_peaks *peaks,
                            moe_error *err)
{
    json *j = json_object();
    json_add_string(j, shape ? "shape" : "model", name);
    json_add_string(j, "layer", bench_kinds[p->what]);
    json_add_string(j, "isa", p->isa);
    json_add_int(j, "threads", p->threads_used);
    json_add(j, "peak", peak_json(p->peak_kind, median(p->peak, p->n_runs)));
    if (peaks)
        add_peaks(j, peaks);
    json *plan = json_add(j, "plan", json_array());
    for (int i = 0; i < p->n_plan; i++) {
        json *row = json_add(plan, NULL, json_object());
        json_add_int(row, "tokens", p->plan[i].n_tokens);
        json_add_number(row, "dense_above", p->plan[i].dense_above, DIGITS);
    }
    json *list = json_add(j, "results", json_array());
    for (int i = 0; i < p->n_cases; i++)
        add_case(list, p, &p->cases[i], info->dtype);
    return json_answer(j, err);
}

moe_status bench_print_peaks_json(const bench_peaks *peaks, moe_error *err)
{
    json *j = json_object();
    json_add_int(j, "threads", peaks->n_threads);
    add_peaks(j, peaks);
    return json_answer(j, err);
}

/* ---- tables ------------------------------------------------------------------- */

/* The same batch and length at ratio 1, NULL where it was not asked for. */
static const bench_case *dense_of(const bench_plan *p, const bench_case *c)
{
    for (int i = 0; i < p->n_cases; i++)
        if (p->cases[i].batch == c->batch && p->cases[i].seq == c->seq &&
            p->cases[i].ratio == 1)
            return &p->cases[i];
    return NULL;
}

static void print_heading(const char *name, const model_shape *shape, const bench_plan *p,
                          const moe_model_info *info)
{
    static const char *const timed[] = {
        "the whole model", "one layer's FFN", "one layer's attention without its projections",
        "one layer's query, key and value projection", "one step of the decoder"};
    printf("%s%s%s: %d layers, width %d, FFN %d (%s), %d heads, %s\n", table_bold(), name,
           table_plain(), info->n_layers, info->d_model, info->d_ff, info->activation,
           info->n_heads, info->dtype);
    if (shape)
        printf("stands for %s; random weights, uniformly random experts\n", shape->about);
    else if (bench_runs_model(p->what))
        printf("%s, %s\n", p->text->n_seqs ? "real text" : "random token ids",
               p->random_routing || !info->moefied ? "uniformly random experts"
                                                   : "the model's own routing");
    printf("%s on %s, %d thread%s, medians of %d interleaved runs; peak %.0f GF/s (%s, %s)\n%s",
           timed[p->what], p->isa, p->threads_used, p->threads_used == 1 ? "" : "s", p->n_runs,
           median(p->peak, p->n_runs), peak_isa(p->peak_kind), peak_dtype(p->peak_kind),
           p->n_plan ? "" : "\n");
    for (int i = 0; i < p->n_plan; i++)
        printf("%s%.2f of the pairs from %d token%s on%s", i ? ", " : "layers run dense above ",
               p->plan[i].dense_above, p->plan[i].n_tokens, p->plan[i].n_tokens == 1 ? "" : "s",
               i == p->n_plan - 1 ? "\n\n" : "");
}

static void print_case(const bench_plan *p, const bench_case *c)
{
    double ms = case_ms(p, c), gflops = c->gflop / (ms * 1e-3);
    const bench_case *dense = dense_of(p, c);
    printf("%5d  %5d  %6g  %9.3f  %9.3f  %9.3f  %8.1f  %6.1f%%  %6.1f  %6.1f", c->batch, c->seq,
           c->ratio, c->ms[0], ms, bench_percentile(c->ms, p->n_runs, 0.9), gflops,
           100 * gflops / median(p->peak, p->n_runs), c->gbytes * 1e3, c->gbytes / (ms * 1e-3));
    if (dense)
        printf("  %6.2fx\n", case_ms(p, dense) / ms);
    else
        printf("  %7s\n", "-");
}

void bench_print_peaks(const bench_peaks *peaks)
{
    for (int k = PEAK_N - 1; k >= 0; k--)
        if (peaks->gflops[k] > 0)
            printf("%-8s%9.1f GF/s %s on %d thread%s\n", peak_isa((peak_kind)k), peaks->gflops[k],
                   peak_dtype((peak_kind)k), peaks->n_threads, peaks->n_threads == 1 ? "" : "s");
    printf("%-8s%9.1f GB/s read past the caches\n", "memory", peaks->read_gbytes);
}

void bench_print_table(const char *name, const model_shape *shape, const bench_plan *p,
                       const moe_model_info *info, const bench_peaks *peaks)
{
    print_heading(name, shape, p, info);
    printf("%sbatch    seq   ratio     min ms     median        p90      GF/s     peak  wt. MB"
           "    GB/s  against ratio 1%s\n", table_dim(), table_plain());
    for (int i = 0; i < p->n_cases; i++)
        print_case(p, &p->cases[i]);
    if (peaks) {
        printf("\n");
        bench_print_peaks(peaks);
    }
}
