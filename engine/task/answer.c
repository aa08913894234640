/* answer.c: extractive question answering: windows over a context, and from their
 * logits the spans that answer best.
 *
 * In a window an answer starts at a token of the context and ends at one, max_answer_len
 * tokens at most. P(start) and P(end) are softmaxes of the logits over the context's
 * tokens and the first token, [CLS], which stands for "no answer". Of each window the best
 * spans are kept, more than are wanted, since spans that fall on the same words are one
 * answer. What is done here, to the order of the steps, is what Hugging Face's pipeline
 * does; where it lists a span of probability 0 for want of others, so is it here. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

enum { WINDOW_TOKENS = 384, STRIDE_TOKENS = 128, QUESTION_TOKENS = 64, MAX_WINDOWS = 4096,
       ANSWER_TOKENS = 15 };

/* ---- windows --------------------------------------------------------------- */

/* All tokens of a question and its context, and where those of each lie. */
typedef struct {
    moe_tokens all;
    int question, question_end; /* [question, question_end) */
    int context, context_end;
    int cut;                    /* tokens of the question left out at its end */
} whole;

static void find_parts(whole *w)
{
    const moe_tokens *t = &w->all;
    w->question = w->context = t->n;
    for (int i = t->n - 1; i >= 0; i--) {
        if (t->spans[i].which == 0)
            w->question = i;
        if (t->spans[i].which == 1)
            w->context = i;
    }
    for (int i = 0; i < t->n; i++) {
        if (t->spans[i].which == 0)
            w->question_end = i + 1;
        if (t->spans[i].which == 1)
            w->context_end = i + 1;
    }
    if (w->context == t->n)
        w->context_end = t->n;
}

/* out: so many of the context's tokens from `first` on, with all that stands around. */
static bool cut_window(const whole *w, int first, int n_context, moe_tokens *out)
{
    const moe_tokens *t = &w->all;
    int before = w->context - w->cut, after = t->n - w->context_end;
    int n = before + n_context + after, kept = w->question_end - w->cut;
    const struct { int from, n; } part[] = {
        {0, w->cut ? kept : w->context},
        {w->question_end, w->cut ? w->context - w->question_end : 0},
        {first, n_context}, {w->context_end, after},
    };
    int32_t *block = malloc((size_t)n * (2 * sizeof *block + sizeof(moe_span)));
    if (!block)
        return false;
    *out = (moe_tokens){.n = n, .ids = block, .types = block + n,
                        .spans = (moe_span *)(void *)(block + 2 * n)};
    for (int p = 0, at = 0; p < 4; at += part[p++].n) {
        size_t k = (size_t)part[p].n;
        memcpy(out->ids + at, t->ids + part[p].from, k * sizeof *out->ids);
        memcpy(out->types + at, t->types + part[p].from, k * sizeof *out->types);
        memcpy(out->spans + at, t->spans + part[p].from, k * sizeof *out->spans);
    }
    return true;
}

static moe_status cut_windows(const whole *w, int room, int stride, int max_windows,
                              moe_windows *out, moe_error *err)
{
    int n_context = w->context_end - w->context;
    int more = n_context > room ? (n_context - room + room - stride - 1) / (room - stride) : 0;
    if (more >= max_windows)
        return moe_fail(err, MOE_E_LIMIT, "the context has %d tokens: %d windows, at most %d "
                        "are read", n_context, more + 1, max_windows);
    out->windows = calloc((size_t)more + 1, sizeof *out->windows);
    for (int i = 0; out->windows && i <= more; i++) {
        int first = i * (room - stride), left = n_context - first;
        if (!cut_window(w, w->context + first, left < room ? left : room, &out->windows[i]))
            break;
        out->n++;
    }
    if (out->n == more + 1)
        return MOE_OK;
    moe_windows_free(out);
    return moe_fail(err, MOE_E_MEMORY, "out of memory for %d windows", more + 1);
}

static int or_else(int value, int missing)
{
    return value ? value : missing;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

static moe_status check_lengths(const moe_question *q, int limit, moe_error *err)
{
    if (q->max_seq_len < 0 || q->max_seq_len > limit)
        return moe_fail(err, MOE_E_ARGUMENT, "max_seq_len is %d, expected 1 to %d",
                        q->max_seq_len, limit);
    if (q->doc_stride < 0)
        return moe_fail(err, MOE_E_ARGUMENT, "doc_stride is %d, expected 0 or more",
                        q->doc_stride);
    if (q->max_question_len < 0)
        return moe_fail(err, MOE_E_ARGUMENT, "max_question_len is %d, expected 1 or more",
                        q->max_question_len);
    return MOE_OK;
}

/* All is tokenised; limit: of the model. */
static moe_status make_windows(const moe_question *q, int limit, whole *w, moe_windows *out,
                               moe_error *err)
{
    int window = or_else(q->max_seq_len, smaller(limit, WINDOW_TOKENS));
    int stride = or_else(q->doc_stride, smaller(window / 2, STRIDE_TOKENS));
    find_parts(w);
    int n_question = w->question_end > w->question ? w->question_end - w->question : 0;
    int asked = or_else(q->max_question_len, QUESTION_TOKENS);
    w->cut = n_question > asked ? n_question - asked : 0;
    int around = w->all.n - w->cut - (w->context_end - w->context);
    int room = window - around;
    if (room < 1)
        return moe_fail(err, MOE_E_ARGUMENT, "a window of %d tokens (max_seq_len) has no room "
                        "for the context beside the question's %d", window,
                        n_question - w->cut);
    if (stride >= room)
        return moe_fail(err, MOE_E_ARGUMENT, "doc_stride is %d, expected less than the %d "
                        "tokens of context that fit a window", stride, room);
    return cut_windows(w, room, stride, or_else(q->max_windows, MAX_WINDOWS), out, err);
}

moe_status moe_windows_make(const moe_model *m, const moe_question *q, moe_windows *out,
                            moe_error *err)
{
    *out = (moe_windows){0};
    if (m->info.task != MOE_TASK_ANSWER)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: does not answer questions", m->info.dir);
    moe_status status = check_lengths(q, m->info.max_tokens, err);
    if (status != MOE_OK)
        return status;
    whole w = {0};
    const moe_text text = {
        .text = q->question, .text_bytes = q->question_bytes, .pair = q->context,
        .pair_bytes = q->context_bytes, .truncation = MOE_TRUNCATE_NEVER,
        .strict_utf8 = q->strict_utf8, .want_offsets = true,
    };
    status = tokenizer_encode(m->tokenizer, &text, INT_MAX / 2, &w.all, err);
    if (status == MOE_OK)
        status = make_windows(q, m->info.max_tokens, &w, out, err);
    moe_tokens_free(&w.all);
    return status;
}

void moe_windows_free(moe_windows *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->n; i++)
        moe_tokens_free(&w->windows[i]);
    free(w->windows);
    *w = (moe_windows){0};
}

/* ---- spans of a window -------------------------------------------------------- */

typedef struct { int first, last; double score; } span;

/* The best spans so far, by falling score, the earlier first. */
typedef struct { span *list; int n, room; } best_spans;

static void offer(best_spans *b, span s)
{
    int at = b->n;
    if (at == b->room && !(s.score > b->list[at - 1].score))
        return;
    at = at == b->room ? at - 1 : b->n++;
    for (; at > 0 && s.score > b->list[at - 1].score; at--)
        b->list[at] = b->list[at - 1];
    b->list[at] = s;
}

static bool is_candidate(const moe_tokens *t, int i)
{
    return i == 0 || t->spans[i].which == 1;
}

/* p [n]: the softmax of column `which` of logits [n, 2] over the candidates. */
static void softmax_column(const moe_tokens *t, const float *logits, int which, double *p)
{
    double top = -INFINITY, sum = 0;
    for (int i = 0; i < t->n; i++)
        if (is_candidate(t, i) && logits[2 * i + which] > top)
            top = logits[2 * i + which];
    for (int i = 0; i < t->n; i++) {
        p[i] = is_candidate(t, i) ? exp(logits[2 * i + which] - top) : 0;
        sum += p[i];
    }
    for (int i = 0; i < t->n; i++)
        p[i] /= sum;
}

/* Fills best; returns the probability of "no answer". start, end [n]: scratch. */
static double find_spans(const moe_tokens *t, const float *logits, int max_answer_len,
                         double *start, double *end, best_spans *best)
{
    softmax_column(t, logits, 0, start);
    softmax_column(t, logits, 1, end);
    double none = start[0] * end[0];
    for (int i = 1; i < t->n; i++)
        for (int j = i; j < t->n && j - i < max_answer_len && t->spans[i].which == 1; j++)
            if (t->spans[j].which == 1 && start[i] * end[j] > 0)
                offer(best, (span){i, j, start[i] * end[j]});
    return none;
}

/* ---- from tokens to text -------------------------------------------------------- */

/* Whether token i goes on with the word of the one before it. */
static bool continues(const moe_model *m, const moe_tokens *t, int i)
{
    const char *text = moe_token_text(m, t->ids[i]);
    return i > 0 && t->spans[i - 1].which == 1 && t->spans[i].which == 1 && text &&
           strncmp(text, "##", 2) == 0 && text[2];
}

/* Bytes before a code point of valid text. */
static size_t byte_of(const char *s, size_t n, int32_t point)
{
    size_t i = 0;
    for (int32_t seen = 0; i < n; i++)
        if (((unsigned char)s[i] & 0xc0) != 0x80 && seen++ == point)
            break;
    return i;
}

static moe_answer text_of(const moe_model *m, const moe_question *q, const moe_tokens *t,
                          span s, bool cut_words)
{
    int first = s.first, last = s.last;
    while (!cut_words && continues(m, t, first))
        first--;
    while (!cut_words && last + 1 < t->n && continues(m, t, last + 1))
        last++;
    moe_answer a = {.start = t->spans[first].start, .end = t->spans[last].end,
                    .score = s.score};
    a.first_byte = byte_of(q->context, q->context_bytes, a.start);
    a.end_byte = byte_of(q->context, q->context_bytes, a.end);
    return a;
}

/* A text read in lower case, code point by code point. */
typedef struct {
    const char *s;
    size_t n;
    uint32_t ahead[UNICODE_MAX_LOWER];
    int n_ahead, at;
} lower_reader;

static uint32_t next_lower(lower_reader *r) /* 0 at the end */
{
    if (r->at == r->n_ahead) {
        size_t length;
        if (r->n == 0)
            return 0;
        uint32_t cp = (uint8_t)*r->s;
        if ((length = utf8_length((uint8_t)*r->s)) <= r->n)
            cp = utf8_get(r->s, &length);
        else /* of invalid text */
            length = 1;
        r->s += length;
        r->n -= length;
        r->n_ahead = unicode_lower(cp, r->ahead);
        r->at = 0;
    }
    return r->ahead[r->at++];
}

static bool same_but_for_case(const moe_question *q, const moe_answer *a, const moe_answer *b)
{
    lower_reader x = {.s = q->context + a->first_byte, .n = a->end_byte - a->first_byte};
    lower_reader y = {.s = q->context + b->first_byte, .n = b->end_byte - b->first_byte};
    uint32_t c;
    do {
        c = next_lower(&x);
        if (c != next_lower(&y))
            return false;
    } while (c);
    return true;
}

/* ---- all windows --------------------------------------------------------------- */

typedef struct { moe_answer *list; int n; } answer_list;

static void add_answer(answer_list *l, const moe_question *q, moe_answer a)
{
    for (int i = 0; i < l->n; i++)
        if (same_but_for_case(q, &l->list[i], &a)) {
            l->list[i].score += a.score;
            return;
        }
    l->list[l->n++] = a;
}

/* The best first; equal ones in their order. Returns how many were written. */
static int take_best(const answer_list *l, int top_k, moe_answer *out)
{
    int n = 0;
    for (int i = 0; i < l->n; i++) {
        int at = n < top_k ? n++ : top_k;
        for (; at > 0 && l->list[i].score > out[at - 1].score; at--)
            if (at < top_k)
                out[at] = out[at - 1];
        if (at < top_k)
            out[at] = l->list[i];
    }
    return n;
}

int moe_answers_find(const moe_model *m, const moe_question *q, const moe_windows *w,
                     const float *const *logits, const moe_answer_options *o,
                     moe_answer *answers)
{
    int top_k = or_else(o->top_k, 1), longest = 1, n = -1;
    int room = o->cut_words ? top_k : 2 * top_k + 10;
    double none = INFINITY;
    for (int i = 0; i < w->n; i++)
        longest = w->windows[i].n > longest ? w->windows[i].n : longest;
    double *p = malloc(2 * (size_t)longest * sizeof *p);
    span *spans = malloc((size_t)room * sizeof *spans);
    answer_list all = {malloc(((size_t)w->n * (size_t)(room + 1) + 1) * sizeof *all.list), 0};
    if (p && spans && all.list) {
        for (int i = 0; i < w->n; i++) {
            best_spans best = {spans, 0, room};
            double p_none = find_spans(&w->windows[i], logits[i],
                                       or_else(o->max_answer_len, ANSWER_TOKENS), p,
                                       p + longest, &best);
            none = p_none < none ? p_none : none;
            for (int s = 0; s < best.n; s++)
                add_answer(&all, q, text_of(m, q, &w->windows[i], best.list[s], o->cut_words));
            if (best.n < room)
                add_answer(&all, q, (moe_answer){0});
        }
        if (o->allow_none)
            all.list[all.n++] = (moe_answer){.score = none};
        n = take_best(&all, top_k, answers);
    }
    free(p);
    free(spans);
    free(all.list);
    return n;
}
