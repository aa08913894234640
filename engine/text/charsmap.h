/* charsmap.h: SentencePiece's compiled map of characters, as Hugging Face's tokenizers
 * apply it: to whole grapheme clusters of under six bytes, then to characters, and of
 * several entries that a text starts with the shortest. SentencePiece itself takes the
 * longest, so that ids differ on rare texts; a model's are what its tokenizer.json gives. */
#ifndef MOE_TEXT_CHARSMAP_H
#define MOE_TEXT_CHARSMAP_H

#include "engine/moe.h"

/* Immutable once open: any thread. */
typedef struct {
    uint32_t *units;   /* [n_units] a double array (Yata et al. 2007) */
    size_t n_units;
    char *strings;     /* [n_strings] what entries map to, each with its NUL */
    size_t n_strings;
} charsmap;

/* Copies n bytes: the array's bytes (4 of length, little endian), the array, the strings.
 * None are the map that changes nothing. MOE_E_FORMAT: something else. On failure *out is
 * zero. */
moe_status charsmap_open(const void *bytes, size_t n, charsmap *out, moe_error *err);
void charsmap_close(charsmap *m); /* accepts a zeroed one */

/* The text of valid UTF-8 mapped. at [n]: the position of each byte's character, and *to_at
 * [*n_to] of each resulting byte. *to, *to_at: free(). False: out of memory. */
bool charsmap_apply(const charsmap *m, const char *s, size_t n, const int32_t *at, char **to,
                    int32_t **to_at, size_t *n_to);

#endif
