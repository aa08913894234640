/* trie.c: a byte trie whose edges live in one hash table.
 *
 * An edge is (node, byte) -> child: 32 bits of key, 32 of child, in an open-addressed
 * table at most half full; its size and the time to build it are linear in the bytes
 * added, whatever they are. A step costs one multiplication and usually one load; the
 * table of BERT's 30,522 tokens is 2 MB. No child is the root, so a free slot is 0. */
#include "engine/text/trie.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BITS = 9, MAX_NODES = 1 << 24 /* node and byte share 32 bits */ };

static uint32_t edge_key(uint32_t node, uint8_t byte)
{
    return node << 8 | byte;
}

static uint32_t edge_slot(const trie *t, uint32_t key)
{
    return (uint32_t)(key * UINT64_C(0x9E3779B97F4A7C15) >> t->shift);
}

static uint32_t slot_mask(const trie *t)
{
    return UINT32_MAX >> (t->shift - 32);
}

/* The child, 0 if there is none. */
static inline uint32_t child(const trie *t, uint32_t node, uint8_t byte)
{
    uint32_t key = edge_key(node, byte), mask = slot_mask(t);
    for (uint32_t i = edge_slot(t, key);; i = (i + 1) & mask) {
        uint64_t edge = t->edges[i];
        if (edge >> 32 == key || !edge)
            return (uint32_t)edge;
    }
}

static void put_edge(trie *t, uint64_t edge)
{
    uint32_t mask = slot_mask(t), i = edge_slot(t, (uint32_t)(edge >> 32));
    while (t->edges[i])
        i = (i + 1) & mask;
    t->edges[i] = edge;
}

moe_status trie_init(trie *t, moe_error *err)
{
    *t = (trie){.shift = 64 - FIRST_BITS, .n_nodes = 1, .capacity = 256};
    t->edges = calloc((size_t)1 << FIRST_BITS, sizeof *t->edges);
    t->values = malloc(t->capacity * sizeof *t->values);
    if (!t->edges || !t->values) {
        trie_free(t);
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for a trie");
    }
    t->values[TRIE_ROOT] = TRIE_NONE;
    return MOE_OK;
}

void trie_free(trie *t)
{
    free(t->edges);
    free(t->values);
    *t = (trie){0};
}

/* Doubles the edges: n_nodes - 1 of them are in use. */
static bool grow_edges(trie *t)
{
    size_t n_slots = (size_t)1 << (64 - t->shift);
    uint64_t *old = t->edges;
    uint64_t *edges = calloc(n_slots * 2, sizeof *edges);
    if (!edges)
        return false;
    t->edges = edges;
    t->shift--;
    for (size_t i = 0; i < n_slots; i++)
        if (old[i])
            put_edge(t, old[i]);
    free(old);
    return true;
}

static moe_status add_node(trie *t, uint32_t parent, uint8_t byte, moe_error *err)
{
    if (t->n_nodes >= MAX_NODES)
        return moe_fail(err, MOE_E_LIMIT, "tokenizer: the vocabulary has more than %d "
                        "different prefixes", MAX_NODES);
    if (t->n_nodes == t->capacity) {
        int32_t *values = realloc(t->values, (size_t)t->capacity * 2 * sizeof *values);
        if (!values)
            return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for a trie");
        t->values = values;
        t->capacity *= 2;
    }
    if (t->n_nodes >= (uint32_t)1 << (63 - t->shift) && !grow_edges(t))
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for a trie");
    put_edge(t, (uint64_t)edge_key(parent, byte) << 32 | t->n_nodes);
    t->values[t->n_nodes++] = TRIE_NONE;
    return MOE_OK;
}

moe_status trie_add(trie *t, const char *s, size_t n, int32_t value,
                    int32_t *existing, moe_error *err)
{
    uint32_t node = TRIE_ROOT;
    for (size_t i = 0; i < n; i++) {
        uint32_t next = child(t, node, (uint8_t)s[i]);
        if (!next) {
            moe_status status = add_node(t, node, (uint8_t)s[i], err);
            if (status != MOE_OK)
                return status;
            next = t->n_nodes - 1;
        }
        node = next;
    }
    *existing = t->values[node];
    if (*existing == TRIE_NONE)
        t->values[node] = value;
    return MOE_OK;
}

int32_t trie_walk_from(const trie *t, int32_t from, const char *s, size_t n)
{
    uint32_t node = (uint32_t)from;
    for (size_t i = 0; from != TRIE_NONE && i < n; i++)
        if (!(node = child(t, node, (uint8_t)s[i])))
            return TRIE_NONE;
    return (int32_t)node;
}

int32_t trie_walk(const trie *t, const char *s, size_t n)
{
    return trie_walk_from(t, TRIE_ROOT, s, n);
}

int32_t trie_find(const trie *t, const char *s, size_t n)
{
    int32_t node = trie_walk(t, s, n);
    return n == 0 || node == TRIE_NONE ? TRIE_NONE : t->values[node];
}

int32_t trie_longest(const trie *t, int32_t from, const uint8_t *s, size_t n,
                     size_t *length)
{
    int32_t best = TRIE_NONE;
    uint32_t node = (uint32_t)from;
    for (size_t i = 0; i < n && (node = child(t, node, s[i])); i++)
        if (t->values[node] != TRIE_NONE) {
            best = t->values[node];
            *length = i + 1;
        }
    return best;
}
