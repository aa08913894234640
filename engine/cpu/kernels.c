/* kernels.c: which ISA this machine has, by cpuid. */
#include <string.h>

#include "engine/cpu/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_avx2(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_F16C))
        return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx2vnni(void)
{
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static bool has_avx512vnni(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512vnni");
}

static bool has_avx512bf16(void)
{
    unsigned a, b, c, d;
    return has_avx512vnni() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

/* Tiles with bf16 and int8. Linux lends their registers to a process that asks for them;
 * asking again does no harm. */
static bool has_avx512amx(void)
{
    enum { TILES = 1 << 24 | 1 << 25 | 1 << 22, REQUEST = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & TILES) != TILES)
        return false;
#if defined(__linux__)
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
#else
    return false;
#endif
}
#endif

static bool has_c(void)
{
    return true;
}

const cpu_kernels *cpu_kernels_find(const char *name)
{
    static const struct { const cpu_kernels *table; bool (*here)(void); } all[] = {
#if defined(__x86_64__)
        {&cpu_kernels_avx512amx, has_avx512amx}, {&cpu_kernels_avx512bf16, has_avx512bf16},
        {&cpu_kernels_avx512vnni, has_avx512vnni},
        {&cpu_kernels_avx512, has_avx512}, {&cpu_kernels_avx2vnni, has_avx2vnni},
        {&cpu_kernels_avx2, has_avx2},
#endif
        {&cpu_kernels_c, has_c},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if ((!name || !*name || strcmp(all[i].table->isa, name) == 0) && all[i].here())
            return all[i].table;
    return NULL;
}
