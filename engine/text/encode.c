/* encode.c: one text's way through the tokenizer.
 *
 *   text -> pieces between added tokens -> normalizer -> words -> word pieces
 *
 * It is one pass in constant memory: characters go from the normalizer straight into
 * the word being read. ASCII skips the normalizer, two table look-ups a byte. Only
 * where the tokenizer has added tokens that are looked for in normalized text (rare)
 * is a piece normalized into a buffer, searched, and its parts read from there. */
#include "engine/text/encode.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"

void encode_init_ascii(wordpiece_tokenizer *t)
{
    const normalizer *rules = &t->rules;
    for (int c = 0; c < 128; c++) {
        uint8_t flags = rules->flags[c];
        bool dropped = rules->clean_text && (flags & CHAR_DROP) && c != '\t' &&
                       c != '\n' && c != '\r';
        t->ascii_flags[c] = dropped ? CHAR_DROP : flags & (CHAR_SPACE | CHAR_PUNCT);
        t->ascii_lower[c] =
            (uint8_t)(rules->lower_case && c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
}

/* ---- normalizing into a buffer ----------------------------------------- */

typedef struct {
    uint8_t *bytes;
    int32_t *at;
    size_t n, capacity;
    bool failed;
} buffer;

static bool buffer_grow(buffer *b)
{
    size_t capacity = b->capacity ? b->capacity * 2 : 256;
    uint8_t *bytes = realloc(b->bytes, capacity);
    if (bytes)
        b->bytes = bytes;
    int32_t *at = realloc(b->at, capacity * sizeof *at);
    if (at)
        b->at = at;
    if (!bytes || !at)
        return false;
    b->capacity = capacity;
    return true;
}

static void buffer_put(void *ctx, uint32_t cp, uint8_t flags, int32_t at)
{
    (void)flags;
    buffer *b = ctx;
    if (b->failed || (b->capacity - b->n < 4 && !buffer_grow(b))) {
        b->failed = true;
        return;
    }
    size_t length = utf8_put(b->bytes + b->n, cp);
    for (size_t i = 0; i < length; i++)
        b->at[b->n++] = at;
}

bool encode_normalize(const normalizer *rules, const char *s, size_t n, int32_t first,
                      char **out, size_t *n_out, int32_t **at)
{
    buffer b = {0};
    normal_stream stream = {.rules = rules, .put = buffer_put, .ctx = &b};
    size_t length;
    for (size_t i = 0; i < n; i += length)
        normal_feed(&stream, utf8_get(s + i, &length), first++);
    normal_end(&stream);
    if (b.failed || stream.failed) {
        free(b.bytes);
        free(b.at);
        return false;
    }
    *out = (char *)b.bytes;
    *n_out = b.n;
    if (at)
        *at = b.at;
    else
        free(b.at);
    return true;
}

/* ---- reading ----------------------------------------------------------- */

typedef struct {
    const wordpiece_tokenizer *t;
    const char *s;
    int32_t at; /* position of the next character */
    normal_stream stream;
    word_reader words;
    token_list *out;
    const char *clean; /* the normalized piece at hand, and its positions */
    const int32_t *clean_at;
    bool failed;
} reader;

static void put_word(void *ctx, uint32_t cp, uint8_t flags, int32_t at)
{
    word_put(ctx, cp, flags, at);
}

/* An ASCII character; nothing waits in the normalizer. */
static inline void read_ascii(reader *r, uint8_t c)
{
    uint8_t flags = r->t->ascii_flags[c];
    word_reader *w = &r->words;
    if (flags == 0 && w->n_chars < w->pieces->max_word_chars) {
        w->bytes[w->n_bytes] = r->t->ascii_lower[c];
        w->at[w->n_bytes++] = r->at;
        w->last = r->at;
        w->n_chars++;
    } else if (flags != CHAR_DROP) {
        word_put(w, r->t->ascii_lower[c], flags, r->at);
    }
}

static void read_words(reader *r, const char *s, size_t n)
{
    size_t length;
    for (size_t i = 0; i < n; i += length, r->at++) {
        uint32_t cp = utf8_get(s + i, &length);
        if (cp >= 0x80) {
            normal_feed(&r->stream, cp, r->at);
            continue;
        }
        if (r->stream.n_marks && r->t->ascii_flags[cp] != CHAR_DROP)
            normal_flush(&r->stream);
        read_ascii(r, (uint8_t)cp);
    }
    normal_flush(&r->stream);
    word_end(&r->words);
}

static void read_normalized_piece(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    if (id >= 0) {
        token_list_add(r->out, id, r->clean_at[start], r->clean_at[end - 1] + 1);
        return;
    }
    size_t length;
    for (size_t i = start; i < end; i += length) {
        uint32_t cp = utf8_get(r->clean + i, &length);
        word_put(&r->words, cp, normalizer_flags(&r->t->rules, cp), r->clean_at[i]);
    }
    word_end(&r->words);
}

static void read_normalized(reader *r, const char *s, size_t n)
{
    char *clean;
    int32_t *clean_at;
    size_t n_clean;
    if (!encode_normalize(&r->t->rules, s, n, r->at, &clean, &n_clean, &clean_at)) {
        r->failed = true;
        return;
    }
    r->clean = clean;
    r->clean_at = clean_at;
    added_tokens_split(&r->t->normalized, clean, n_clean, read_normalized_piece, r);
    free(clean);
    free(clean_at);
    r->at += (int32_t)utf8_count(s, n);
}

static void read_piece(void *ctx, int32_t id, size_t start, size_t end)
{
    reader *r = ctx;
    if (id >= 0) {
        int32_t n = (int32_t)utf8_count(r->s + start, end - start);
        token_list_add(r->out, id, r->at, r->at + n);
        r->at += n;
    } else if (r->t->normalized.n) {
        read_normalized(r, r->s + start, end - start);
    } else {
        read_words(r, r->s + start, end - start);
    }
}

bool encode_text(const wordpiece_tokenizer *t, const char *s, size_t n, token_list *out)
{
    reader r = {.t = t, .s = s, .out = out};
    r.stream = (normal_stream){.rules = &t->rules, .put = put_word, .ctx = &r.words};
    if (!word_reader_init(&r.words, &t->pieces, out))
        return false;
    added_tokens_split(&t->raw, s, n, read_piece, &r);
    normal_end(&r.stream);
    word_reader_free(&r.words);
    return !r.failed && !r.stream.failed && !out->failed;
}
