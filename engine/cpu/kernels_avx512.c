/* kernels_avx512.c: the templates of simd_*.h compiled for AVX-512 (F, BW, DQ, VL); what
 * newer machines have besides is in the gemm_*.c. */
#include "engine/cpu/vec_avx512.h"

#define GEMM_DOT v_fma
#include "engine/cpu/simd_gemm.h"
#include "engine/cpu/simd_rows.h"

#define REST                                                                            \
    .gemm = gemm, .softmax = softmax, .norm = norm, .widen = widen,                     \
    .normalize = normalize, .transpose = transpose, .to_bf16 = to_bf16, .to_i8 = to_i8,      \
    .dot_rows = dot_rows, .mix_rows = mix_rows

const cpu_kernels cpu_kernels_avx512 = {
    .isa = "avx512",
    REST,
    .gemm_bf16 = cpu_gemm_bf16_avx512,
    .gemm_i8 = cpu_gemm_i8_avx512,
};
const cpu_kernels cpu_kernels_avx512vnni = {
    .isa = "avx512vnni",
    REST,
    .gemm_bf16 = cpu_gemm_bf16_avx512,
    .gemm_i8 = cpu_gemm_i8_avx512vnni,
};
const cpu_kernels cpu_kernels_avx512bf16 = {
    .isa = "avx512bf16",
    REST,
    .gemm_bf16 = cpu_gemm_bf16_avx512bf16,
    .gemm_i8 = cpu_gemm_i8_avx512vnni,
};
const cpu_kernels cpu_kernels_avx512amx = {
    .isa = "avx512amx",
    REST,
    .gemm_bf16 = cpu_gemm_bf16_avx512amx,
    .gemm_i8 = cpu_gemm_i8_avx512amx,
    .add_group_bf16 = cpu_add_group_bf16_avx512amx,
    .add_group_i8 = cpu_add_group_i8_avx512amx,
    .largest_hidden = cpu_largest_hidden_avx512amx,
    .hidden_to_i8 = cpu_hidden_to_i8_avx512amx,
};
