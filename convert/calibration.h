/* calibration.h: the calibration text as tokens, ready to be run in batches. */
#ifndef CONVERT_CALIBRATION_H
#define CONVERT_CALIBRATION_H

#include "convert/dataset.h"

typedef struct {
    int n_tokens, n_seqs;
    int32_t *cu_seqlens;  /* [n_seqs + 1] */
    int32_t *ids, *types; /* [n_tokens] of the chosen rows, end to end */
    int32_t *row;         /* [n_seqs] which row of the data */
    int n_rows;           /* of the data that hold text */
    int n_unknown;        /* tokens that the vocabulary lacks */
} calibration;

/* Tokenises data (each row cut to the model's limit) and keeps as many whole rows
 * as max_tokens allows, evenly spread over it. Data without any text, a row longer
 * than max_tokens where none fits: an error that says so. out: calibration_free,
 * also after a failure. */
moe_status calibration_read(const moe_model *m, const dataset *data, int max_tokens,
                            calibration *out, moe_error *err);
void calibration_free(calibration *c);

/* The sequences seq [n] of c, ascending, as a text of their own; counts of rows and
 * unknown tokens stay c's. out: calibration_free, also after a failure. */
moe_status calibration_pick(const calibration *c, const int32_t *seq, int n,
                            calibration *out, moe_error *err);
/* Every tenth sequence or so, drawn from the seed, apart from the others; of a single
 * one both are a copy. held_out has MAX_HELD_OUT tokens at most (or one sequence).
 * Both: calibration_free, also after a failure. */
enum { CALIBRATION_MAX_HELD_OUT = 16384 };
moe_status calibration_split(const calibration *c, uint64_t seed, calibration *train,
                             calibration *held_out, moe_error *err);
/* As many whole sequences as max_tokens allows, evenly spread (at least one). *seq
 * [out->n_seqs]: which of c, free() it; NULL after a failure. */
moe_status calibration_sample(const calibration *c, int max_tokens, calibration *out,
                              int32_t **seq, moe_error *err);

/* Evenly spread choice: the most rows whose lengths sum to at most max_tokens.
 * length [n]; chosen [n]: out, ascending; returns how many. 0: not even the
 * shortest fits, which is then in chosen[0]. */
int calibration_choose(const int32_t *length, int n, int64_t max_tokens, int32_t *chosen);

/* Notes on stderr where the text of path is short of `few` tokens or much of it is not
 * in the vocabulary. */
void calibration_note(const char *path, int n_tokens, int n_unknown, int few);

/* The dense batch of the sequences from `first` on, of some 4,096 tokens; *end: the
 * sequence after its last. bounds [n_seqs + 1]: room for its cu_seqlens. Its tokens
 * are the rows from c->cu_seqlens[first] on. */
moe_batch calibration_batch(const calibration *c, int first, int32_t *bounds, int *end);
/* Gives b, of sequences [first, end), what a decoder reads for them; bounds
 * [end - first + 1]: its cu_targets. */
void calibration_batch_targets(const calibration *targets, int first, int end, int32_t *bounds,
                               moe_batch *b);

/* Tokens of the longest batch. */
int calibration_batch_tokens(const calibration *c);

#endif
