/* sentencepiece.h: libsentencepiece behind plain C: a model file, text to pieces and
 * back. Knows ids of the file alone, no added tokens and no special ones around a text;
 * spm_tokenizer.c does those. No C++ exception leaves it. Immutable once open: any
 * thread. */
#ifndef MOE_TEXT_SENTENCEPIECE_H
#define MOE_TEXT_SENTENCEPIECE_H

#include "engine/moe.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spm_model spm_model;

/* A piece of a text: its id, and the bytes [begin, end) of the text it stands for. */
typedef struct { int32_t id, begin, end; } spm_piece;

/* Reads a model file of at most 64 MB. dummy_prefix false: no space is put before a
 * text, whatever the file says. MOE_E_IO; MOE_E_FORMAT: no SentencePiece model. */
moe_status spm_open(const char *path, bool dummy_prefix, spm_model **out,
                              moe_error *err);
/* The same from n bytes that a file would have; name: for messages. */
moe_status spm_open_bytes(const char *name, const void *bytes, size_t n, spm_model **out,
                          moe_error *err);
void spm_close(spm_model *s);

int spm_size(const spm_model *s); /* pieces: ids are 0 to size - 1 */
/* The string of an id in range ("_the", the mark being U+2581); lives as long as s. */
const char *spm_string(const spm_model *s, int32_t id);
/* The id of that very piece, -1: none. */
int32_t spm_find(const spm_model *s, const char *piece);
int32_t spm_unk(const spm_model *s);
/* Ids that stand for no text: controls, and the unknown piece. */
bool spm_is_special(const spm_model *s, int32_t id);

/* Pieces of n bytes of valid UTF-8. *out [*n_out]: free(). */
moe_status spm_encode(const spm_model *s, const char *text, size_t n,
                                spm_piece **out, int *n_out, moe_error *err);
/* Text of n ids in range. *out, ending in NUL: free(). */
moe_status spm_decode(const spm_model *s, const int32_t *ids, int n, char **out,
                                moe_error *err);

#ifdef __cplusplus
}
#endif
#endif
