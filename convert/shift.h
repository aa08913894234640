/* shift.h: what the experts that are left out would have added on average, by layer and
 * ratio. */
#ifndef CONVERT_SHIFT_H
#define CONVERT_SHIFT_H

#include "convert/calibration.h"
#include "convert/cli.h"
#include "convert/converted.h"

/* Gives each converted FFN of c a shift for each row of its ratio table: the mean, over
 * the tokens of the text that the network reads, of its dense output less its sparse one.
 * Layer after layer, at each ratio on the rows that the sparse and shifted layers before
 * leave; then all of it, half or nothing, in encoder and decoder, as brings the answer
 * closest. c: routers, table and policy final, weights f32. targets: of a text-to-text
 * model's decoder, sequence by sequence those of text, else NULL. */
moe_status shift_measure(converted *c, moe_pool *pool, const calibration *text,
                         const calibration *targets, progress *bar, moe_error *err);

#endif
