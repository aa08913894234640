/* bpe_tokenizer.c: a byte-level BPE tokenizer, as GPT-2 and RoBERTa use it.
 *
 *   text -> pieces between added tokens -> words by GPT-2's pattern -> bytes -> tokens
 *
 * The pattern (Radford et al. 2019, their encoder's source) cuts a piece into
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 * so that a word carries the space before it, and of several spaces the last one. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/kind.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"
#include "engine/text/vocab.h"

typedef struct {
    moe_tokenizer base;
    bpe merges;
    added_tokens raw, later; /* without and with "normalized": looked for in that order */
    token_strings strings;
    bool add_prefix_space, trim_offsets, trim_keeps_prefix;
} bpe_tokenizer;

/* ---- words ----------------------------------------------------------------- */

/* Bytes of the contraction that n bytes of s start with, 0: none. */
static size_t contraction(const char *s, size_t n)
{
    static const char *const ends[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    for (size_t i = 0; *s == '\'' && i < sizeof ends / sizeof *ends; i++) {
        size_t length = strlen(ends[i]);
        if (n > length && memcmp(s + 1, ends[i], length) == 0)
            return length + 1;
    }
    return 0;
}

/* Bytes of the characters of one class that s starts with; *last: of the last of them. */
static size_t run_of(char_class class, const char *s, size_t n, size_t *last)
{
    size_t i = 0, length;
    *last = 0;
    while (i < n && unicode_class(utf8_get(s + i, &length)) == class) {
        *last = length;
        i += length;
    }
    return i;
}

/* Bytes of the word that n > 0 bytes of s start with. */
static size_t next_word(const char *s, size_t n)
{
    size_t length = contraction(s, n), last;
    if (length)
        return length;
    size_t space = *s == ' ' && n > 1;
    char_class class = unicode_class(utf8_get(s + space, &length));
    if (class != CLASS_SPACE)
        return space + run_of(class, s + space, n - space, &last);
    length = run_of(CLASS_SPACE, s, n, &last);
    return length < n && length > last ? length - last : length;
}

/* ---- encoding --------------------------------------------------------------- */

typedef struct {
    const bpe_tokenizer *t;
    token_list *out;
    bpe_work work;
    const char *piece; /* what `later` splits; the reader's s before that */
    int32_t at;        /* code point of its next character */
    int32_t least;     /* that of the first one behind a prefix, which shares it */
    bool failed;
} reader;

/* Spaces that a word's bytes [begin, end) start, or end, with. */
static int32_t spaces(const char *word, uint32_t begin, uint32_t end, bool at_end)
{
    uint32_t n = 0;
    while (begin + n < end && word[at_end ? end - 1 - n : begin + n] == ' ')
        n++;
    return (int32_t)n;
}

/* Adds a token without the white space at its ends, as the Hugging Face crate trims. */
static void add_trimmed(reader *r, int32_t id, int32_t start, int32_t end, int32_t leading,
                        int32_t trailing)
{
    const bpe_tokenizer *t = r->t;
    bool first = r->out->total == 0 || start == 0;
    if (t->trim_offsets) {
        leading -= leading > 0 && first && t->trim_keeps_prefix;
        start = start + leading < end ? start + leading : end;
        end = trailing == 0 || end < trailing ? end
            : end - trailing > start          ? end - trailing
                                              : start;
    }
    token_list_add(r->out, id, start, end);
}

/* The character that has byte `to` of a word, *at being the one that has byte *from. */
static int32_t character_at(const char *word, uint32_t *from, int32_t *at, uint32_t to)
{
    for (; *from < to; ++*from)
        *at += ((uint8_t)word[*from + 1] & 0xC0) != 0x80;
    return *at;
}

/* Adds a token of a word; *at is the character that has its byte *from, before the token's.
 * A token that has a part of a character has all of it in its span. */
static void add_token(reader *r, const struct bpe_symbol *s, const char *word, uint32_t *from,
                      int32_t *at)
{
    int32_t start = character_at(word, from, at, s->begin);
    int32_t end = character_at(word, from, at, s->end - 1) + 1;
    start = start < r->least ? r->least : start;
    end = end <= start ? start + 1 : end;
    add_trimmed(r, s->id, start, end, spaces(word, s->begin, s->end, false),
                spaces(word, s->begin, s->end, true));
}

static void read_word(reader *r, const char *word, size_t n, int32_t at)
{
    uint32_t from = 0;
    int32_t i;
    if (!bpe_word(&r->t->merges, (const uint8_t *)word, n, &r->work, &i)) {
        r->failed = true;
        return;
    }
    for (; i >= 0; i = r->work.symbols[i].next)
        add_token(r, &r->work.symbols[i], word, &from, &at);
}

static void read_words(reader *r, const char *s, size_t n)
{
    for (size_t i = 0, length; i < n && !r->failed; i += length) {
        length = next_word(s + i, n - i);
        read_word(r, s + i, length, r->at);
        r->at += (int32_t)utf8_count(s + i, length);
    }
}

/* The piece with a space before it, which has the place of the first character. */
static void read_prefixed(reader *r, const char *s, size_t n)
{
    char *copy = malloc(n + 1);
    if (!copy) {
        r->failed = true;
        return;
    }
    copy[0] = ' ';
    memcpy(copy + 1, s, n);
    int32_t at = r->at;
    size_t length = next_word(copy, n + 1);
    r->least = at;
    read_word(r, copy, length, at - 1);
    r->at = at + (int32_t)utf8_count(copy + 1, length - 1);
    read_words(r, copy + length, n + 1 - length);
    free(copy);
}

/* An added token, which may have taken white space along. */
static void add_added(reader *r, int32_t id, size_t start, size_t end)
{
    const char *s = r->piece + start;
    size_t n = end - start, last;
    int32_t leading = (int32_t)utf8_count(s, run_of(CLASS_SPACE, s, n, &last));
    int32_t trailing = 0, all = (int32_t)utf8_count(s, n);
    for (; trailing < all - leading && unicode_class(utf8_before(s, n)) == CLASS_SPACE; n--)
        trailing += ((uint8_t)s[n - 1] & 0xC0) != 0x80;
    add_trimmed(r, id, r->at, r->at + all, leading, trailing);
    r->at += all;
}

static void read_later(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    if (id >= 0)
        add_added(r, id, start, end);
    else if (r->t->add_prefix_space && end > start && r->piece[start] != ' ')
        read_prefixed(r, r->piece + start, end - start);
    else
        read_words(r, r->piece + start, end - start);
}

static void read_raw(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    const char *whole = r->piece;
    if (id >= 0) {
        add_added(r, id, start, end);
        return;
    }
    r->piece = whole + start;
    added_tokens_split(&r->t->later, r->piece, end - start, read_later, r);
    r->piece = whole;
}

static bool encode(const moe_tokenizer *base, const char *s, size_t n, token_list *out)
{
    const bpe_tokenizer *t = (const bpe_tokenizer *)base;
    reader r = {.t = t, .out = out, .piece = s};
    added_tokens_split(&t->raw, s, n, read_raw, &r);
    bpe_work_free(&r.work);
    return !r.failed && !out->failed;
}

/* ---- making ------------------------------------------------------------------ */

static const char *token(const moe_tokenizer *base, int32_t id)
{
    return token_strings_get(&((const bpe_tokenizer *)base)->strings, id);
}

static void destroy(moe_tokenizer *base)
{
    bpe_tokenizer *t = (bpe_tokenizer *)base;
    bpe_free(&t->merges);
    added_tokens_free(&t->raw);
    added_tokens_free(&t->later);
    token_strings_free(&t->strings);
    free(t);
}

static const tokenizer_kind bpe_kind = {.encode = encode, .token = token, .destroy = destroy};

/* Special tokens first: of two with one pattern those count. */
static moe_status fill_added(bpe_tokenizer *t, const bpe_spec *spec, moe_error *err)
{
    moe_status status = added_tokens_init(&t->raw, err);
    if (status == MOE_OK)
        status = added_tokens_init(&t->later, err);
    for (int i = 0; i < 2 * spec->n_added && status == MOE_OK; i++) {
        const tokenizer_added_token *a = &spec->added[i % spec->n_added];
        if (a->special != (i < spec->n_added))
            continue;
        status = vocab_check_added(&t->merges.vocab, &t->strings, a, err);
        if (status == MOE_OK)
            status = added_tokens_add(a->normalized ? &t->later : &t->raw, a, a->content,
                                      strlen(a->content), err);
    }
    return status;
}

static moe_status check_spec(const bpe_spec *spec, moe_error *err)
{
    const tokenizer_frame *f = &spec->frame;
    if (spec->n_vocab < 1)
        return moe_fail(err, MOE_E_FORMAT, "tokenizer: the vocabulary is empty");
    if (f->begin < -1 || f->begin >= spec->n_vocab || f->end < 0 || f->end >= spec->n_vocab)
        return moe_fail(err, MOE_E_FORMAT,
                        "tokenizer: a text is put between %d and %d, expected ids below %d",
                        (int)f->begin, (int)f->end, spec->n_vocab);
    if (spec->n_added < 0 || spec->n_added > ADDED_TOKENS_MAX)
        return moe_fail(err, MOE_E_LIMIT, "tokenizer: %d added tokens, expected at most %d",
                        spec->n_added, ADDED_TOKENS_MAX);
    return MOE_OK;
}

moe_status tokenizer_create_bpe(const bpe_spec *spec, moe_tokenizer **out, moe_error *err)
{
    *out = NULL;
    moe_status status = check_spec(spec, err);
    if (status != MOE_OK)
        return status;
    bpe_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory");
    t->base = (moe_tokenizer){.kind = &bpe_kind, .frame = spec->frame,
                              .model_max_length = spec->model_max_length};
    t->add_prefix_space = spec->add_prefix_space;
    t->trim_offsets = spec->trim_offsets;
    t->trim_keeps_prefix = spec->trim_keeps_prefix;
    status = token_strings_copy(&t->strings, spec->vocab, spec->n_vocab, spec->added,
                                spec->n_added, err);
    if (status == MOE_OK)
        status = bpe_init(&t->merges, spec, err);
    if (status == MOE_OK)
        status = fill_added(t, spec, err);
    if (status != MOE_OK)
        destroy(&t->base);
    else
        *out = &t->base;
    return status;
}
