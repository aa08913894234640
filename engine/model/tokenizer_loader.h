/* tokenizer_loader.h: what the readers of a checkpoint's tokenizer files share. */
#ifndef MOE_MODEL_TOKENIZER_LOADER_H
#define MOE_MODEL_TOKENIZER_LOADER_H

#include "engine/model/json.h"
#include "engine/text/tokenizer.h"

/* A checkpoint's tokenizer while it is read. Strings of vocab and added point into json,
 * config and text. */
typedef struct {
    const char *dir;
    char *json_path, *vocab_path, *config_path; /* vocab_path: vocab.txt, or another's */
    cJSON *json, *config; /* tokenizer.json and tokenizer_config.json, NULL: none */
    char *text;     /* of vocab.txt or merges.txt, lines cut by NUL */
    const char *path;     /* the file that the vocabulary came from */
    int n_vocab;
    const char **vocab; /* [n_vocab] */
    tokenizer_added_token *added; /* [n_added] */
    int32_t *added_at;  /* [n_vocab] index into added, -1 */
    int n_added;
    int model_max_length; /* of tokenizer_config.json, 0: none stated */
} tokenizer_loader;

/* object[key], NULL if there is none. */
static inline const cJSON *tokenizer_key(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* DIR/name; free(). NULL: out of memory. */
char *tokenizer_path(const char *dir, const char *name);
bool tokenizer_has(const char *path);
/* MOE_E_MEMORY with the file's name. */
moe_status tokenizer_no_memory(const tokenizer_loader *l, moe_error *err);
/* A file of at most 64 MB into l->text, which ends in NUL, *n bytes without it. */
moe_status tokenizer_read_text(tokenizer_loader *l, const char *path, size_t *n, moe_error *err);
/* Adds the special token that tokenizer_config.json, or else `missing`, names as `key`
 * ("cls_token"), where the vocabulary has it and it is not added yet. *token: how it is looked
 * for; its content and id (-1: not in the vocabulary) are filled in. */
moe_status tokenizer_add_special(tokenizer_loader *l, const char *key, const char *missing,
                                 tokenizer_added_token *token, moe_error *err);
/* The id of a string in vocab, -1: none. */
int32_t tokenizer_find(const tokenizer_loader *l, const char *content);
/* No holes, and no rows of the embedding left over but those of a padding. */
moe_status tokenizer_check_complete(const tokenizer_loader *l, moe_error *err);

/* ---- tokenizer_json.c: parts of tokenizer.json (l->json), and added tokens ---- */

/* json[name].type must be `expected`. */
moe_status tokenizer_expect(const tokenizer_loader *l, const char *name, const char *expected,
                            moe_error *err);
/* An object of ids by token into l->vocab; path and what are for messages. */
moe_status tokenizer_read_vocab(tokenizer_loader *l, const cJSON *object, const char *path,
                                const char *what, moe_error *err);
/* post_processor: what stands around a text. TemplateProcessing, BertProcessing,
 * RobertaProcessing. */
moe_status tokenizer_read_frame(const tokenizer_loader *l, tokenizer_frame *out, moe_error *err);
/* The list added_tokens of tokenizer.json. */
moe_status tokenizer_read_added(tokenizer_loader *l, moe_error *err);
/* added_tokens_decoder of tokenizer_config.json: {"101": {"content": ..}, ..} */
moe_status tokenizer_read_decoder(tokenizer_loader *l, moe_error *err);
/* Adds a token, or puts it in the place of one with its id. path: for messages. */
moe_status tokenizer_put_added(tokenizer_loader *l, const char *path,
                               const tokenizer_added_token *token, moe_error *err);

/* ---- a kind each, from the files that l has open ------------------------------ */

moe_status tokenizer_load_wordpiece(tokenizer_loader *l, moe_tokenizer **out, moe_error *err);
moe_status tokenizer_load_bpe(tokenizer_loader *l, moe_tokenizer **out, moe_error *err);
/* model.type "Unigram" of tokenizer.json. */
moe_status tokenizer_load_unigram(tokenizer_loader *l, moe_tokenizer **out, moe_error *err);
/* XLM-RoBERTa's sentencepiece.bpe.model, where there is no tokenizer.json. */
moe_status tokenizer_load_fairseq(tokenizer_loader *l, const char *path, moe_tokenizer **out,
                                  moe_error *err);

#endif
