/* squad.h: files of questions in SQuAD's form, v1.1 or v2 (Rajpurkar et al. 2016, 2018),
 * and how its authors score answers. */
#ifndef CONVERT_SQUAD_H
#define CONVERT_SQUAD_H

#include "convert/dataset.h"

typedef struct {
    dataset_row *rows; /* [n_rows] */
    int n_rows;
    bool some_unanswerable;
    const char **answers; /* what the rows' answers point into */
    struct cJSON *tree;   /* their strings */
} squad;

/* Reads {"data": [{"paragraphs": [{"context", "qas": [{"question", "answers":
 * [{"text"}], "is_impossible"?}]}]}]} from n bytes; limit: questions to keep from the
 * top, below 0 all. MOE_E_FORMAT names the place. out: squad_free, also after a
 * failure. */
moe_status squad_read(const char *path, const char *bytes, size_t n, int limit, squad *out,
                      moe_error *err);
void squad_free(squad *s);

/* Scores of an answer [n bytes] against the right ones, the best of them: whether it is
 * the same, and the F1 of the words they share, both after lower case and without
 * punctuation and articles (letters and punctuation of ASCII). n_right 0: right is no
 * answer. -1: out of memory. */
double squad_exact(const char *answer, size_t n, const char *const *right, int n_right);
double squad_f1(const char *answer, size_t n, const char *const *right, int n_right);

#endif
