/* spm_tokenizer.c: a SentencePiece model with added tokens, as T5 and XLM-RoBERTa use it.
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

#include "engine/text/added_tokens.h"
#include "engine/text/kind.h"
#include "engine/text/sentencepiece.h"
#include "engine/text/utf8.h"

static const char MARK[] = "\xe2\x96\x81"; /* U+2581 */
enum { MARK_BYTES = 3 };

typedef struct {
    moe_tokenizer base;
    spm_model *model;
    added_tokens added;
    int n_vocab, n_pieces, id_offset;
    int32_t unk;
    bool legacy;
    char *guard;         /* not legacy: the string before a leading space */
    size_t guard_bytes;
    int guard_pieces;
    bool *special;       /* [n_vocab] ids that stand for no text */
    const char **tokens; /* [n_vocab] strings of added tokens, NULL: none */
    char *strings;       /* what they point to */
} spm_tokenizer;

/* ---- encoding ------------------------------------------------------------ */

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

static int32_t id_of(const spm_tokenizer *t, int32_t piece)
{
    return piece == spm_unk(t->model) ? t->unk : piece + t->id_offset;
}

/* The bytes [*begin, *end) of s without the space they begin with. */
static void trim(const char *s, int32_t *begin, int32_t end)
{
    while (*begin < end && s[*begin] == ' ')
        ++*begin;
    if (end - *begin >= MARK_BYTES && memcmp(s + *begin, MARK, MARK_BYTES) == 0)
        *begin += MARK_BYTES;
}

static void add_pieces(reader *r, const spm_piece *piece, int n, const char *s,
                       const int32_t *at, size_t shift)
{
    for (int i = 0; i < n; i++) {
        int32_t begin = piece[i].begin, end = piece[i].end;
        trim(s, &begin, end);
        int32_t start = begin < (int32_t)shift ? at[0] : at[begin - (int32_t)shift];
        int32_t stop = begin < end ? at[end - (int32_t)shift - 1] + 1 : start;
        token_list_add(r->out, id_of(r->t, piece[i].id), start, stop);
    }
}

/* n bytes from s, whose code points are at. */
static void read_text(reader *r, const char *s, size_t n, const int32_t *at)
{
    const spm_tokenizer *t = r->t;
    bool guarded = !t->legacy && (s[0] == ' ' || (n >= MARK_BYTES && !memcmp(s, MARK, MARK_BYTES)));
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
    int32_t mark = spm_find(t->model, MARK);
    if (t->legacy || mark < 0 || out->n != r->before + 1 || out->total != out->n ||
        out->ids[r->before] != id_of(t, mark))
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
    b->bytes = malloc(n + MARK_BYTES);
    b->at = malloc((n + MARK_BYTES) * sizeof *b->at);
    if (!b->bytes || !b->at)
        return false;
    b->n = 0;
    for (int i = 0; !t->legacy && i < MARK_BYTES; i++, b->n++) {
        b->bytes[b->n] = MARK[i];
        b->at[b->n] = 0;
    }
    for (size_t i = 0; i < n; i += length, point++) {
        length = utf8_length((uint8_t)s[i]);
        bool mark = !t->legacy && length == MARK_BYTES && !memcmp(s + i, MARK, MARK_BYTES);
        for (size_t c = 0; c < (mark ? 1 : length); c++, b->n++) {
            b->bytes[b->n] = mark ? ' ' : s[i + c];
            b->at[b->n] = point;
        }
    }
    return true;
}

static bool encode(const moe_tokenizer *base, const char *s, size_t n, token_list *out)
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

/* ---- decoding ------------------------------------------------------------- */

static char *strip(char *s)
{
    size_t n = strlen(s), skip = strspn(s, " \t\r\n");
    while (n > skip && strchr(" \t\r\n", s[n - 1]))
        n--;
    memmove(s, s + skip, n - skip);
    s[n - skip] = '\0';
    return s;
}

static moe_status decode(const moe_tokenizer *base, const int32_t *ids, int n, char **out,
                         moe_error *err)
{
    const spm_tokenizer *t = (const spm_tokenizer *)base;
    int32_t *pieces = malloc(((size_t)n + 1) * sizeof *pieces);
    int kept = 0;
    moe_status status = MOE_OK;
    if (!pieces)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for %d ids", n);
    for (int i = 0; i < n && !status; i++) {
        if (ids[i] < 0 || ids[i] >= t->n_vocab)
            status = moe_fail(err, MOE_E_ARGUMENT, "id %d at %d, expected 0 to %d", (int)ids[i],
                              i, t->n_vocab - 1);
        else if (!t->special[ids[i]])
            pieces[kept++] = ids[i] - t->id_offset;
    }
    if (!status)
        status = spm_decode(t->model, pieces, kept, out, err);
    free(pieces);
    if (!status)
        strip(*out);
    return status;
}

static const char *token(const moe_tokenizer *base, int32_t id)
{
    const spm_tokenizer *t = (const spm_tokenizer *)base;
    int32_t piece = id - t->id_offset;
    if (id < 0 || id >= t->n_vocab)
        return NULL;
    if (t->tokens[id])
        return t->tokens[id];
    return piece >= 0 && piece < t->n_pieces ? spm_string(t->model, piece) : NULL;
}

static void destroy(moe_tokenizer *base)
{
    spm_tokenizer *t = (spm_tokenizer *)base;
    spm_close(t->model);
    added_tokens_free(&t->added);
    free(t->guard);
    free(t->special);
    free(t->tokens);
    free(t->strings);
    free(t);
}

static const tokenizer_kind spm_kind = {
    .encode = encode, .decode = decode, .token = token, .destroy = destroy,
};

/* ---- making ---------------------------------------------------------------- */

/* The unknown token's string, and how many pieces it makes. */
static moe_status make_guard(spm_tokenizer *t, moe_error *err)
{
    spm_piece *pieces = NULL;
    t->guard = strdup(spm_string(t->model, spm_unk(t->model)));
    if (!t->guard)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory");
    t->guard_bytes = strlen(t->guard);
    moe_status status =
        spm_encode(t->model, t->guard, t->guard_bytes, &pieces, &t->guard_pieces, err);
    free(pieces);
    return status;
}

static moe_status check_added(const spm_tokenizer *t, const spm_spec *spec,
                              const tokenizer_added_token *a, moe_error *err)
{
    size_t n = strlen(a->content);
    if (n < 1 || n > ADDED_TOKEN_MAX_BYTES || utf8_first_invalid(a->content, n) != n)
        return moe_fail(err, MOE_E_FORMAT, "%s: added token %d is not 1 to %d bytes of UTF-8",
                        spec->path, (int)a->id, ADDED_TOKEN_MAX_BYTES);
    if (a->id < 0 || a->id >= t->n_vocab)
        return moe_fail(err, MOE_E_FORMAT, "%s: added token '%s': id %d, expected 0 to %d",
                        spec->path, a->content, (int)a->id, t->n_vocab - 1);
    /* Ids within the file's are special pieces of it: others would decode to two texts. */
    int32_t piece = a->id - t->id_offset;
    if (!a->special && piece >= 0 && piece < t->n_pieces)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: added token '%s' with the file's id %d is not special", spec->path,
                        a->content, (int)a->id);
    if (!a->special)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: added token '%s' is not special, expected "
                        "special ones only", spec->path, a->content);
    return MOE_OK;
}

/* Copies the added tokens' strings and adds them to the set. */
static moe_status fill_added(spm_tokenizer *t, const spm_spec *spec, moe_error *err)
{
    size_t bytes = 1;
    moe_status status = added_tokens_init(&t->added, err);
    for (int i = 0; i < spec->n_added; i++)
        bytes += strlen(spec->added[i].content) + 1;
    t->strings = malloc(bytes);
    if (!t->strings)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for added tokens");
    char *to = t->strings;
    for (int i = 0; i < spec->n_added && !status; i++) {
        const tokenizer_added_token *a = &spec->added[i];
        size_t n = strlen(a->content);
        status = check_added(t, spec, a, err);
        if (status)
            break;
        t->tokens[a->id] = memcpy(to, a->content, n + 1);
        to += n + 1;
        t->special[a->id] = true;
        status = added_tokens_add(&t->added, a, a->content, n, err);
    }
    return status;
}

static moe_status check_sizes(const spm_tokenizer *t, const spm_spec *spec, moe_error *err)
{
    const int32_t ids[] = {spec->begin, spec->end, t->unk};
    for (int i = spec->begin < 0; i < 3; i++)
        if (ids[i] < 0 || ids[i] >= t->n_vocab)
            return moe_fail(err, MOE_E_FORMAT, "%s: a special token has id %d, expected 0 to %d",
                            spec->path, (int)ids[i], t->n_vocab - 1);
    if (t->n_pieces + t->id_offset > t->n_vocab)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %d pieces, expected at most %d, the rows of the word embedding",
                        spec->path, t->n_pieces, t->n_vocab - t->id_offset);
    if (spec->n_added < 0 || spec->n_added > ADDED_TOKENS_MAX)
        return moe_fail(err, MOE_E_LIMIT, "%s: %d added tokens, expected at most %d", spec->path,
                        spec->n_added, ADDED_TOKENS_MAX);
    return MOE_OK;
}

static moe_status fill(spm_tokenizer *t, const spm_spec *spec, moe_error *err)
{
    moe_status status = spm_open(spec->path, spec->legacy, &t->model, err);
    if (status)
        return status;
    t->n_pieces = spm_size(t->model);
    t->special = calloc((size_t)t->n_vocab, sizeof *t->special);
    t->tokens = calloc((size_t)t->n_vocab, sizeof *t->tokens);
    if (!t->special || !t->tokens)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory for %d tokens", spec->path, t->n_vocab);
    if (spec->unk < 0)
        t->unk = spm_unk(t->model) + t->id_offset;
    status = check_sizes(t, spec, err);
    /* Rows of the embedding without a piece have no text either. */
    for (int32_t id = 0; id < t->n_vocab && !status; id++) {
        int32_t piece = id - t->id_offset;
        t->special[id] = piece < 0 || piece >= t->n_pieces || id == t->unk ||
                         spm_is_special(t->model, piece);
    }
    if (!status)
        status = fill_added(t, spec, err);
    return status || t->legacy ? status : make_guard(t, err);
}

moe_status tokenizer_create_spm(const spm_spec *spec, moe_tokenizer **out, moe_error *err)
{
    *out = NULL;
    spm_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory");
    t->base = (moe_tokenizer){
        .kind = &spm_kind,
        .frame = {.begin = spec->begin, .end = spec->end, .n_between = spec->n_between},
        .model_max_length = spec->model_max_length,
    };
    t->n_vocab = spec->n_vocab;
    t->id_offset = spec->id_offset;
    t->unk = spec->unk;
    t->legacy = spec->legacy;
    moe_status status = fill(t, spec, err);
    if (status)
        destroy(&t->base);
    else
        *out = &t->base;
    return status;
}
