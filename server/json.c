/* json.c: cJSON behind our own names.
 *
 * cJSON ends strings at NUL, JSON does not. Where a text escapes U+0000, cJSON
 * gets a copy with the byte 0xFF in its place, which checked UTF-8 does not
 * have; the strings of the tree get their NULs back. Each string node keeps its
 * length in valuedouble, which cJSON leaves unused there. */
#include "server/json.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char nul_stand_in = (char)0xFF;
static const char nul_escape[] = "\\u0000";
enum { ESCAPE_BYTES = sizeof nul_escape - 1 };

/* Copies scanned JSON with every escape of U+0000 replaced; its length. */
static size_t hide_nuls(const char *from, size_t n, char *to)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        if (from[i] != '\\' || i + 1 >= n) {
            to[length++] = from[i];
        } else if (n - i >= ESCAPE_BYTES && memcmp(from + i, nul_escape, ESCAPE_BYTES) == 0) {
            to[length++] = nul_stand_in;
            i += ESCAPE_BYTES - 1;
        } else { /* an escape whole: the second of two backslashes begins none */
            to[length++] = from[i++];
            to[length++] = from[i];
        }
    }
    return length;
}

/* Sets the length of every string and puts its NULs back. As deep as the
 * scanner let the text be. */
static void finish_strings(cJSON *node)
{
    for (; node; node = node->next) {
        finish_strings(node->child);
        if (!cJSON_IsString(node))
            continue;
        size_t n = strlen(node->valuestring);
        node->valuedouble = (double)n;
        for (size_t i = 0; i < n; i++)
            if (node->valuestring[i] == nul_stand_in)
                node->valuestring[i] = '\0';
    }
}

/* NULL: out of memory, for the scanner passed the text. */
static cJSON *build(const char *bytes, size_t n)
{
    if (!memmem(bytes, n, nul_escape, ESCAPE_BYTES))
        return cJSON_ParseWithLength(bytes, n);
    char *copy = malloc(n);
    if (!copy)
        return NULL;
    cJSON *tree = cJSON_ParseWithLength(copy, hide_nuls(bytes, n, copy));
    free(copy);
    return tree;
}

json_verdict jnode_parse(const char *bytes, size_t n, const json_limits *limits,
                         jnode **out, json_fault *fault)
{
    *out = NULL;
    json_verdict verdict = json_scan(bytes, n, limits, fault);
    if (verdict != JSON_FINE)
        return verdict;
    *out = build(bytes, n);
    finish_strings(*out);
    if (*out)
        return JSON_FINE;
    snprintf(fault->message, sizeof fault->message, "out of memory");
    return JSON_NO_MEMORY;
}

void jnode_free(jnode *tree)
{
    cJSON_Delete(tree);
}

jnode_kind jnode_type(const jnode *node)
{
    return cJSON_IsBool(node) ? JNODE_BOOL : cJSON_IsNumber(node) ? JNODE_NUMBER
         : cJSON_IsString(node) ? JNODE_STRING : cJSON_IsArray(node) ? JNODE_ARRAY
         : cJSON_IsObject(node) ? JNODE_OBJECT : JNODE_NULL;
}

const char *jnode_type_name(const jnode *node)
{
    static const char *const names[] = {
        "null", "a boolean", "a number", "a string", "a list", "an object",
    };
    return names[jnode_type(node)];
}

const char *jnode_key(const jnode *member)
{
    return member->string ? member->string : "";
}

const char *jnode_string(const jnode *node)
{
    return node->valuestring;
}

size_t jnode_length(const jnode *node)
{
    return (size_t)node->valuedouble;
}

double jnode_number(const jnode *node)
{
    return node->valuedouble;
}

bool jnode_bool(const jnode *node)
{
    return cJSON_IsTrue(node);
}

const jnode *jnode_first(const jnode *parent)
{
    return parent->child;
}

const jnode *jnode_next(const jnode *child)
{
    return child->next;
}

int jnode_count(const jnode *parent)
{
    return cJSON_GetArraySize(parent);
}
