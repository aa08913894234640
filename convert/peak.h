/* peak.h: what a machine can do at most, in loops that do nothing else: the
 * ceilings that bench results are shares of. */
#ifndef CONVERT_PEAK_H
#define CONVERT_PEAK_H

#include "engine/moe.h"

typedef enum {
    PEAK_C, PEAK_AVX2, PEAK_AVX512,                   /* fp32 */
    PEAK_AVX512_BF16, PEAK_AMX_BF16,                  /* sums in fp32 */
    PEAK_AVX2_INT8, PEAK_AVX512_INT8, PEAK_AMX_INT8,  /* sums in int32 */
    PEAK_N
} peak_kind;

const char *peak_isa(peak_kind k);   /* "c", "avx2", "avx512", "amx" */
const char *peak_dtype(peak_kind k); /* "f32", "bf16", "int8" */
bool peak_supported(peak_kind k);
/* What kernels of that ISA and dtype can reach at most: the widest supported loop
 * up to isa; fp32's where the ISA has no instruction for the dtype. */
peak_kind peak_for(const char *isa, const char *dtype);

/* Billions of operations a second (a multiply-add is two) that n_threads reach
 * together in a loop over registers of about `seconds`. 0: a thread could not be
 * made. */
double peak_gflops(peak_kind k, int n_threads, double seconds);

/* Billions of bytes a second that n_threads read together, front to back, each from
 * its part of an array of at least twice the last cache. 0: out of memory or
 * threads. */
double peak_read_gbytes(int n_threads, double seconds);

#endif
