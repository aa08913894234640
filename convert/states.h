/* states.h: the rows between the layers when the dense model reads the calibration
 * text.
 *
 * They lie in an unlinked file (spool.h), one region [n_tokens, d] of floats per
 * boundary between layers: region l holds the rows that enter layer l, region
 * n_layers those that leave the last one. More regions may be reserved after them
 * for what a caller computes of the same shape. Memory holds a batch.
 *
 * states_read and states_write: any thread; the others: one thread. */
#ifndef CONVERT_STATES_H
#define CONVERT_STATES_H

#include "convert/calibration.h"
#include "convert/cli.h"

typedef struct {
    int n_layers, n_tokens, d;
    int n_regions;        /* n_layers + 1 and the caller's */
    int fd;
    size_t region_bytes;  /* a multiple of the page */
    const float *mapped;  /* of the region mapped, or NULL */
} states;

/* Runs m densely over text, in batches. n_extra: regions for the caller; they hold
 * zeros. dir: where the file may lie. logits: out, or NULL.
 * A full disk, an interrupt: MOE_E_IO; a value that is not finite: MOE_E_FORMAT,
 * naming layer and token. logits: as logits.h has them. s: states_close, also after a failure. */
moe_status states_run(const moe_model *m, moe_pool *pool, const calibration *text,
                      const char *dir, int n_extra, progress *bar, states *s,
                      float *logits, moe_error *err);

/* Rows [first, first + n_rows) of a region; x [n_rows, d]. */
moe_status states_read(const states *s, int region, int first, int n_rows, float *x,
                       moe_error *err);
moe_status states_write(const states *s, int region, int first, int n_rows,
                        const float *x, moe_error *err);

/* x [n_tokens, d] of a region, read-only, until the next map or close. */
moe_status states_map(states *s, int region, const float **x, moe_error *err);
void states_close(states *s);

#endif
