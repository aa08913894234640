/* tokenizer.h: text to token ids. Knows no files and no JSON: it is made from
 * a spec that engine/model/ fills from a checkpoint's files. */
#ifndef MOE_TEXT_TOKENIZER_H
#define MOE_TEXT_TOKENIZER_H

#include "engine/moe.h"

typedef struct {
    const char *content;
    int32_t id;
    bool special, single_word, lstrip, rstrip, normalized; /* as in tokenizer.json */
} tokenizer_added_token;

typedef struct {
    int n_vocab;
    const char *const *vocab;     /* [n_vocab], NULL for an id without a token */
    const char *unk_token, *prefix /* "##" */;
    int max_word_chars;           /* 100 */
    bool clean_text, split_cjk, lower_case, strip_accents;
    int32_t cls, sep;             /* [CLS] a [SEP] b [SEP] */
    int n_added;
    const tokenizer_added_token *added;
    int model_max_length;         /* of tokenizer_config.json, 0: none stated */
} wordpiece_spec;

/* What tokenizer.json does to a text before a SentencePiece model sees it, in this order.
 * White space is what Unicode calls so; a mark is U+2581. */
typedef struct {
    const void *map;              /* [n_map] of characters, see charsmap.h; not kept */
    size_t n_map;
    bool strip_left, strip_right; /* white space at the ends goes */
    bool collapse, collapse_to_mark; /* two or more spaces become one, or a mark */
    bool split;                   /* words are what stands between white space; else */
    bool prefix_first;            /* a mark before the text alone, not before each word */
} spm_rules;

typedef struct {
    const char *path;             /* of the model file */
    const void *bytes;            /* [n_bytes] what is taken for a file's contents, which then */
    size_t n_bytes;               /* treats no spaces, or NULL; with it, the rules say how */
    spm_rules rules;
    int n_vocab;                  /* rows of the embedding: every id is below it */
    int id_offset;                /* added to the file's ids: 1 in XLM-R, 0 in T5 */
    int32_t unk;                  /* the id of what the file calls unknown; -1: its own */
    bool legacy;                  /* a text between added tokens begins with a space */
    int32_t begin, end;           /* begin -1: none */
    int n_between;                /* ends before a pair, besides the text's: see kind.h */
    int n_added;
    const tokenizer_added_token *added;
    int model_max_length;
} spm_spec;

/* The special tokens around a text and a pair:
 *   begin? text end          begin? text end end* pair end
 * Token types are 0, with typed 1 from the pair on. */
typedef struct {
    int32_t begin;   /* -1: none */
    int32_t end;
    int n_between;   /* ends that stand before a pair besides the text's own: 0 or 1 */
    bool typed;
} tokenizer_frame;

/* Two tokens' strings that join to one. */
typedef struct { const char *left, *right; size_t n_left, n_right; } bpe_merge;

typedef struct {
    int n_vocab;
    const char *const *vocab;     /* [n_vocab], NULL for an id without a token */
    int n_merges;
    const bpe_merge *merges;      /* [n_merges] by rank */
    bool add_prefix_space;        /* before a text, or a part of one, that has none */
    bool trim_offsets;            /* a token's span leaves out the spaces at its ends */
    bool trim_keeps_prefix;       /* but for the first one of a text's first token */
    tokenizer_frame frame;
    int n_added;
    const tokenizer_added_token *added;
    int model_max_length;
} bpe_spec;

typedef struct moe_tokenizer moe_tokenizer;

/* A byte-level BPE tokenizer, as GPT-2's, that copies what it needs of spec. */
moe_status tokenizer_create_bpe(const bpe_spec *spec, moe_tokenizer **out, moe_error *err);

/* A SentencePiece tokenizer that adds the tokens of spec to the file's. MOE_E_IO or
 * _FORMAT names the file. */
moe_status tokenizer_create_spm(const spm_spec *spec, moe_tokenizer **out, moe_error *err);

/* Copies what it needs of spec. A vocabulary without unk_token, or with the same
 * token twice, is MOE_E_FORMAT. */
moe_status tokenizer_create_wordpiece(const wordpiece_spec *spec,
                                      moe_tokenizer **out, moe_error *err);
void tokenizer_destroy(moe_tokenizer *t);
/* For a model that knows one type of tokens: all are of type 0. */
void tokenizer_drop_types(moe_tokenizer *t);
/* limit: the most tokens a result may have, special ones included: at least 2, 3 for
 * a pair, else MOE_E_ARGUMENT. in->max_tokens is not looked at (moe_tokenize does).
 * A text of 2^30 bytes or more is MOE_E_LIMIT. Any thread; on failure *out is zero. */
moe_status tokenizer_encode(const moe_tokenizer *t, const moe_text *in, int limit,
                            moe_tokens *out, moe_error *err);
/* Text of ids, as Hugging Face decodes them without special tokens; free(). MOE_E_ARGUMENT:
 * an id out of range; MOE_E_UNSUPPORTED: no SentencePiece. */
moe_status tokenizer_decode(const moe_tokenizer *t, const int32_t *ids, int n, char **out,
                            moe_error *err);
const char *tokenizer_token(const moe_tokenizer *t, int32_t id);
int tokenizer_model_max_length(const moe_tokenizer *t);

#endif
