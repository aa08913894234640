/* utf8.c: Table 3-7 of the Unicode Standard (well-formed byte sequences) as
 * code: the second byte's range depends on the first, the rest are 80..BF. */
#include "convert/utf8.h"

#include <stdbool.h>

static bool between(unsigned char c, int low, int high)
{
    return c >= low && c <= high;
}

size_t utf8_sequence_bytes(const char *bytes, size_t n)
{
    const unsigned char *s = (const unsigned char *)bytes;
    unsigned char c = s[0];
    if (c < 0x80)
        return 1;
    size_t length = between(c, 0xC2, 0xDF) ? 2 : between(c, 0xE0, 0xEF) ? 3
                  : between(c, 0xF0, 0xF4) ? 4 : 0;
    if (length == 0 || n < length)
        return 0;
    int low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80;
    int high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (!between(s[1], low, high))
        return 0;
    for (size_t i = 2; i < length; i++)
        if (!between(s[i], 0x80, 0xBF))
            return 0;
    return length;
}

size_t utf8_well_formed_bytes(const char *bytes, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t length = utf8_sequence_bytes(bytes + at, n - at);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

int utf8_code_points(const char *bytes, size_t n)
{
    int count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return count;
}
