/* vocab.h: a vocabulary as WordPiece and BPE keep it: its strings by id, and the ids by
 * string. */
#ifndef MOE_TEXT_VOCAB_H
#define MOE_TEXT_VOCAB_H

#include "engine/text/tokenizer.h"
#include "engine/text/trie.h"

typedef struct {
    int n;
    const char **tokens; /* [n], NULL in the holes */
    char *block;         /* what they point to */
} token_strings;

/* Copies vocab [n_vocab], with an added token in each hole that has its id. */
moe_status token_strings_copy(token_strings *out, const char *const *vocab, int n_vocab,
                              const tokenizer_added_token *added, int n_added, moe_error *err);
void token_strings_free(token_strings *s); /* accepts a zeroed one */
const char *token_strings_get(const token_strings *s, int32_t id); /* NULL: none */

/* Makes t of the strings, the ids being values; empty ones match nothing and stay out.
 * MOE_E_FORMAT: one is not UTF-8, or there twice. */
moe_status vocab_fill(trie *t, const char *const *vocab, int n_vocab, moe_error *err);

/* An added token must be UTF-8 of 1 to 256 bytes, have an id in range, and the vocabulary
 * must not say otherwise. */
moe_status vocab_check_added(const trie *vocab, const token_strings *strings,
                             const tokenizer_added_token *a, moe_error *err);

#endif
