/* tokenizer_files.c: opens a checkpoint's tokenizer files and hands them to the reader of
 * their kind: what model.type of tokenizer.json says or, without that file, what other
 * files there are.
 *
 * Every id from 0 to the last must have a token, and there must be as many as the
 * embedding has rows; an embedding padded to a multiple of 64 may have more. So a line
 * missing from vocab.txt is noticed. */
#include "engine/model/tokenizer_files.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/tokenizer_loader.h"

enum {
    MAX_JSON_BYTES = 64 << 20,
    MAX_TEXT_BYTES = 64 << 20,
    MAX_CONFIG_BYTES = 16 << 20,
    PADDED_ROWS = 64,
};

const char *const tokenizer_file_names[] = {
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "spiece.model", "sentencepiece.bpe.model", "added_tokens.json",
    "generation_config.json", NULL,
};

/* ---- what the readers share -------------------------------------------------- */

moe_status tokenizer_no_memory(const tokenizer_loader *l, moe_error *err)
{
    return moe_fail(err, MOE_E_MEMORY, "%s: no memory for the tokenizer",
                    l->path ? l->path : "tokenizer");
}

moe_status tokenizer_read_text(tokenizer_loader *l, const char *path, size_t *n, moe_error *err)
{
    struct stat st;
    moe_status status = MOE_OK;
    FILE *f = fopen(path, "rbe");
    if (!f || fstat(fileno(f), &st))
        status = moe_fail(err, MOE_E_IO, "%s: cannot open: %s", path,
                          strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = moe_fail(err, MOE_E_IO, "%s: not a regular file", path);
    else if (st.st_size > MAX_TEXT_BYTES)
        status = moe_fail(err, MOE_E_LIMIT, "%s: %jd bytes, expected at most %d",
                          path, (intmax_t)st.st_size, MAX_TEXT_BYTES);
    else if (!(l->text = malloc((size_t)st.st_size + 1)))
        status = tokenizer_no_memory(l, err);
    else if (fread(l->text, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        status = moe_fail(err, MOE_E_IO, "%s: read failed: %s", path,
                          ferror(f) ? strerror(errno) : "file ended");
    else
        *n = (size_t)st.st_size;
    if (status == MOE_OK)
        l->text[*n] = '\0';
    if (f)
        fclose(f);
    return status;
}

/* The name of a special token: a string, or an object's content. */
static moe_status special_name(const tokenizer_loader *l, const char *key, const char *missing,
                               const char **name, moe_error *err)
{
    const cJSON *value = tokenizer_key(l->config, key);
    if (cJSON_IsObject(value))
        return json_string_or(value, l->config_path, "content", missing, name, err);
    return json_string_or(l->config, l->config_path, key, missing, name, err);
}

moe_status tokenizer_add_special(tokenizer_loader *l, const char *key, const char *missing,
                                 tokenizer_added_token *token, moe_error *err)
{
    moe_status status = special_name(l, key, missing, &token->content, err);
    if (status != MOE_OK)
        return status;
    token->special = true;
    token->id = tokenizer_find(l, token->content);
    if (token->id < 0 || l->added_at[token->id] >= 0)
        return MOE_OK;
    return tokenizer_put_added(l, l->path, token, err);
}

int32_t tokenizer_find(const tokenizer_loader *l, const char *content)
{
    for (int32_t id = 0; id < l->n_vocab; id++)
        if (l->vocab[id] && !strcmp(l->vocab[id], content))
            return id;
    return -1;
}

moe_status tokenizer_check_complete(const tokenizer_loader *l, moe_error *err)
{
    int last = l->n_vocab - 1;
    while (last >= 0 && !l->vocab[last] && l->added_at[last] < 0)
        last--;
    for (int id = 0; id < last; id++)
        if (!l->vocab[id] && l->added_at[id] < 0)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: no token has id %d, expected one for each up to %d",
                            l->path, id, last);
    if (last + 1 < l->n_vocab && l->n_vocab % PADDED_ROWS)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %d tokens, expected %d, the rows of the word embedding",
                        l->path, last + 1, l->n_vocab);
    return MOE_OK;
}

/* ---- all of it ----------------------------------------------------------------- */

bool tokenizer_has(const char *path)
{
    return access(path, F_OK) == 0;
}

char *tokenizer_path(const char *dir, const char *name)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%s", dir, name);
    return path;
}

static moe_status read_max_length(tokenizer_loader *l, moe_error *err)
{
    double n = 0;
    moe_status status = json_number_or(l->config, l->config_path, "model_max_length", 1, 1e308,
                                       0, &n, err);
    l->model_max_length = n <= INT_MAX ? (int)n : 0; /* transformers writes 1e30 for "none" */
    return status;
}

static moe_status open_files(tokenizer_loader *l, moe_error *err)
{
    l->json_path = tokenizer_path(l->dir, "tokenizer.json");
    l->vocab_path = tokenizer_path(l->dir, "vocab.txt");
    l->config_path = tokenizer_path(l->dir, "tokenizer_config.json");
    l->vocab = calloc((size_t)l->n_vocab, sizeof *l->vocab);
    l->added_at = malloc((size_t)l->n_vocab * sizeof *l->added_at);
    if (!l->json_path || !l->vocab_path || !l->config_path || !l->vocab || !l->added_at)
        return tokenizer_no_memory(l, err);
    memset(l->added_at, -1, (size_t)l->n_vocab * sizeof *l->added_at);
    moe_status status = MOE_OK;
    if (tokenizer_has(l->config_path))
        status = json_read_file(l->config_path, MAX_CONFIG_BYTES, &l->config, err);
    if (status == MOE_OK && tokenizer_has(l->json_path))
        status = json_read_file(l->json_path, MAX_JSON_BYTES, &l->json, err);
    return status == MOE_OK ? read_max_length(l, err) : status;
}

/* By tokenizer.json's model.type; older files leave it out. */
static moe_status load_json(tokenizer_loader *l, moe_tokenizer **out, moe_error *err)
{
    const cJSON *model = tokenizer_key(l->json, "model"), *type = tokenizer_key(model, "type");
    const char *kind = cJSON_IsString(type) ? type->valuestring
                     : tokenizer_key(model, "merges") ? "BPE" : "WordPiece";
    if (strcmp(kind, "BPE") == 0)
        return tokenizer_load_bpe(l, out, err);
    if (strcmp(kind, "Unigram") == 0)
        return tokenizer_load_unigram(l, out, err);
    if (strcmp(kind, "WordPiece") == 0)
        return tokenizer_load_wordpiece(l, out, err);
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: model.type is %.100s, expected WordPiece, BPE or "
                    "Unigram", l->json_path, kind);
}

/* By the files that there are. */
static moe_status load_others(tokenizer_loader *l, moe_tokenizer **out, moe_error *err)
{
    char *vocab = tokenizer_path(l->dir, "vocab.json");
    char *pieces = tokenizer_path(l->dir, "sentencepiece.bpe.model");
    moe_status status;
    if (!vocab || !pieces)
        status = tokenizer_no_memory(l, err);
    else if (tokenizer_has(l->vocab_path))
        status = tokenizer_load_wordpiece(l, out, err);
    else if (tokenizer_has(vocab))
        status = tokenizer_load_bpe(l, out, err);
    else if (tokenizer_has(pieces))
        status = tokenizer_load_fairseq(l, pieces, out, err);
    else
        status = moe_fail(err, MOE_E_IO, "%s: has none of tokenizer.json, vocab.txt, vocab.json "
                          "and sentencepiece.bpe.model, expected one of them", l->dir);
    free(vocab);
    free(pieces);
    return status;
}

moe_status tokenizer_load(const char *dir, int n_vocab, moe_tokenizer **out, moe_error *err)
{
    *out = NULL;
    if (n_vocab < 1)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: a vocabulary of %d, expected 1 or more", dir,
                        n_vocab);
    tokenizer_loader l = {.dir = dir, .n_vocab = n_vocab};
    moe_status status = open_files(&l, err);
    if (status == MOE_OK)
        status = l.json ? load_json(&l, out, err) : load_others(&l, out, err);
    free(l.json_path);
    free(l.vocab_path);
    free(l.config_path);
    cJSON_Delete(l.json);
    cJSON_Delete(l.config);
    free(l.text);
    free(l.vocab);
    free(l.added);
    free(l.added_at);
    return status;
}
