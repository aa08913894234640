/* jsonl.c: one line of JSONL to a row of text. All strings of a row lie in one
 * block that starts with the text: text NUL pair NUL label NUL task NUL. */
#include "convert/jsonl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/json.h"
#include "convert/utf8.h"

typedef struct {
    const char *bytes; /* NULL: absent */
    size_t n;
} piece;

bool jsonl_blank(const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r')
            return false;
    return true;
}

static bool absent(const json *object, const char *key)
{
    const json *j = json_get(object, key);
    return !j || json_is_null(j);
}

/* A label as written: text, or a number in its shortest form. */
static bool label_piece(const json *object, char number[40], piece *out)
{
    double value;
    out->bytes = json_get_string_n(object, "label", &out->n);
    if (out->bytes)
        return true;
    if (!json_get_number(object, "label", &value))
        return false;
    snprintf(number, 40, "%.15g", value);
    *out = (piece){number, strlen(number)};
    return true;
}

static char *append(char *to, piece p, const char **out, size_t *bytes)
{
    if (!p.bytes)
        return to;
    memcpy(to, p.bytes, p.n);
    to[p.n] = 0;
    *out = to;
    if (bytes)
        *bytes = p.n;
    return to + p.n + 1;
}

static moe_status take_row(const json *object, const char *path, int line,
                           dataset_row *out, moe_error *err)
{
    char number[40];
    piece text, pair = {0}, label = {0}, task = {0};
    const bool asks = absent(object, "text") && !absent(object, "question");
    text.bytes = json_get_string_n(object, "text", &text.n);
    if (asks) {
        text.bytes = json_get_string_n(object, "question", &text.n);
        pair.bytes = json_get_string_n(object, "context", &pair.n);
        if (!text.bytes || !pair.bytes)
            return moe_fail(err, MOE_E_FORMAT, "%s:%d: key '%s' is missing or of another type, "
                            "expected a string", path, line, text.bytes ? "context" : "question");
    }
    if (!text.bytes)
        return moe_fail(err, MOE_E_FORMAT, "%s:%d: key 'text' is %s, expected a string", path,
                        line, absent(object, "text") ? "missing" : "of another type");
    if (!absent(object, "text_pair"))
        pair.bytes = json_get_string_n(object, "text_pair", &pair.n);
    if (!absent(object, "text_pair") && !pair.bytes)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s:%d: key 'text_pair' is of another type, expected a string", path,
                        line);
    if (!absent(object, "label") && !label_piece(object, number, &label))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s:%d: key 'label' is of another type, expected a string or a number",
                        path, line);

    double most = 0;
    if (!absent(object, "task") && !(task.bytes = json_get_string_n(object, "task", &task.n)))
        return moe_fail(err, MOE_E_FORMAT,
                        "%s:%d: key 'task' is of another type, expected a string", path, line);
    if (!absent(object, "max_new_tokens") &&
        (!json_get_number(object, "max_new_tokens", &most) || !(most >= 1 && most <= 1 << 20)))
        return moe_fail(err, MOE_E_FORMAT, "%s:%d: key 'max_new_tokens' is not a number from 1 on",
                        path, line);

    char *block = malloc(text.n + pair.n + label.n + task.n + 4);
    if (!block)
        return moe_fail(err, MOE_E_MEMORY, "%s:%d: out of memory", path, line);
    *out = (dataset_row){.line = line, .asks = asks, .raw = json_is_true(json_get(object, "raw")),
                         .max_new_tokens = (int)most};
    char *to = append(block, text, &out->text, &out->text_bytes);
    to = append(to, pair, &out->pair, &out->pair_bytes);
    to = append(to, label, &out->label, NULL);
    append(to, task, &out->task, NULL);
    return MOE_OK;
}

moe_status jsonl_row(const char *path, int line, const char *bytes, size_t n,
                     dataset_row *out, moe_error *err)
{
    *out = (dataset_row){0};
    size_t good = utf8_well_formed_bytes(bytes, n);
    if (good < n)
        return moe_fail(err, MOE_E_FORMAT, "%s:%d: byte %zu is 0x%02X, expected UTF-8", path,
                        line, good, (unsigned char)bytes[good]);
    json *object = json_parse_text(bytes, n);
    moe_status status;
    if (!json_is_object(object))
        status = moe_fail(err, MOE_E_FORMAT, "%s:%d: expected a JSON object, found '%.*s'",
                          path, line, n < 60 ? (int)n : 60, bytes);
    else
        status = take_row(object, path, line, out, err);
    json_free(object);
    return status;
}

moe_status jsonl_next(line_reader *r, dataset_row *out, moe_error *err)
{
    const char *line;
    size_t n = 0;
    moe_status status;
    *out = (dataset_row){0};
    do
        status = lines_next(r, &line, &n, err);
    while (status == MOE_OK && line && jsonl_blank(line, n));
    if (status == MOE_OK && line)
        status = jsonl_row(r->path, r->number, line, n, out, err);
    return status;
}

void jsonl_row_free(dataset_row *row)
{
    free((char *)row->text); /* the block starts with the text */
    *row = (dataset_row){0};
}
