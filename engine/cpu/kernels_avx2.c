/* kernels_avx2.c: the templates of simd_*.h compiled for AVX2 with FMA and F16C. */
#include "engine/cpu/vec_avx2.h"

#include "engine/cpu/simd_gemm.h"
#include "engine/cpu/simd_rows.h"

const cpu_kernels cpu_kernels_avx2 = {
    .isa = "avx2",
    .gemm = gemm,
    .softmax = softmax,
    .norm = norm,
    .widen = widen,
    .normalize = normalize,
    .transpose = transpose,
};
