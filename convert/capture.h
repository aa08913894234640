/* capture.h: the rows that enter each FFN when the dense model reads the
 * calibration text.
 *
 * They lie in an unlinked file, one region [n_tokens, d] of floats per captured
 * layer, so that memory holds one layer at a time. One thread. */
#ifndef CONVERT_CAPTURE_H
#define CONVERT_CAPTURE_H

#include "convert/cli.h"
#include "convert/dataset.h"

typedef struct {
    int n_tokens, n_seqs, d;
    int32_t *cu_seqlens;  /* [n_seqs + 1] */
    int n_rows;           /* of the data that hold text */
    int n_unknown;        /* tokens that the vocabulary lacks */
    int fd;
    int n_layers, *region; /* [n_layers]: which region of the file, -1 none */
    size_t region_bytes;
    const float *mapped;  /* of the layer mapped, or NULL */
} capture;

/* Tokenises data, runs m densely over as many whole rows as max_tokens allows,
 * evenly spread over the data, and keeps the rows of the layers that `wanted`
 * [n_layers] names. The file lies in `dir`. Data without any text, a row longer
 * than max_tokens where none fits, a full disk, a value that is not finite: an
 * error that says so. c: capture_close. */
moe_status capture_run(const moe_model *m, moe_pool *pool, const dataset *data,
                       int max_tokens, const bool *wanted, const char *dir,
                       progress *bar, capture *c, moe_error *err);
/* x [n_tokens, d] of a captured layer, until the next call or close. */
moe_status capture_map(capture *c, int layer, const float **x, moe_error *err);
void capture_close(capture *c);

#endif
