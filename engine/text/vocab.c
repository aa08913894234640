/* vocab.c: strings in one block, and a trie of them, which finds duplicates. */
#include "engine/text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/added_tokens.h"
#include "engine/text/utf8.h"

/* Moves what tokens point to into one block of our own. */
static moe_status own_strings(token_strings *s, moe_error *err)
{
    size_t bytes = 1;
    for (int i = 0; i < s->n; i++)
        bytes += s->tokens[i] ? strlen(s->tokens[i]) + 1 : 0;
    s->block = malloc(bytes);
    if (!s->block)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for %zu bytes", bytes);
    char *to = s->block;
    for (int i = 0; i < s->n; i++)
        if (s->tokens[i]) {
            size_t n = strlen(s->tokens[i]) + 1;
            s->tokens[i] = memcpy(to, s->tokens[i], n);
            to += n;
        }
    return MOE_OK;
}

moe_status token_strings_copy(token_strings *out, const char *const *vocab, int n_vocab,
                              const tokenizer_added_token *added, int n_added, moe_error *err)
{
    *out = (token_strings){.n = n_vocab,
                           .tokens = calloc((size_t)n_vocab, sizeof *out->tokens)};
    if (!out->tokens)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for %d tokens", n_vocab);
    for (int i = 0; i < n_vocab; i++)
        out->tokens[i] = vocab[i];
    for (int i = 0; i < n_added; i++) {
        int32_t id = added[i].id;
        if (id >= 0 && id < n_vocab && !out->tokens[id])
            out->tokens[id] = added[i].content;
    }
    moe_status status = own_strings(out, err);
    if (status != MOE_OK)
        token_strings_free(out);
    return status;
}

void token_strings_free(token_strings *s)
{
    free(s->tokens);
    free(s->block);
    *s = (token_strings){0};
}

const char *token_strings_get(const token_strings *s, int32_t id)
{
    return id >= 0 && id < s->n ? s->tokens[id] : NULL;
}

moe_status vocab_fill(trie *t, const char *const *vocab, int n_vocab, moe_error *err)
{
    moe_status status = trie_init(t, err);
    for (int32_t id = 0; id < n_vocab && status == MOE_OK; id++) {
        const char *token = vocab[id];
        int32_t existing = TRIE_NONE;
        if (!token || !*token)
            continue;
        if (utf8_first_invalid(token, strlen(token)) != strlen(token))
            return moe_fail(err, MOE_E_FORMAT, "tokenizer: token %d is not UTF-8", (int)id);
        status = trie_add(t, token, strlen(token), id, &existing, err);
        if (status == MOE_OK && existing != TRIE_NONE)
            return moe_fail(err, MOE_E_FORMAT,
                            "tokenizer: token '%s' has the ids %d and %d, expected one", token,
                            (int)existing, (int)id);
    }
    return status;
}

moe_status vocab_check_added(const trie *vocab, const token_strings *strings,
                             const tokenizer_added_token *a, moe_error *err)
{
    size_t n = strlen(a->content);
    int32_t id = trie_find(vocab, a->content, n);
    if (n < 1 || n > ADDED_TOKEN_MAX_BYTES)
        return moe_fail(err, MOE_E_LIMIT, "added token %d: %zu bytes, expected 1 to %d",
                        (int)a->id, n, ADDED_TOKEN_MAX_BYTES);
    if (utf8_first_invalid(a->content, n) != n)
        return moe_fail(err, MOE_E_FORMAT, "added token %d is not UTF-8", (int)a->id);
    if (a->id < 0 || a->id >= strings->n)
        return moe_fail(err, MOE_E_FORMAT, "added token '%s': id %d, expected 0 to %d",
                        a->content, (int)a->id, strings->n - 1);
    if (id != TRIE_NONE && id != a->id)
        return moe_fail(err, MOE_E_FORMAT,
                        "added token '%s': id %d, the vocabulary has it as %d", a->content,
                        (int)a->id, (int)id);
    if (strcmp(strings->tokens[a->id], a->content) != 0)
        return moe_fail(err, MOE_E_FORMAT,
                        "added token '%s': its id %d is the vocabulary's '%s'", a->content,
                        (int)a->id, strings->tokens[a->id]);
    return MOE_OK;
}
