/* gemm_bf16_avx512.c: simd_gemm.h for bf16 with fp32 multiply-adds. */
#include "engine/cpu/vec_avx512.h"

#define GEMM_DOT v_dot_bf16
#include "engine/cpu/simd_gemm.h"

void cpu_gemm_bf16_avx512(const cpu_gemm *g)
{
    gemm(g);
}
