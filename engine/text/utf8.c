/* utf8.c: checking and repairing UTF-8.
 *
 * A sequence is a lead byte and up to three continuation bytes; the second byte
 * has a narrower range after E0, ED, F0 and F4 (no overlong forms, surrogates or
 * values past U+10FFFF). What is invalid is cut into maximal subparts: the longest
 * prefix of a valid sequence, or one byte (Unicode 15, section 3.9, table 3-8);
 * each becomes one U+FFFD. Runs of ASCII are skipped eight bytes at a time. */
#include "engine/text/utf8.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char REPLACEMENT[] = "\xEF\xBF\xBD"; /* U+FFFD */
enum { REPLACEMENT_BYTES = 3 };

static bool second_byte_fits(uint8_t lead, uint8_t second)
{
    switch (lead) {
    case 0xE0: return second >= 0xA0 && second <= 0xBF;
    case 0xED: return second >= 0x80 && second <= 0x9F;
    case 0xF0: return second >= 0x90 && second <= 0xBF;
    case 0xF4: return second >= 0x80 && second <= 0x8F;
    default: return (second & 0xC0) == 0x80;
    }
}

/* Length of the sequence at p, or of the maximal subpart where it is broken. */
static size_t sequence(const uint8_t *p, size_t left, bool *valid)
{
    size_t need = utf8_length(p[0]);
    *valid = p[0] < 0x80;
    if (p[0] < 0xC2 || p[0] > 0xF4) /* ASCII, a continuation or never a lead */
        return 1;
    if (left < 2 || !second_byte_fits(p[0], p[1]))
        return 1;
    for (size_t i = 2; i < need; i++)
        if (i >= left || (p[i] & 0xC0) != 0x80)
            return i;
    *valid = true;
    return need;
}

size_t utf8_first_invalid(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        if (n - i >= sizeof word) {
            memcpy(&word, s + i, sizeof word);
            if (!(word & 0x8080808080808080u)) {
                i += sizeof word;
                continue;
            }
        }
        bool valid;
        size_t length = sequence((const uint8_t *)s + i, n - i, &valid);
        if (!valid)
            return i;
        i += length;
    }
    return n;
}

/* One pass: measures where out is NULL, else writes. Returns the bytes. */
static size_t repair(const char *s, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        bool valid;
        size_t length = sequence((const uint8_t *)s + i, n - i, &valid);
        size_t written = valid ? length : REPLACEMENT_BYTES;
        if (out)
            memcpy(out + n_out, valid ? s + i : REPLACEMENT, written);
        n_out += written;
        i += length;
    }
    return n_out;
}

moe_status utf8_repair(const char *s, size_t n, char **out, size_t *n_out,
                       moe_error *err)
{
    *n_out = repair(s, n, NULL); /* at most 3 n */
    *out = malloc(*n_out + 1);
    if (!*out)
        return moe_fail(err, MOE_E_MEMORY, "text: no memory for %zu bytes", *n_out);
    repair(s, n, *out);
    return MOE_OK;
}

size_t utf8_count(const char *s, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((uint8_t)s[i] & 0xC0) != 0x80;
    return count;
}

size_t utf8_put(uint8_t *out, uint32_t cp)
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, cp >>= 6)
        out[i] = (uint8_t)(0x80 | (cp & 0x3F));
    out[0] = (uint8_t)((0xF00 >> n) | cp);
    return n;
}
