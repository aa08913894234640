/* json.c: cJSON behind our own names. */
#include "server/json.h"

#include <cjson/cJSON.h>
#include <stdio.h>

json_verdict jnode_parse(const char *bytes, size_t n, const json_limits *limits,
                         jnode **out, json_fault *fault)
{
    *out = NULL;
    json_verdict verdict = json_scan(bytes, n, limits, fault);
    if (verdict != JSON_FINE)
        return verdict;
    *out = cJSON_ParseWithLength(bytes, n);
    if (*out)
        return JSON_FINE;
    /* The scanner passed it, so memory is all that can be missing. */
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
