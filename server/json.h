/* json.h: the one file of moefied that knows cJSON: a checked JSON text as a
 * tree to read. Answers are written by json_out.h. */
#ifndef SERVER_JSON_H
#define SERVER_JSON_H

#include <stdbool.h>
#include "server/json_scan.h"

typedef struct cJSON jnode; /* opaque to everyone else */

typedef enum {
    JNODE_NULL, JNODE_BOOL, JNODE_NUMBER, JNODE_STRING, JNODE_ARRAY, JNODE_OBJECT,
} jnode_kind;

/* Scans, then parses. On JSON_FINE the caller owns *out: jnode_free. Otherwise
 * *out is NULL and the fault is filled. */
json_verdict jnode_parse(const char *bytes, size_t n, const json_limits *limits,
                         jnode **out, json_fault *fault);
void jnode_free(jnode *tree);

jnode_kind jnode_type(const jnode *node);
/* "a string", "an object": for messages. */
const char *jnode_type_name(const jnode *node);
const char *jnode_key(const jnode *member);   /* of an object's member */
/* JNODE_STRING; lives with the tree. With allow_nul it may hold NULs: then
 * jnode_length, its bytes, says where it ends. */
const char *jnode_string(const jnode *node);
size_t jnode_length(const jnode *node);
double jnode_number(const jnode *node);       /* JNODE_NUMBER */
bool jnode_bool(const jnode *node);           /* JNODE_BOOL */
/* Children of an array or object in order; NULL after the last. */
const jnode *jnode_first(const jnode *parent);
const jnode *jnode_next(const jnode *child);
int jnode_count(const jnode *parent);

#endif
