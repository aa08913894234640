/* tokenizer_loader.h: what tokenizer_files.c and tokenizer_json.c share. */
#ifndef MOE_MODEL_TOKENIZER_LOADER_H
#define MOE_MODEL_TOKENIZER_LOADER_H

#include "engine/model/json.h"
#include "engine/text/tokenizer.h"

/* A checkpoint's tokenizer while it is read. Strings of spec, vocab and added point
 * into json, config and vocab_text. */
typedef struct {
    char *json_path, *vocab_path, *config_path;
    cJSON *json, *config; /* NULL where there is no such file; own the strings */
    char *vocab_text;     /* vocab.txt, lines cut by NUL */
    const char *path;     /* the file that the vocabulary came from */
    int n_vocab;
    const char **vocab; /* [n_vocab] */
    tokenizer_added_token *added; /* [n_added] */
    int32_t *added_at;  /* [n_vocab] index into added, -1 */
    int n_added;
    wordpiece_spec spec;
    int strip_accents; /* -1: as lower_case */
} tokenizer_loader;

/* object[key], NULL if there is none. */
static inline const cJSON *tokenizer_key(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* Everything of tokenizer.json (l->json) but its added tokens: vocab and spec. */
moe_status tokenizer_read_json(tokenizer_loader *l, moe_error *err);
/* The list added_tokens of tokenizer.json. */
moe_status tokenizer_read_added(tokenizer_loader *l, moe_error *err);
/* added_tokens_decoder of tokenizer_config.json: {"101": {"content": ..}, ..} */
moe_status tokenizer_read_decoder(tokenizer_loader *l, moe_error *err);
/* Adds a token, or puts it in the place of one with its id. path: for messages. */
moe_status tokenizer_put_added(tokenizer_loader *l, const char *path,
                               const tokenizer_added_token *token, moe_error *err);
/* MOE_E_MEMORY with the file's name. */
moe_status tokenizer_no_memory(const tokenizer_loader *l, moe_error *err);

#endif
