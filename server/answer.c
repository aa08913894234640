/* answer.c: POST /v1/answer: questions and contexts to spans of the contexts. A context
 * that does not fit a window becomes several sequences; all of a request's go into one
 * job, and r->first_window says where each question's begin. */
#include <stdlib.h>
#include <string.h>

#include "server/json_out.h"
#include "server/server.h"

enum { SCORE_DIGITS = 7 };

static moe_question question_of(const request_state *r, int i)
{
    const request_input *in = &r->body.inputs[i];
    return (moe_question){
        .question = in->text, .question_bytes = in->text_bytes,
        .context = in->pair, .context_bytes = in->pair_bytes,
        .max_seq_len = r->body.max_seq_len, .doc_stride = r->body.doc_stride,
        .max_question_len = r->body.max_question_len,
        .max_windows = r->model->line.max_sequences, .strict_utf8 = true,
    };
}

/* ---- questions to tokens -------------------------------------------------- */

/* Moves the windows [n_inputs] into the job's sequences. */
static bool take_windows(request_state *r, moe_windows *windows, problem *p)
{
    int n = r->body.n_inputs, at = 0;
    r->job = job_create(r->first_window[n]);
    if (!r->job)
        return problem_set(p, 500, "internal", "out of memory");
    for (int i = 0; i < n; i++) {
        for (int w = 0; w < windows[i].n; w++) {
            r->job->sequences[at++].tokens = windows[i].windows[w];
            windows[i].windows[w] = (moe_tokens){0};
        }
        counter_add(&r->model->stats.truncated, windows[i].n > 1);
    }
    return true;
}

static bool make_windows(request_state *r, moe_windows *windows, problem *p)
{
    for (int i = 0; i < r->body.n_inputs; i++) {
        moe_error err = {0};
        moe_question q = question_of(r, i);
        moe_status status = moe_windows_make(r->model->model, &q, &windows[i], &err);
        if (status == MOE_E_ARGUMENT) { /* each fine alone, not together or with the text */
            char place[40];
            input_place(r, i, place);
            return problem_set(p, 409, "conflict", "%s%s", place, err.message);
        }
        if (status != MOE_OK)
            return input_problem(r, i, status, &err, p);
        r->first_window[i + 1] = r->first_window[i] + windows[i].n;
    }
    return take_windows(r, windows, p);
}

bool answer_tokenize(request_state *r, problem *p)
{
    size_t n = (size_t)r->body.n_inputs;
    moe_windows *windows = calloc(n, sizeof *windows);
    r->first_window = calloc(n + 1, sizeof *r->first_window);
    bool fine = windows && r->first_window ? make_windows(r, windows, p)
                                           : problem_set(p, 500, "internal", "out of memory");
    for (size_t i = 0; windows && i < n; i++)
        moe_windows_free(&windows[i]);
    free(windows);
    return fine;
}

/* ---- logits to answers ------------------------------------------------------ */

static void write_answer(buffer *b, const moe_question *q, const moe_answer *a)
{
    jw_open(b, '{');
    jw_key(b, "answer");
    jw_text(b, q->context + a->first_byte, a->end_byte - a->first_byte);
    jw_pair_int(b, "start", a->start);
    jw_pair_int(b, "end", a->end);
    jw_pair_number(b, "score", a->score, SCORE_DIGITS);
    jw_close(b, '}');
}

/* Room for the answers to one question. */
typedef struct {
    moe_tokens *tokens;   /* [most windows], the job's */
    const float **logits; /* the same */
    moe_answer *answers;  /* [top_k] */
} desk;

/* The answers to question i; -1: out of memory. */
static int find_answers(const request_state *r, int i, const moe_question *q, const desk *d)
{
    int first = r->first_window[i], n = r->first_window[i + 1] - first;
    for (int w = 0; w < n; w++) {
        d->tokens[w] = r->job->sequences[first + w].tokens;
        d->logits[w] = r->job->sequences[first + w].values;
    }
    const moe_windows windows = {.n = n, .windows = d->tokens};
    const moe_answer_options o = {
        .top_k = r->body.top_k, .max_answer_len = r->body.max_answer_len,
        .allow_none = r->body.handle_impossible_answer, .cut_words = !r->body.align_to_words,
    };
    return moe_answers_find(r->model->model, q, &windows, d->logits, &o, d->answers);
}

/* One answer, or with top_k over 1 a list of them. */
static void write_answers(buffer *b, const request_state *r, int i, const desk *d)
{
    moe_question q = question_of(r, i);
    int n = find_answers(r, i, &q, d);
    b->failed |= n < 0;
    if (r->body.top_k > 1)
        jw_open(b, '[');
    for (int k = 0; k < n; k++)
        write_answer(b, &q, &d->answers[k]);
    if (r->body.top_k > 1)
        jw_close(b, ']');
}

static void desk_free(desk *d)
{
    free(d->tokens);
    free(d->logits);
    free(d->answers);
}

/* False: out of memory; desk_free in either case. */
static bool desk_create(const request_state *r, desk *d)
{
    size_t most = (size_t)r->job->n_sequences;
    size_t top_k = (size_t)(r->body.top_k ? r->body.top_k : 1);
    *d = (desk){malloc(most * sizeof *d->tokens), malloc(most * sizeof *d->logits),
                malloc(top_k * sizeof *d->answers)};
    return d->tokens && d->logits && d->answers;
}

bool answer_best(const request_state *r, int i, moe_answer *out)
{
    desk d;
    moe_question q = question_of(r, i);
    int n = desk_create(r, &d) ? find_answers(r, i, &q, &d) : -1;
    if (n > 0)
        *out = d.answers[0];
    desk_free(&d);
    return n >= 0;
}

static void write_all(buffer *b, const request_state *r)
{
    desk d;
    b->failed |= !desk_create(r, &d);
    for (int i = 0; !b->failed && i < r->body.n_inputs; i++)
        write_answers(b, r, i, &d);
    desk_free(&d);
}

void answer_write(buffer *b, request_state *r, int64_t total_ns)
{
    envelope_open(b, r);
    write_all(b, r);
    envelope_close(b, r, total_ns);
}

void answer_write_bare(buffer *b, request_state *r)
{
    if (r->body.list)
        jw_open(b, '[');
    write_all(b, r);
    if (r->body.list)
        jw_close(b, ']');
}
