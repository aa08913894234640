/* kernels.c: which ISA this machine has, by cpuid. */
#include <string.h>

#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

static bool has_avx2(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

const cpu_kernels *cpu_kernels_find(const char *name)
{
    const cpu_kernels *have[3];
    int n = 0;
#if defined(__x86_64__)
    if (has_avx512())
        have[n++] = &cpu_kernels_avx512;
    if (has_avx2())
        have[n++] = &cpu_kernels_avx2;
#endif
    have[n++] = &cpu_kernels_c;
    if (!name || !*name)
        return have[0];
    for (int i = 0; i < n; i++)
        if (strcmp(have[i]->isa, name) == 0)
            return have[i];
    return NULL;
}
