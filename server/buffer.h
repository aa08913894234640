/* buffer.h: bytes that grow at the end, for answers, metrics and bodies.
 *
 * Starts from zero ({0}). A failed allocation sets `failed` and later calls do
 * nothing, so a writer checks once, at the end. One thread at a time. */
#ifndef SERVER_BUFFER_H
#define SERVER_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *bytes; /* [n], then a NUL; NULL while nothing was added */
    size_t n, capacity;
    bool failed;
} buffer;

void buffer_add(buffer *b, const char *bytes, size_t n);
void buffer_add_string(buffer *b, const char *s);
void buffer_add_char(buffer *b, char c);
void buffer_printf(buffer *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Frees the bytes and starts over. */
void buffer_free(buffer *b);

#endif
