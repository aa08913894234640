/* calibration.c: tokenise and choose.
 *
 * 1. Every row with text is tokenised (truncated to the model's limit).
 * 2. If the tokens are more than max_tokens, m rows at even distances are kept,
 *    m as large as fits: calibration files are often sorted by source or length.
 * 3. Parts of it are copies: tokens are small beside what is computed from them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/calibration.h"
#include "convert/interrupt.h"
#include "convert/rng.h"
#include "convert/session.h"

enum { BATCH_TOKENS = 4096 };

/* ---- text to tokens ------------------------------------------------------ */

typedef struct {
    moe_tokens *rows;     /* [n_rows] */
    int n_rows;
    int32_t *row;         /* [n_rows] which row of the data */
    int32_t *length;      /* [n_rows] */
    int32_t *chosen;      /* [n_rows] */
} token_lists;

static void token_lists_free(token_lists *t)
{
    for (int i = 0; t->rows && i < t->n_rows; i++)
        moe_tokens_free(&t->rows[i]);
    free(t->rows);
    free(t->row);
    free(t->length);
    free(t->chosen);
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\v\f", text[i]) || text[i] == 0)
            return false;
    return true;
}

static moe_status tokenise(const moe_model *m, const dataset *data, token_lists *t,
                           moe_error *err)
{
    const size_t n = (size_t)data->n_rows + 1;
    t->rows = calloc(n, sizeof *t->rows);
    t->row = calloc(n, sizeof *t->row);
    t->length = calloc(n, sizeof *t->length);
    t->chosen = calloc(n, sizeof *t->chosen);
    if (!t->rows || !t->row || !t->length || !t->chosen)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory for its tokens", data->path);
    for (int i = 0; i < data->n_rows; i++) {
        const dataset_row *row = &data->rows[i];
        if (is_blank(row->text, row->text_bytes) &&
            (!row->pair || is_blank(row->pair, row->pair_bytes)))
            continue;
        moe_status status = row_tokenize(m, row, false, &t->rows[t->n_rows], err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        if (status != MOE_OK)
            return status;
        t->row[t->n_rows] = i;
        t->length[t->n_rows] = t->rows[t->n_rows].n;
        t->n_rows++;
    }
    if (t->n_rows == 0)
        return moe_fail(err, MOE_E_FORMAT, "%s: %d rows, but none holds text", data->path,
                        data->n_rows);
    return MOE_OK;
}

/* Row j of m at the middle of the j-th of m equal parts of [0, n). */
static int32_t spread(int j, int m, int n)
{
    return (int32_t)(((int64_t)2 * j + 1) * n / (2 * (int64_t)m));
}

int calibration_choose(const int32_t *length, int n, int64_t max_tokens, int32_t *chosen)
{
    int64_t all = 0;
    for (int i = 0; i < n; i++)
        all += length[i];
    double share = all > max_tokens ? (double)max_tokens / (double)all : 1;
    int m = share < 1 ? (int)ceil(share * n) : n;
    for (; m > 0; m--) {
        int64_t sum = 0;
        for (int j = 0; j < m; j++)
            sum += length[spread(j, m, n)];
        if (sum <= max_tokens)
            break;
        /* Far off: go down by what is too much, not one by one. */
        m -= (int)((double)m * (double)(sum - max_tokens) / (double)sum / 2);
    }
    for (int j = 0; j < m; j++)
        chosen[j] = spread(j, m, n);
    if (m > 0)
        return m;
    /* Hardly any room: the shortest row, if that fits. */
    chosen[0] = 0;
    for (int i = 1; i < n; i++)
        if (length[i] < length[chosen[0]])
            chosen[0] = i;
    return n > 0 && length[chosen[0]] <= max_tokens;
}

/* Lays the chosen rows end to end and frees the others. */
static moe_status choose_rows(const dataset *data, int max_tokens, token_lists *t,
                              calibration *c, moe_error *err)
{
    c->n_rows = t->n_rows;
    c->n_seqs = calibration_choose(t->length, t->n_rows, max_tokens, t->chosen);
    if (c->n_seqs == 0)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "%s: its shortest row has %d tokens, the limit is %d in all",
                        data->path, t->length[t->chosen[0]], max_tokens);
    for (int j = 0; j < c->n_seqs; j++)
        c->n_tokens += t->length[t->chosen[j]];
    c->ids = malloc((size_t)c->n_tokens * sizeof *c->ids);
    c->types = malloc((size_t)c->n_tokens * sizeof *c->types);
    c->row = malloc((size_t)c->n_seqs * sizeof *c->row);
    c->cu_seqlens = malloc(((size_t)c->n_seqs + 1) * sizeof *c->cu_seqlens);
    if (!c->ids || !c->types || !c->row || !c->cu_seqlens)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory for %d tokens", data->path,
                        c->n_tokens);
    int32_t at = c->cu_seqlens[0] = 0;
    for (int j = 0; j < c->n_seqs; j++) {
        const moe_tokens *row = &t->rows[t->chosen[j]];
        memcpy(c->ids + at, row->ids, (size_t)row->n * sizeof *c->ids);
        memcpy(c->types + at, row->types, (size_t)row->n * sizeof *c->types);
        c->row[j] = t->row[t->chosen[j]];
        c->cu_seqlens[j + 1] = at += row->n;
    }
    for (int i = 0; i < t->n_rows; i++)
        moe_tokens_free(&t->rows[i]);
    t->n_rows = 0;
    return MOE_OK;
}

/* Tokens that the tokenizer's [UNK] stands for. */
static int count_unknown(const moe_model *m, const int32_t *ids, int n)
{
    int unknown = 0;
    for (int i = 0; i < n; i++) {
        const char *text = moe_token_text(m, ids[i]);
        unknown += text && !strcmp(text, "[UNK]");
    }
    return unknown;
}

moe_status calibration_read(const moe_model *m, const dataset *data, int max_tokens,
                            calibration *out, moe_error *err)
{
    token_lists t = {.n_rows = 0};
    *out = (calibration){.n_tokens = 0};
    moe_status status = tokenise(m, data, &t, err);
    if (status == MOE_OK)
        status = choose_rows(data, max_tokens, &t, out, err);
    if (status == MOE_OK)
        out->n_unknown = count_unknown(m, out->ids, out->n_tokens);
    token_lists_free(&t);
    return status;
}

void calibration_free(calibration *c)
{
    free(c->cu_seqlens);
    free(c->ids);
    free(c->types);
    free(c->row);
    *c = (calibration){.n_tokens = 0};
}

void calibration_note(const char *path, int n_tokens, int n_unknown, int few)
{
    if (n_tokens < few)
        fprintf(stderr, "moefy: note: %s gives %d tokens: some %d or more make a better "
                "model\n", path, n_tokens, 4 * few);
    if (n_unknown > n_tokens / 5)
        fprintf(stderr, "moefy: note: %.0f%% of the tokens of %s are not in the model's "
                "vocabulary\n", 100.0 * n_unknown / n_tokens, path);
}

/* ---- parts --------------------------------------------------------------- */

static int length_of(const calibration *c, int seq)
{
    return c->cu_seqlens[seq + 1] - c->cu_seqlens[seq];
}

moe_status calibration_pick(const calibration *c, const int32_t *seq, int n,
                            calibration *out, moe_error *err)
{
    *out = (calibration){.n_seqs = n, .n_rows = c->n_rows, .n_unknown = c->n_unknown};
    for (int i = 0; i < n; i++)
        out->n_tokens += length_of(c, seq[i]);
    const size_t tokens = (size_t)out->n_tokens + 1, seqs = (size_t)n + 1;
    out->ids = malloc(tokens * sizeof *out->ids);
    out->types = malloc(tokens * sizeof *out->types);
    out->row = malloc(seqs * sizeof *out->row);
    out->cu_seqlens = malloc(seqs * sizeof *out->cu_seqlens);
    if (!out->ids || !out->types || !out->row || !out->cu_seqlens)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d tokens", out->n_tokens);
    int32_t at = out->cu_seqlens[0] = 0;
    for (int i = 0; i < n; i++) {
        const size_t bytes = (size_t)length_of(c, seq[i]) * sizeof *c->ids;
        memcpy(out->ids + at, c->ids + c->cu_seqlens[seq[i]], bytes);
        memcpy(out->types + at, c->types + c->cu_seqlens[seq[i]], bytes);
        out->row[i] = c->row[seq[i]];
        out->cu_seqlens[i + 1] = at += length_of(c, seq[i]);
    }
    return MOE_OK;
}

/* Draws the held-out sequences; each remaining one is as likely as another. */
static void draw_held_out(const calibration *c, uint64_t seed, int32_t *train, int *n_train,
                          int32_t *held, int *n_held)
{
    rng r = rng_stream(seed, 0, 'h');
    int to_hold = (c->n_seqs + 9) / 10, tokens = 0;
    *n_train = *n_held = 0;
    for (int s = 0; s < c->n_seqs; s++) {
        const bool drawn = rng_below(&r, (uint64_t)(c->n_seqs - s)) < (uint64_t)to_hold;
        to_hold -= drawn;
        const bool hold = drawn && (*n_held == 0 ||
                                    tokens + length_of(c, s) <= CALIBRATION_MAX_HELD_OUT);
        tokens += hold ? length_of(c, s) : 0;
        if (hold)
            held[(*n_held)++] = s;
        if (!hold || c->n_seqs == 1)
            train[(*n_train)++] = s;
    }
}

moe_status calibration_split(const calibration *c, uint64_t seed, calibration *train,
                             calibration *held_out, moe_error *err)
{
    const size_t n = (size_t)c->n_seqs;
    int32_t *list = malloc(2 * n * sizeof *list);
    *train = *held_out = (calibration){.n_tokens = 0};
    if (!list)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d sequences", c->n_seqs);
    int n_train, n_held;
    draw_held_out(c, seed, list, &n_train, list + n, &n_held);
    moe_status status = calibration_pick(c, list, n_train, train, err);
    if (status == MOE_OK)
        status = calibration_pick(c, list + n, n_held, held_out, err);
    free(list);
    return status;
}

moe_status calibration_sample(const calibration *c, int max_tokens, calibration *out,
                              int32_t **seq, moe_error *err)
{
    const size_t n = (size_t)c->n_seqs;
    int32_t *length = malloc(n * sizeof *length);
    moe_status status;
    *out = (calibration){.n_tokens = 0};
    *seq = malloc(n * sizeof **seq);
    if (length && *seq) {
        for (int s = 0; s < c->n_seqs; s++)
            length[s] = length_of(c, s);
        int chosen = calibration_choose(length, c->n_seqs, max_tokens, *seq);
        status = calibration_pick(c, *seq, chosen ? chosen : 1, out, err);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory for %d sequences", c->n_seqs);
    }
    free(length);
    if (status != MOE_OK) {
        free(*seq);
        *seq = NULL;
    }
    return status;
}

/* ---- batches ------------------------------------------------------------- */

static int batch_end(const calibration *c, int first)
{
    int end = first + 1;
    while (end < c->n_seqs &&
           c->cu_seqlens[end + 1] - c->cu_seqlens[first] <= BATCH_TOKENS)
        end++;
    return end;
}

moe_batch calibration_batch(const calibration *c, int first, int32_t *bounds, int *end)
{
    const int32_t start = c->cu_seqlens[first];
    *end = batch_end(c, first);
    for (int s = first; s <= *end; s++)
        bounds[s - first] = c->cu_seqlens[s] - start;
    return (moe_batch){.n_seqs = *end - first, .cu_seqlens = bounds,
                       .token_ids = c->ids + start, .token_types = c->types + start};
}

void calibration_batch_targets(const calibration *targets, int first, int end, int32_t *bounds,
                               moe_batch *b)
{
    const int32_t start = targets->cu_seqlens[first];
    for (int s = first; s <= end; s++)
        bounds[s - first] = targets->cu_seqlens[s] - start;
    b->cu_targets = bounds;
    b->target_ids = targets->ids + start;
}

int calibration_batch_tokens(const calibration *c)
{
    int most = 0;
    for (int first = 0, end; first < c->n_seqs; first = end) {
        end = batch_end(c, first);
        const int n = c->cu_seqlens[end] - c->cu_seqlens[first];
        most = n > most ? n : most;
    }
    return most;
}
