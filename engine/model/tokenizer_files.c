/* tokenizer_files.c: from a checkpoint's tokenizer files to a tokenizer.
 *
 * tokenizer.json, where there is one, is complete (tokenizer_json.c). Without it,
 * vocab.txt has one token a line, its line number less one being the id. Where
 * both are there, they must agree.
 *
 * tokenizer_config.json comes on top, as in transformers: do_lower_case,
 * strip_accents and tokenize_chinese_chars win over the normalizer (unless
 * tokenizer_class is PreTrainedTokenizerFast, which ignores them), and
 * added_tokens_decoder wins over added_tokens.
 *
 * Every id from 0 to the last must have a token, and there must be as many as the
 * embedding has rows; an embedding padded to a multiple of 64 may have more. So a
 * line missing from vocab.txt is noticed. */
#include "engine/model/tokenizer_files.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/tokenizer_loader.h"
#include "engine/text/trie.h"

enum {
    MAX_JSON_BYTES = 64 << 20,
    MAX_VOCAB_BYTES = 64 << 20,
    MAX_CONFIG_BYTES = 16 << 20,
    PADDED_ROWS = 64,
};

const char *const tokenizer_file_names[] = {
    "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json",
    "spiece.model", "added_tokens.json", "generation_config.json", NULL,
};

moe_status tokenizer_no_memory(const tokenizer_loader *l, moe_error *err)
{
    return moe_fail(err, MOE_E_MEMORY, "%s: no memory for the tokenizer",
                    l->path ? l->path : "tokenizer");
}

/* ---- vocab.txt --------------------------------------------------------- */

static moe_status read_text(tokenizer_loader *l, size_t *n, moe_error *err)
{
    struct stat st;
    moe_status status = MOE_OK;
    FILE *f = fopen(l->vocab_path, "rbe");
    if (!f || fstat(fileno(f), &st))
        status = moe_fail(err, MOE_E_IO, "%s: cannot open: %s", l->vocab_path,
                          strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = moe_fail(err, MOE_E_IO, "%s: not a regular file", l->vocab_path);
    else if (st.st_size > MAX_VOCAB_BYTES)
        status = moe_fail(err, MOE_E_LIMIT, "%s: %jd bytes, expected at most %d",
                          l->vocab_path, (intmax_t)st.st_size, MAX_VOCAB_BYTES);
    else if (!(l->vocab_text = malloc((size_t)st.st_size + 1)))
        status = tokenizer_no_memory(l, err);
    else if (fread(l->vocab_text, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        status = moe_fail(err, MOE_E_IO, "%s: read failed: %s", l->vocab_path,
                          ferror(f) ? strerror(errno) : "file ended");
    else
        *n = (size_t)st.st_size;
    if (f)
        fclose(f);
    return status;
}

/* Cuts the text into lines: *n of them, lines[id] the token of id. lines has room
 * for n_vocab. */
static moe_status cut_lines(tokenizer_loader *l, const char **lines, int *n,
                            moe_error *err)
{
    size_t bytes = 0;
    moe_status status = read_text(l, &bytes, err);
    *n = 0;
    if (status != MOE_OK)
        return status;
    char *line = l->vocab_text, *stop = line + bytes;
    for (; line < stop; ++*n) {
        char *end = memchr(line, '\n', (size_t)(stop - line));
        end = end ? end : stop;
        char *next = end + 1;
        if (end > line && end[-1] == '\r')
            end--;
        if (*n >= l->n_vocab)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: line %d: expected at most %d lines, the rows of the "
                            "word embedding", l->vocab_path, *n + 1, l->n_vocab);
        if (end == line || memchr(line, '\0', (size_t)(end - line)))
            return moe_fail(err, MOE_E_FORMAT, "%s: line %d: %s, expected a token",
                            l->vocab_path, *n + 1,
                            end == line ? "empty" : "has a NUL byte");
        *end = '\0';
        lines[*n] = line;
        line = next;
    }
    return MOE_OK;
}

static moe_status read_vocab(tokenizer_loader *l, moe_error *err)
{
    int n;
    return cut_lines(l, l->vocab, &n, err);
}

/* The token of an id, NULL where there is none. */
static const char *token_of(const tokenizer_loader *l, int id)
{
    return l->vocab[id]           ? l->vocab[id]
           : l->added_at[id] >= 0 ? l->added[l->added_at[id]].content
                                  : NULL;
}

/* A vocab.txt beside tokenizer.json is not needed, but where it says something
 * else one of the two is broken, and other readers would take that one. */
static moe_status compare_vocab(tokenizer_loader *l, moe_error *err)
{
    const char **lines = malloc((size_t)l->n_vocab * sizeof *lines);
    int n = 0;
    if (!lines)
        return tokenizer_no_memory(l, err);
    moe_status status = cut_lines(l, lines, &n, err);
    for (int id = 0; id < l->n_vocab && status == MOE_OK; id++) {
        const char *token = id < n ? token_of(l, id) : l->vocab[id];
        if (id >= n && token)
            status = moe_fail(err, MOE_E_FORMAT,
                              "%s: %d lines, expected one more, '%.100s', which has id %d "
                              "in tokenizer.json", l->vocab_path, n, token, id);
        else if (id < n && (!token || strcmp(token, lines[id]) != 0))
            status = moe_fail(err, MOE_E_FORMAT,
                              "%s: line %d: '%.100s', expected '%.100s', which has id %d in "
                              "tokenizer.json", l->vocab_path, id + 1, lines[id],
                              token ? token : "", id);
    }
    free(lines);
    return status;
}

/* Says it by line where a token is there twice, else as the tokenizer put it. */
static moe_status blame_line(const tokenizer_loader *l, const moe_error *why,
                             moe_error *err)
{
    trie seen;
    int32_t before = TRIE_NONE;
    int id = 0;
    moe_status status = trie_init(&seen, err);
    for (; id < l->n_vocab && l->vocab[id] && status == MOE_OK; id++) {
        status = trie_add(&seen, l->vocab[id], strlen(l->vocab[id]), id, &before, NULL);
        if (before != TRIE_NONE)
            break;
    }
    trie_free(&seen);
    if (before == TRIE_NONE)
        return moe_fail(err, why->code, "%s: %s", l->path, why->message);
    return moe_fail(err, MOE_E_FORMAT,
                    "%s: line %d: '%s' is on line %d already, expected each token once",
                    l->path, id + 1, l->vocab[id], (int)before + 1);
}

static int32_t find_token(const tokenizer_loader *l, const char *content)
{
    for (int32_t id = 0; id < l->n_vocab; id++)
        if (l->vocab[id] && !strcmp(l->vocab[id], content))
            return id;
    return -1;
}

/* The name of a special token, "cls_token", from tokenizer_config.json. */
static moe_status special_token(const tokenizer_loader *l, const char *key,
                                const char *missing, const char **name, moe_error *err)
{
    const cJSON *value = tokenizer_key(l->config, key);
    if (cJSON_IsObject(value))
        return json_string_or(value, l->config_path, "content", missing, name, err);
    return json_string_or(l->config, l->config_path, key, missing, name, err);
}

/* With vocab.txt, the tokenizer's special tokens are added tokens where the
 * vocabulary has them; cls and sep it must have. */
static moe_status add_special_tokens(tokenizer_loader *l, moe_error *err)
{
    const struct { const char *key, *missing; int32_t *id; } specials[] = {
        {"unk_token", "[UNK]", NULL},         {"pad_token", "[PAD]", NULL},
        {"mask_token", "[MASK]", NULL},       {"cls_token", "[CLS]", &l->spec.cls},
        {"sep_token", "[SEP]", &l->spec.sep},
    };
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        const char *name;
        moe_status status =
            special_token(l, specials[i].key, specials[i].missing, &name, err);
        if (status != MOE_OK)
            return status;
        int32_t id = find_token(l, name);
        if (i == 0)
            l->spec.unk_token = name;
        if (specials[i].id)
            *specials[i].id = id;
        if (id < 0 && specials[i].id)
            return moe_fail(err, MOE_E_FORMAT, "%s: no line is '%s', expected the %s",
                            l->path, name, specials[i].key);
        if (id < 0 || l->added_at[id] >= 0)
            continue;
        tokenizer_added_token token = {.content = name, .id = id, .special = true};
        status = tokenizer_put_added(l, l->path, &token, err);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

/* ---- tokenizer_config.json --------------------------------------------- */

static moe_status read_config(tokenizer_loader *l, moe_error *err)
{
    const char *class;
    double max_length = 0;
    bool strip;
    wordpiece_spec *spec = &l->spec;
    moe_status status = json_number_or(l->config, l->config_path, "model_max_length", 1,
                                       1e308, 0, &max_length, err);
    if (status == MOE_OK)
        status = json_string_or(l->config, l->config_path, "tokenizer_class", "", &class,
                                err);
    if (status != MOE_OK)
        return status;
    /* transformers writes 1e30 for "none". */
    spec->model_max_length = max_length <= INT_MAX ? (int)max_length : 0;
    if (l->json && !strcmp(class, "PreTrainedTokenizerFast"))
        return MOE_OK;
    status = json_bool_or(l->config, l->config_path, "do_lower_case", spec->lower_case,
                          &spec->lower_case, err);
    if (status == MOE_OK)
        status = json_bool_or(l->config, l->config_path, "tokenize_chinese_chars",
                              spec->split_cjk, &spec->split_cjk, err);
    if (status == MOE_OK)
        status = json_bool_or(l->config, l->config_path, "strip_accents", false, &strip,
                              err);
    const cJSON *stated = tokenizer_key(l->config, "strip_accents");
    if (status == MOE_OK && stated)
        l->strip_accents = cJSON_IsNull(stated) ? -1 : strip;
    return status;
}

/* ---- all of it --------------------------------------------------------- */

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static char *join(const char *dir, const char *name)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%s", dir, name);
    return path;
}

static moe_status open_files(tokenizer_loader *l, const char *dir, moe_error *err)
{
    l->json_path = join(dir, "tokenizer.json");
    l->vocab_path = join(dir, "vocab.txt");
    l->config_path = join(dir, "tokenizer_config.json");
    l->vocab = calloc((size_t)l->n_vocab, sizeof *l->vocab);
    l->added_at = malloc((size_t)l->n_vocab * sizeof *l->added_at);
    if (!l->json_path || !l->vocab_path || !l->config_path || !l->vocab || !l->added_at)
        return tokenizer_no_memory(l, err);
    memset(l->added_at, -1, (size_t)l->n_vocab * sizeof *l->added_at);
    moe_status status = MOE_OK;
    if (exists(l->config_path))
        status = json_read_file(l->config_path, MAX_CONFIG_BYTES, &l->config, err);
    if (status == MOE_OK && exists(l->json_path))
        status = json_read_file(l->json_path, MAX_JSON_BYTES, &l->json, err);
    return status;
}

/* No holes, and no rows of the embedding left over but those of a padding. */
static moe_status check_complete(const tokenizer_loader *l, moe_error *err)
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

/* vocab and spec from the files, without the tokenizer's own checks. */
static moe_status read_files(tokenizer_loader *l, moe_error *err)
{
    l->path = l->json ? l->json_path : l->vocab_path;
    moe_status status = l->json ? tokenizer_read_json(l, err) : read_vocab(l, err);
    if (status == MOE_OK && l->json)
        status = tokenizer_read_added(l, err);
    if (status == MOE_OK && l->json && exists(l->vocab_path))
        status = compare_vocab(l, err);
    if (status == MOE_OK)
        status = read_config(l, err);
    if (status == MOE_OK)
        status = tokenizer_read_decoder(l, err);
    if (status == MOE_OK && !l->json)
        status = add_special_tokens(l, err);
    return status == MOE_OK ? check_complete(l, err) : status;
}

static moe_status load(tokenizer_loader *l, const char *dir, moe_tokenizer **out,
                       moe_error *err)
{
    moe_error why = {0};
    moe_status status = open_files(l, dir, err);
    if (status == MOE_OK)
        status = read_files(l, err);
    if (status != MOE_OK)
        return status;
    l->spec.n_vocab = l->n_vocab;
    l->spec.vocab = l->vocab;
    l->spec.added = l->added;
    l->spec.n_added = l->n_added;
    l->spec.strip_accents =
        l->strip_accents < 0 ? l->spec.lower_case : l->strip_accents;
    status = tokenizer_create_wordpiece(&l->spec, out, &why);
    if (status == MOE_OK)
        return MOE_OK;
    if (!l->json)
        return blame_line(l, &why, err);
    return moe_fail(err, status, "%s: %s", l->path, why.message);
}

moe_status tokenizer_load(const char *dir, int n_vocab, moe_tokenizer **out,
                          moe_error *err)
{
    *out = NULL;
    if (n_vocab < 1)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: a vocabulary of %d, expected 1 or more",
                        dir, n_vocab);
    tokenizer_loader l = {
        .n_vocab = n_vocab,
        .strip_accents = -1,
        .spec = {.unk_token = "[UNK]", .prefix = "##", .max_word_chars = 100,
                 .clean_text = true, .split_cjk = true, .lower_case = true},
    };
    moe_status status = load(&l, dir, out, err);
    free(l.json_path);
    free(l.vocab_path);
    free(l.config_path);
    cJSON_Delete(l.json);
    cJSON_Delete(l.config);
    free(l.vocab_text);
    free(l.vocab);
    free(l.added);
    free(l.added_at);
    return status;
}
