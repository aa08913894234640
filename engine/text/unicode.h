/* unicode.h: what BERT's normalizer asks about a code point.
 *
 * The Hugging Face crate takes categories from tables of Unicode 8,
 * decompositions from Unicode 9 and lower case from its compiler's (Unicode 17).
 * Ids must agree with what the model was trained on, so we answer as the crate
 * does and not as the newest standard would: tables of our own for the categories
 * (unicode_tables.c), utf8proc for decompositions, combining classes and lower
 * case, with the differences listed in unicode.c. */
#ifndef MOE_TEXT_UNICODE_H
#define MOE_TEXT_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CHAR_DROP = 1,   /* removed by clean_text: controls, formats, private use, U+FFFD */
    CHAR_SPACE = 2,  /* White_Space */
    CHAR_PUNCT = 4,  /* ASCII symbols and punctuation, P* */
    CHAR_MARK = 8,   /* Mn: removed by strip_accents */
    CHAR_CJK = 16,   /* spaces go around it */
    CHAR_NFD = 32,   /* decomposes, or has a combining class */
    CHAR_UPPER = 64, /* has another lower case */
};

/* Fills flags[n] for the code points from `first` on, CHAR_* each. */
void unicode_flags(uint32_t first, uint32_t n, uint8_t *flags);

enum { UNICODE_MAX_DECOMPOSED = 4, UNICODE_MAX_LOWER = 2 };
/* Full canonical decomposition; returns how many code points. */
int unicode_decompose(uint32_t cp, uint32_t out[UNICODE_MAX_DECOMPOSED]);
uint8_t unicode_combining_class(uint32_t cp);
int unicode_lower(uint32_t cp, uint32_t out[UNICODE_MAX_LOWER]);
/* What GPT-2's pattern tells apart: \s, \p{L}, \p{N} and the rest. */
typedef enum { CLASS_OTHER, CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER } char_class;
char_class unicode_class(uint32_t cp);
/* \w of a Unicode regular expression: letters, marks, digits, connectors. */
bool unicode_is_word(uint32_t cp);

typedef struct { uint32_t first, last; } code_range;
extern const code_range unicode_dropped[], unicode_punctuation[], unicode_marks[];
extern const int n_unicode_dropped, n_unicode_punctuation, n_unicode_marks;

#endif
