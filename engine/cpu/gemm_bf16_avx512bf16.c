/* gemm_bf16_avx512bf16.c: simd_gemm.h for bf16 with vdpbf16ps. */
#include "engine/cpu/vec_avx512.h"

#define GEMM_DOT v_dot_bf16
#include "engine/cpu/simd_gemm.h"

void cpu_gemm_bf16_avx512bf16(const cpu_gemm *g)
{
    gemm(g);
}
