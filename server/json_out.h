/* json_out.h: writes JSON onto the end of a buffer.
 *
 * Commas come by themselves: a value or key that does not follow '{', '[' or
 * ':' gets one. Strings must be valid UTF-8; controls are escaped. Numbers that
 * JSON lacks (NaN, infinities) become null.
 *
 *     jw_open(b, '{');  jw_key(b, "n");  jw_int(b, 3);  jw_close(b, '}'); */
#ifndef SERVER_JSON_OUT_H
#define SERVER_JSON_OUT_H

#include <stdint.h>
#include "server/buffer.h"

void jw_open(buffer *b, char bracket);  /* '{' or '[' */
void jw_close(buffer *b, char bracket); /* '}' or ']' */
void jw_key(buffer *b, const char *key);
void jw_string(buffer *b, const char *s);
void jw_text(buffer *b, const char *s, size_t n); /* may hold NULs */
void jw_int(buffer *b, int64_t v);
void jw_uint(buffer *b, uint64_t v);
void jw_number(buffer *b, double v, int digits);  /* significant digits */
void jw_fixed(buffer *b, double v, int decimals); /* digits after the point */
void jw_bool(buffer *b, bool v);
void jw_null(buffer *b);

/* Key and value at once. */
void jw_pair_string(buffer *b, const char *key, const char *s);
void jw_pair_int(buffer *b, const char *key, int64_t v);
void jw_pair_uint(buffer *b, const char *key, uint64_t v);
void jw_pair_number(buffer *b, const char *key, double v, int digits);
void jw_pair_fixed(buffer *b, const char *key, double v, int decimals);
void jw_pair_bool(buffer *b, const char *key, bool v);

#endif
