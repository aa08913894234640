/* bpe.h: byte-pair encoding of a word (Sennrich et al. 2016), over bytes as GPT-2 and
 * RoBERTa have it: a token's string in the vocabulary holds one character for each byte,
 * the byte itself where it is printable, else one from U+0100 on. */
#ifndef MOE_TEXT_BPE_H
#define MOE_TEXT_BPE_H

#include "engine/text/tokenizer.h"
#include "engine/text/trie.h"

/* What two tokens become, and how early. */
typedef struct { uint64_t pair; int32_t rank, id; } bpe_join;

typedef struct {
    trie vocab;            /* values are ids */
    bpe_join *joins;       /* hash table by pair; rank -1: free */
    int shift;             /* 64 - log2 of its slots */
    int32_t byte_id[256];  /* TRIE_NONE: a byte without a token, which is left out */
} bpe;

/* A zeroed b. MOE_E_FORMAT: a merge of, or to, what is no token; a token twice. */
moe_status bpe_init(bpe *b, const bpe_spec *spec, moe_error *err);
void bpe_free(bpe *b); /* accepts a zeroed one */

/* A word while it is merged: tokens in a list, those that may join in a heap. Owned by
 * one thread; zero it first. */
typedef struct {
    struct bpe_symbol { int32_t id, previous, next; uint32_t begin, end; } *symbols;
    struct bpe_candidate { int32_t rank, at, id; } *heap;
    size_t n_heap, capacity;
} bpe_work;

/* The tokens of n bytes, in order: work->symbols from index 0 on, by next, -1 after the
 * last; begin and end are bytes of the word. *first: -1 where there is none. False: out of
 * memory. n log n steps. */
bool bpe_word(const bpe *b, const uint8_t *bytes, size_t n, bpe_work *work, int32_t *first);
void bpe_work_free(bpe_work *work);

#endif
