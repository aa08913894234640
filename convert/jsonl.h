/* jsonl.h: one line of JSONL to a row of text. */
#ifndef CONVERT_JSONL_H
#define CONVERT_JSONL_H

#include "convert/dataset.h"
#include "convert/lines.h"

/* Reads {"text", "text_pair"?, "label"?}, or {"question", "context"} in their place, from the n bytes of a line without its
 * newline; other keys are ignored. path and line go into messages and the row.
 * On success the row owns its strings: jsonl_row_free. */
moe_status jsonl_row(const char *path, int line, const char *bytes, size_t n,
                     dataset_row *out, moe_error *err);
void jsonl_row_free(dataset_row *row);

/* The next row of a file, empty lines skipped; out->text is NULL at the end. */
moe_status jsonl_next(line_reader *r, dataset_row *out, moe_error *err);

/* Whether a line holds only spaces, tabs and carriage returns. */
bool jsonl_blank(const char *bytes, size_t n);

#endif
