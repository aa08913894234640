/* evaluate.h: a labelled data set run through a model at several ratios. */
#ifndef CONVERT_EVALUATE_H
#define CONVERT_EVALUATE_H

#include "convert/cli.h"
#include "convert/dataset.h"
#include "convert/session.h"

/* A data set as the model sees it. Rows lie longest first; questions in their order,
 * each with a sequence to every window over its context. */
typedef struct {
    int n_rows, n_seqs;
    moe_tokens *tokens;  /* [n_seqs] */
    int32_t *bounds;     /* [n_seqs + 1] tokens before each */
    int *first_window;   /* [n_rows + 1] of each question in the sequences; else NULL */
    const dataset *data; /* of questions, borrowed */
    int *label;          /* [n_rows] the label's id; NULL: no labels, or regression */
    double *value;       /* [n_rows] the number to predict; NULL: no labels */
} examples;

/* Tokenises all rows and checks their labels; a label that the model does not
 * have is MOE_E_FORMAT with file and line. Data without any label will do. A model that
 * answers questions wants SQuAD data, which must then outlive *out. */
moe_status examples_create(const moe_model *m, const dataset *d, examples *out,
                           moe_error *err);
void examples_free(examples *x);

/* One ratio's result. NaN: not to be had. Shares are of tokens where they are
 * weighted, see evaluate.c. */
typedef struct {
    double ratio, effective_ratio, mass;
    int n, n_correct, n_agree;     /* classification; n_correct -1: no labels */
    double accuracy, agreement, kl;
    double f1, matthews;           /* of two labels, the second being the positive */
    double pearson, spearman, mean_abs_difference; /* regression; questions: of logits */
    double exact_match, answer_f1; /* questions */
} evaluation;

/* Runs the model at n ratios with the selector and policy of `how`; every result is
 * compared with the same model run dense. results [n]: out. bar: begun and ended by
 * the caller, counts n_seqs * (n + 1). */
moe_status evaluate(session *s, const examples *x, moe_selection how,
                    const double *ratios, int n, progress *bar, evaluation *results,
                    moe_error *err);

/* Between evaluate.c and evaluate_answer.c, which does questions. */
bool examples_bound(examples *x); /* fills bounds; false: out of memory */
moe_status examples_ask(const moe_model *m, const dataset *d, examples *out, moe_error *err);
/* Fills r's agreement, kl, difference and scores from logits as logits.h has them. */
moe_status evaluate_answers(const session *s, const examples *x, const float *logits,
                            const float *dense, evaluation *r, moe_error *err);

#endif
