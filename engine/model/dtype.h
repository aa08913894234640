/* dtype.h: number formats of tensors, and their way to fp32. */
#ifndef MOE_MODEL_DTYPE_H
#define MOE_MODEL_DTYPE_H

#include "engine/model/weights.h"

/* "F16" to MOE_F16; false if there is no such dtype. */
bool dtype_parse(const char *name, moe_dtype *out);

/* n values of F32, F16 or BF16 at from (any alignment) to fp32, exactly. */
void dtype_to_f32(moe_dtype t, const void *from, size_t n, float *to);

/* Index of the first NaN or infinity among n values of F32, F16 or BF16 (any
 * alignment); n if there is none. */
size_t dtype_first_not_finite(moe_dtype t, const void *values, size_t n);

#endif
