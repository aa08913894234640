/* spm_tokenizer.h: inside of a SentencePiece tokenizer, and the two ways a text takes
 * through it: as the model file's own tokenizers read it, or as tokenizer.json says. */
#ifndef MOE_TEXT_SPM_TOKENIZER_H
#define MOE_TEXT_SPM_TOKENIZER_H

#include "engine/text/added_tokens.h"
#include "engine/text/charsmap.h"
#include "engine/text/kind.h"
#include "engine/text/sentencepiece.h"

#define SPM_MARK "\xe2\x96\x81" /* U+2581, a space in a piece */
enum { SPM_MARK_BYTES = 3 };

typedef struct {
    moe_tokenizer base;
    spm_model *model;
    added_tokens added;
    int n_vocab, n_pieces, id_offset;
    int32_t unk;
    bool *special;       /* [n_vocab] ids that stand for no text */
    const char **tokens; /* [n_vocab] strings of added tokens, NULL: none */
    char *strings;       /* what they point to */

    /* Of a model file. */
    bool legacy;
    char *guard;         /* not legacy: the string before a leading space */
    size_t guard_bytes;
    int guard_pieces;

    /* Of tokenizer.json. */
    spm_rules rules;
    charsmap map;
    added_tokens later;  /* looked for in the normalized text; added in the text as it came */
    bool by_words;       /* a piece may hold a mark inside: words go to the model one by one */
} spm_tokenizer;

/* The id of a piece of the model. */
static inline int32_t spm_id(const spm_tokenizer *t, int32_t piece)
{
    return piece == spm_unk(t->model) ? t->unk : piece + t->id_offset;
}

/* Appends the tokens of s, as tokenizer_kind.encode. spm_reader.c, unigram_reader.c */
bool spm_read(const moe_tokenizer *base, const char *s, size_t n, token_list *out);
bool unigram_read(const moe_tokenizer *base, const char *s, size_t n, token_list *out);

#endif
