/* wordpiece_tokenizer.c: making a WordPiece tokenizer.
 *
 * It has the vocabulary's strings, the tokens in a trie and the added tokens in two sets:
 * those looked for in the text as it came, special ones mostly, and those looked for after
 * normalization. */
#include <stdlib.h>
#include <string.h>

#include "engine/text/encode.h"
#include "engine/text/vocab.h"

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

static moe_status add_one(wordpiece_tokenizer *t, const tokenizer_added_token *a,
                          moe_error *err)
{
    char *pattern = NULL;
    size_t n;
    moe_status status = vocab_check_added(&t->pieces.vocab, &t->strings, a, err);
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
static moe_status fill_added(wordpiece_tokenizer *t, const wordpiece_spec *spec,
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

static moe_status fill(wordpiece_tokenizer *t, const wordpiece_spec *spec, moe_error *err)
{
    moe_status status = token_strings_copy(&t->strings, spec->vocab, spec->n_vocab, spec->added,
                                           spec->n_added, err);
    if (status == MOE_OK)
        status = vocab_fill(&t->pieces.vocab, spec->vocab, spec->n_vocab, err);
    if (status != MOE_OK)
        return status;
    t->pieces.unk = trie_find(&t->pieces.vocab, spec->unk_token, strlen(spec->unk_token));
    if (t->pieces.unk == TRIE_NONE)
        return moe_fail(err, MOE_E_FORMAT,
                        "tokenizer: the vocabulary has no unknown token '%s'",
                        spec->unk_token);
    t->pieces.continuation =
        trie_walk(&t->pieces.vocab, spec->prefix, strlen(spec->prefix));
    t->pieces.max_word_chars = spec->max_word_chars;
    t->base.frame = (tokenizer_frame){.begin = spec->cls, .end = spec->sep, .typed = true};
    t->base.model_max_length = spec->model_max_length;
    normalizer_init(&t->rules);
    t->rules.clean_text = spec->clean_text;
    t->rules.split_cjk = spec->split_cjk;
    t->rules.lower_case = spec->lower_case;
    t->rules.strip_accents = spec->strip_accents;
    encode_init_ascii(t);
    return fill_added(t, spec, err);
}

static void wordpiece_destroy(moe_tokenizer *base)
{
    wordpiece_tokenizer *t = (wordpiece_tokenizer *)base;
    trie_free(&t->pieces.vocab);
    added_tokens_free(&t->raw);
    added_tokens_free(&t->normalized);
    token_strings_free(&t->strings);
    free(t);
}

static const char *wordpiece_token(const moe_tokenizer *base, int32_t id)
{
    const wordpiece_tokenizer *t = (const wordpiece_tokenizer *)base;
    return token_strings_get(&t->strings, id);
}

static bool wordpiece_encode(const moe_tokenizer *t, const char *s, size_t n, token_list *out)
{
    return encode_text((const wordpiece_tokenizer *)t, s, n, out);
}

static const tokenizer_kind wordpiece_kind = {
    .encode = wordpiece_encode,
    .token = wordpiece_token,
    .destroy = wordpiece_destroy,
};

moe_status tokenizer_create_wordpiece(const wordpiece_spec *spec,
                                      moe_tokenizer **out, moe_error *err)
{
    *out = NULL;
    moe_status status = check_spec(spec, err);
    if (status != MOE_OK)
        return status;
    wordpiece_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory");
    t->base.kind = &wordpiece_kind;
    status = fill(t, spec, err);
    if (status != MOE_OK) {
        tokenizer_destroy(&t->base);
        return status;
    }
    *out = &t->base;
    return MOE_OK;
}
