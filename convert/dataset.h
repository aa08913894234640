/* dataset.h: labelled text from outside, read whole and checked.
 *
 * TSV with a header (`sentence` or `sentence1`,`sentence2`, and `label`?), no
 * quoting, or JSONL (`text`, `text_pair`?, `label`?; or `question`, `context`). Empty
 * lines are skipped. Or SQuAD's JSON, v1.1 or v2 (squad.h): text and pair are question
 * and context. A missing header, a row with another number of columns, a broken JSON
 * line, invalid UTF-8, no row at all: MOE_E_FORMAT with file and line. */
#ifndef CONVERT_DATASET_H
#define CONVERT_DATASET_H

#include "engine/moe.h"

typedef struct {
    const char *text, *pair;  /* pair NULL: a single text; both NUL-terminated */
    size_t text_bytes, pair_bytes; /* a text may hold a NUL of its own */
    const char *label;        /* as written, NULL: none */
    const char *const *answers; /* [n_answers] right ones of a question; none of them: it
                                   has no answer */
    int n_answers;
    const char *task;         /* of a text-to-text row, NULL: none */
    bool asks;                /* text and pair came as question and context */
    bool raw;                 /* its text holds the task's template already */
    int max_new_tokens;       /* 0: not said */
    int line;                 /* in the file, from 1; of SQuAD the question's number */
} dataset_row;

typedef struct {
    const char *path;
    int n_rows;
    dataset_row *rows;
    bool has_labels;          /* every row has one */
    bool has_answers;         /* SQuAD: rows are questions */
    bool some_unanswerable;   /* SQuAD v2 */
    char sha256[65];
    struct dataset_memory *memory;
} dataset;

/* limit: rows to keep from the top, 0 all. path "-" reads standard input; the
 * dataset borrows path. The hash is that of the whole file. */
moe_status dataset_read(const char *path, int limit, dataset *out, moe_error *err);
void dataset_free(dataset *d);

/* The label's id in the model: a label's name, or its number as written (a
 * whole number in [0, n_labels)). -1 if neither. */
int dataset_label_id(const dataset_row *row, const moe_model_info *info);

#endif
