/* spm_reader.c: a text's way through a SentencePiece model file with added tokens, as T5's
 * and XLM-RoBERTa's own tokenizers have it.
 *
 *   text -> pieces between added tokens -> SentencePiece -> ids
 *
 * How a piece of text begins is the tokenizers' history. The legacy way leaves it to the
 * model file: a space goes before each piece. The later way (tokenizer_config.json says
 * "legacy": false) puts one mark U+2581 before the whole text, turns those in the text
 * into spaces, and keeps a piece's leading space by coding it behind the string of the
 * unknown token, whose pieces are then dropped: the model would strip it otherwise. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/spm_tokenizer.h"
#include "engine/text/utf8.h"

/* What goes to the model, and where each byte comes from in code points. */
typedef struct { char *bytes; int32_t *at; size_t n; } buffer;

typedef struct {
    const spm_tokenizer *t;
    token_list *out;
    const char *s; /* the whole text, begun with the mark where not legacy */
    const int32_t *at;
    int before;    /* tokens in out when it began */
    bool failed;
} reader;

/* The bytes [*begin, *end) of s without the space they begin with. */
static void trim(const char *s, int32_t *begin, int32_t end)
{
    while (*begin < end && s[*begin] == ' ')
        ++*begin;
    if (end - *begin >= SPM_MARK_BYTES && memcmp(s + *begin, SPM_MARK, SPM_MARK_BYTES) == 0)
        *begin += SPM_MARK_BYTES;
}

static void add_pieces(reader *r, const spm_piece *piece, int n, const char *s,
                       const int32_t *at, size_t shift)
{
    for (int i = 0; i < n; i++) {
        int32_t begin = piece[i].begin, end = piece[i].end;
        trim(s, &begin, end);
        int32_t start = begin < (int32_t)shift ? at[0] : at[begin - (int32_t)shift];
        int32_t stop = begin < end ? at[end - (int32_t)shift - 1] + 1 : start;
        token_list_add(r->out, spm_id(r->t, piece[i].id), start, stop);
    }
}

/* n bytes from s, whose code points are at. */
static void read_text(reader *r, const char *s, size_t n, const int32_t *at)
{
    const spm_tokenizer *t = r->t;
    bool guarded = !t->legacy && (s[0] == ' ' || (n >= SPM_MARK_BYTES && !memcmp(s, SPM_MARK, SPM_MARK_BYTES)));
    size_t shift = guarded ? t->guard_bytes : 0;
    char *joined = guarded ? malloc(shift + n) : NULL;
    if (guarded && !joined) {
        r->failed = true;
        return;
    }
    if (guarded) {
        memcpy(joined, t->guard, shift);
        memcpy(joined + shift, s, n);
        s = joined;
    }
    spm_piece *pieces;
    int count, skip = guarded ? t->guard_pieces : 0;
    if (spm_encode(t->model, s, n + shift, &pieces, &count, NULL) != MOE_OK)
        r->failed = true;
    else if (count > skip)
        add_pieces(r, pieces + skip, count - skip, s, at, shift);
    free(pieces);
    free(joined);
}

/* A lone mark before an added token is nothing. */
static void drop_lone_mark(reader *r)
{
    const spm_tokenizer *t = r->t;
    token_list *out = r->out;
    int32_t mark = spm_find(t->model, SPM_MARK);
    if (t->legacy || mark < 0 || out->n != r->before + 1 || out->total != out->n ||
        out->ids[r->before] != spm_id(t, mark))
        return;
    out->n--;
    out->total--;
}

static void read_piece(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    if (r->failed || start == end)
        return;
    if (id >= 0)
        drop_lone_mark(r);
    if (id >= 0)
        token_list_add(r->out, id, r->at[start], r->at[end - 1] + 1);
    else
        read_text(r, r->s + start, end - start, r->at + start);
}

/* The text as it is split: begun with the mark, marks in it made spaces. */
static bool prepare(const spm_tokenizer *t, const char *s, size_t n, buffer *b)
{
    size_t length;
    int32_t point = 0;
    b->bytes = malloc(n + SPM_MARK_BYTES);
    b->at = malloc((n + SPM_MARK_BYTES) * sizeof *b->at);
    if (!b->bytes || !b->at)
        return false;
    b->n = 0;
    for (int i = 0; !t->legacy && i < SPM_MARK_BYTES; i++, b->n++) {
        b->bytes[b->n] = SPM_MARK[i];
        b->at[b->n] = 0;
    }
    for (size_t i = 0; i < n; i += length, point++) {
        length = utf8_length((uint8_t)s[i]);
        bool mark = !t->legacy && length == SPM_MARK_BYTES && !memcmp(s + i, SPM_MARK, SPM_MARK_BYTES);
        for (size_t c = 0; c < (mark ? 1 : length); c++, b->n++) {
            b->bytes[b->n] = mark ? ' ' : s[i + c];
            b->at[b->n] = point;
        }
    }
    return true;
}

bool spm_read(const moe_tokenizer *base, const char *s, size_t n, token_list *out)
{
    const spm_tokenizer *t = (const spm_tokenizer *)base;
    buffer b = {0};
    if (n == 0)
        return true;
    reader r = {.t = t, .out = out, .before = out->n, .failed = !prepare(t, s, n, &b)};
    r.s = b.bytes;
    r.at = b.at;
    if (!r.failed)
        added_tokens_split(&t->added, b.bytes, b.n, read_piece, &r);
    free(b.bytes);
    free(b.at);
    return !r.failed && !out->failed;
}
