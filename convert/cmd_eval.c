/* cmd_eval.c: moefy eval - what a ratio costs in quality: options and output. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "convert/cli.h"
#include "convert/evaluate.h"
#include "convert/evaluate_text.h"
#include "convert/json.h"
#include "convert/metrics.h"
#include "convert/table.h"

static const char usage[] =
    "moefy eval MODEL --data FILE [--ratio 1,0.5,0.25] [options]\n"
    "Runs FILE (TSV with a header or JSONL, with labels, or SQuAD) at each ratio: accuracy\n"
    "(or correlation, or exact match and F1),\n"
    "agreement and KL divergence against the same model dense, share of the positive\n"
    "activation kept. Intervals are Wilson's at 95%.";

enum { MAX_RATIOS = 64, DIGITS = 6 };

static const char *const selections[] = {"router", "oracle", "random", "frequency", NULL};

typedef struct {
    const char *model, *data, *ratio_text, *selection_text, *policy_text, *task, *backend_text;
    double ratios[MAX_RATIOS];
    int n_positional, n_ratios, limit, threads, selection;
    moe_policy policy;
    moe_backend_kind backend;
    bool json;
} arguments;

/* What the experts were chosen by: controls know the counts only. */
static const char *policy_in_force(const arguments *a, const moe_model_info *info)
{
    return moe_policy_name(a->selection == MOE_SELECT_ROUTER
                               ? moe_policy_resolve(info, a->policy) : MOE_POLICY_TOPK);
}

/* ---- output ----------------------------------------------------------------- */

static moe_status print_json(const arguments *a, const session *s,
                             const evaluation *results, moe_error *err)
{
    json *j = json_object();
    json_add_string(j, "model", a->model);
    json_add_string(j, "task", task_name(s->info->task));
    json_add_string(j, "data", a->data);
    json_add_string(j, "selection", selections[a->selection]);
    json_add_string(j, "policy", policy_in_force(a, s->info));
    json_add_int(j, "examples", results[0].n);
    json *list = json_add(j, "results", json_array());
    for (int i = 0; i < a->n_ratios; i++) {
        const evaluation *r = &results[i];
        json *row = json_add(list, NULL, json_object());
        json_add_number(row, "ratio", r->ratio, DIGITS);
        json_add_number(row, "effective_ratio", r->effective_ratio, DIGITS);
        if (s->info->task == MOE_TASK_REGRESS) {
            json_add_number(row, "pearson", r->pearson, DIGITS);
            json_add_number(row, "spearman", r->spearman, DIGITS);
            json_add_number(row, "mean_abs_difference", r->mean_abs_difference, DIGITS);
        } else if (s->info->task == MOE_TASK_ANSWER) {
            json_add_number(row, "exact_match", r->exact_match, DIGITS);
            json_add_number(row, "f1", r->answer_f1, DIGITS);
            json_add_number(row, "agreement", r->agreement, DIGITS);
            json_add_number(row, "kl", r->kl, DIGITS);
            json_add_number(row, "mean_abs_difference", r->mean_abs_difference, DIGITS);
        } else {
            json_add_number(row, "accuracy", r->accuracy, DIGITS);
            if (s->info->n_labels == 2) {
                json_add_number(row, "f1", r->f1, DIGITS);
                json_add_number(row, "matthews", r->matthews, DIGITS);
            }
            json_add_number(row, "agreement", r->agreement, DIGITS);
            json_add_number(row, "kl", r->kl, DIGITS);
        }
        json_add_number(row, "mass", r->mass, DIGITS);
    }
    return json_answer(j, err);
}

/* "89.22% [87.0, 91.1]", or "-" where there are no labels. */
static void print_share(int hits, int n)
{
    char text[64] = "-";
    interval w = wilson_interval(hits, n);
    if (hits >= 0)
        snprintf(text, sizeof text, "%.2f%% [%.1f, %.1f]", 100.0 * hits / n, 100 * w.low,
                 100 * w.high);
    printf("  %22s", text);
}

static void print_row(const evaluation *r, const moe_model_info *info)
{
    printf("%6g  %9.3f", r->ratio, r->effective_ratio);
    if (info->task == MOE_TASK_REGRESS) {
        printf("  %8.4f  %8.4f  %10.4f", r->pearson, r->spearman, r->mean_abs_difference);
    } else if (info->task == MOE_TASK_ANSWER) {
        print_share((int)lround(r->exact_match * r->n), r->n);
        printf("  %5.2f%%", 100 * r->answer_f1);
        print_share(r->n_agree, r->n);
        printf("  %8.4f  %10.4f", r->kl, r->mean_abs_difference);
    } else {
        print_share(r->n_correct, r->n);
        if (info->n_labels == 2 && r->n_correct >= 0)
            printf("  %6.4f  %8.4f", r->f1, r->matthews);
        print_share(r->n_agree, r->n);
        printf("  %8.4f", r->kl);
    }
    if (isnan(r->mass))
        printf("  %6s\n", "-");
    else
        printf("  %5.1f%%\n", 100 * r->mass);
}

static void print_table(const arguments *a, const session *s, const evaluation *results,
                        double seconds)
{
    printf("%s%s%s on %s: %d examples, experts chosen by %s, %s, %.1f s\n\n", table_bold(),
           a->model, table_plain(), a->data, results[0].n,
           a->selection == MOE_SELECT_ROUTER ? "the router" : selections[a->selection],
           policy_in_force(a, s->info), seconds);
    printf("%s%6s  %9s", table_dim(), "ratio", "effective");
    if (s->info->task == MOE_TASK_REGRESS)
        printf("  %8s  %8s  %10s", "Pearson", "Spearman", "from dense");
    else if (s->info->task == MOE_TASK_ANSWER)
        printf("  %22s  %6s  %22s  %8s  %10s", "exact match", "F1", "agreement with dense",
               "KL nats", "from dense");
    else if (s->info->n_labels == 2 && results[0].n_correct >= 0)
        printf("  %22s  %6s  %8s  %22s  %8s", "accuracy", "F1", "Matthews",
               "agreement with dense", "KL nats");
    else
        printf("  %22s  %22s  %8s", "accuracy", "agreement with dense", "KL nats");
    printf("  %6s%s\n", "mass", table_plain());
    for (int i = 0; i < a->n_ratios; i++)
        print_row(&results[i], s->info);
    if (!s->info->moefied && cli_refuse_classifier(s->info, "convert", NULL) == MOE_OK)
        printf("\nnext: moefy convert %s -o OUT --calibrate FILE\n", a->model);
    else if (a->selection == MOE_SELECT_ROUTER)
        printf("\nnext: the same with --selection oracle or random, the router's bounds;  "
               "moefied --model NAME=%s\n", a->model);
}

/* ---- the command ------------------------------------------------------------ */

/* What the model cannot do, said before any work. */
static moe_status check_model(const arguments *a, const moe_model_info *info, moe_error *err)
{
    bool sparse = false;
    for (int i = 0; i < a->n_ratios; i++)
        sparse |= a->ratios[i] < 1;
    if (info->task == MOE_TASK_MULTI_LABEL)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: eval measures one label a row, this model "
                        "gives several", a->model);
    if (sparse && !info->moefied &&
        (a->selection == MOE_SELECT_ROUTER || a->selection == MOE_SELECT_FREQUENCY))
        return moe_fail(err, MOE_E_ARGUMENT, "%s: is not MoEfied and has no %s: expected "
                        "--ratio 1, or --selection oracle or random", a->model,
                        selections[a->selection]);
    return MOE_OK;
}

static moe_status run_text_rows(const arguments *a, session *s, const dataset *d,
                                moe_error *err)
{
    evaluation results[MAX_RATIOS];
    progress bar;
    const moe_selection how = {.selector = (moe_selector)a->selection, .policy = a->policy};
    const double start = cli_seconds();
    progress_begin(&bar, "eval", (int64_t)d->n_rows * (a->n_ratios + 1));
    moe_status status = evaluate_text(s, d, a->task, how, a->ratios, a->n_ratios, &bar, results,
                                      err);
    progress_end(&bar);
    if (status == MOE_OK && a->json)
        return print_json(a, s, results, err);
    if (status == MOE_OK)
        print_table(a, s, results, cli_seconds() - start);
    return status;
}

static moe_status run(const arguments *a, session *s, moe_error *err)
{
    dataset d;
    examples x;
    evaluation results[MAX_RATIOS];
    progress bar;
    moe_status status = dataset_read(a->data, a->limit, &d, err);
    if (status != MOE_OK)
        return status;
    if (s->info->task == MOE_TASK_TEXT) {
        status = run_text_rows(a, s, &d, err);
        dataset_free(&d);
        return status;
    }
    status = examples_create(s->in_use, &d, &x, err);
    if (status != MOE_OK) {
        dataset_free(&d);
        return status;
    }
    double start = cli_seconds();
    progress_begin(&bar, "eval", (int64_t)x.n_seqs * (a->n_ratios + 1));
    moe_selection how = {.selector = (moe_selector)a->selection, .policy = a->policy};
    status = evaluate(s, &x, how, a->ratios, a->n_ratios, &bar, results, err);
    progress_end(&bar);
    if (status == MOE_OK && a->json)
        status = print_json(a, s, results, err);
    else if (status == MOE_OK)
        print_table(a, s, results, cli_seconds() - start);
    examples_free(&x);
    dataset_free(&d);
    return status;
}

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.ratio_text = "1,0.5,0.25,0.125", .selection_text = "router"};
    const cli_option options[] = {
        {"--data", OPT_STRING, &a->data, 0, 0, "FILE", "labelled text; - is standard input"},
        {"--ratio", OPT_STRING, &a->ratio_text, 0, 0, "LIST",
         "shares of the FFN neurons (default 1,0.5,0.25,0.125)"},
        {"--selection", OPT_STRING, &a->selection_text, 0, 0, "KIND",
         "router, oracle, random or frequency (default router)"},
        {"--policy", OPT_STRING, &a->policy_text, 0, 0, "NAME",
         "topk, threshold or sequence (default: the model's own)"},
        {"--task", OPT_STRING, &a->task, 0, 0, "NAME",
         "of a text-to-text model's rows that name none: sst2, mrpc, qnli, ..."},
        {"--limit", OPT_INT, &a->limit, 1, INT32_MAX, "N", "use the first N rows only"},
        {"--backend", OPT_STRING, &a->backend_text, 0, 0, "NAME",
         "auto, cpu or cuda (default auto)"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 1, &a->model, &a->n_positional);
    if (code >= 0)
        return code;
    if (a->n_positional < 1)
        return cli_usage("eval: needs the directory of a model");
    if (!a->data)
        return cli_usage("eval: needs --data FILE, labelled text");
    a->n_ratios = cli_ratios("eval", "--ratio", a->ratio_text, MAX_RATIOS, a->ratios);
    if (!a->n_ratios)
        return EXIT_USAGE;
    a->selection = cli_choice("eval", "--selection", a->selection_text, selections);
    if (a->selection < 0 || !cli_policy("eval", "--policy", a->policy_text, &a->policy) ||
        !cli_backend("eval", a->backend_text, &a->backend))
        return EXIT_USAGE;
    if (a->policy > MOE_POLICY_TOPK && a->selection != MOE_SELECT_ROUTER)
        return cli_usage("eval: --policy %s: expected --selection router, as others go by topk",
                         moe_policy_name(a->policy));
    return -1;
}

int cmd_eval(int argc, char **argv)
{
    arguments a;
    session s;
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code >= 0)
        return code;
    if (session_open(&s, a.model, a.backend, a.threads, &err) != MOE_OK)
        return cli_failed(&err);
    moe_status status = check_model(&a, s.info, &err);
    if (status == MOE_OK && a.task && s.info->task != MOE_TASK_TEXT)
        status = moe_fail(&err, MOE_E_ARGUMENT, "%s: is no text-to-text model, which --task is "
                          "for", a.model);
    if (status == MOE_OK)
        status = session_check_policy(&s, a.policy, &err);
    if (status == MOE_OK)
        status = run(&a, &s, &err);
    session_close(&s);
    return status == MOE_OK ? EXIT_DONE : cli_failed(&err);
}
