/* tokenizer_json.c: the parts of tokenizer.json that kinds share: the vocabulary, what
 * stands around a text, added tokens wherever they are listed. What is not understood is
 * refused with its key and both values. Truncation and padding are defaults of a caller
 * and are not looked at. */
#include "engine/model/tokenizer_loader.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/added_tokens.h"

enum { MAX_TEMPLATE = 512 /* bytes of a template as we write it */ };

moe_status tokenizer_expect(const tokenizer_loader *l, const char *name, const char *expected,
                            moe_error *err)
{
    const char *type;
    const cJSON *object = tokenizer_key(l->json, name);
    const char *missing = "missing";
    /* Older files leave the model's type out. */
    if (!strcmp(name, "model") && tokenizer_key(object, "max_input_chars_per_word"))
        missing = expected;
    moe_status status = json_string_or(object, l->path, "type", missing, &type, err);
    if (status == MOE_OK && strcmp(type, expected) != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: %s.type is %s, expected %s",
                        l->path, name, type, expected);
    return status;
}

moe_status tokenizer_read_vocab(tokenizer_loader *l, const cJSON *object, const char *path,
                                const char *what, moe_error *err)
{
    const cJSON *token;
    if (!cJSON_IsObject(object))
        return moe_fail(err, MOE_E_FORMAT, "%s: %s is %s, expected an object", path, what,
                        object ? "something else" : "missing");
    cJSON_ArrayForEach(token, object) {
        double id = cJSON_IsNumber(token) ? token->valuedouble : -1;
        if (!(id >= 0 && id < l->n_vocab) || id != (int)id)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: %s['%s'] is %g, expected a whole number in "
                            "[0, %d], the rows of the word embedding",
                            path, what, token->string, id, l->n_vocab - 1);
        if (l->vocab[(int)id])
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: %s: '%s' and '%s' both have id %d", path, what,
                            l->vocab[(int)id], token->string, (int)id);
        l->vocab[(int)id] = token->string;
    }
    return MOE_OK;
}

/* A template as one line: "[CLS]:0 $A:0 [SEP]:0". */
static void write_template(const cJSON *pieces, char text[MAX_TEMPLATE])
{
    const cJSON *piece;
    size_t n = 0;
    text[0] = '\0';
    cJSON_ArrayForEach(piece, pieces) {
        const cJSON *special = tokenizer_key(piece, "SpecialToken"), *body = special;
        if (!body)
            body = tokenizer_key(piece, "Sequence");
        const cJSON *id = tokenizer_key(body, "id"), *type = tokenizer_key(body, "type_id");
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
    const cJSON *special = tokenizer_key(cJSON_GetArrayItem(pieces, i), "SpecialToken");
    const cJSON *id = tokenizer_key(special, "id");
    return cJSON_IsString(id) ? id->valuestring : "?";
}

static moe_status expect_template(const tokenizer_loader *l, const char *key,
                                  const char *expected, moe_error *err)
{
    char found[MAX_TEMPLATE];
    write_template(tokenizer_key(tokenizer_key(l->json, "post_processor"), key), found);
    if (!strcmp(found, expected))
        return MOE_OK;
    return moe_fail(err, MOE_E_UNSUPPORTED,
                    "%s: post_processor.%s is '%.150s', expected '%.150s'", l->path, key,
                    found, expected);
}

/* special_tokens[name].ids must be one id. */
static moe_status template_id(const tokenizer_loader *l, const char *name, int32_t *id,
                              moe_error *err)
{
    const cJSON *post = tokenizer_key(l->json, "post_processor");
    const cJSON *tokens = tokenizer_key(post, "special_tokens");
    const cJSON *ids = tokenizer_key(tokenizer_key(tokens, name), "ids");
    const cJSON *first = cJSON_GetArrayItem(ids, 0);
    if (cJSON_GetArraySize(ids) != 1 || !cJSON_IsNumber(first))
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: post_processor.special_tokens['%s'].ids has %d entries, "
                        "expected one id", l->path, name, cJSON_GetArraySize(ids));
    *id = first->valueint;
    return MOE_OK;
}

/* Special? $A Special, and with a pair Special? $A Special Special? $B Special. */
static moe_status read_template(const tokenizer_loader *l, tokenizer_frame *f, moe_error *err)
{
    const cJSON *post = tokenizer_key(l->json, "post_processor");
    const cJSON *single = tokenizer_key(post, "single"), *pair = tokenizer_key(post, "pair");
    bool begins = tokenizer_key(cJSON_GetArrayItem(single, 0), "SpecialToken") != NULL;
    const char *cls = special_name(single, 0), *sep = special_name(single, begins + 1);
    const int between = cJSON_GetArraySize(pair) - begins - 4;
    const cJSON *second = cJSON_GetArrayItem(pair, begins + 2 + (between == 1));
    const cJSON *type = tokenizer_key(tokenizer_key(second, "Sequence"), "type_id");
    f->n_between = between == 1;
    f->typed = !type || type->valueint != 0;
    char head[MAX_TEMPLATE / 2] = "", expected[2][MAX_TEMPLATE];
    if (begins)
        snprintf(head, sizeof head, "%.100s:0 ", cls);
    snprintf(expected[0], MAX_TEMPLATE, "%s$A:0 %.100s:0", head, sep);
    snprintf(expected[1], MAX_TEMPLATE, "%s$A:0 %.100s:0%s%.100s%s $B:%d %.100s:%d", head, sep,
             between == 1 ? " " : "", between == 1 ? sep : "", between == 1 ? ":0" : "", f->typed,
             sep, f->typed);
    f->begin = -1;
    moe_status status = expect_template(l, "single", expected[0], err);
    if (status == MOE_OK)
        status = expect_template(l, "pair", expected[1], err);
    if (status == MOE_OK && begins)
        status = template_id(l, cls, &f->begin, err);
    return status == MOE_OK ? template_id(l, sep, &f->end, err) : status;
}

moe_status tokenizer_read_frame(const tokenizer_loader *l, tokenizer_frame *out, moe_error *err)
{
    const cJSON *p = tokenizer_key(l->json, "post_processor");
    const char *type;
    moe_status status = json_string_or(p, l->path, "type", "missing", &type, err);
    if (status != MOE_OK)
        return status;
    if (!strcmp(type, "TemplateProcessing"))
        return read_template(l, out, err);
    bool roberta = strcmp(type, "RobertaProcessing") == 0;
    if (!roberta && strcmp(type, "BertProcessing") != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED,
                        "%s: post_processor.type is %s, expected TemplateProcessing, "
                        "BertProcessing or RobertaProcessing", l->path, type);
    const cJSON *cls = cJSON_GetArrayItem(tokenizer_key(p, "cls"), 1);
    const cJSON *sep = cJSON_GetArrayItem(tokenizer_key(p, "sep"), 1);
    if (!cJSON_IsNumber(cls) || !cJSON_IsNumber(sep))
        return moe_fail(err, MOE_E_FORMAT, "%s: post_processor: cls or sep is something "
                        "else, expected [token, id]", l->path);
    *out = (tokenizer_frame){.begin = cls->valueint, .end = sep->valueint, .n_between = roberta,
                             .typed = !roberta};
    return MOE_OK;
}

/* ---- added tokens ------------------------------------------------------ */

/* A later token takes the place of an earlier one with its id. */
moe_status tokenizer_put_added(tokenizer_loader *l, const char *path,
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
                return tokenizer_no_memory(l, err);
            l->added = added;
        }
        *at = l->n_added++;
    }
    l->added[*at] = *token;
    return MOE_OK;
}

static moe_status read_added(tokenizer_loader *l, const char *path,
                             const cJSON *object, int64_t id, moe_error *err)
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
    return status == MOE_OK ? tokenizer_put_added(l, path, &token, err) : status;
}

moe_status tokenizer_read_added(tokenizer_loader *l, moe_error *err)
{
    const cJSON *object;
    moe_status status = MOE_OK;
    int64_t id;
    cJSON_ArrayForEach(object, tokenizer_key(l->json, "added_tokens")) {
        status = json_int(object, l->path, "id", 0, l->n_vocab - 1, &id, err);
        if (status == MOE_OK)
            status = read_added(l, l->path, object, id, err);
        if (status != MOE_OK)
            break;
    }
    return status;
}

/* added_tokens_decoder: {"101": {"content": "[CLS]", ...}, ...} */
moe_status tokenizer_read_decoder(tokenizer_loader *l, moe_error *err)
{
    const cJSON *object;
    moe_status status = MOE_OK;
    cJSON_ArrayForEach(object, tokenizer_key(l->config, "added_tokens_decoder")) {
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
