/* run_answer.c: windows of one question, run as one batch, and its best answer. */
#include "convert/run_answer.h"

#include <stdio.h>
#include <stdlib.h>

#include "convert/cli.h"
#include "convert/json.h"
#include "convert/logits.h"
#include "convert/table.h"

enum { FLOAT_DIGITS = 9 };

/* Effective ratio over all windows, weighted by their tokens. */
static double effective_ratio(const batch *b)
{
    double sum = 0;
    for (int i = 0; i < b->n_seqs; i++)
        sum += b->effective_ratio[i] * (b->cu_seqlens[i + 1] - b->cu_seqlens[i]);
    return sum / b->n_tokens;
}

void run_answer_positions(json *j, const session *s, const batch *b, int i)
{
    static const char *const part[] = {"start", "end"};
    const float *logits = b->logits + logits_at(s->info, b->cu_seqlens, i);
    int n = b->cu_seqlens[i + 1] - b->cu_seqlens[i];
    for (int p = 0; p < 2; p++) {
        json *values = json_add(j, part[p], json_array());
        for (int t = 0; t < n; t++)
            json_add_number(values, NULL, (double)logits[2 * t + p], FLOAT_DIGITS);
    }
}

static void add_window(json *list, const session *s, const batch *b, int i)
{
    json *window = json_add(list, NULL, json_object());
    json *ids = json_add(window, "ids", json_array());
    for (int t = b->cu_seqlens[i]; t < b->cu_seqlens[i + 1]; t++)
        json_add_int(ids, NULL, b->ids[t]);
    run_answer_positions(window, s, b, i);
}

static moe_status print_json(const session *s, const batch *b, const dataset_row *row,
                             const run_answer_options *o, const moe_answer *a, moe_error *err)
{
    json *j = json_object();
    json_add_string(j, "task", task_name(s->info->task));
    json_add_string_n(j, "answer", row->pair + a->first_byte, a->end_byte - a->first_byte);
    json_add_int(j, "start", a->start);
    json_add_int(j, "end", a->end);
    json_add_number(j, "score", a->score, FLOAT_DIGITS);
    if (o->windows) {
        json *list = json_add(j, "windows", json_array());
        for (int i = 0; i < b->n_seqs; i++)
            add_window(list, s, b, i);
    }
    json_add_number(j, "ratio", o->selection.ratio, FLOAT_DIGITS);
    json_add_string(j, "policy",
                    moe_policy_name(moe_policy_resolve(s->info, o->selection.policy)));
    json_add_number(j, "effective_ratio", effective_ratio(b), FLOAT_DIGITS);
    return json_answer(j, err);
}

static void print_text(const session *s, const batch *b, const dataset_row *row,
                       const moe_answer *a, double seconds)
{
    printf("%s%.*s%s\n", table_bold(), (int)(a->end_byte - a->first_byte),
           row->pair + a->first_byte, table_plain());
    printf("score %.4f, code points %d to %d of the context\n\n", a->score, a->start, a->end);
    printf("ratio %g: %.1f%% of the FFN neurons computed, %d tokens in %d window%s, %.1f ms, "
           "%d threads, %s\n", b->selection[0].ratio, 100 * effective_ratio(b), b->n_tokens,
           b->n_seqs, b->n_seqs == 1 ? "" : "s", 1000 * seconds, moe_pool_threads(s->pool),
           moe_engine_isa(s->engine));
    if (!s->info->moefied)
        printf("next: moefy convert %s -o OUT --calibrate FILE, for ratios below 1\n",
               s->info->dir);
}

/* The windows' tokens into b, run. */
static moe_status run_windows(session *s, batch *b, const moe_windows *w,
                              moe_selection selection, moe_error *err)
{
    moe_status status = MOE_OK;
    batch_clear(b);
    for (int i = 0; status == MOE_OK && i < w->n; i++)
        status = batch_add(b, w->windows[i].ids, w->windows[i].types, w->windows[i].n, selection,
                           err);
    return status == MOE_OK ? batch_run(b, s, false, err) : status;
}

/* -1: out of memory. */
static int find_answer(const session *s, const batch *b, const moe_question *q,
                       const moe_windows *w, moe_answer *out)
{
    const float **logits = malloc((size_t)w->n * sizeof *logits);
    for (int i = 0; logits && i < w->n; i++)
        logits[i] = b->logits + logits_at(s->info, b->cu_seqlens, i);
    int n = logits ? moe_answers_find(s->in_use, q, w, logits, &(moe_answer_options){0}, out) : -1;
    free(logits);
    return n;
}

moe_status run_answer(session *s, batch *b, const dataset_row *row,
                      const run_answer_options *o, moe_error *err)
{
    moe_windows w;
    moe_answer a;
    if (!row->pair)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: answers questions: expected a question and a "
                        "context, found one text", s->info->dir);
    const moe_question q = {.question = row->text, .question_bytes = row->text_bytes,
                            .context = row->pair, .context_bytes = row->pair_bytes};
    double start = cli_seconds();
    moe_status status = moe_windows_make(s->in_use, &q, &w, err);
    if (status == MOE_OK)
        status = run_windows(s, b, &w, o->selection, err);
    if (status == MOE_OK && find_answer(s, b, &q, &w, &a) < 0)
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d windows", w.n);
    if (status == MOE_OK && o->json)
        status = print_json(s, b, row, o, &a, err);
    else if (status == MOE_OK)
        print_text(s, b, row, &a, cli_seconds() - start);
    moe_windows_free(&w);
    return status;
}
