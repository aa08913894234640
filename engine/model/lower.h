/* lower.h: packed fp32 weights made bf16 or int8, and read back.
 *
 * A panel is [k][columns] floats; lower, it is [ceil(k/v)][columns][v], v values to a
 * unit of 4 bytes (weights.h). Nothing allocates but lower_linear and lower_ffn. */
#ifndef MOE_MODEL_LOWER_H
#define MOE_MODEL_LOWER_H

#include "engine/model/weights.h"

/* "f32", "bf16" or "int8", as configurations and options say it. */
const char *lower_name(moe_dtype t);
/* The dtype of that name; false, *out untouched: none. */
bool lower_find(const char *name, moe_dtype *out);

/* Values in 4 bytes: 1, 2 or 4 of F32, BF16 or I8. */
int lower_unit(moe_dtype t);
/* Bytes of a packed linear's and of w2's weights. */
size_t lower_linear_bytes(moe_dtype t, int n, int k);
size_t lower_w2_bytes(moe_dtype t, int n_experts, int d);

/* Nearest bf16, ties to even; NaN stays one. */
uint16_t lower_bf16(float x);

/* The value at [i][column] of a packed panel of so many columns; scale: the column's
 * (I8). */
float lower_value(moe_dtype t, const void *panel, int columns, int i, int column,
                  float scale);

/* Whether an FFN's hidden values may be negative: not of a ReLU without a gate. */
bool lower_hidden_is_signed(const moe_ffn *f);

/* Makes the weights of an fp32 linear or FFN lower. importance [k], [d], [d_ff] in
 * the source's order: the mean square of each input over some text, by which int8
 * scales are chosen (Frantar et al. 2022, section 3, without the cross terms); NULL:
 * all alike. On success *out holds arrays of its own, freed by the release, and
 * borrows the rest from `from`. MOE_E_MEMORY else. */
moe_status lower_linear(const moe_linear *from, moe_dtype t, const float *importance,
                        moe_linear *out, moe_error *err);
moe_status lower_ffn(const moe_ffn *from, moe_dtype t, const float *importance,
                     const float *hidden_importance, moe_ffn *out, moe_error *err);
void lower_linear_release(moe_linear *w);
void lower_ffn_release(moe_ffn *w);

#endif
