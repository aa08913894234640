/* tokenizer.h: text to token ids. Knows no files and no JSON: it is made from
 * a spec that engine/model/tokenizer_files.c fills. Today one kind, WordPiece. */
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

typedef struct moe_tokenizer moe_tokenizer;

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
const char *tokenizer_token(const moe_tokenizer *t, int32_t id);
int tokenizer_model_max_length(const moe_tokenizer *t);

#endif
