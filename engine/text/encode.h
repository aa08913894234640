/* encode.h: inside of a WordPiece tokenizer, and one text's way through it. */
#ifndef MOE_TEXT_ENCODE_H
#define MOE_TEXT_ENCODE_H

#include "engine/text/added_tokens.h"
#include "engine/text/kind.h"
#include "engine/text/normalizer.h"
#include "engine/text/vocab.h"
#include "engine/text/wordpiece.h"

/* The WordPiece kind. */
typedef struct {
    moe_tokenizer base;
    normalizer rules;
    uint8_t ascii_flags[128]; /* CHAR_DROP, _SPACE, _PUNCT or 0, as rules have it */
    uint8_t ascii_lower[128]; /* what to put into the word */
    wordpiece pieces;
    added_tokens raw;        /* looked for in the text as it came */
    added_tokens normalized; /* looked for after normalization */
    token_strings strings;
} wordpiece_tokenizer;

/* Fills ascii_* from rules. */
void encode_init_ascii(wordpiece_tokenizer *t);

/* Appends the tokens of s (valid UTF-8, under 2^30 bytes), no special ones around
 * them. Positions count code points of s. False: out of memory. */
bool encode_text(const wordpiece_tokenizer *t, const char *s, size_t n, token_list *out);

/* Runs s through the normalizer; *out is the result's UTF-8, *n_out its bytes and
 * *at, if at is not NULL, each byte's position in s. Free both. */
bool encode_normalize(const normalizer *rules, const char *s, size_t n, int32_t first,
                      char **out, size_t *n_out, int32_t **at);

#endif
