/* tokenizer.h: text to token ids. Knows no files and no JSON: it is made from
 * a spec that engine/model/tokenizer_files.c or tokenizer_spm.c fills. */
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

typedef struct {
    const char *path;             /* of the model file */
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

typedef struct moe_tokenizer moe_tokenizer;

/* A SentencePiece tokenizer that adds the tokens of spec to the file's. MOE_E_IO or
 * _FORMAT names the file. */
moe_status tokenizer_create_spm(const spm_spec *spec, moe_tokenizer **out, moe_error *err);

/* Copies what it needs of spec. A vocabulary without unk_token, or with the same
 * token twice, is MOE_E_FORMAT. */
moe_status tokenizer_create_wordpiece(const wordpiece_spec *spec,
                                      moe_tokenizer **out, moe_error *err);
void tokenizer_destroy(moe_tokenizer *t);
/* limit: the most tokens a result may have, special ones included: at least 2, 3 for
 * a pair, else MOE_E_ARGUMENT. in->max_tokens is not looked at (moe_tokenize does).
 * A text of 2^30 bytes or more is MOE_E_LIMIT. Any thread; on failure *out is zero. */
moe_status tokenizer_encode(const moe_tokenizer *t, const moe_text *in, int limit,
                            moe_tokens *out, moe_error *err);
/* Text of ids, as Hugging Face decodes them without special tokens; free(). MOE_E_ARGUMENT:
 * an id out of range; MOE_E_UNSUPPORTED: WordPiece. */
moe_status tokenizer_decode(const moe_tokenizer *t, const int32_t *ids, int n, char **out,
                            moe_error *err);
const char *tokenizer_token(const moe_tokenizer *t, int32_t id);
int tokenizer_model_max_length(const moe_tokenizer *t);

#endif
