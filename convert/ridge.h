/* ridge.h: ridge regression over any number of rows in memory that does not grow
 * with them.
 *
 * For rows (x, y), x [d], y [m], it finds A [m, d] and c [m] that minimise
 *
 *     sum ||A x + c - y||^2 + lambda ||A||^2        (c is not penalised)
 *
 * with lambda = relative * the mean over columns of sum (x - mean x)^2. Rows are
 * buffered by 1024, so that neither how they are cut into calls nor the number of
 * threads changes a bit of the answer. Memory: 8 d^2 + 8 d m bytes and the buffer.
 * One caller at a time. */
#ifndef CONVERT_RIDGE_H
#define CONVERT_RIDGE_H

#include "convert/workers.h"

typedef struct ridge ridge;

/* d, m >= 1; w is borrowed and does the work. */
moe_status ridge_create(int d, int m, workers *w, ridge **out, moe_error *err);
void ridge_free(ridge *r); /* NULL is fine */

/* x [n_rows, d], y [n_rows, m], ldx and ldy floats from row to row. */
void ridge_add(ridge *r, const float *x, int ldx, const float *y, int ldy, int n_rows);

/* Rows added so far. */
int64_t ridge_rows(const ridge *r);

/* a [m, d], c [m]: out; relative >= 0. It may be called again, with another
 * `relative` or after more rows (as long as rows after a solve are not to match
 * bit for bit what a single solve at the end would give).
 *
 * Where the columns are linearly dependent up to fp32 rounding and lambda is too
 * small to help, lambda is raised until the solution is sound: `used`, which may be
 * NULL, tells the relative lambda of the answer. No rows, or all alike: A = 0, c
 * the mean of y. Values that are not finite: MOE_E_ARGUMENT. */
moe_status ridge_solve(ridge *r, double relative, float *a, float *c, double *used,
                       moe_error *err);

#endif
