/* charsmap.c: looking characters up in the double array, and replacing them.
 *
 * A unit of the array has its own label in the low byte, whether an entry ends below it in
 * bit 8, and in the rest the offset of its children; a leaf is the entry's value. Every
 * index is checked: the file comes from outside. */
#include "engine/text/charsmap.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "engine/text/utf8.h"

enum { CLUSTER_BYTES = 6 /* a cluster this long is mapped by characters */ };

/* ---- opening ------------------------------------------------------------------- */

static uint32_t little_endian(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

moe_status charsmap_open(const void *bytes, size_t n, charsmap *out, moe_error *err)
{
    const unsigned char *from = bytes;
    *out = (charsmap){0};
    if (n == 0)
        return MOE_OK;
    size_t array = n >= 4 ? little_endian(from) : 0, rest = n - 4 - array;
    const char *strings = (const char *)from + 4 + array;
    if (n < 4 || array > n - 4 || array % 4 || rest == 0 || strings[rest - 1] != '\0' ||
        utf8_first_invalid(strings, rest) != rest)
        return moe_fail(err, MOE_E_FORMAT, "%zu bytes are no compiled map of characters", n);
    out->units = malloc(array + 1);
    out->strings = malloc(rest);
    if (!out->units || !out->strings) {
        charsmap_close(out);
        return moe_fail(err, MOE_E_MEMORY, "no memory for a map of characters");
    }
    out->n_units = array / 4;
    for (size_t i = 0; i < out->n_units; i++)
        out->units[i] = little_endian(from + 4 + 4 * i);
    out->n_strings = rest;
    memcpy(out->strings, strings, rest);
    return MOE_OK;
}

void charsmap_close(charsmap *m)
{
    free(m->units);
    free(m->strings);
    *m = (charsmap){0};
}

/* ---- looking up ------------------------------------------------------------------ */

static size_t children_of(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* The string of an entry, NULL where its value is none. */
static const char *string_at(const charsmap *m, uint32_t value)
{
    bool inside = value < m->n_strings && ((uint8_t)m->strings[value] & 0xC0) != 0x80;
    return inside ? m->strings + value : NULL;
}

/* What the shortest entry that n bytes of s start with maps to, NULL: there is none. */
static const char *look_up(const charsmap *m, const char *s, size_t n)
{
    size_t node = m->n_units ? children_of(m->units[0]) : 0;
    for (size_t i = 0; i < n && s[i]; i++) {
        node ^= (uint8_t)s[i];
        if (node >= m->n_units)
            return NULL;
        uint32_t unit = m->units[node];
        if ((unit & (1u << 31 | 0xFF)) != (uint8_t)s[i])
            return NULL;
        node ^= children_of(unit);
        if (unit >> 8 & 1)
            return node < m->n_units ? string_at(m, m->units[node] & ~(1u << 31)) : NULL;
    }
    return NULL;
}

/* ---- replacing ------------------------------------------------------------------- */

typedef struct { char *bytes; int32_t *at; size_t n, capacity; bool failed; } output;

static void reserve(output *o, size_t n)
{
    if (o->failed || n <= o->capacity - o->n)
        return;
    size_t capacity = 2 * (o->n + n);
    char *bytes = realloc(o->bytes, capacity);
    if (bytes)
        o->bytes = bytes;
    int32_t *at = realloc(o->at, capacity * sizeof *at);
    if (at)
        o->at = at;
    o->failed = !bytes || !at;
    o->capacity = capacity;
}

/* Puts n bytes whose characters stand for those of `old`, one by one, the last ones for
 * its last. at: of old's bytes. */
static void put(output *o, const char *s, size_t n, const char *old, size_t n_old,
                const int32_t *at)
{
    size_t from = 0;
    reserve(o, n);
    for (size_t i = 0, length; !o->failed && i < n; i += length) {
        length = utf8_length((uint8_t)s[i]);
        for (size_t k = 0; k < length; k++, o->n++) {
            o->bytes[o->n] = s[i + k];
            o->at[o->n] = at[from];
        }
        size_t next = from + utf8_length((uint8_t)old[from]);
        from = next < n_old ? next : from;
    }
}

/* Bytes of the grapheme cluster that n bytes of s start with. */
static size_t cluster(const char *s, size_t n)
{
    utf8proc_int32_t state = 0;
    size_t i, length;
    uint32_t before = utf8_get(s, &length);
    for (i = length; i < n; i += length) {
        uint32_t cp = utf8_get(s + i, &length);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)cp,
                                             &state))
            break;
        before = cp;
    }
    return i;
}

static void put_characters(const charsmap *m, output *o, const char *s, size_t n,
                           const int32_t *at)
{
    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_length((uint8_t)s[i]);
        const char *to = look_up(m, s + i, length);
        if (to)
            put(o, to, strlen(to), s + i, length, at + i);
        else
            put(o, s + i, length, s + i, length, at + i);
    }
}

bool charsmap_apply(const charsmap *m, const char *s, size_t n, const int32_t *at, char **to,
                    int32_t **to_at, size_t *n_to)
{
    output o = {0};
    reserve(&o, n + 1);
    for (size_t i = 0, length; i < n && !o.failed; i += length) {
        length = cluster(s + i, n - i);
        const char *whole = length < CLUSTER_BYTES ? look_up(m, s + i, length) : NULL;
        if (whole)
            put(&o, whole, strlen(whole), s + i, length, at + i);
        else
            put_characters(m, &o, s + i, length, at + i);
    }
    *to = o.bytes;
    *to_at = o.at;
    *n_to = o.n;
    if (o.failed) {
        free(o.bytes);
        free(o.at);
        *to = NULL;
        *to_at = NULL;
    }
    return !o.failed;
}
