/* run_text.h: moefy run for text-to-text models: generated text and, where a row names a
 * task with label words, their scores. */
#ifndef CONVERT_RUN_TEXT_H
#define CONVERT_RUN_TEXT_H

#include "convert/session.h"

typedef struct {
    moe_selection selection;
    const char *task;      /* of rows that name none; NULL: none */
    int max_new_tokens;    /* of rows that say none */
    bool json;
} run_text_options;

/* Rows on their way through a model. Zero it, set session and options; run_text_free. */
typedef struct {
    session *s;
    run_text_options o;
    batch b;                        /* a sequence of each row, and one more for its labels */
    struct run_text_row *rows;      /* [n_rows] */
    int n_rows, room;
    struct run_text_labels *labels; /* of the tasks seen so far */
    int n_labels;
    int32_t *ids;                   /* [n_rows, most tokens] what was generated */
    double seconds;
} run_text;

/* Takes a row in. MOE_E_ARGUMENT names the file's line, an unknown task, a pair that its
 * template needs, max_new_tokens out of range. path: of the row's file, NULL: none. */
moe_status run_text_add(run_text *r, const char *path, const dataset_row *row, moe_error *err);
/* Whether that is enough for a batch. */
bool run_text_full(const run_text *r);
/* Runs what was taken in and prints it, in order. */
moe_status run_text_flush(run_text *r, moe_error *err);
void run_text_free(run_text *r);

#endif
