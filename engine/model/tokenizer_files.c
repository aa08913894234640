/* tokenizer_files.c: from a checkpoint's tokenizer files to a tokenizer.
 *
 * tokenizer.json, where there is one, is complete: model (WordPiece), normalizer
 * (BertNormalizer), pre_tokenizer (BertPreTokenizer), post_processor (the template
 * [CLS] A [SEP] B [SEP]) and added_tokens; anything else is refused by name. Its
 * truncation and padding are defaults of a caller and are not read. Without it,
 * vocab.txt has one token a line, its line number less one being the id.
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

#include "engine/model/json.h"
#include "engine/text/added_tokens.h"

enum {
    MAX_JSON_BYTES = 64 << 20,
    MAX_VOCAB_BYTES = 64 << 20,
    MAX_CONFIG_BYTES = 16 << 20,
    MAX_TEMPLATE = 512, /* bytes of a template as we write it */
    PADDED_ROWS = 64,
};

const char *const tokenizer_file_names[] = {
    "tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json",
    NULL,
};

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
} loader;

static moe_status no_memory(const loader *l, moe_error *err)
{
    return moe_fail(err, MOE_E_MEMORY, "%s: no memory for the tokenizer",
                    l->path ? l->path : "tokenizer");
}

/* ---- vocab.txt --------------------------------------------------------- */

static moe_status read_text(loader *l, size_t *n, moe_error *err)
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
        status = no_memory(l, err);
    else if (fread(l->vocab_text, 1, (size_t)st.st_size, f) != (size_t)st.st_size)
        status = moe_fail(err, MOE_E_IO, "%s: read failed: %s", l->vocab_path,
                          ferror(f) ? strerror(errno) : "file ended");
    else
        *n = (size_t)st.st_size;
    if (f)
        fclose(f);
    return status;
}

static moe_status read_vocab(loader *l, moe_error *err)
{
    size_t n = 0;
    l->path = l->vocab_path;
    moe_status status = read_text(l, &n, err);
    if (status != MOE_OK)
        return status;
    char *line = l->vocab_text, *stop = line + n;
    for (int id = 0; line < stop; id++) {
        char *end = memchr(line, '\n', (size_t)(stop - line));
        end = end ? end : stop;
        char *next = end + 1;
        if (end > line && end[-1] == '\r')
            end--;
        if (id >= l->n_vocab)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: line %d: expected at most %d lines, the rows of the "
                            "word embedding", l->path, id + 1, l->n_vocab);
        if (end == line || memchr(line, '\0', (size_t)(end - line)))
            return moe_fail(err, MOE_E_FORMAT, "%s: line %d: %s, expected a token",
                            l->path, id + 1,
                            end == line ? "empty" : "has a NUL byte");
        *end = '\0';
        l->vocab[id] = line;
        line = next;
    }
    return MOE_OK;
}

/* ---- tokenizer.json ---------------------------------------------------- */

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* object[name].type must be `expected`. */
static moe_status expect_type(const loader *l, const char *name, const char *expected,
                              moe_error *err)
{
    const char *type;
    const cJSON *object = get(l->json, name);
    const char *missing = "missing";
    /* Older files leave the model's type out. */
    if (!strcmp(name, "model") && get(object, "max_input_chars_per_word"))
        missing = expected;
    moe_status status = json_string_or(object, l->path, "type", missing, &type, err);
    if (status == MOE_OK && strcmp(type, expected) != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s.type is %s, expected %s",
                        l->path, name, type, expected);
    return status;
}

static moe_status read_json_vocab(loader *l, moe_error *err)
{
    const cJSON *vocab = get(get(l->json, "model"), "vocab"), *token;
    if (!cJSON_IsObject(vocab))
        return moe_fail(err, MOE_E_FORMAT, "%s: model.vocab is %s, expected an object",
                        l->path, vocab ? "something else" : "missing");
    cJSON_ArrayForEach(token, vocab) {
        double id = cJSON_IsNumber(token) ? token->valuedouble : -1;
        if (!(id >= 0 && id < l->n_vocab) || id != (int)id)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: model.vocab['%s'] is %g, expected a whole number in "
                            "[0, %d], the rows of the word embedding",
                            l->path, token->string, id, l->n_vocab - 1);
        if (l->vocab[(int)id])
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: model.vocab: '%s' and '%s' both have id %d", l->path,
                            l->vocab[(int)id], token->string, (int)id);
        l->vocab[(int)id] = token->string;
    }
    return MOE_OK;
}

static moe_status read_normalizer(loader *l, moe_error *err)
{
    const cJSON *n = get(l->json, "normalizer");
    wordpiece_spec *spec = &l->spec;
    bool strip;
    moe_status status = expect_type(l, "normalizer", "BertNormalizer", err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "clean_text", true, &spec->clean_text, err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "handle_chinese_chars", true, &spec->split_cjk,
                              err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "lowercase", true, &spec->lower_case, err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "strip_accents", false, &strip, err);
    if (status == MOE_OK && cJSON_IsBool(get(n, "strip_accents")))
        l->strip_accents = strip;
    return status;
}

static moe_status read_model(loader *l, moe_error *err)
{
    const cJSON *model = get(l->json, "model");
    int64_t max_chars;
    moe_status status = expect_type(l, "model", "WordPiece", err);
    if (status == MOE_OK)
        status = json_string_or(model, l->path, "unk_token", "[UNK]", &l->spec.unk_token,
                                err);
    if (status == MOE_OK)
        status = json_string_or(model, l->path, "continuing_subword_prefix", "##",
                                &l->spec.prefix, err);
    if (status == MOE_OK)
        status = json_int_or(model, l->path, "max_input_chars_per_word", 0, INT_MAX, 100,
                             &max_chars, err);
    if (status == MOE_OK) {
        l->spec.max_word_chars = (int)max_chars;
        status = read_json_vocab(l, err);
    }
    return status;
}

/* A template as one line: "[CLS]:0 $A:0 [SEP]:0". */
static void write_template(const cJSON *pieces, char text[MAX_TEMPLATE])
{
    const cJSON *piece;
    size_t n = 0;
    text[0] = '\0';
    cJSON_ArrayForEach(piece, pieces) {
        const cJSON *special = get(piece, "SpecialToken"), *body = special;
        if (!body)
            body = get(piece, "Sequence");
        const cJSON *id = get(body, "id"), *type = get(body, "type_id");
        int wrote = snprintf(text + n, MAX_TEMPLATE - n, "%s%s%s:%g", n ? " " : "",
                             special ? "" : "$",
                             cJSON_IsString(id) ? id->valuestring : "?",
                             cJSON_IsNumber(type) ? type->valuedouble : -1);
        if (wrote < 0 || (size_t)wrote >= MAX_TEMPLATE - n)
            return; /* cut: it will not compare equal */
        n += (size_t)wrote;
    }
}

static const char *special_name(const cJSON *pieces, int i)
{
    const cJSON *id = get(get(cJSON_GetArrayItem(pieces, i), "SpecialToken"), "id");
    return cJSON_IsString(id) ? id->valuestring : "?";
}

static moe_status expect_template(const loader *l, const char *key, const char *expected,
                                  moe_error *err)
{
    char found[MAX_TEMPLATE];
    write_template(get(get(l->json, "post_processor"), key), found);
    if (!strcmp(found, expected))
        return MOE_OK;
    return moe_fail(err, MOE_E_UNSUPPORTED,
                    "%s: post_processor.%s is '%.150s', expected '%.150s'", l->path, key,
                    found, expected);
}

/* special_tokens[name].ids must be one id. */
static moe_status template_id(const loader *l, const char *name, int32_t *id,
                              moe_error *err)
{
    const cJSON *tokens = get(get(l->json, "post_processor"), "special_tokens");
    const cJSON *ids = get(get(tokens, name), "ids");
    const cJSON *first = cJSON_GetArrayItem(ids, 0);
    if (cJSON_GetArraySize(ids) != 1 || !cJSON_IsNumber(first))
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: post_processor.special_tokens['%s'].ids has %d entries, "
                        "expected one id", l->path, name, cJSON_GetArraySize(ids));
    *id = first->valueint;
    return MOE_OK;
}

static moe_status read_template(loader *l, moe_error *err)
{
    const cJSON *single = get(get(l->json, "post_processor"), "single");
    const char *cls = special_name(single, 0), *sep = special_name(single, 2);
    char expected[2][MAX_TEMPLATE];
    snprintf(expected[0], MAX_TEMPLATE, "%s:0 $A:0 %s:0", cls, sep);
    snprintf(expected[1], MAX_TEMPLATE, "%s:0 $A:0 %s:0 $B:1 %s:1", cls, sep, sep);
    moe_status status = expect_template(l, "single", expected[0], err);
    if (status == MOE_OK)
        status = expect_template(l, "pair", expected[1], err);
    if (status == MOE_OK)
        status = template_id(l, cls, &l->spec.cls, err);
    if (status == MOE_OK)
        status = template_id(l, sep, &l->spec.sep, err);
    return status;
}

static moe_status read_post_processor(loader *l, moe_error *err)
{
    const cJSON *p = get(l->json, "post_processor");
    const char *type;
    moe_status status = json_string_or(p, l->path, "type", "missing", &type, err);
    if (status != MOE_OK)
        return status;
    if (!strcmp(type, "TemplateProcessing"))
        return read_template(l, err);
    if (strcmp(type, "BertProcessing") != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: post_processor.type is %s, expected TemplateProcessing or "
                        "BertProcessing", l->path, type);
    const cJSON *cls = cJSON_GetArrayItem(get(p, "cls"), 1);
    const cJSON *sep = cJSON_GetArrayItem(get(p, "sep"), 1);
    if (!cJSON_IsNumber(cls) || !cJSON_IsNumber(sep))
        return moe_fail(err, MOE_E_FORMAT, "%s: post_processor: cls or sep is something "
                        "else, expected [token, id]", l->path);
    l->spec.cls = cls->valueint;
    l->spec.sep = sep->valueint;
    return MOE_OK;
}

/* ---- added tokens ------------------------------------------------------ */

/* A later token takes the place of an earlier one with its id. */
static moe_status put_added(loader *l, const char *path,
                            const tokenizer_added_token *token, moe_error *err)
{
    if (token->id < 0 || token->id >= l->n_vocab)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: added token '%s' has id %d, expected 0 to %d, the rows of "
                        "the word embedding", path, token->content, (int)token->id,
                        l->n_vocab - 1);
    int32_t *at = &l->added_at[token->id];
    if (*at < 0) {
        if (l->n_added == ADDED_TOKENS_MAX)
            return moe_fail(err, MOE_E_LIMIT, "%s: more than %d added tokens", path,
                            ADDED_TOKENS_MAX);
        /* Doubles at powers of two. */
        if (!(l->n_added & (l->n_added - 1))) {
            size_t n = l->n_added ? (size_t)l->n_added * 2 : 1;
            tokenizer_added_token *added = realloc(l->added, n * sizeof *added);
            if (!added)
                return no_memory(l, err);
            l->added = added;
        }
        *at = l->n_added++;
    }
    l->added[*at] = *token;
    return MOE_OK;
}

static moe_status read_added(loader *l, const char *path, const cJSON *object, int64_t id,
                             moe_error *err)
{
    tokenizer_added_token token = {.id = (int32_t)id};
    const struct { const char *key; bool *to; } flags[] = {
        {"special", &token.special}, {"single_word", &token.single_word},
        {"lstrip", &token.lstrip},   {"rstrip", &token.rstrip},
        {"normalized", &token.normalized},
    };
    moe_status status =
        json_string_or(object, path, "content", NULL, &token.content, err);
    if (status == MOE_OK && !token.content)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: added token %d has no content, expected a string", path,
                        (int)id);
    for (size_t i = 0; i < sizeof flags / sizeof *flags && status == MOE_OK; i++) {
        /* Where it is not stated, a token is normalized unless it is special. */
        bool missing = flags[i].to == &token.normalized && !token.special;
        status = json_bool_or(object, path, flags[i].key, missing, flags[i].to, err);
    }
    return status == MOE_OK ? put_added(l, path, &token, err) : status;
}

static moe_status read_added_list(loader *l, moe_error *err)
{
    const cJSON *object;
    moe_status status = MOE_OK;
    int64_t id;
    cJSON_ArrayForEach(object, get(l->json, "added_tokens")) {
        status = json_int(object, l->path, "id", 0, l->n_vocab - 1, &id, err);
        if (status == MOE_OK)
            status = read_added(l, l->path, object, id, err);
        if (status != MOE_OK)
            break;
    }
    return status;
}

/* added_tokens_decoder: {"101": {"content": "[CLS]", ...}, ...} */
static moe_status read_added_decoder(loader *l, moe_error *err)
{
    const cJSON *object;
    moe_status status = MOE_OK;
    cJSON_ArrayForEach(object, get(l->config, "added_tokens_decoder")) {
        const char *key = object->string ? object->string : "";
        char *end;
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id >= l->n_vocab)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: added_tokens_decoder['%s']: expected an id from 0 to %d",
                            l->config_path, key, l->n_vocab - 1);
        status = read_added(l, l->config_path, object, id, err);
        if (status != MOE_OK)
            break;
    }
    return status;
}

static int32_t find_token(const loader *l, const char *content)
{
    for (int32_t id = 0; id < l->n_vocab; id++)
        if (l->vocab[id] && !strcmp(l->vocab[id], content))
            return id;
    return -1;
}

/* The name of a special token, "cls_token", from tokenizer_config.json. */
static moe_status special_token(const loader *l, const char *key, const char *missing,
                                const char **name, moe_error *err)
{
    const cJSON *value = get(l->config, key);
    if (cJSON_IsObject(value))
        return json_string_or(value, l->config_path, "content", missing, name, err);
    return json_string_or(l->config, l->config_path, key, missing, name, err);
}

/* With vocab.txt, the tokenizer's special tokens are added tokens where the
 * vocabulary has them; cls and sep it must have. */
static moe_status add_special_tokens(loader *l, moe_error *err)
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
        status = put_added(l, l->path, &token, err);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

/* ---- tokenizer_config.json --------------------------------------------- */

static moe_status read_config(loader *l, moe_error *err)
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
    if (status == MOE_OK && get(l->config, "strip_accents"))
        l->strip_accents = cJSON_IsNull(get(l->config, "strip_accents")) ? -1 : strip;
    return status;
}

/* ---- all of it --------------------------------------------------------- */

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static moe_status open_files(loader *l, const char *dir, moe_error *err)
{
    if (asprintf(&l->json_path, "%s/tokenizer.json", dir) < 0 ||
        asprintf(&l->vocab_path, "%s/vocab.txt", dir) < 0 ||
        asprintf(&l->config_path, "%s/tokenizer_config.json", dir) < 0)
        return no_memory(l, err);
    l->vocab = calloc((size_t)l->n_vocab, sizeof *l->vocab);
    l->added_at = malloc((size_t)l->n_vocab * sizeof *l->added_at);
    if (!l->vocab || !l->added_at)
        return no_memory(l, err);
    memset(l->added_at, -1, (size_t)l->n_vocab * sizeof *l->added_at);
    moe_status status = MOE_OK;
    if (exists(l->config_path))
        status = json_read_file(l->config_path, MAX_CONFIG_BYTES, &l->config, err);
    if (status == MOE_OK && exists(l->json_path))
        status = json_read_file(l->json_path, MAX_JSON_BYTES, &l->json, err);
    return status;
}

static moe_status read_json(loader *l, moe_error *err)
{
    l->path = l->json_path;
    moe_status status = read_model(l, err);
    if (status == MOE_OK)
        status = expect_type(l, "pre_tokenizer", "BertPreTokenizer", err);
    if (status == MOE_OK)
        status = read_normalizer(l, err);
    if (status == MOE_OK)
        status = read_post_processor(l, err);
    if (status == MOE_OK)
        status = read_added_list(l, err);
    return status;
}

/* No holes, and no rows of the embedding left over but those of a padding. */
static moe_status check_complete(const loader *l, moe_error *err)
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

static moe_status load(loader *l, const char *dir, moe_tokenizer **out, moe_error *err)
{
    moe_error why = {0};
    moe_status status = open_files(l, dir, err);
    if (status == MOE_OK)
        status = l->json ? read_json(l, err) : read_vocab(l, err);
    if (status == MOE_OK)
        status = read_config(l, err);
    if (status == MOE_OK)
        status = read_added_decoder(l, err);
    if (status == MOE_OK && !l->json)
        status = add_special_tokens(l, err);
    if (status == MOE_OK)
        status = check_complete(l, err);
    if (status != MOE_OK)
        return status;
    l->spec.n_vocab = l->n_vocab;
    l->spec.vocab = l->vocab;
    l->spec.added = l->added;
    l->spec.n_added = l->n_added;
    l->spec.strip_accents =
        l->strip_accents < 0 ? l->spec.lower_case : l->strip_accents;
    status = tokenizer_create_wordpiece(&l->spec, out, &why);
    if (status != MOE_OK)
        return moe_fail(err, status, "%s: %s", l->path, why.message);
    return MOE_OK;
}

moe_status tokenizer_load(const char *dir, int n_vocab, moe_tokenizer **out,
                          moe_error *err)
{
    *out = NULL;
    if (n_vocab < 1)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: a vocabulary of %d, expected 1 or more",
                        dir, n_vocab);
    loader l = {
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
