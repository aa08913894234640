/* added_tokens.h: finding added and special tokens ("[SEP]") in a text. */
#ifndef MOE_TEXT_ADDED_TOKENS_H
#define MOE_TEXT_ADDED_TOKENS_H

#include "engine/text/tokenizer.h"
#include "engine/text/trie.h"

enum { ADDED_TOKEN_MAX_BYTES = 256, ADDED_TOKENS_MAX = 65536 };

/* Tokens that are looked for in the same text: the original, or the normalized. */
typedef struct {
    trie patterns; /* values index tokens */
    int n, capacity;
    struct added_token { int32_t id; bool single_word, lstrip, rstrip; } *tokens;
    bool starts[256]; /* bytes that a pattern starts with */
    bool any_rstrip, any_leading_space;
} added_tokens;

moe_status added_tokens_init(added_tokens *set, moe_error *err);
void added_tokens_free(added_tokens *set); /* accepts a zeroed one */
/* pattern: what to look for, valid UTF-8, not empty. Where two tokens have the same
 * pattern the first one counts. */
moe_status added_tokens_add(added_tokens *set, const tokenizer_added_token *token,
                            const char *pattern, size_t n, moe_error *err);

/* Cuts valid UTF-8 into pieces, in order, without gaps: leftmost, then longest match.
 * id is -1 for the text between tokens. A token takes the white space that it strips
 * along. Linear in n for the sets that added_tokens_add accepts. */
typedef void (*added_piece)(void *ctx, int32_t id, size_t start, size_t end);
void added_tokens_split(const added_tokens *set, const char *s, size_t n,
                        added_piece piece, void *ctx);

#endif
