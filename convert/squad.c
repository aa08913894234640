/* squad.c: SQuAD's JSON to rows. The tree is walked twice: to count and check, then to
 * fill; the rows point into it. */
#include "convert/squad.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "convert/json.h"
#include "convert/utf8.h"

/* Where the walk is, for messages, and what it has met. */
typedef struct {
    const char *path;
    int limit;
    int article, paragraph, question;
    squad *out;
    bool fill;
    int n_rows, n_answers;
} walk;

static moe_status broken(const walk *w, const char *what, const char *expected, moe_error *err)
{
    return moe_fail(err, MOE_E_FORMAT, "%s: data[%d].paragraphs[%d].qas[%d]: '%s' is missing or "
                    "of another type, expected %s", w->path, w->article, w->paragraph, w->question,
                    what, expected);
}

static const char *answer_text(const json *answer)
{
    return json_get_string(answer, "text");
}

static bool is_impossible(const json *question)
{
    const json *flag = json_get(question, "is_impossible");
    return flag && json_is_true(flag);
}

static moe_status take_question(walk *w, const char *context, size_t context_bytes,
                                const json *q, moe_error *err)
{
    dataset_row row = {.pair = context, .pair_bytes = context_bytes, .line = w->n_rows + 1};
    row.text = json_get_string_n(q, "question", &row.text_bytes);
    const json *answers = json_get(q, "answers");
    if (!row.text)
        return broken(w, "question", "a string", err);
    if (!json_is_array(answers))
        return broken(w, "answers", "an array", err);
    bool none = is_impossible(q);
    int first = w->n_answers;
    for (const json *a = none ? NULL : json_first(answers); a; a = json_next(a)) {
        if (!answer_text(a))
            return broken(w, "answers: text", "a string", err);
        if (w->fill)
            w->out->answers[w->n_answers] = answer_text(a);
        w->n_answers++;
    }
    row.n_answers = w->n_answers - first;
    if (w->fill) {
        row.answers = w->out->answers + first;
        w->out->rows[w->n_rows] = row;
        w->out->some_unanswerable |= row.n_answers == 0;
    }
    w->n_rows++;
    return MOE_OK;
}

static moe_status take_paragraph(walk *w, const json *p, moe_error *err)
{
    size_t n;
    const char *context = json_get_string_n(p, "context", &n);
    const json *qas = json_get(p, "qas");
    moe_status status = MOE_OK;
    w->question = 0;
    if (!context)
        return broken(w, "context", "a string", err);
    if (!json_is_array(qas))
        return broken(w, "qas", "an array", err);
    for (const json *q = json_first(qas); q && !status && w->n_rows != w->limit;
         q = json_next(q), w->question++)
        status = take_question(w, context, n, q, err);
    return status;
}

static moe_status take_all(walk *w, const json *root, moe_error *err)
{
    const json *data = json_get(root, "data");
    moe_status status = MOE_OK;
    w->article = w->n_rows = w->n_answers = 0;
    if (!json_is_array(data))
        return moe_fail(err, MOE_E_FORMAT, "%s: 'data' is missing or of another type, expected "
                        "an array", w->path);
    for (const json *a = json_first(data); a && !status; a = json_next(a), w->article++) {
        const json *paragraphs = json_get(a, "paragraphs");
        w->paragraph = 0;
        if (!json_is_array(paragraphs))
            return broken(w, "paragraphs", "an array", err);
        for (const json *p = json_first(paragraphs); p && !status;
             p = json_next(p), w->paragraph++)
            status = take_paragraph(w, p, err);
    }
    return status;
}

moe_status squad_read(const char *path, const char *bytes, size_t n, int limit, squad *out,
                      moe_error *err)
{
    *out = (squad){0};
    size_t good = utf8_well_formed_bytes(bytes, n);
    if (good < n)
        return moe_fail(err, MOE_E_FORMAT, "%s: byte %zu is 0x%02X, expected UTF-8", path, good,
                        (unsigned char)bytes[good]);
    out->tree = json_parse_text(bytes, n);
    if (!out->tree)
        return moe_fail(err, MOE_E_FORMAT, "%s: not JSON", path);
    walk w = {.path = path, .limit = limit, .out = out};
    moe_status status = take_all(&w, out->tree, err);
    if (status != MOE_OK)
        return status;
    out->rows = calloc((size_t)w.n_rows + 1, sizeof *out->rows);
    out->answers = calloc((size_t)w.n_answers + 1, sizeof *out->answers);
    if (!out->rows || !out->answers)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory for %d questions", path, w.n_rows);
    w.fill = true;
    status = take_all(&w, out->tree, err);
    out->n_rows = w.n_rows;
    return status;
}

void squad_free(squad *s)
{
    free(s->rows);
    free(s->answers);
    json_free(s->tree);
    *s = (squad){0};
}
