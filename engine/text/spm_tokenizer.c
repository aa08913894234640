/* spm_tokenizer.c: making a SentencePiece tokenizer, of a model file or of tokenizer.json,
 * and text of ids. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/spm_tokenizer.h"
#include "engine/text/utf8.h"

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
    added_tokens_free(&t->later);
    charsmap_close(&t->map);
    free(t->guard);
    free(t->special);
    free(t->tokens);
    free(t->strings);
    free(t);
}

static const tokenizer_kind file_kind = {
    .encode = spm_read, .decode = decode, .token = token, .destroy = destroy,
};
static const tokenizer_kind json_kind = {
    .encode = unigram_read, .decode = decode, .token = token, .destroy = destroy,
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
    if (!status)
        status = added_tokens_init(&t->later, err);
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
        status = added_tokens_add(spec->bytes && a->normalized ? &t->later : &t->added, a,
                                  a->content, n, err);
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

/* Whether a piece holds a mark inside, or none is the mark alone. */
static bool needs_words(const spm_model *m)
{
    bool inside = spm_find(m, SPM_MARK) < 0;
    for (int32_t i = 0; i < spm_size(m) && !inside; i++)
        inside = strstr(spm_string(m, i) + 1, SPM_MARK) != NULL;
    return inside;
}

static moe_status fill(spm_tokenizer *t, const spm_spec *spec, moe_error *err)
{
    moe_status status =
        spec->bytes ? spm_open_bytes(spec->path, spec->bytes, spec->n_bytes, &t->model, err)
                    : spm_open(spec->path, spec->legacy, &t->model, err);
    if (!status && spec->bytes)
        status = charsmap_open(spec->rules.map, spec->rules.n_map, &t->map, err);
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
    t->by_words = spec->bytes && needs_words(t->model);
    if (!status)
        status = fill_added(t, spec, err);
    return status || t->legacy || spec->bytes ? status : make_guard(t, err);
}

moe_status tokenizer_create_spm(const spm_spec *spec, moe_tokenizer **out, moe_error *err)
{
    *out = NULL;
    spm_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory");
    t->base = (moe_tokenizer){
        .kind = spec->bytes ? &json_kind : &file_kind,
        .frame = {.begin = spec->begin, .end = spec->end, .n_between = spec->n_between},
        .model_max_length = spec->model_max_length,
    };
    t->n_vocab = spec->n_vocab;
    t->id_offset = spec->id_offset;
    t->unk = spec->unk;
    t->legacy = spec->legacy;
    t->rules = spec->rules;
    moe_status status = fill(t, spec, err);
    if (status)
        destroy(&t->base);
    else
        *out = &t->base;
    return status;
}
