/* added_tokens.c: finding added and special tokens in a text.
 *
 * A scan looks for bytes that a pattern may start with and walks the trie there, so
 * plain text costs a table look-up a byte and every start at most
 * ADDED_TOKEN_MAX_BYTES steps. A match inside a word is passed over where the token
 * wants to be a single word; then the scan goes on behind it, as the crate does.
 *
 * A pattern that begins with white space could match inside the space that another
 * one has stripped; the pieces would overlap. Such a pair is refused. */
#include "engine/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

moe_status added_tokens_init(added_tokens *set, moe_error *err)
{
    *set = (added_tokens){0};
    return trie_init(&set->patterns, err);
}

void added_tokens_free(added_tokens *set)
{
    trie_free(&set->patterns);
    free(set->tokens);
    *set = (added_tokens){0};
}

static bool is_space(uint32_t cp)
{
    uint8_t flags;
    unicode_flags(cp, 1, &flags);
    return flags & CHAR_SPACE;
}

static moe_status append(added_tokens *set, const tokenizer_added_token *token,
                         moe_error *err)
{
    if (set->n == set->capacity) {
        int capacity = set->capacity ? set->capacity * 2 : 8;
        struct added_token *tokens =
            realloc(set->tokens, (size_t)capacity * sizeof *tokens);
        if (!tokens)
            return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for added tokens");
        set->tokens = tokens;
        set->capacity = capacity;
    }
    set->tokens[set->n++] = (struct added_token){
        token->id, token->single_word, token->lstrip, token->rstrip,
    };
    return MOE_OK;
}

moe_status added_tokens_add(added_tokens *set, const tokenizer_added_token *token,
                            const char *pattern, size_t n, moe_error *err)
{
    int32_t existing;
    size_t length;
    moe_status status = trie_add(&set->patterns, pattern, n, set->n, &existing, err);
    if (status != MOE_OK || existing != TRIE_NONE)
        return status;
    set->starts[(uint8_t)pattern[0]] = true;
    set->any_rstrip |= token->rstrip;
    set->any_leading_space |= is_space(utf8_get(pattern, &length));
    if (set->any_rstrip && set->any_leading_space)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "added token '%s': one added token has rstrip and one begins "
                        "with white space, expected at most one of the two",
                        token->content);
    return append(set, token, err);
}

static bool is_single_word(const char *s, size_t n, size_t start, size_t end)
{
    size_t length;
    return !(start > 0 && unicode_is_word(utf8_before(s, start))) &&
           !(end < n && unicode_is_word(utf8_get(s + end, &length)));
}

/* Start of the white space before `start`, not before `from`. */
static size_t space_before(const char *s, size_t from, size_t start)
{
    uint8_t unused[4];
    while (start > from) {
        uint32_t cp = utf8_before(s, start);
        if (!is_space(cp))
            break;
        start -= utf8_put(unused, cp);
    }
    return start;
}

static size_t space_after(const char *s, size_t n, size_t end)
{
    size_t length;
    while (end < n && is_space(utf8_get(s + end, &length)))
        end += length;
    return end;
}

void added_tokens_split(const added_tokens *set, const char *s, size_t n,
                        added_piece piece, void *ctx)
{
    size_t done = 0; /* end of the pieces given out */
    for (size_t i = 0; i < n && set->n;) {
        size_t length;
        int32_t which = TRIE_NONE;
        if (set->starts[(uint8_t)s[i]])
            which = trie_longest(&set->patterns, TRIE_ROOT, (const uint8_t *)s + i,
                                 n - i, &length);
        if (which == TRIE_NONE) {
            i++;
            continue;
        }
        const struct added_token *token = &set->tokens[which];
        size_t start = i, end = i + length;
        i = end;
        if (token->single_word && !is_single_word(s, n, start, end))
            continue;
        if (token->lstrip)
            start = space_before(s, done, start);
        if (token->rstrip)
            end = space_after(s, n, end);
        if (done < start)
            piece(ctx, -1, done, start);
        piece(ctx, token->id, start, end);
        done = i = end;
    }
    if (done < n)
        piece(ctx, -1, done, n);
}
