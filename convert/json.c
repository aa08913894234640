/* json.c: the one file of moefy that knows cJSON: building, reading and printing
 * small JSON trees.
 *
 * cJSON ends strings at NUL, JSON does not. Every string node keeps its length
 * in valuedouble, which cJSON leaves unused there. When reading, the escape of
 * U+0000 is replaced by the byte 0xFF before cJSON sees it (the input is checked
 * UTF-8, which has no 0xFF) and turned into NUL afterwards.
 *
 * A node that could not be made (out of memory) leaves its parent marked in
 * valueint, so that a tree with a hole is never printed as if it were whole. */
#include "convert/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/utf8.h"

enum { BROKEN = -77, INDENT = 2 };
static const char nul_stand_in = (char)0xFF;

/* ---- building ---------------------------------------------------------- */

json *json_object(void)
{
    return cJSON_CreateObject();
}

json *json_array(void)
{
    return cJSON_CreateArray();
}

void json_free(json *j)
{
    cJSON_Delete(j);
}

json *json_add(json *parent, const char *key, json *child)
{
    bool added = parent && child && (key ? cJSON_AddItemToObject(parent, key, child)
                                         : cJSON_AddItemToArray(parent, child));
    if (added)
        return child;
    cJSON_Delete(child);
    if (parent)
        parent->valueint = BROKEN;
    return NULL;
}

/* A string node of n bytes, NULs included; NULL: out of memory. */
static json *string_node(const char *value, size_t n)
{
    json *node = cJSON_CreateString("");
    char *bytes = cJSON_malloc(n + 1);
    if (!node || !bytes) {
        cJSON_free(bytes);
        cJSON_Delete(node);
        return NULL;
    }
    if (n)
        memcpy(bytes, value, n);
    bytes[n] = 0;
    cJSON_free(node->valuestring);
    node->valuestring = bytes;
    node->valuedouble = (double)n;
    return node;
}

void json_add_string_n(json *parent, const char *key, const char *value, size_t n)
{
    json_add(parent, key, string_node(value, n));
}

void json_add_string(json *parent, const char *key, const char *value)
{
    json_add_string_n(parent, key, value, strlen(value));
}

void json_add_int(json *parent, const char *key, int64_t value)
{
    char text[32]; /* raw: a double would lose the last digits of a seed */
    snprintf(text, sizeof text, "%lld", (long long)value);
    bool exact = value > -(1LL << 53) && value < 1LL << 53;
    json_add(parent, key, exact ? cJSON_CreateNumber((double)value) : cJSON_CreateRaw(text));
}

void json_add_number(json *parent, const char *key, double value, int digits)
{
    char text[40];
    if (!isfinite(value)) {
        json_add_null(parent, key);
        return;
    }
    digits = digits < 1 ? 1 : digits > 17 ? 17 : digits;
    snprintf(text, sizeof text, "%.*g", digits, value);
    json_add(parent, key, cJSON_CreateNumber(strtod(text, NULL)));
}

void json_add_bool(json *parent, const char *key, bool value)
{
    json_add(parent, key, cJSON_CreateBool(value));
}

void json_add_null(json *parent, const char *key)
{
    json_add(parent, key, cJSON_CreateNull());
}

void json_remove(json *object, const char *key)
{
    cJSON_DeleteItemFromObjectCaseSensitive(object, key);
}

/* ---- reading ----------------------------------------------------------- */

/* Copies JSON text with every escape of U+0000 replaced; returns its length. */
static size_t hide_nul_escapes(const char *from, size_t n, char *to)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        if (from[i] != '\\' || i + 1 >= n) {
            to[length++] = from[i];
        } else if (n - i >= 6 && memcmp(from + i, "\\u0000", 6) == 0) {
            to[length++] = nul_stand_in;
            i += 5;
        } else {
            to[length++] = from[i++];
            to[length++] = from[i];
        }
    }
    return length;
}

/* Sets the lengths of all strings and puts their NULs back. */
static void finish_strings(json *node)
{
    for (; node; node = node->next) {
        if (cJSON_IsString(node)) {
            size_t n = strlen(node->valuestring);
            node->valuedouble = (double)n;
            for (size_t i = 0; i < n; i++)
                if (node->valuestring[i] == nul_stand_in)
                    node->valuestring[i] = 0;
        } else {
            finish_strings(node->child);
        }
    }
}

static bool only_space(const char *c, const char *end)
{
    while (c < end && strchr(" \t\r\n", *c))
        c++;
    return c == end;
}

json *json_parse_text(const char *bytes, size_t n)
{
    if (utf8_well_formed_bytes(bytes, n) != n || memchr(bytes, 0, n))
        return NULL;
    char *copy = malloc(n + 1);
    if (!copy)
        return NULL;
    size_t length = hide_nul_escapes(bytes, n, copy);
    const char *end = NULL;
    json *j = cJSON_ParseWithLengthOpts(copy, length, &end, 0);
    if (j && !only_space(end, copy + length)) {
        cJSON_Delete(j);
        j = NULL;
    }
    free(copy);
    finish_strings(j);
    return j;
}

const json *json_get(const json *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

bool json_is_object(const json *j)
{
    return cJSON_IsObject(j);
}

bool json_is_array(const json *j)
{
    return cJSON_IsArray(j);
}

bool json_is_null(const json *j)
{
    return cJSON_IsNull(j);
}

bool json_is_true(const json *j)
{
    return cJSON_IsTrue(j);
}

const json *json_first(const json *parent)
{
    return cJSON_IsArray(parent) || cJSON_IsObject(parent) ? parent->child : NULL;
}

const json *json_next(const json *node)
{
    return node->next;
}

const char *json_key(const json *node)
{
    return node->string;
}

const char *json_get_string(const json *object, const char *key)
{
    return json_get_string_n(object, key, NULL);
}

const char *json_get_string_n(const json *object, const char *key, size_t *n)
{
    const json *j = json_get(object, key);
    if (!cJSON_IsString(j))
        return NULL;
    if (n)
        *n = (size_t)j->valuedouble;
    return j->valuestring;
}

bool json_get_number(const json *object, const char *key, double *out)
{
    return json_number(json_get(object, key), out);
}

bool json_number(const json *j, double *out)
{
    if (!cJSON_IsNumber(j))
        return false;
    *out = j->valuedouble;
    return true;
}

/* ---- printing ---------------------------------------------------------- */

static void print_ascii(FILE *to, char c)
{
    static const char with_letter[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *found = c ? strchr(with_letter, c) : NULL;
    if (found)
        fprintf(to, "\\%c", letter[found - with_letter]);
    else if ((unsigned char)c < 0x20 || c == 0x7F)
        fprintf(to, "\\u%04x", c);
    else
        fputc(c, to);
}

static void print_string(FILE *to, const char *s, size_t n)
{
    fputc('"', to);
    for (size_t i = 0; i < n;) {
        size_t bytes = utf8_sequence_bytes(s + i, n - i);
        if (bytes == 1)
            print_ascii(to, s[i]);
        else if (bytes > 1)
            fwrite(s + i, 1, bytes, to);
        else
            fputs("\xEF\xBF\xBD", to);
        i += bytes ? bytes : 1;
    }
    fputc('"', to);
}

/* The shortest of 15 or 17 digits that reads back as the same double. */
static void print_number(FILE *to, double value)
{
    char text[40];
    if (!isfinite(value)) {
        fputs("null", to);
        return;
    }
    snprintf(text, sizeof text, "%.15g", value);
    if (strtod(text, NULL) != value)
        snprintf(text, sizeof text, "%.17g", value);
    fputs(text, to);
}

static bool print_node(FILE *to, const json *j, int depth, bool pretty);

static void new_line(FILE *to, int depth, bool pretty)
{
    if (pretty)
        fprintf(to, "\n%*s", depth * INDENT, "");
}

/* Arrays of plain values stay on one line even when pretty. */
static bool is_flat(const json *parent)
{
    if (cJSON_IsObject(parent))
        return false;
    for (const json *j = parent->child; j; j = j->next)
        if (j->child)
            return false;
    return true;
}

static bool print_children(FILE *to, const json *j, int depth, bool pretty)
{
    bool broken = j->valueint == BROKEN, object = cJSON_IsObject(j);
    bool spread = pretty && !is_flat(j);
    fputc(object ? '{' : '[', to);
    for (const json *c = j->child; c; c = c->next) {
        new_line(to, depth + 1, spread);
        if (object) {
            print_string(to, c->string, strlen(c->string));
            fputs(": ", to);
        }
        broken |= !print_node(to, c, depth + 1, pretty);
        if (c->next)
            fputs(spread ? "," : ", ", to);
    }
    if (j->child)
        new_line(to, depth, spread);
    fputc(object ? '}' : ']', to);
    return !broken;
}

/* false: a node of the tree is missing. */
static bool print_node(FILE *to, const json *j, int depth, bool pretty)
{
    if (cJSON_IsObject(j) || cJSON_IsArray(j))
        return print_children(to, j, depth, pretty);
    if (cJSON_IsString(j))
        print_string(to, j->valuestring, (size_t)j->valuedouble);
    else if (cJSON_IsNumber(j))
        print_number(to, j->valuedouble);
    else if (cJSON_IsRaw(j))
        fputs(j->valuestring, to);
    else
        fputs(cJSON_IsTrue(j) ? "true" : cJSON_IsFalse(j) ? "false" : "null", to);
    return true;
}

char *json_print(const json *j, bool pretty)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = j ? open_memstream(&text, &bytes) : NULL;
    if (!to)
        return NULL;
    bool whole = print_node(to, j, 0, pretty);
    if (ferror(to))
        whole = false;
    if (fclose(to) != 0 || !whole) {
        free(text);
        return NULL;
    }
    return text;
}

bool json_print_line(FILE *to, const json *j)
{
    char *text = json_print(j, false);
    bool printed = text && fputs(text, to) >= 0 && fputc('\n', to) >= 0;
    free(text);
    return printed;
}

moe_status json_answer(json *j, moe_error *err)
{
    errno = 0;
    bool printed = json_print_line(stdout, j);
    int reason = errno;
    json_free(j);
    if (printed)
        return MOE_OK;
    if (ferror(stdout))
        return moe_fail(err, MOE_E_IO, "standard output: %s", strerror(reason));
    return moe_fail(err, MOE_E_MEMORY, "out of memory for an answer");
}
