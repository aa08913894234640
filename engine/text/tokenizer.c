/* tokenizer.c: what all kinds of tokenizers do alike.
 *
 * encode: each text becomes a list of tokens, by its kind, that is stored up to the
 * limit and counted to its end; then both are cut and laid out in the kind's frame, such
 * as [CLS] a [SEP] b [SEP]. */
#include "engine/text/tokenizer.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/kind.h"
#include "engine/text/utf8.h"

/* Token counts of two texts stay in an int. */
static const size_t MAX_TEXT_BYTES = ((size_t)1 << 30) - 1;

void tokenizer_destroy(moe_tokenizer *t)
{
    if (t)
        t->kind->destroy(t);
}

void tokenizer_drop_types(moe_tokenizer *t)
{
    t->frame.typed = false;
}

const char *tokenizer_token(const moe_tokenizer *t, int32_t id)
{
    return t->kind->token(t, id);
}

int tokenizer_model_max_length(const moe_tokenizer *t)
{
    return t->model_max_length;
}

moe_status tokenizer_decode(const moe_tokenizer *t, const int32_t *ids, int n, char **out,
                            moe_error *err)
{
    *out = NULL;
    if (!t->kind->decode)
        return moe_fail(err, MOE_E_UNSUPPORTED, "this kind of tokenizer makes no text of ids");
    return t->kind->decode(t, ids, n, out, err);
}

/* ---- cutting ----------------------------------------------------------- */

/* How many tokens of each text to keep so that both fit into `room`. */
static moe_status truncate(moe_truncation how, bool pair, const int64_t n[2],
                           int64_t room, int64_t keep[2], moe_error *err)
{
    int64_t excess = n[0] + n[1] - room;
    keep[0] = n[0];
    keep[1] = n[1];
    if (excess <= 0)
        return MOE_OK;
    if (how == MOE_TRUNCATE_NEVER ||
        (how == MOE_TRUNCATE_ONLY_SECOND && room > 0 && (!pair || n[1] <= excess)))
        return moe_fail(err, MOE_E_LIMIT,
                        "text: %lld tokens without the special ones, expected at most %lld"
                        "%s", (long long)(n[0] + n[1]), (long long)room,
                        how == MOE_TRUNCATE_NEVER ? ""
                        : pair ? "; the second text is too short to be cut by that much"
                               : "; there is no second text to cut");
    if (how == MOE_TRUNCATE_ONLY_SECOND && room > 0) {
        keep[1] -= excess;
        return MOE_OK;
    }
    if (!pair) {
        keep[0] = room;
        return MOE_OK;
    }
    /* The longer is cut, at most to the other's length; then both are halved. */
    int shorter = n[0] > n[1], longer = !shorter;
    if (n[shorter] + n[shorter] <= room) {
        keep[longer] = room - n[shorter];
    } else {
        keep[shorter] = room / 2;
        keep[longer] = room - room / 2;
    }
    return MOE_OK;
}

/* Where assemble writes. */
typedef struct { moe_tokens *out; size_t at; int32_t type; } writer;

static void put_special(writer *w, int32_t id)
{
    w->out->ids[w->at] = id;
    w->out->types[w->at] = w->type;
    if (w->out->spans)
        w->out->spans[w->at] = (moe_span){-1, 0, 0};
    w->at++;
}

/* The first n tokens of a list, or the last. */
static void put_text(writer *w, const token_list *list, size_t n, bool last)
{
    size_t from = last ? (size_t)list->total - n : 0;
    if (n)
        memcpy(w->out->ids + w->at, list->ids + from, n * sizeof *list->ids);
    if (n && w->out->spans)
        memcpy(w->out->spans + w->at, list->spans + from, n * sizeof *list->spans);
    for (size_t i = 0; i < n; i++)
        w->out->types[w->at + i] = w->type;
    w->at += n;
}

/* Special tokens around n_lists texts. */
static int count_special(const tokenizer_frame *f, int n_lists)
{
    return (f->begin >= 0) + n_lists + (n_lists - 1) * f->n_between;
}

static moe_status assemble(const moe_tokenizer *t, const token_list lists[2],
                           const int64_t keep[2], int n_lists, bool cut_left, moe_tokens *out,
                           moe_error *err)
{
    const tokenizer_frame *f = &t->frame;
    size_t n = (size_t)(keep[0] + keep[1]) + (size_t)count_special(f, n_lists);
    bool spans = lists[0].want_spans;
    int32_t *block = malloc(n * (2 * sizeof *block + (spans ? sizeof(moe_span) : 0)));
    if (!block)
        return moe_fail(err, MOE_E_MEMORY, "text: no memory for %zu tokens", n);
    *out = (moe_tokens){.n = (int)n, .ids = block, .types = block + n};
    if (spans)
        out->spans = (moe_span *)(block + 2 * n);
    out->n_truncated = (int)(lists[0].total + lists[1].total - keep[0] - keep[1]);

    writer w = {.out = out};
    if (f->begin >= 0)
        put_special(&w, f->begin);
    for (int l = 0; l < n_lists; l++) {
        for (int i = 0; l > 0 && i < f->n_between; i++)
            put_special(&w, f->end);
        w.type = f->typed ? l : 0;
        put_text(&w, &lists[l], (size_t)keep[l], cut_left);
        put_special(&w, f->end);
    }
    return MOE_OK;
}

/* ---- encoding ---------------------------------------------------------- */

static moe_status encode_one(const moe_tokenizer *t, const char *what, const char *s,
                             size_t n, bool strict, token_list *list, moe_error *err)
{
    char *repaired = NULL;
    if (!s && n)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: NULL with %zu bytes", what, n);
    if (n > MAX_TEXT_BYTES)
        return moe_fail(err, MOE_E_LIMIT, "%s: %zu bytes, expected at most %zu", what, n,
                        MAX_TEXT_BYTES);
    size_t bad = utf8_first_invalid(s, n);
    if (bad < n && strict)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "%s: byte %zu (0x%02X) is not valid UTF-8", what, bad,
                        (unsigned)(uint8_t)s[bad]);
    if (bad < n) {
        moe_status status = utf8_repair(s, n, &repaired, &n, err);
        if (status != MOE_OK)
            return status;
        s = repaired;
    }
    bool done = t->kind->encode(t, s, n, list);
    free(repaired);
    return done ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "%s: no memory", what);
}

moe_status tokenizer_encode(const moe_tokenizer *t, const moe_text *in, int limit,
                            moe_tokens *out, moe_error *err)
{
    int n_lists = in->pair ? 2 : 1, special = count_special(&t->frame, n_lists);
    int room = limit - special;
    token_list lists[2] = {{.which = 0}, {.which = 1}};
    *out = (moe_tokens){0};
    if (room < 0)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "max_tokens is %d, expected at least %d for the special tokens",
                        limit, special);
    for (int l = 0; l < 2; l++) {
        lists[l].keep = in->cut_left ? INT_MAX : room;
        lists[l].want_spans = in->want_offsets;
    }
    moe_status status = encode_one(t, "text", in->text, in->text_bytes, in->strict_utf8,
                                   &lists[0], err);
    if (status == MOE_OK && in->pair)
        status = encode_one(t, "pair", in->pair, in->pair_bytes, in->strict_utf8,
                            &lists[1], err);
    if (status == MOE_OK) {
        int64_t n[2] = {lists[0].total, lists[1].total}, keep[2];
        status = truncate(in->truncation, in->pair != NULL, n, room, keep, err);
        if (status == MOE_OK)
            status = assemble(t, lists, keep, n_lists, in->cut_left, out, err);
    }
    token_list_free(&lists[0]);
    token_list_free(&lists[1]);
    return status;
}
