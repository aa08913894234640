/* refit.h: routers fitted again, layer after layer, to the rows that the sparse model
 * itself produces: what a layer gets to see when those before it skip experts. */
#ifndef CONVERT_REFIT_H
#define CONVERT_REFIT_H

#include "convert/calibration.h"
#include "convert/converted.h"
#include "convert/resume.h"
#include "convert/states.h"

typedef struct {
    const calibration *text;
    const states *s;           /* of text; a region of it is written to */
    int region;                /* which: one of the caller's */
    const float *sensitivity;  /* [n_layers, n_tokens], or NULL */
    const int32_t *sample;     /* [scores->n_tokens] ascending tokens of text */
    score_sample *scores;      /* out: of the new routers, at those tokens */
    moe_pool *pool;
    workers *workers;
    resume *resume;            /* fitted layers are kept there and found again */
    uint64_t seed;
    progress *bar;
} refit;

/* c: converted, with by_norm routers and a table in use. Sequences take turns at the
 * ratios 0.5, 0.25 and 0.125. The routers in c are replaced. */
moe_status refit_routers(const refit *r, converted *c, moe_error *err);

#endif
