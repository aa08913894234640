/* activation.h: activations and their slopes, many at a time. Thread-safe. */
#ifndef CONVERT_ACTIVATION_H
#define CONVERT_ACTIVATION_H

#include <stddef.h>

#include "engine/model/weights.h"

/* z [n] becomes act(z), within 4e-7 (1 + |z|) of it; a GELU's NaN stays NaN. */
void activation_apply(moe_activation act, size_t n, float *z);

/* The same, and slope [n]: act'(z), within 4e-7 (1 + |z|). act: ReLU or a GELU. */
void activation_slopes(moe_activation act, size_t n, float *z, float *slope);

#endif
