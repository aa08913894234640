/* run_answer.h: moefy run for models that answer questions. */
#ifndef CONVERT_RUN_ANSWER_H
#define CONVERT_RUN_ANSWER_H

#include "convert/json.h"
#include "convert/session.h"

/* "start" and "end": the logits of sequence i's tokens. */
void run_answer_positions(json *j, const session *s, const batch *b, int i);

/* Answers one row's question (text) about its context (pair) and prints it: with json an
 * object on one line; with windows in it also the ids and logits of every window. */
typedef struct {
    moe_selection selection;
    bool json, windows;
} run_answer_options;
moe_status run_answer(session *s, batch *b, const dataset_row *row,
                      const run_answer_options *o, moe_error *err);

#endif
