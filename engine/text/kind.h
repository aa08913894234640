/* kind.h: what kinds of tokenizers have in common, and what each brings.
 *
 * tokenizer.c does what is the same for all: it makes a text valid UTF-8, asks the kind
 * for its tokens, cuts them to the limit and puts the special ones around them. */
#ifndef MOE_TEXT_KIND_H
#define MOE_TEXT_KIND_H

#include "engine/text/tokenizer.h"
#include "engine/text/wordpiece.h"

typedef struct {
    /* Appends the tokens of s (valid UTF-8, under 2^30 bytes), no special ones around
     * them. Spans are code points of s. False: out of memory. */
    bool (*encode)(const moe_tokenizer *t, const char *s, size_t n, token_list *out);
    /* Text of ids, special ones left out; free(). NULL: ids make no text. */
    moe_status (*decode)(const moe_tokenizer *t, const int32_t *ids, int n, char **out,
                         moe_error *err);
    const char *(*token)(const moe_tokenizer *t, int32_t id); /* NULL: none */
    void (*destroy)(moe_tokenizer *t);
} tokenizer_kind;

/* Begins every kind's own struct. */
struct moe_tokenizer {
    const tokenizer_kind *kind;
    tokenizer_frame frame;
    int model_max_length; /* 0: none stated */
};

#endif
