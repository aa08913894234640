/* kernels_avx2.c: the templates of simd_*.h compiled for AVX2 with FMA and F16C; what
 * newer machines have besides is in the gemm_*.c. */
#include "engine/cpu/vec_avx2.h"

#define GEMM_DOT v_fma
#include "engine/cpu/simd_gemm.h"
#include "engine/cpu/simd_rows.h"

#define REST                                                                            \
    .gemm = gemm, .softmax = softmax, .norm = norm, .widen = widen,                     \
    .normalize = normalize, .transpose = transpose, .to_bf16 = to_bf16, .to_i8 = to_i8,      \
    .dot_rows = dot_rows, .mix_rows = mix_rows

const cpu_kernels cpu_kernels_avx2 = {
    .isa = "avx2",
    REST,
    .gemm_bf16 = cpu_gemm_bf16_avx2,
    .gemm_i8 = cpu_gemm_i8_avx2,
};
const cpu_kernels cpu_kernels_avx2vnni = {
    .isa = "avx2vnni",
    REST,
    .gemm_bf16 = cpu_gemm_bf16_avx2,
    .gemm_i8 = cpu_gemm_i8_avx2vnni,
};
