/* gemm_i8_avx2.c: simd_gemm.h for int8 by way of 16 bits. */
#include "engine/cpu/vec_avx2.h"

#define GEMM_DOT v_dot_i8
#define GEMM_I8
#include "engine/cpu/simd_gemm.h"

void cpu_gemm_i8_avx2(const cpu_gemm *g)
{
    gemm(g);
}
