/* tokenizer_files.h: from a checkpoint's tokenizer files to a tokenizer. */
#ifndef MOE_MODEL_TOKENIZER_FILES_H
#define MOE_MODEL_TOKENIZER_FILES_H

#include "engine/text/tokenizer.h"

/* Reads tokenizer.json where there is one, else vocab.txt; and
 * tokenizer_config.json, whose absence means BERT's defaults (lower case).
 * What tokenizer_config.json states wins over tokenizer.json, as in transformers.
 * n_vocab: rows of the embedding table; an id at or past it is MOE_E_FORMAT, and so
 * is a row without a token, but for the last ones of a table padded to a multiple
 * of 64. Another kind of tokenizer is MOE_E_UNSUPPORTED, naming key and values. */
moe_status tokenizer_load(const char *dir, int n_vocab, moe_tokenizer **out,
                          moe_error *err);

/* T5's: spiece.model, and tokenizer_config.json where it is there; without spiece.model, as
 * tokenizer_load has it. end: the id of </s>. */
moe_status tokenizer_load_t5(const char *dir, int n_vocab, int32_t end, moe_tokenizer **out,
                             moe_error *err);

/* The names of the files in dir that make up the tokenizer, for copying it
 * elsewhere; NULL-terminated, static. Not every one need exist. */
extern const char *const tokenizer_file_names[];

#endif
