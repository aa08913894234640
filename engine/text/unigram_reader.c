/* unigram_reader.c: a text's way through a SentencePiece model as tokenizer.json has it.
 *
 *   text -> pieces between added tokens -> characters mapped, spaces stripped and collapsed
 *        -> pieces between those added tokens that are looked for here -> marks for spaces
 *        -> SentencePiece -> ids
 *
 * Each byte carries the position of the character that it came from. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/spm_tokenizer.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

/* A piece of text on its way, and where each byte comes from in code points. */
typedef struct { char *bytes; int32_t *at; size_t n; } buffer;

typedef struct {
    const spm_tokenizer *t;
    token_list *out;
    const char *s; /* the text as it came */
    int32_t at;    /* position of its next character */
    buffer piece;  /* the one at hand, normalized; its buffers have room for marks */
    buffer words;  /* room for it with its marks */
    bool failed;
} reader;

static bool is_space(uint32_t cp)
{
    return unicode_class(cp) == CLASS_SPACE;
}

/* ---- normalizing ------------------------------------------------------------------- */

static void strip(const spm_rules *rules, buffer *b)
{
    size_t from = 0, length;
    while (rules->strip_right && b->n > 0 && is_space(utf8_before(b->bytes, b->n)))
        do
            b->n--;
        while (((uint8_t)b->bytes[b->n] & 0xC0) == 0x80);
    for (; rules->strip_left && from < b->n && is_space(utf8_get(b->bytes + from, &length));)
        from += length;
    b->n -= from;
    memmove(b->bytes, b->bytes + from, b->n);
    memmove(b->at, b->at + from, b->n * sizeof *b->at);
}

/* Two spaces and more become `to`, of at most 3 bytes, at the place of the last: so for
 * two spaces the text grows. *out has room for it. */
static void collapse(const buffer *b, const char *to, buffer *out)
{
    size_t length = strlen(to);
    out->n = 0;
    for (size_t i = 0; i < b->n;) {
        size_t run = 0;
        while (i + run < b->n && b->bytes[i + run] == ' ')
            run++;
        const char *from = run >= 2 ? to : b->bytes + i;
        for (size_t k = 0; k < (run >= 2 ? length : 1); k++, out->n++) {
            out->bytes[out->n] = from[k];
            out->at[out->n] = b->at[run >= 2 ? i + run - 1 : i];
        }
        i += run >= 2 ? run : 1;
    }
}

/* bytes and at for n bytes; b is zeroed. */
static bool allocate(buffer *b, size_t n)
{
    b->bytes = malloc(n + 1);
    b->at = malloc((n + 1) * sizeof *b->at);
    return b->bytes && b->at;
}

static void release(buffer *b)
{
    free(b->bytes);
    free(b->at);
    *b = (buffer){0};
}

/* Room for a mark in place of, or before, every byte. */
static size_t with_marks(size_t n)
{
    return (SPM_MARK_BYTES + 1) * n + SPM_MARK_BYTES;
}

/* n bytes from s, the first character being number `first`, into r->piece. */
static bool normalize(reader *r, const char *s, size_t n, int32_t first)
{
    const spm_rules *rules = &r->t->rules;
    buffer mapped = {0};
    int32_t *at = malloc((n + 1) * sizeof *at);
    if (!at)
        return false;
    for (size_t i = 0; i < n; i++) {
        first += i > 0 && ((uint8_t)s[i] & 0xC0) != 0x80;
        at[i] = first;
    }
    bool done = charsmap_apply(&r->t->map, s, n, at, &mapped.bytes, &mapped.at, &mapped.n);
    free(at);
    if (done)
        strip(rules, &mapped);
    if (!done || !rules->collapse) {
        r->piece = mapped;
        return done;
    }
    done = allocate(&r->piece, SPM_MARK_BYTES * mapped.n);
    if (done)
        collapse(&mapped, rules->collapse_to_mark ? SPM_MARK : " ", &r->piece);
    release(&mapped);
    return done;
}

/* ---- words ------------------------------------------------------------------------------ */

static void put_mark(buffer *b, int32_t at)
{
    memcpy(b->bytes + b->n, SPM_MARK, SPM_MARK_BYTES);
    for (int i = 0; i < SPM_MARK_BYTES; i++)
        b->at[b->n++] = at;
}

static bool starts_with_mark(const char *s, size_t n)
{
    return n >= SPM_MARK_BYTES && memcmp(s, SPM_MARK, SPM_MARK_BYTES) == 0;
}

/* A word, or a whole piece, with marks for its spaces and one before it. */
static void put_word(reader *r, const char *s, const int32_t *at, size_t n)
{
    buffer *w = &r->words;
    bool wanted = !r->t->rules.prefix_first || at[0] == 0;
    if (wanted && s[0] != ' ' && !starts_with_mark(s, n))
        put_mark(w, at[0]);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ') {
            put_mark(w, at[i]);
            continue;
        }
        w->bytes[w->n] = s[i];
        w->at[w->n++] = at[i];
    }
}

static void put_split(reader *r, const char *s, const int32_t *at, size_t n)
{
    size_t begin = 0, length;
    for (size_t i = 0; i < n; i += length) {
        if (!is_space(utf8_get(s + i, &length)))
            continue;
        if (i > begin)
            put_word(r, s + begin, at + begin, i - begin);
        begin = i + length;
    }
    if (n > begin)
        put_word(r, s + begin, at + begin, n - begin);
}

/* Words [begin, end) of r->words to the model. */
static void put_tokens(reader *r, size_t begin, size_t end)
{
    const spm_tokenizer *t = r->t;
    const int32_t *at = r->words.at + begin;
    spm_piece *pieces;
    int n;
    if (spm_encode(t->model, r->words.bytes + begin, end - begin, &pieces, &n, NULL) != MOE_OK)
        r->failed = true;
    for (int i = 0; i < n && !r->failed; i++) {
        int32_t from = pieces[i].begin, to = pieces[i].end;
        token_list_add(r->out, spm_id(t, pieces[i].id), at[from < to ? from : to - 1],
                       at[to - 1] + 1);
    }
    free(pieces);
}

/* Bytes [start, end) of r->piece, without added tokens. */
static void read_words(reader *r, size_t start, size_t end)
{
    buffer *w = &r->words;
    w->n = 0;
    (r->t->rules.split ? put_split : put_word)(r, r->piece.bytes + start, r->piece.at + start,
                                               end - start);
    size_t begin = 0;
    for (size_t i = 1; r->t->by_words && i < w->n; i++)
        if (starts_with_mark(w->bytes + i, w->n - i)) {
            put_tokens(r, begin, i);
            begin = i;
        }
    if (w->n > begin)
        put_tokens(r, begin, w->n);
}

/* ---- pieces --------------------------------------------------------------------------- */

static void read_normalized(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    if (r->failed || start == end)
        return;
    if (id >= 0)
        token_list_add(r->out, id, r->piece.at[start], r->piece.at[end - 1] + 1);
    else
        read_words(r, start, end);
}

static void read_raw(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    int32_t first = r->at;
    if (r->failed || start == end)
        return;
    r->at += (int32_t)utf8_count(r->s + start, end - start);
    if (id >= 0) {
        token_list_add(r->out, id, first, r->at);
        return;
    }
    r->failed = !normalize(r, r->s + start, end - start, first) ||
                !allocate(&r->words, with_marks(r->piece.n));
    if (!r->failed)
        added_tokens_split(&r->t->later, r->piece.bytes, r->piece.n, read_normalized, r);
    release(&r->piece);
    release(&r->words);
}

bool unigram_read(const moe_tokenizer *base, const char *s, size_t n, token_list *out)
{
    const spm_tokenizer *t = (const spm_tokenizer *)base;
    reader r = {.t = t, .out = out, .s = s};
    added_tokens_split(&t->added, s, n, read_raw, &r);
    return !r.failed && !out->failed;
}
