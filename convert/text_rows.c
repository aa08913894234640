/* text_rows.c: rows of text-to-text models. */
#include "convert/text_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

moe_status text_row_task(const moe_model *m, const dataset_row *row, const char *missing,
                         const moe_text_task **out, moe_error *err)
{
    const char *name = row->task ? row->task : missing;
    char list[256] = "";
    int n;
    const moe_text_task *known = moe_text_tasks_known(&n);
    *out = name ? moe_text_task_find(m, name) : NULL;
    if (*out || !name)
        return MOE_OK;
    for (int i = 0; i < n; i++) {
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", known[i].name);
    }
    return moe_fail(err, MOE_E_ARGUMENT, "task '%.60s': the model states none of that name, and "
                    "known are %s", name, list);
}

moe_status text_row_tokenize(const moe_model *m, const dataset_row *row,
                             const moe_text_task *t, moe_tokens *out, moe_error *err)
{
    moe_text in = {.text = row->text, .text_bytes = row->text_bytes, .pair = row->pair,
                   .pair_bytes = row->pair_bytes};
    char *filled = NULL;
    moe_status status = MOE_OK;
    if (t && !row->raw) {
        size_t n;
        status = moe_text_task_apply(t, &in, &filled, &n, err);
        in = (moe_text){.text = filled, .text_bytes = n};
    }
    if (status == MOE_OK)
        status = moe_tokenize(m, &in, out, err);
    free(filled);
    return status;
}

int text_row_label(const dataset_row *row, const moe_text_task *t)
{
    if (!row->label || !t)
        return -1;
    for (int i = 0; i < t->n_labels; i++)
        if (strcmp(t->labels[i], row->label) == 0)
            return i;
    char *end;
    long id = strtol(row->label, &end, 10);
    return *row->label && !*end && id >= 0 && id < t->n_labels ? (int)id : -1;
}
