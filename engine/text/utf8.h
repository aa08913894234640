/* utf8.h: UTF-8 from outside, made valid once so that later loops need no checks. */
#ifndef MOE_TEXT_UTF8_H
#define MOE_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

#include "engine/moe.h"

/* Index of the first byte that is not part of valid UTF-8, n if there is none. */
size_t utf8_first_invalid(const char *s, size_t n);

/* Replaces what is invalid by U+FFFD, as Python's errors="replace" does: one for
 * each maximal subpart of a sequence. *out has *n_out bytes and no NUL; free it. */
moe_status utf8_repair(const char *s, size_t n, char **out, size_t *n_out,
                       moe_error *err);

/* Code points in valid UTF-8. */
size_t utf8_count(const char *s, size_t n);

/* Writes cp (at most 4 bytes); returns how many. */
size_t utf8_put(uint8_t *out, uint32_t cp);

/* Bytes of the character that starts with `lead`, in valid UTF-8. */
static inline size_t utf8_length(uint8_t lead)
{
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* The code point at s, in valid UTF-8; *length: its bytes. */
static inline uint32_t utf8_get(const char *s, size_t *length)
{
    const uint8_t *p = (const uint8_t *)s;
    *length = utf8_length(p[0]);
    switch (*length) {
    case 1: return p[0];
    case 2: return (p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu);
    case 3: return (p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
    default:
        return (p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 |
               (p[3] & 0x3Fu);
    }
}

/* The code point that ends before index `end` > 0, in valid UTF-8. */
static inline uint32_t utf8_before(const char *s, size_t end)
{
    size_t length;
    do
        end--;
    while (((uint8_t)s[end] & 0xC0) == 0x80);
    return utf8_get(s + end, &length);
}

#endif
