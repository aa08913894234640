/* bench_step.h: timing a text-to-text model's decoder, one step at a time. */
#ifndef CONVERT_BENCH_STEP_H
#define CONVERT_BENCH_STEP_H

#include "convert/session.h"

/* When the decoder's steps of a run began: bench_step_mark is the engine's capture, and
 * this its context. */
typedef struct {
    int first_decoder_layer;
    int n_begun;          /* steps that began */
    double first, last;   /* seconds: when the first and the last of them did */
} bench_steps;

bench_steps bench_steps_of(const moe_model_info *info);
moe_status bench_step_mark(void *ctx, int layer, const float *x, int n_tokens, moe_error *err);

/* Runs b's texts through the encoder and then, all together, through the decoder for up to
 * 17 tokens each. *ms: of one step, decoder layers, head and choice of the token alike, the
 * mean of those between the first and the last; *effective_ratio: over both halves.
 * MOE_E_UNSUPPORTED: every text ended before the second step began. */
moe_status bench_step_time(moe_engine *e, const batch *b, bench_steps *steps, double *ms,
                           double *effective_ratio, moe_error *err);

/* Of one step over `rows` texts: billions of operations but attention's, and of bytes of the
 * weights that one row reads. share: of the FFN's neurons. */
void bench_step_work(const moe_model *m, int rows, double share, double *gflop, double *gbytes);

#endif
