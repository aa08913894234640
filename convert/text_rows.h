/* text_rows.h: labelled rows as a text-to-text model takes them: what its encoder reads,
 * and what it should say. */
#ifndef CONVERT_TEXT_ROWS_H
#define CONVERT_TEXT_ROWS_H

#include "convert/dataset.h"

/* The task of a row: its own, else the default (name, or NULL). *out NULL: neither is
 * there, the text stands for itself. MOE_E_ARGUMENT: none of that name. */
moe_status text_row_task(const moe_model *m, const dataset_row *row, const char *missing,
                         const moe_text_task **out, moe_error *err);
/* The row put into the task's template, unless it is raw, and cut to the model's limit. */
moe_status text_row_tokenize(const moe_model *m, const dataset_row *row,
                             const moe_text_task *t, moe_tokens *out, moe_error *err);
/* The label's place among the task's: its word, or its number. -1: none of them. */
int text_row_label(const dataset_row *row, const moe_text_task *t);

#endif
