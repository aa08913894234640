/* wordpiece.h: from characters to words to word pieces. */
#ifndef MOE_TEXT_WORDPIECE_H
#define MOE_TEXT_WORDPIECE_H

#include "engine/moe.h"
#include "engine/text/trie.h"

enum { WORD_MAX_CHARS = 4096 }; /* a tokenizer may state at most that */

typedef struct {
    trie vocab;           /* values are ids */
    int32_t continuation; /* node behind "##", TRIE_NONE: no token starts so */
    int32_t unk;
    int max_word_chars;   /* a longer word is one unk */
} wordpiece;

/* Tokens of one text. The first `keep` are stored, all are counted. */
typedef struct {
    int32_t *ids;    /* [n] */
    moe_span *spans; /* [n] where want_spans */
    int n, capacity, keep;
    int64_t total;
    int32_t which;   /* of the spans: 0 text, 1 pair */
    bool want_spans, failed;
} token_list;

/* Out of memory sets failed. start, end: positions, end excluded. */
void token_list_add(token_list *list, int32_t id, int32_t start, int32_t end);
void token_list_free(token_list *list);

/* The word being read. at[i]: position of the character that bytes[i] is part of. */
typedef struct {
    const wordpiece *pieces;
    token_list *out;
    uint8_t *bytes; /* [4 * max_word_chars] */
    int32_t *at;    /* the same */
    int n_bytes, n_chars;
    int32_t last; /* position of the latest character, stored or not */
} word_reader;

bool word_reader_init(word_reader *w, const wordpiece *pieces, token_list *out);
void word_reader_free(word_reader *w);

/* A character with its CHAR_* flags: white space ends a word, punctuation is one of
 * its own. */
void word_put(word_reader *w, uint32_t cp, uint8_t flags, int32_t at);
/* Ends the word, if there is one. */
void word_end(word_reader *w);

#endif
