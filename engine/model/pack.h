/* pack.h: between plain row-major matrices and the packed fp32 layouts of
 * weights.h (lower.h makes them bf16 or int8). Sizes are in floats. A packed array must be 64-byte aligned. */
#ifndef MOE_MODEL_PACK_H
#define MOE_MODEL_PACK_H

#include "engine/model/weights.h"

size_t pack_linear_floats(int n, int k);             /* ceil(n/32) * k * 32 */
size_t pack_w2_floats(int n_experts, int d);         /* E * ceil(d/64) * 32 * 64 */

/* rows [n, k] -> packed. */
void pack_linear(const float *rows, int n, int k, float *packed);
/* Back, of any dtype: rows [n, k]. */
void unpack_linear(const moe_linear *w, float *rows);
/* Outputs first .. first + n of a linear layer, without a copy; first must be a
 * multiple of 32. Works on a backend's pointers as on the host's. */
moe_linear pack_linear_columns(const moe_linear *w, int first, int n);

/* Neuron j of expert e is source neuron neurons[e * 32 + j], -1 a dead one;
 * neurons NULL: the identity, dead past d_ff.
 * w1 [d_ff, d] rows -> [E][d][32]; b1 [d_ff] (NULL: zeros) -> [E][32];
 * w2 [d, d_ff] as in the checkpoint -> [E][ceil(d/64)][32][64]. */
void pack_w1(const float *w1, int d_ff, int d, int n_experts,
             const int32_t *neurons, float *packed);
void pack_b1(const float *b1, int d_ff, int n_experts, const int32_t *neurons,
             float *packed);
void pack_w2(const float *w2, int d_ff, int d, int n_experts,
             const int32_t *neurons, float *packed);

/* Back, in source order, of any dtype. w1 [d_ff, d], b1 [d_ff], w2 [d, d_ff]. */
void unpack_w1(const moe_ffn *f, float *w1);
void unpack_up(const moe_ffn *f, float *up); /* like w1, of a gated FFN */
void unpack_b1(const moe_ffn *f, float *b1);
void unpack_w2(const moe_ffn *f, float *w2);

#endif
