/* evaluate_answer.c: questions: windows by the pipeline's defaults, and its best answer
 * scored as SQuAD's authors do. Where the data has questions without an answer, "no
 * answer" may win. KL and the difference from dense are means over windows. */
#include <stdlib.h>
#include <string.h>

#include "convert/evaluate.h"
#include "convert/logits.h"
#include "convert/squad.h"

static moe_question question_of(const dataset_row *row)
{
    return (moe_question){.question = row->text, .question_bytes = row->text_bytes,
                          .context = row->pair, .context_bytes = row->pair_bytes};
}

/* ---- windows --------------------------------------------------------------- */

/* Moves a question's windows to the end of the sequences. */
static bool take_windows(examples *x, moe_windows *w)
{
    moe_tokens *tokens = realloc(x->tokens, (size_t)(x->n_seqs + w->n) * sizeof *tokens);
    if (!tokens)
        return false;
    x->tokens = tokens;
    for (int i = 0; i < w->n; i++) {
        tokens[x->n_seqs++] = w->windows[i];
        w->windows[i] = (moe_tokens){0};
    }
    return true;
}

static moe_status add_question(const moe_model *m, const dataset *d, examples *x, moe_error *err)
{
    const dataset_row *row = &d->rows[x->n_rows];
    const moe_question q = question_of(row);
    moe_windows w;
    moe_error why;
    moe_status status = moe_windows_make(m, &q, &w, &why);
    if (status != MOE_OK)
        return moe_fail(err, status, "%s: question %d: %s", d->path, row->line, why.message);
    if (!take_windows(x, &w))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d windows", x->n_seqs + w.n);
    moe_windows_free(&w);
    if (status == MOE_OK)
        x->first_window[++x->n_rows] = x->n_seqs;
    return status;
}

moe_status examples_ask(const moe_model *m, const dataset *d, examples *out, moe_error *err)
{
    if (!d->has_answers)
        return moe_fail(err, MOE_E_FORMAT, "%s: expected questions in SQuAD's JSON, as the model "
                        "answers questions", d->path);
    *out = (examples){.data = d};
    out->first_window = calloc((size_t)d->n_rows + 1, sizeof *out->first_window);
    moe_status status = out->first_window
        ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "out of memory for %d questions", d->n_rows);
    for (int i = 0; status == MOE_OK && i < d->n_rows; i++)
        status = add_question(m, d, out, err);
    if (status == MOE_OK && !examples_bound(out))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d windows", out->n_seqs);
    if (status != MOE_OK)
        examples_free(out);
    return status;
}

/* ---- scores ----------------------------------------------------------------- */

/* The best answer to question i. False: out of memory. */
static bool answer_to(const session *s, const examples *x, int i, const float *logits,
                      const float **of_window, moe_answer *out)
{
    int first = x->first_window[i], n = x->first_window[i + 1] - first;
    const moe_question q = question_of(&x->data->rows[i]);
    const moe_windows w = {.n = n, .windows = x->tokens + first};
    const moe_answer_options o = {.allow_none = x->data->some_unanswerable};
    for (int k = 0; k < n; k++)
        of_window[k] = logits + logits_at(s->info, x->bounds, first + k);
    return moe_answers_find(s->in_use, &q, &w, of_window, &o, out) >= 0;
}

static bool score_question(const session *s, const examples *x, int i, const float *logits,
                           const float *dense, const float **of_window, evaluation *r)
{
    const dataset_row *row = &x->data->rows[i];
    moe_answer mine, reference;
    if (!answer_to(s, x, i, logits, of_window, &mine) ||
        !answer_to(s, x, i, dense, of_window, &reference))
        return false;
    const char *text = row->pair + mine.first_byte;
    size_t n = mine.end_byte - mine.first_byte;
    double exact = squad_exact(text, n, row->answers, row->n_answers);
    double f1 = squad_f1(text, n, row->answers, row->n_answers);
    r->n_agree += mine.start == reference.start && mine.end == reference.end;
    r->exact_match += exact;
    r->answer_f1 += f1;
    return exact >= 0 && f1 >= 0;
}

moe_status evaluate_answers(const session *s, const examples *x, const float *logits,
                            const float *dense, evaluation *r, moe_error *err)
{
    const float **of_window = malloc((size_t)x->n_seqs * sizeof *of_window);
    bool enough = of_window != NULL;
    r->n_correct = -1;
    for (int i = 0; enough && i < x->n_rows; i++)
        enough = score_question(s, x, i, logits, dense, of_window, r);
    free(of_window);
    if (!enough)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d answers", x->n_rows);
    for (int i = 0; i < x->n_seqs; i++) {
        size_t at = logits_at(s->info, x->bounds, i);
        r->kl += logits_divergence(s->info, dense + at, logits + at, x->tokens[i].n) / x->n_seqs;
        r->mean_abs_difference +=
            logits_difference(s->info, dense + at, logits + at, x->tokens[i].n) / x->n_seqs;
    }
    r->agreement = (double)r->n_agree / r->n;
    r->exact_match /= r->n;
    r->answer_f1 /= r->n;
    return MOE_OK;
}
