/* cmd_run.c: moefy run - what the model says of a text, at a ratio.
 *
 * One text (or pair) from the command line, or a stream of JSONL rows: rows are
 * collected into batches for speed and answered in their order, a JSON object a
 * line. A batch goes when it is full, or when nothing more is there to read, so
 * memory is bounded and a writer that waits for its answer gets it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/cli.h"
#include "convert/json.h"
#include "convert/jsonl.h"
#include "convert/run_answer.h"
#include "convert/run_text.h"
#include "convert/session.h"
#include "convert/table.h"

static const char usage[] =
    "moefy run MODEL [--ratio R] \"TEXT\" [\"SECOND TEXT\"]   or   moefy run MODEL --input FILE\n"
    "Classifies a text with the share R of the FFN neurons, or answers the question TEXT\n"
    "about SECOND TEXT; text-to-text models say what they are asked. FILE is JSONL (text,\n"
    "text_pair?, task?, raw?, max_new_tokens?; or question, context; - is standard input):\n"
    "one JSON object a line, in order. Of a text without a question a question answering\n"
    "model says where answers start and end, by token.";

enum { BATCH_TOKENS = 4096, BATCH_ROWS = 1024, FLOAT_DIGITS = 9, BAR_WIDTH = 20,
       NEW_TOKENS = 32 };

typedef struct {
    const char *input, *ratio_text, *policy_text, *task, *positional[3];
    moe_selection selection;
    int n_positional, threads, max_new_tokens;
    bool json;
} arguments;

/* ---- one sequence's answer -------------------------------------------------- */

/* Labels by descending logit; ties keep their order. order [n_labels]: out. */
static void rank_labels(const float *logits, int n, int *order)
{
    for (int i = 0; i < n; i++) {
        int at = i;
        while (at > 0 && logits[i] > logits[order[at - 1]]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
}

/* Room for what is said of one sequence's labels. */
typedef struct { float *scores; int *order; } ranking;

static moe_status ranking_create(ranking *r, int n_labels, moe_error *err)
{
    r->scores = malloc((size_t)n_labels * sizeof *r->scores);
    r->order = malloc((size_t)n_labels * sizeof *r->order);
    if (r->scores && r->order)
        return MOE_OK;
    free(r->scores);
    free(r->order);
    return moe_fail(err, MOE_E_MEMORY, "out of memory for %d labels", n_labels);
}

static void ranking_free(ranking *r)
{
    free(r->scores);
    free(r->order);
}

/* Sets r to the scores and order of sequence i; returns its logits. */
static const float *rank(const session *s, const batch *b, int i, ranking *r)
{
    const float *logits = b->logits + (size_t)i * (size_t)b->n_labels;
    moe_scores(s->in_use, logits, r->scores);
    rank_labels(logits, b->n_labels, r->order);
    return logits;
}

static moe_policy policy_of(const session *s, const batch *b, int i)
{
    return moe_policy_resolve(s->info, b->selection[i].policy);
}

/* As said after a ratio. */
static const char *manner(moe_policy p)
{
    return p == MOE_POLICY_THRESHOLD ? " by threshold" : p == MOE_POLICY_SEQUENCE ?
           " by sequence" : "";
}

static void add_scores(json *j, const session *s, const batch *b, int i, ranking *r)
{
    const float *logits = rank(s, b, i, r);
    json *list = json_add(j, "logits", json_array());
    for (int l = 0; l < b->n_labels; l++)
        json_add_number(list, NULL, logits[l], FLOAT_DIGITS);
    json *scores = json_add(j, "scores", json_array());
    for (int l = 0; l < b->n_labels; l++) {
        int label = r->order[l];
        json *score = json_add(scores, NULL, json_object());
        json_add_string(score, "label", s->info->labels[label]);
        json_add_number(score, "score", r->scores[label], FLOAT_DIGITS);
        json_add_number(score, "logit", logits[label], FLOAT_DIGITS);
    }
}

static void add_answer(json *j, const session *s, const batch *b, int i, ranking *r)
{
    json *ids = json_add(j, "ids", json_array());
    json *types = json_add(j, "type_ids", json_array());
    for (int t = b->cu_seqlens[i]; t < b->cu_seqlens[i + 1]; t++) {
        json_add_int(ids, NULL, b->ids[t]);
        json_add_int(types, NULL, b->types[t]);
    }
    if (s->info->task == MOE_TASK_ANSWER)
        run_answer_positions(j, s, b, i);
    else
        add_scores(j, s, b, i, r);
    json_add_number(j, "ratio", b->selection[i].ratio, FLOAT_DIGITS);
    json_add_string(j, "policy", moe_policy_name(policy_of(s, b, i)));
    json_add_number(j, "effective_ratio", b->effective_ratio[i], FLOAT_DIGITS);
}

/* ---- a text from the command line ------------------------------------------ */

static void print_answer(const session *s, const batch *b, ranking *r, double seconds)
{
    const float *logits = rank(s, b, 0, r);
    char bar[BAR_WIDTH + 1];
    int width = 5;
    for (int l = 0; l < b->n_labels; l++)
        if ((int)strlen(s->info->labels[l]) > width)
            width = (int)strlen(s->info->labels[l]);
    bool regress = s->info->task == MOE_TASK_REGRESS;
    for (int i = 0; i < b->n_labels; i++) {
        int l = r->order[i];
        table_bar(regress ? 0 : r->scores[l], BAR_WIDTH, bar, sizeof bar);
        printf("%s", i == 0 ? table_bold() : "");
        table_left(s->info->labels[l], width);
        if (regress)
            printf("  %8.4f%s\n", logits[l], table_plain());
        else
            printf("  %6.4f  %s  logit %+8.4f%s\n", r->scores[l], bar, logits[l],
                   table_plain());
    }
    double effective = b->effective_ratio[0];
    printf("\nratio %g%s: %.1f%% of the FFN neurons computed (%.0f of %d a token and layer), "
           "%d tokens, %.1f ms, %d thread%s, %s\n", b->selection[0].ratio,
           manner(policy_of(s, b, 0)),
           100 * effective, effective * s->info->d_ff, s->info->d_ff, b->n_tokens,
           1000 * seconds,
           moe_pool_threads(s->pool), moe_pool_threads(s->pool) == 1 ? "" : "s",
           moe_engine_isa(s->engine));
    if (!s->info->moefied && cli_refuse_classifier(s->info, "convert", NULL) == MOE_OK)
        printf("next: moefy convert %s -o OUT --calibrate FILE, for ratios below 1\n",
               s->info->dir);
}

static moe_status add_row(batch *b, const session *s, const dataset_row *row,
                          moe_selection selection, moe_error *err)
{
    moe_tokens t;
    moe_status status = row_tokenize(s->in_use, row, false, &t, err);
    if (status != MOE_OK)
        return status;
    status = batch_add(b, t.ids, t.types, t.n, selection, err);
    moe_tokens_free(&t);
    return status;
}

static moe_status run_one(const arguments *a, session *s, batch *b, ranking *r,
                           moe_error *err)
{
    const char *text = a->positional[1], *pair = a->n_positional > 2 ? a->positional[2] : NULL;
    dataset_row row = {.text = text, .text_bytes = strlen(text), .pair = pair,
                       .pair_bytes = pair ? strlen(pair) : 0};
    if (s->info->task == MOE_TASK_ANSWER)
        return run_answer(s, b, &row, &(run_answer_options){a->selection, a->json, a->json}, err);
    moe_status status = add_row(b, s, &row, a->selection, err);
    double start = cli_seconds();
    if (status == MOE_OK)
        status = batch_run(b, s, false, err);
    if (status != MOE_OK)
        return status;
    if (!a->json) {
        print_answer(s, b, r, cli_seconds() - start);
        return MOE_OK;
    }
    json *j = json_object();
    json_add_string(j, "task", task_name(s->info->task));
    add_answer(j, s, b, 0, r);
    return json_answer(j, err);
}

/* ---- a stream of rows ------------------------------------------------------- */

static moe_status flush_batch(session *s, batch *b, ranking *r, moe_error *err)
{
    moe_status status = batch_run(b, s, false, err);
    for (int i = 0; status == MOE_OK && i < b->n_seqs; i++) {
        json *j = json_object();
        add_answer(j, s, b, i, r);
        status = json_answer(j, err);
    }
    batch_clear(b);
    return status == MOE_OK ? cli_flush(err) : status;
}

/* A question of a stream: answered at once. */
static moe_status answer_row(const arguments *a, session *s, batch *b, const dataset_row *row,
                             const line_reader *lines, moe_error *err)
{
    const run_answer_options o = {a->selection, true, true};
    moe_status status = run_answer(s, b, row, &o, err);
    batch_clear(b);
    return status == MOE_OK && !lines_ready(lines) ? cli_flush(err) : status;
}

static moe_status run_stream(const arguments *a, session *s, batch *b, ranking *r,
                             moe_error *err)
{
    line_reader lines;
    dataset_row row;
    moe_error later; /* a broken row is told after the answers before it */
    moe_status status = lines_open(&lines, a->input, err), read;
    if (status != MOE_OK)
        return status;
    do {
        read = jsonl_next(&lines, &row, &later);
        bool more = read == MOE_OK && row.text;
        bool answers = s->info->task == MOE_TASK_ANSWER && row.asks;
        if (more && answers && b->n_seqs > 0)
            status = flush_batch(s, b, r, err);
        if (more && answers && status == MOE_OK)
            status = answer_row(a, s, b, &row, &lines, err);
        else if (more && !answers)
            status = add_row(b, s, &row, a->selection, err);
        jsonl_row_free(&row);
        if (more && answers)
            continue;
        bool full = b->n_tokens >= BATCH_TOKENS || b->n_seqs >= BATCH_ROWS;
        if (status == MOE_OK && (!more || full || !lines_ready(&lines)))
            status = flush_batch(s, b, r, err);
        if (!more)
            break;
    } while (status == MOE_OK);
    lines_close(&lines);
    if (status == MOE_OK && read != MOE_OK && err)
        *err = later;
    return status == MOE_OK ? read : status;
}

/* ---- text-to-text models ------------------------------------------------------ */

static moe_status run_text_lines(const arguments *a, run_text *r, moe_error *err)
{
    line_reader lines;
    dataset_row row;
    moe_status status = lines_open(&lines, a->input, err), read = MOE_OK;
    if (status != MOE_OK)
        return status;
    moe_error later; /* a broken row is told after the answers before it */
    bool more = true;
    while (status == MOE_OK && more) {
        read = jsonl_next(&lines, &row, &later);
        if (read == MOE_OK && row.text)
            read = run_text_add(r, lines.path, &row, &later);
        more = read == MOE_OK && row.text;
        jsonl_row_free(&row);
        if (!more || run_text_full(r) || !lines_ready(&lines))
            status = run_text_flush(r, err);
    }
    lines_close(&lines);
    if (status == MOE_OK && read != MOE_OK && err)
        *err = later;
    return status == MOE_OK ? read : status;
}

static moe_status run_texts(const arguments *a, session *s, moe_error *err)
{
    run_text r = {.s = s, .o = {a->selection, a->task, a->max_new_tokens, a->json || a->input}};
    const char *text = a->positional[1], *pair = a->n_positional > 2 ? a->positional[2] : NULL;
    moe_status status;
    if (a->input) {
        status = run_text_lines(a, &r, err);
    } else {
        const dataset_row row = {.text = text, .text_bytes = strlen(text), .pair = pair,
                                 .pair_bytes = pair ? strlen(pair) : 0};
        status = run_text_add(&r, NULL, &row, err);
        if (status == MOE_OK)
            status = run_text_flush(&r, err);
    }
    run_text_free(&r);
    return status;
}

/* ---- the command ------------------------------------------------------------ */

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.ratio_text = "1", .max_new_tokens = NEW_TOKENS};
    const cli_option options[] = {
        {"--ratio", OPT_STRING, &a->ratio_text, 0, 0, "R",
         "share of the FFN neurons, over 0 and at most 1 (default 1: dense)"},
        {"--policy", OPT_STRING, &a->policy_text, 0, 0, "NAME",
         "topk, threshold or sequence (default: the model's own)"},
        {"--input", OPT_STRING, &a->input, 0, 0, "FILE", "JSONL rows instead of a text"},
        {"--task", OPT_STRING, &a->task, 0, 0, "NAME",
         "of a text-to-text model: sst2, mrpc, qnli, squad, ... puts the text into its template"},
        {"--max-new-tokens", OPT_INT, &a->max_new_tokens, 1, 65536, "N",
         "of a text-to-text model's answer (default 32)"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    int code = cli_parse(usage, options, argc, argv, 3, a->positional, &a->n_positional);
    if (code >= 0)
        return code;
    if (a->n_positional < 1)
        return cli_usage("run: needs the directory of a model");
    if (!a->input == (a->n_positional == 1))
        return cli_usage("run: needs either a text or --input FILE");
    bool read = cli_ratios("run", "--ratio", a->ratio_text, 1, &a->selection.ratio) &&
                cli_policy("run", "--policy", a->policy_text, &a->selection.policy);
    return read ? -1 : EXIT_USAGE;
}

int cmd_run(int argc, char **argv)
{
    arguments a;
    session s;
    ranking r;
    batch b = {0};
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code >= 0)
        return code;
    if (session_open(&s, a.positional[0], MOE_BACKEND_AUTO, a.threads, &err) != MOE_OK)
        return cli_failed(&err);
    if (!s.info->moefied && a.selection.ratio < 1)
        fprintf(stderr, "moefy: note: %s is not MoEfied and runs dense\n", s.info->dir);
    bool texts = s.info->task == MOE_TASK_TEXT;
    moe_status status = session_check_policy(&s, a.selection.policy, &err);
    if (status == MOE_OK && (a.task || a.max_new_tokens != NEW_TOKENS) && !texts)
        status = moe_fail(&err, MOE_E_ARGUMENT, "%s: is no text-to-text model, which --task and "
                          "--max-new-tokens are for", s.info->dir);
    if (status == MOE_OK && texts)
        status = run_texts(&a, &s, &err);
    else if (status == MOE_OK)
        status = ranking_create(&r, s.info->n_labels, &err);
    if (status == MOE_OK && !texts) {
        status = (a.input ? run_stream : run_one)(&a, &s, &b, &r, &err);
        ranking_free(&r);
    }
    batch_free(&b);
    session_close(&s);
    if (status == MOE_OK)
        return EXIT_DONE;
    fflush(stdout); /* the answers come before the message */
    return cli_failed(&err);
}
