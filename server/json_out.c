/* json_out.c: JSON text without a tree. Knows where it is from the last byte. */
#include "server/json_out.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static void comma(buffer *b)
{
    char last = b->n ? b->bytes[b->n - 1] : '{';
    if (last != '{' && last != '[' && last != ':')
        buffer_add_char(b, ',');
}

void jw_open(buffer *b, char bracket)
{
    comma(b);
    buffer_add_char(b, bracket);
}

void jw_close(buffer *b, char bracket)
{
    buffer_add_char(b, bracket);
}

static void quoted(buffer *b, const char *s, size_t n)
{
    const char *run = s, *end = s + n;
    buffer_add_char(b, '"');
    for (; s < end; s++) {
        unsigned char c = (unsigned char)*s;
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        buffer_add(b, run, (size_t)(s - run));
        if (c == '"' || c == '\\')
            buffer_printf(b, "\\%c", c);
        else if (c == '\n')
            buffer_add_string(b, "\\n");
        else
            buffer_printf(b, "\\u%04x", c);
        run = s + 1;
    }
    buffer_add(b, run, (size_t)(end - run));
    buffer_add_char(b, '"');
}

void jw_key(buffer *b, const char *key)
{
    comma(b);
    quoted(b, key, strlen(key));
    buffer_add_char(b, ':');
}

void jw_text(buffer *b, const char *s, size_t n)
{
    comma(b);
    quoted(b, s, n);
}

void jw_string(buffer *b, const char *s)
{
    jw_text(b, s, strlen(s));
}

void jw_int(buffer *b, int64_t v)
{
    comma(b);
    buffer_printf(b, "%" PRId64, v);
}

void jw_uint(buffer *b, uint64_t v)
{
    comma(b);
    buffer_printf(b, "%" PRIu64, v);
}

void jw_number(buffer *b, double v, int digits)
{
    comma(b);
    if (isfinite(v))
        buffer_printf(b, "%.*g", digits, v);
    else
        buffer_add_string(b, "null");
}

void jw_fixed(buffer *b, double v, int decimals)
{
    comma(b);
    if (isfinite(v))
        buffer_printf(b, "%.*f", decimals, v);
    else
        buffer_add_string(b, "null");
}

void jw_bool(buffer *b, bool v)
{
    comma(b);
    buffer_add_string(b, v ? "true" : "false");
}

void jw_null(buffer *b)
{
    comma(b);
    buffer_add_string(b, "null");
}

void jw_pair_string(buffer *b, const char *key, const char *s)
{
    jw_key(b, key);
    jw_string(b, s);
}

void jw_pair_int(buffer *b, const char *key, int64_t v)
{
    jw_key(b, key);
    jw_int(b, v);
}

void jw_pair_uint(buffer *b, const char *key, uint64_t v)
{
    jw_key(b, key);
    jw_uint(b, v);
}

void jw_pair_number(buffer *b, const char *key, double v, int digits)
{
    jw_key(b, key);
    jw_number(b, v, digits);
}

void jw_pair_fixed(buffer *b, const char *key, double v, int decimals)
{
    jw_key(b, key);
    jw_fixed(b, v, decimals);
}

void jw_pair_bool(buffer *b, const char *key, bool v)
{
    jw_key(b, key);
    jw_bool(b, v);
}
