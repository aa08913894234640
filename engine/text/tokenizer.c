/* tokenizer.c: making a WordPiece tokenizer, and putting its output together.
 *
 * Making one copies the vocabulary's strings into one block, the tokens into a trie
 * (which finds duplicates) and the added tokens into two sets: those looked for in
 * the text as it came, special ones mostly, and those looked for after normalization.
 *
 * encode: each text becomes a list of tokens that is stored up to the limit and
 * counted to its end, then both are cut and laid out as [CLS] a [SEP] b [SEP]. */
#include "engine/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/encode.h"
#include "engine/text/utf8.h"

/* Token counts of two texts stay in an int. */
static const size_t MAX_TEXT_BYTES = ((size_t)1 << 30) - 1;

/* ---- making ------------------------------------------------------------ */

static moe_status check_spec(const wordpiece_spec *spec, moe_error *err)
{
    if (spec->n_vocab < 1)
        return moe_fail(err, MOE_E_FORMAT, "tokenizer: the vocabulary is empty");
    if (spec->max_word_chars < 1 || spec->max_word_chars > WORD_MAX_CHARS)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "tokenizer: max_input_chars_per_word is %d, expected 1 to %d",
                        spec->max_word_chars, WORD_MAX_CHARS);
    if (spec->cls < 0 || spec->cls >= spec->n_vocab || spec->sep < 0 ||
        spec->sep >= spec->n_vocab)
        return moe_fail(err, MOE_E_FORMAT,
                        "tokenizer: [CLS] is %d and [SEP] is %d, expected ids below %d",
                        (int)spec->cls, (int)spec->sep, spec->n_vocab);
    if (spec->n_added < 0 || spec->n_added > ADDED_TOKENS_MAX)
        return moe_fail(err, MOE_E_LIMIT, "tokenizer: %d added tokens, expected at most %d",
                        spec->n_added, ADDED_TOKENS_MAX);
    return MOE_OK;
}

static moe_status copy_strings(moe_tokenizer *t, const wordpiece_spec *spec,
                               moe_error *err)
{
    size_t bytes = 0;
    t->n_vocab = spec->n_vocab;
    t->tokens = calloc((size_t)spec->n_vocab, sizeof *t->tokens);
    if (!t->tokens)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for %d tokens",
                        spec->n_vocab);
    for (int i = 0; i < spec->n_vocab; i++)
        if (spec->vocab[i])
            t->tokens[i] = spec->vocab[i];
    for (int i = 0; i < spec->n_added; i++) {
        int32_t id = spec->added[i].id;
        if (id >= 0 && id < spec->n_vocab && !t->tokens[id])
            t->tokens[id] = spec->added[i].content; /* fills a hole */
    }
    for (int i = 0; i < spec->n_vocab; i++)
        bytes += t->tokens[i] ? strlen(t->tokens[i]) + 1 : 0;
    t->strings = malloc(bytes + 1);
    if (!t->strings)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for %zu bytes", bytes);
    char *to = t->strings;
    for (int i = 0; i < spec->n_vocab; i++)
        if (t->tokens[i]) {
            size_t n = strlen(t->tokens[i]) + 1;
            t->tokens[i] = memcpy(to, t->tokens[i], n);
            to += n;
        }
    return MOE_OK;
}

static moe_status fill_vocab(moe_tokenizer *t, const wordpiece_spec *spec,
                             moe_error *err)
{
    trie *vocab = &t->pieces.vocab;
    moe_status status = trie_init(vocab, err);
    for (int32_t id = 0; id < spec->n_vocab && status == MOE_OK; id++) {
        const char *token = spec->vocab[id];
        int32_t existing = TRIE_NONE;
        if (!token || !*token) /* an empty token matches nothing */
            continue;
        if (utf8_first_invalid(token, strlen(token)) != strlen(token))
            return moe_fail(err, MOE_E_FORMAT, "tokenizer: token %d is not UTF-8",
                            (int)id);
        status = trie_add(vocab, token, strlen(token), id, &existing, err);
        if (status == MOE_OK && existing != TRIE_NONE)
            return moe_fail(err, MOE_E_FORMAT,
                            "tokenizer: token '%s' has the ids %d and %d, expected one",
                            token, (int)existing, (int)id);
    }
    return status;
}

/* The id of a token of the vocabulary, TRIE_NONE if it has none. */
static int32_t token_id(const moe_tokenizer *t, const char *token)
{
    int32_t node = trie_walk(&t->pieces.vocab, token, strlen(token));
    return node == TRIE_NONE || !*token ? TRIE_NONE : t->pieces.vocab.values[node];
}

static moe_status check_added(const moe_tokenizer *t, const tokenizer_added_token *a,
                              moe_error *err)
{
    size_t n = strlen(a->content);
    int32_t id = token_id(t, a->content);
    if (n < 1 || n > ADDED_TOKEN_MAX_BYTES)
        return moe_fail(err, MOE_E_LIMIT,
                        "added token %d: %zu bytes, expected 1 to %d", (int)a->id, n,
                        ADDED_TOKEN_MAX_BYTES);
    if (utf8_first_invalid(a->content, n) != n)
        return moe_fail(err, MOE_E_FORMAT, "added token %d is not UTF-8", (int)a->id);
    if (a->id < 0 || a->id >= t->n_vocab)
        return moe_fail(err, MOE_E_FORMAT, "added token '%s': id %d, expected 0 to %d",
                        a->content, (int)a->id, t->n_vocab - 1);
    if (id != TRIE_NONE && id != a->id)
        return moe_fail(err, MOE_E_FORMAT,
                        "added token '%s': id %d, the vocabulary has it as %d",
                        a->content, (int)a->id, (int)id);
    if (strcmp(t->tokens[a->id], a->content) != 0)
        return moe_fail(err, MOE_E_FORMAT,
                        "added token '%s': its id %d is the vocabulary's '%s'", a->content,
                        (int)a->id, t->tokens[a->id]);
    return MOE_OK;
}

static moe_status add_one(moe_tokenizer *t, const tokenizer_added_token *a,
                          moe_error *err)
{
    char *pattern = NULL;
    size_t n;
    moe_status status = check_added(t, a, err);
    if (status != MOE_OK)
        return status;
    if (!a->normalized)
        return added_tokens_add(&t->raw, a, a->content, strlen(a->content), err);
    if (!encode_normalize(&t->rules, a->content, strlen(a->content), 0, &pattern, &n,
                          NULL))
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for added tokens");
    if (n == 0)
        status = moe_fail(err, MOE_E_UNSUPPORTED,
                          "added token %d: nothing is left of it after normalization",
                          (int)a->id);
    else
        status = added_tokens_add(&t->normalized, a, pattern, n, err);
    free(pattern);
    return status;
}

/* Special tokens first: of two with one pattern, the crate takes those. */
static moe_status fill_added(moe_tokenizer *t, const wordpiece_spec *spec,
                             moe_error *err)
{
    moe_status status = added_tokens_init(&t->raw, err);
    if (status == MOE_OK)
        status = added_tokens_init(&t->normalized, err);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < spec->n_added && status == MOE_OK; i++)
            if (spec->added[i].special == (pass == 0))
                status = add_one(t, &spec->added[i], err);
    return status;
}

static moe_status fill(moe_tokenizer *t, const wordpiece_spec *spec, moe_error *err)
{
    moe_status status = copy_strings(t, spec, err);
    if (status == MOE_OK)
        status = fill_vocab(t, spec, err);
    if (status != MOE_OK)
        return status;
    t->pieces.unk = token_id(t, spec->unk_token);
    if (t->pieces.unk == TRIE_NONE)
        return moe_fail(err, MOE_E_FORMAT,
                        "tokenizer: the vocabulary has no unknown token '%s'",
                        spec->unk_token);
    t->pieces.continuation =
        trie_walk(&t->pieces.vocab, spec->prefix, strlen(spec->prefix));
    t->pieces.max_word_chars = spec->max_word_chars;
    t->cls = spec->cls;
    t->sep = spec->sep;
    t->model_max_length = spec->model_max_length;
    normalizer_init(&t->rules);
    t->rules.clean_text = spec->clean_text;
    t->rules.split_cjk = spec->split_cjk;
    t->rules.lower_case = spec->lower_case;
    t->rules.strip_accents = spec->strip_accents;
    encode_init_ascii(t);
    return fill_added(t, spec, err);
}

moe_status tokenizer_create_wordpiece(const wordpiece_spec *spec,
                                      moe_tokenizer **out, moe_error *err)
{
    *out = NULL;
    moe_status status = check_spec(spec, err);
    if (status != MOE_OK)
        return status;
    moe_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory");
    status = fill(t, spec, err);
    if (status != MOE_OK) {
        tokenizer_destroy(t);
        return status;
    }
    *out = t;
    return MOE_OK;
}

void tokenizer_destroy(moe_tokenizer *t)
{
    if (!t)
        return;
    trie_free(&t->pieces.vocab);
    added_tokens_free(&t->raw);
    added_tokens_free(&t->normalized);
    free(t->tokens);
    free(t->strings);
    free(t);
}

const char *tokenizer_token(const moe_tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_vocab ? t->tokens[id] : NULL;
}

int tokenizer_model_max_length(const moe_tokenizer *t)
{
    return t->model_max_length;
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

static moe_status assemble(const moe_tokenizer *t, const token_list lists[2],
                           const int64_t keep[2], int n_lists, moe_tokens *out,
                           moe_error *err)
{
    size_t n = (size_t)(keep[0] + keep[1]) + 1 + (size_t)n_lists, i = 0;
    bool spans = lists[0].want_spans;
    int32_t *block = malloc(n * (2 * sizeof *block + (spans ? sizeof(moe_span) : 0)));
    if (!block)
        return moe_fail(err, MOE_E_MEMORY, "text: no memory for %zu tokens", n);
    *out = (moe_tokens){.n = (int)n, .ids = block, .types = block + n};
    if (spans)
        out->spans = (moe_span *)(block + 2 * n);
    out->n_truncated = (int)(lists[0].total + lists[1].total - keep[0] - keep[1]);

    const moe_span none = {-1, 0, 0};
    out->ids[i] = t->cls;
    out->types[i] = 0;
    if (spans)
        out->spans[i] = none;
    i++;
    for (int l = 0; l < n_lists; l++) {
        size_t k = (size_t)keep[l];
        if (k) {
            memcpy(out->ids + i, lists[l].ids, k * sizeof *out->ids);
            if (spans)
                memcpy(out->spans + i, lists[l].spans, k * sizeof *out->spans);
        }
        out->ids[i + k] = t->sep;
        if (spans)
            out->spans[i + k] = none;
        for (size_t j = 0; j <= k; j++)
            out->types[i + j] = l;
        i += k + 1;
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
    bool done = encode_text(t, s, n, list);
    free(repaired);
    return done ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "%s: no memory", what);
}

moe_status tokenizer_encode(const moe_tokenizer *t, const moe_text *in, int limit,
                            moe_tokens *out, moe_error *err)
{
    int n_lists = in->pair ? 2 : 1, room = limit - 1 - n_lists;
    token_list lists[2] = {{.which = 0}, {.which = 1}};
    *out = (moe_tokens){0};
    if (room < 0)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "max_tokens is %d, expected at least %d for the special tokens",
                        limit, 1 + n_lists);
    for (int l = 0; l < 2; l++) {
        lists[l].keep = room;
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
            status = assemble(t, lists, keep, n_lists, out, err);
    }
    token_list_free(&lists[0]);
    token_list_free(&lists[1]);
    return status;
}
