/* utf8.h: checking and measuring UTF-8. */
#ifndef CONVERT_UTF8_H
#define CONVERT_UTF8_H

#include <stddef.h>

/* Length of the sequence that s starts with, n > 0 bytes left; 0: ill-formed. */
size_t utf8_sequence_bytes(const char *s, size_t n);

/* Bytes before the first ill-formed sequence (overlong forms, surrogates and
 * code points past U+10FFFF are ill-formed); n where there is none. */
size_t utf8_well_formed_bytes(const char *bytes, size_t n);

/* Code points of well-formed UTF-8: columns of a table, roughly. */
int utf8_code_points(const char *bytes, size_t n);

#endif
