/* kernels_avx512.c: the templates of simd_*.h compiled for AVX-512 (F, BW, DQ, VL). */
#include "engine/cpu/vec_avx512.h"

#include "engine/cpu/simd_gemm.h"
#include "engine/cpu/simd_rows.h"

const cpu_kernels cpu_kernels_avx512 = {
    .isa = "avx512",
    .gemm = gemm,
    .softmax = softmax,
    .norm = norm,
    .widen = widen,
    .normalize = normalize,
    .transpose = transpose,
};
