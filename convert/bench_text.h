/* bench_text.h: the token ids that a bench runs on: random ones, or those of real
 * text, whose routing is then the model's own. */
#ifndef CONVERT_BENCH_TEXT_H
#define CONVERT_BENCH_TEXT_H

#include "convert/session.h"

/* Sequences end to end, special tokens included. n_seqs 0: random ids. */
typedef struct {
    int n_seqs;
    int32_t *cu_seqlens; /* [n_seqs + 1] */
    int32_t *ids;        /* [cu_seqlens[n_seqs]] */
    int seq_room, token_room;
} bench_text;

/* The rows of a dataset, tokenized for m. */
moe_status bench_text_read(const moe_model *m, const char *path, bench_text *out,
                           moe_error *err);
/* One sequence a line, as numbers between spaces; ids are checked against m. */
moe_status bench_text_read_ids(const moe_model *m, const char *path, bench_text *out,
                               moe_error *err);
void bench_text_free(bench_text *t);

/* Fills b with n_seqs sequences. seq 0: the text's own, from the top, again from there
 * where they run out; else each of `seq` tokens, glued together from the text's between
 * its first and last token, or random. */
moe_status bench_text_fill(const bench_text *t, const moe_model *m, int n_seqs, int seq,
                           moe_selection selection, batch *b, moe_error *err);

#endif
