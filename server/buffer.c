/* buffer.c: a byte string that doubles when it is full. */
#include "server/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and a NUL. */
static bool reserve(buffer *b, size_t n)
{
    if (b->failed)
        return false;
    if (b->capacity - b->n > n)
        return true;
    if (n >= SIZE_MAX / 4 || b->capacity >= SIZE_MAX / 4) {
        b->failed = true;
        return false;
    }
    size_t capacity = b->capacity ? b->capacity : 256;
    while (capacity - b->n <= n)
        capacity *= 2;
    char *bytes = realloc(b->bytes, capacity);
    if (!bytes) {
        b->failed = true;
        return false;
    }
    b->bytes = bytes;
    b->capacity = capacity;
    return true;
}

void buffer_add(buffer *b, const char *bytes, size_t n)
{
    if (!reserve(b, n))
        return;
    if (n)
        memcpy(b->bytes + b->n, bytes, n);
    b->n += n;
    b->bytes[b->n] = '\0';
}

void buffer_add_string(buffer *b, const char *s)
{
    buffer_add(b, s, strlen(s));
}

void buffer_add_char(buffer *b, char c)
{
    buffer_add(b, &c, 1);
}

void buffer_printf(buffer *b, const char *format, ...)
{
    char small[256];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof small, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof small) {
        buffer_add(b, small, (size_t)n);
    } else if (n >= 0 && reserve(b, (size_t)n)) {
        vsnprintf(b->bytes + b->n, (size_t)n + 1, format, again);
        b->n += (size_t)n;
    }
    va_end(again);
}

void buffer_free(buffer *b)
{
    free(b->bytes);
    *b = (buffer){0};
}
