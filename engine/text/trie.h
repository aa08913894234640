/* trie.h: longest prefix of a text that is a known string. Built once, then read
 * by any number of threads. */
#ifndef MOE_TEXT_TRIE_H
#define MOE_TEXT_TRIE_H

#include "engine/moe.h"

enum { TRIE_ROOT = 0, TRIE_NONE = -1 };

typedef struct {
    uint64_t *edges;  /* hash of (node, byte): key in the high half, child below */
    int shift;        /* 64 - log2 of the slots */
    uint32_t n_nodes, capacity;
    int32_t *values;  /* [capacity] by node, TRIE_NONE where no string ends */
} trie;

moe_status trie_init(trie *t, moe_error *err);
void trie_free(trie *t); /* accepts a zeroed one */

/* Adds a string with a value >= 0, or replaces nothing and gives the value that it
 * already has: *existing is TRIE_NONE where the string is new. More than 2^24 nodes
 * is MOE_E_LIMIT. */
moe_status trie_add(trie *t, const char *s, size_t n, int32_t value,
                    int32_t *existing, moe_error *err);

/* The node that s leads to, or TRIE_NONE. */
int32_t trie_walk(const trie *t, const char *s, size_t n);
/* The same from a node, which may be TRIE_NONE. */
int32_t trie_walk_from(const trie *t, int32_t node, const char *s, size_t n);
/* The value of a whole string, TRIE_NONE: none. Of the empty one, TRIE_NONE. */
int32_t trie_find(const trie *t, const char *s, size_t n);

/* From a node: the value of the longest string of at least one byte that s starts
 * with, and its *length; TRIE_NONE if there is none. */
int32_t trie_longest(const trie *t, int32_t node, const uint8_t *s, size_t n,
                     size_t *length);

#endif
