/* kmeans.h: k-means whose clusters have given sizes. */
#ifndef CONVERT_KMEANS_H
#define CONVERT_KMEANS_H

#include "convert/rng.h"
#include "convert/workers.h"

typedef struct {
    const float *rows;    /* [n, d], n >= 1 */
    int n, d, n_bins;
    const int *capacity;  /* [n_bins], each >= 1; their sum is n */
    int n_starts;         /* each from its own stream; the best is kept */
    int max_rounds;       /* >= 1, if it doesn't settle before */
    uint64_t seed, stream, purpose; /* as in rng_stream; purpose below 256 */
} kmeans_input;

/* bin [n]: out; inertia: out, the mean squared distance of a row to the mean of its
 * bin. Interrupted by a signal: MOE_E_IO. */
moe_status kmeans_balanced(const kmeans_input *in, workers *w, int32_t *bin,
                           double *inertia, moe_error *err);

#endif
