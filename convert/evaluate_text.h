/* evaluate_text.h: labelled rows of text-to-text tasks, by the scores of label words. */
#ifndef CONVERT_EVALUATE_TEXT_H
#define CONVERT_EVALUATE_TEXT_H

#include "convert/evaluate.h"

/* Runs all rows at n ratios and compares with dense, as evaluate does. Every row has a
 * task with label words, its own or `task` (or NULL), and a label that is one of them:
 * else MOE_E_ARGUMENT or _FORMAT with file and line. results [n]: out, as of a classifier;
 * bar counts rows * (n + 1). */
moe_status evaluate_text(session *s, const dataset *d, const char *task, moe_selection how,
                         const double *ratios, int n, progress *bar, evaluation *results,
                         moe_error *err);

#endif
