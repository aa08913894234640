/* normalizer.h: BERT's text cleaning, one character in, any number out.
 *
 * In order: drop controls (clean_text), space out CJK (split_cjk), decompose and
 * drop accents (strip_accents), lower case. Each character that comes out carries
 * the position of the one it came from. */
#ifndef MOE_TEXT_NORMALIZER_H
#define MOE_TEXT_NORMALIZER_H

#include "engine/text/unicode.h"

enum { NORMALIZER_TABLE = 0x20000 }; /* the BMP and the plane of emoji */

typedef struct {
    bool clean_text, split_cjk, lower_case, strip_accents;
    uint8_t flags[NORMALIZER_TABLE];
} normalizer;

/* Sets the table; the caller sets the four switches. */
void normalizer_init(normalizer *rules);

static inline uint8_t normalizer_flags(const normalizer *rules, uint32_t cp)
{
    uint8_t flags;
    if (cp < NORMALIZER_TABLE)
        return rules->flags[cp];
    unicode_flags(cp, 1, &flags);
    return flags;
}

typedef struct {
    uint32_t cp;
    uint8_t combining_class;
    bool first; /* of what one character decomposed into */
} normal_mark;

/* Text on its way through. Set rules, put and ctx, and zero the rest; end with
 * normal_end. put gets the character, its CHAR_* flags and its position. */
typedef struct {
    const normalizer *rules;
    void (*put)(void *ctx, uint32_t cp, uint8_t flags, int32_t at);
    void *ctx;
    /* Combining characters wait here for canonical order, until a character of
     * class 0 follows. */
    normal_mark *marks;
    int32_t *sources; /* positions of those that are `first` */
    int n_marks, n_sources, capacity;
    int32_t last_source; /* position that a character not `first` shares */
    bool keeps_marks;    /* one of those waiting is not dropped as an accent */
    bool failed;         /* out of memory: the output is not complete */
} normal_stream;

void normal_feed(normal_stream *s, uint32_t cp, int32_t at);
/* Puts out what waits. Call it before text that bypasses normal_feed. */
void normal_flush(normal_stream *s);
/* Flushes and frees; the stream may be used again. */
void normal_end(normal_stream *s);

#endif
