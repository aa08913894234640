/* json.h: the one file of moefy that knows cJSON.
 * Output: a small tree built by path-free calls and printed on one line. */
#ifndef CONVERT_JSON_H
#define CONVERT_JSON_H

#include <stdio.h>
#include "engine/moe.h"

typedef struct cJSON json; /* opaque to everyone else */

json *json_object(void);
json *json_array(void);
/* NULL: malformed, not UTF-8, or out of memory. */
json *json_parse_text(const char *bytes, size_t n);
void json_free(json *j);
/* Each adds to an object (key) or an array (key NULL) and returns the added
 * node, which the parent owns. Out of memory marks the tree, and printing it then
 * fails. Strings may hold anything: what is not UTF-8 is printed as U+FFFD.
 * Numbers are rounded to `digits` significant digits; NaN and infinities become
 * null. */
json *json_add(json *parent, const char *key, json *child);
void json_add_string(json *parent, const char *key, const char *value);
void json_add_string_n(json *parent, const char *key, const char *value, size_t n);
void json_add_int(json *parent, const char *key, int64_t value);
void json_add_number(json *parent, const char *key, double value, int digits);
void json_add_bool(json *parent, const char *key, bool value);
void json_add_null(json *parent, const char *key);
/* Removes an object's member, if it has it. */
void json_remove(json *object, const char *key);
/* Reading; NULL / false where absent or of another type. */
const json *json_get(const json *object, const char *key);
const char *json_get_string(const json *object, const char *key);
/* n: out, its bytes; a string may hold NULs. */
const char *json_get_string_n(const json *object, const char *key, size_t *n);
bool json_get_number(const json *object, const char *key, double *out);
bool json_number(const json *j, double *out);
bool json_is_object(const json *j); /* NULL: false, as below */
bool json_is_array(const json *j);
bool json_is_null(const json *j);
bool json_is_true(const json *j);
/* Walks the children of an array or object: NULL at the end. */
const json *json_first(const json *parent);
const json *json_next(const json *node);
/* The key of an object's member; NULL of an array's element. */
const char *json_key(const json *node);
/* One line, or indented where pretty; no newline at the end. free() it. NULL: out
 * of memory. */
char *json_print(const json *j, bool pretty);
/* Prints it as one line; false: out of memory or not written. */
bool json_print_line(FILE *to, const json *j);
/* Prints j as one line on stdout and frees it; MOE_E_IO or MOE_E_MEMORY. */
moe_status json_answer(json *j, moe_error *err);

#endif
