/* template.c: templates filled in, and the tasks known by name: GLUE and SQuAD as T5 was
 * trained on them (Raffel et al. 2020, appendix D). Labels stand in GLUE's order. */
#include "engine/task/template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"

/* ---- tasks known by name --------------------------------------------------- */

#define LABELS(...)                                                                  \
    .labels = (const char *const[]){__VA_ARGS__},                                    \
    .n_labels = sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *)

static const moe_text_task known[] = {
    {"cola", MOE_TASK_CLASSIFY, "cola sentence: {text}", LABELS("unacceptable", "acceptable")},
    {"sst2", MOE_TASK_CLASSIFY, "sst2 sentence: {text}", LABELS("negative", "positive")},
    {"mrpc", MOE_TASK_CLASSIFY, "mrpc sentence1: {text} sentence2: {text_pair}",
     LABELS("not_equivalent", "equivalent")},
    {"stsb", MOE_TASK_REGRESS, "stsb sentence1: {text} sentence2: {text_pair}",
     LABELS("0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2", "1.4", "1.6", "1.8", "2.0", "2.2",
            "2.4", "2.6", "2.8", "3.0", "3.2", "3.4", "3.6", "3.8", "4.0", "4.2", "4.4", "4.6",
            "4.8", "5.0")},
    {"qqp", MOE_TASK_CLASSIFY, "qqp question1: {text} question2: {text_pair}",
     LABELS("not_duplicate", "duplicate")},
    {"mnli", MOE_TASK_CLASSIFY, "mnli hypothesis: {text_pair} premise: {text}",
     LABELS("entailment", "neutral", "contradiction")},
    {"qnli", MOE_TASK_CLASSIFY, "qnli question: {text} sentence: {text_pair}",
     LABELS("entailment", "not_entailment")},
    {"rte", MOE_TASK_CLASSIFY, "rte sentence1: {text} sentence2: {text_pair}",
     LABELS("entailment", "not_entailment")},
    {"wnli", MOE_TASK_CLASSIFY, "wnli sentence1: {text} sentence2: {text_pair}",
     LABELS("not_entailment", "entailment")},
    {"squad", MOE_TASK_ANSWER, "question: {question} context: {context}", NULL, 0},
};

const moe_text_task *moe_text_tasks_known(int *n)
{
    *n = sizeof known / sizeof *known;
    return known;
}

static const moe_text_task *find(const moe_text_task *tasks, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(tasks[i].name, name) == 0)
            return &tasks[i];
    return NULL;
}

const moe_text_task *moe_text_task_find(const moe_model *m, const char *name)
{
    int n;
    if (m->info.task != MOE_TASK_TEXT)
        return NULL;
    const moe_text_task *own = find(m->info.tasks, m->info.n_tasks, name);
    const moe_text_task *others = moe_text_tasks_known(&n);
    return own ? own : find(others, n, name);
}

static const struct { const char *name; moe_task kind; } kinds[] = {
    {"classification", MOE_TASK_CLASSIFY},
    {"regression", MOE_TASK_REGRESS},
    {"question-answering", MOE_TASK_ANSWER},
    {"text", MOE_TASK_TEXT},
};

bool template_kind_find(const char *name, moe_task *out)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            *out = kinds[i].kind;
            return true;
        }
    return false;
}

const char *template_kind_name(moe_task kind)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].kind == kind)
            return kinds[i].name;
    return "";
}

/* ---- templates --------------------------------------------------------------- */

/* 0: the first text, 1: the second, -1: no field. name has n bytes. */
static int field_of(const char *name, size_t n)
{
    static const struct { const char *name; int which; } fields[] = {
        {"text", 0}, {"question", 0}, {"text_pair", 1}, {"context", 1},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strlen(fields[i].name) == n && memcmp(fields[i].name, name, n) == 0)
            return fields[i].which;
    return -1;
}

moe_status template_check(const char *what, const char *format, moe_error *err)
{
    for (const char *at = format; (at = strpbrk(at, "{}")); at++) {
        size_t n = *at == '{' ? strcspn(at + 1, "{}") : 0;
        if (*at == '}' || at[1 + n] != '}')
            return moe_fail(err, MOE_E_FORMAT,
                            "task '%.60s': the template has a '%c' without its partner at byte "
                            "%zu", what, *at, (size_t)(at - format));
        if (field_of(at + 1, n) < 0)
            return moe_fail(err, MOE_E_FORMAT,
                            "task '%.60s': the template has the field {%.*s}, expected {text}, "
                            "{text_pair}, {question} or {context}", what,
                            n < 60 ? (int)n : 60, at + 1);
        at += n + 1;
    }
    return MOE_OK;
}

static void put_field(FILE *to, int which, const moe_text *in)
{
    if (which == 0 && in->text)
        fwrite(in->text, 1, in->text_bytes, to);
    else if (which == 1)
        fwrite(in->pair, 1, in->pair_bytes, to);
}

/* False: a field has no text. */
static bool fill(FILE *to, const char *format, const moe_text *in)
{
    while (*format) {
        size_t plain = strcspn(format, "{");
        fwrite(format, 1, plain, to);
        format += plain;
        if (!*format)
            break;
        size_t n = strcspn(format + 1, "}");
        int which = field_of(format + 1, n);
        if (which == 1 && !in->pair)
            return false;
        put_field(to, which, in);
        format += n + 2;
    }
    return true;
}

moe_status moe_text_task_apply(const moe_text_task *t, const moe_text *in, char **out,
                               size_t *n, moe_error *err)
{
    *out = NULL;
    *n = 0;
    moe_status status = template_check(t->name, t->format, err);
    if (status != MOE_OK)
        return status;
    FILE *to = open_memstream(out, n);
    bool whole = to && fill(to, t->format, in), closed = to && fclose(to) == 0;
    if (closed && whole)
        return MOE_OK;
    free(*out);
    *out = NULL;
    return closed ? moe_fail(err, MOE_E_ARGUMENT, "task '%.60s' needs a second text", t->name)
                  : moe_fail(err, MOE_E_MEMORY, "task '%.60s': out of memory", t->name);
}
