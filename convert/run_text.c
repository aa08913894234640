/* run_text.c: rows of text-to-text models. Each row is a sequence that is answered with
 * text; where its task has label words it is there a second time, to be scored. All of
 * them run as one batch. */
#include "convert/run_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/cli.h"
#include "convert/json.h"
#include "convert/table.h"
#include "convert/text_rows.h"
#include "engine/model/model.h"

enum { FLOAT_DIGITS = 9, BATCH_TOKENS = 4096, BATCH_ROWS = 512, BAR_WIDTH = 20 };

struct run_text_labels {
    const moe_text_task *task;
    moe_labels *set;
};

struct run_text_row {
    int sequence;                  /* that is answered with text; the scored one follows */
    int max_new_tokens;
    const moe_text_task *task;     /* NULL: none */
    moe_decoding text, scores;
    float *logprob;                /* [n labels] */
};

/* ---- taking in ------------------------------------------------------------- */

static moe_status fail_row(const char *path, const dataset_row *row, const moe_error *why,
                           moe_error *err)
{
    if (!path)
        return moe_fail(err, why->code, "%s", why->message);
    return moe_fail(err, why->code, "%s:%d: %s", path, row->line, why->message);
}

/* The label set of a task, made once; *out NULL: the task has no labels. */
static moe_status labels_of(run_text *r, const moe_text_task *t, moe_labels **out,
                            moe_error *err)
{
    *out = NULL;
    if (!t || !t->n_labels)
        return MOE_OK;
    for (int i = 0; i < r->n_labels; i++)
        if (r->labels[i].task == t) {
            *out = r->labels[i].set;
            return MOE_OK;
        }
    struct run_text_labels *more =
        realloc(r->labels, ((size_t)r->n_labels + 1) * sizeof *more);
    if (!more)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for labels");
    r->labels = more;
    moe_status status = moe_labels_create(r->s->in_use, t->labels, t->n_labels, out, err);
    if (status == MOE_OK)
        r->labels[r->n_labels++] = (struct run_text_labels){t, *out};
    return status;
}

static bool make_room(run_text *r)
{
    if (r->n_rows < r->room)
        return true;
    int room = r->room ? 2 * r->room : 64;
    struct run_text_row *rows = realloc(r->rows, (size_t)room * sizeof *rows);
    if (!rows)
        return false;
    r->rows = rows;
    r->room = room;
    return true;
}

static moe_status add_tokens(run_text *r, const moe_tokens *t, moe_labels *labels,
                             struct run_text_row *out, moe_error *err)
{
    out->sequence = r->b.n_seqs;
    moe_status status = batch_add(&r->b, t->ids, t->types, t->n, r->o.selection, err);
    if (status != MOE_OK || !labels)
        return status;
    out->scores.labels = labels;
    out->logprob = malloc((size_t)moe_labels_count(labels) * sizeof *out->logprob);
    if (!out->logprob)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for scores");
    out->scores.logprob = out->logprob;
    return batch_add(&r->b, t->ids, t->types, t->n, r->o.selection, err);
}

static moe_status add_row(run_text *r, const dataset_row *row, moe_error *err)
{
    struct run_text_row out = {.max_new_tokens = row->max_new_tokens ? row->max_new_tokens
                                                                     : r->o.max_new_tokens};
    moe_labels *labels = NULL;
    moe_tokens tokens = {0};
    if (out.max_new_tokens < 1 || out.max_new_tokens > r->s->info->max_tokens)
        return moe_fail(err, MOE_E_ARGUMENT, "max_new_tokens is %d, expected 1 to %d",
                        out.max_new_tokens, r->s->info->max_tokens);
    moe_status status = text_row_task(r->s->in_use, row, r->o.task, &out.task, err);
    if (status == MOE_OK)
        status = labels_of(r, out.task, &labels, err);
    if (status == MOE_OK)
        status = text_row_tokenize(r->s->in_use, row, out.task, &tokens, err);
    if (status == MOE_OK && !make_room(r))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for rows");
    if (status == MOE_OK)
        status = add_tokens(r, &tokens, labels, &out, err);
    if (status == MOE_OK)
        r->rows[r->n_rows++] = out;
    else
        free(out.logprob);
    moe_tokens_free(&tokens);
    return status;
}

moe_status run_text_add(run_text *r, const char *path, const dataset_row *row, moe_error *err)
{
    moe_error why;
    moe_status status = add_row(r, row, &why);
    return status == MOE_OK ? MOE_OK : fail_row(path, row, &why, err);
}

bool run_text_full(const run_text *r)
{
    return r->b.n_tokens >= BATCH_TOKENS || r->n_rows >= BATCH_ROWS;
}

/* ---- what is said --------------------------------------------------------------- */

/* scores, order [n]: softmax of the log-probabilities, and the best first. */
static void rank(const moe_text_task *t, const float *logprob, float *scores, int *order)
{
    moe_label_scores(logprob, t->n_labels, scores);
    for (int i = 0; i < t->n_labels; i++) {
        int at = i;
        for (; at > 0 && logprob[i] > logprob[order[at - 1]]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
}

static void add_ids(json *list, const int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        json_add_int(list, NULL, ids[i]);
}

static void add_scores(json *j, const struct run_text_row *row, const float *scores,
                       const int *order)
{
    json *list = json_add(j, "scores", json_array());
    for (int i = 0; i < row->task->n_labels; i++) {
        json *score = json_add(list, NULL, json_object());
        json_add_string(score, "label", row->task->labels[order[i]]);
        json_add_number(score, "score", scores[order[i]], FLOAT_DIGITS);
        json_add_number(score, "logit", row->logprob[order[i]], FLOAT_DIGITS);
    }
}

static moe_status print_json(const run_text *r, const struct run_text_row *row,
                             const char *text, const float *scores, const int *order,
                             moe_error *err)
{
    const batch *b = &r->b;
    json *j = json_object();
    int first = b->cu_seqlens[row->sequence], n = b->cu_seqlens[row->sequence + 1] - first;
    if (row->task)
        json_add_string(j, "task", row->task->name);
    add_ids(json_add(j, "ids", json_array()), b->ids + first, n);
    json *generated = json_add(j, "generated_ids", json_array());
    json_add_int(generated, NULL, r->s->in_use->t5.start_id);
    add_ids(generated, row->text.ids, row->text.n_ids);
    json_add_string(j, "generated", text);
    json_add_string(j, "finish_reason", row->text.ended ? "stop" : "length");
    if (row->logprob)
        add_scores(j, row, scores, order);
    json_add_number(j, "ratio", r->o.selection.ratio, FLOAT_DIGITS);
    json_add_string(j, "policy",
                    moe_policy_name(moe_policy_resolve(r->s->info, r->o.selection.policy)));
    json_add_number(j, "effective_ratio", b->effective_ratio[row->sequence], FLOAT_DIGITS);
    return json_answer(j, err);
}

static void print_plain(const run_text *r, const struct run_text_row *row, const char *text,
                        const float *scores, const int *order)
{
    char bar[BAR_WIDTH + 1];
    int width = 5;
    printf("%s%s%s%s\n", table_bold(), text, table_plain(),
           row->text.ended ? "" : "  (stopped at --max-new-tokens)");
    for (int i = 0; row->logprob && i < row->task->n_labels; i++)
        if ((int)strlen(row->task->labels[i]) > width)
            width = (int)strlen(row->task->labels[i]);
    for (int i = 0; row->logprob && i < row->task->n_labels; i++) {
        table_bar(scores[order[i]], BAR_WIDTH, bar, sizeof bar);
        table_left(row->task->labels[order[i]], width);
        printf("  %6.4f  %s  log-probability %+8.4f\n", scores[order[i]], bar,
               row->logprob[order[i]]);
    }
    printf("\nratio %g: %.1f%% of the FFN neurons computed, %d tokens in, %d out, %.1f ms, %s\n",
           r->o.selection.ratio, 100 * r->b.effective_ratio[row->sequence],
           r->b.cu_seqlens[row->sequence + 1] - r->b.cu_seqlens[row->sequence],
           row->text.n_ids, 1000 * r->seconds, moe_engine_isa(r->s->engine));
}

static moe_status print_row(const run_text *r, const struct run_text_row *row, moe_error *err)
{
    char *text = NULL;
    int n = row->logprob ? row->task->n_labels : 0;
    float *scores = malloc((size_t)(n + 1) * sizeof *scores);
    int *order = malloc((size_t)(n + 1) * sizeof *order);
    moe_status status = moe_detokenize(r->s->in_use, row->text.ids, row->text.n_ids, &text, err);
    if (status == MOE_OK && (!scores || !order))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d labels", n);
    if (status == MOE_OK && n)
        rank(row->task, row->logprob, scores, order);
    if (status == MOE_OK && r->o.json)
        status = print_json(r, row, text, scores, order, err);
    else if (status == MOE_OK)
        print_plain(r, row, text, scores, order);
    free(text);
    free(scores);
    free(order);
    return status;
}

/* ---- running -------------------------------------------------------------------- */

static void clear(run_text *r)
{
    for (int i = 0; i < r->n_rows; i++)
        free(r->rows[i].logprob);
    r->n_rows = 0;
    batch_clear(&r->b);
    free(r->ids);
    r->ids = NULL;
}

/* each [n_seqs]: what is wanted of the sequences, and back. */
static moe_status decode(run_text *r, moe_decoding *each, moe_error *err)
{
    int32_t *ids = r->ids;
    for (int i = 0; i < r->n_rows; i++) {
        struct run_text_row *row = &r->rows[i];
        row->text = (moe_decoding){.max_new_tokens = row->max_new_tokens, .ids = ids};
        ids += row->max_new_tokens;
        each[row->sequence] = row->text;
        if (row->logprob)
            each[row->sequence + 1] = row->scores;
    }
    const moe_batch in = {.n_seqs = r->b.n_seqs, .cu_seqlens = r->b.cu_seqlens,
                          .token_ids = r->b.ids, .selection = r->b.selection};
    const double start = cli_seconds();
    moe_status status = moe_decode(r->s->engine, &in, each, r->b.effective_ratio, err);
    r->seconds = cli_seconds() - start;
    for (int i = 0; i < r->n_rows; i++)
        r->rows[i].text = each[r->rows[i].sequence];
    return status;
}

moe_status run_text_flush(run_text *r, moe_error *err)
{
    size_t tokens = 1;
    for (int i = 0; i < r->n_rows; i++)
        tokens += (size_t)r->rows[i].max_new_tokens;
    r->ids = malloc(tokens * sizeof *r->ids);
    moe_decoding *each = calloc((size_t)r->b.n_seqs + 1, sizeof *each);
    moe_status status = !r->ids || !each
                            ? moe_fail(err, MOE_E_MEMORY, "out of memory for %d rows", r->n_rows)
                            : decode(r, each, err);
    for (int i = 0; status == MOE_OK && i < r->n_rows; i++)
        status = print_row(r, &r->rows[i], err);
    free(each);
    clear(r);
    return status == MOE_OK ? cli_flush(err) : status;
}

void run_text_free(run_text *r)
{
    clear(r);
    for (int i = 0; i < r->n_labels; i++)
        moe_labels_destroy(r->labels[i].set);
    free(r->labels);
    free(r->rows);
    batch_free(&r->b);
    *r = (run_text){.n_rows = 0};
}
