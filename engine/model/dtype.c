/* dtype.c: number formats of tensors, and their way to fp32.
 *
 * Conversions are plain loops that the compiler turns into vector code. Values
 * are loaded with memcpy since a safetensors file promises no alignment. Files
 * and machine are little-endian. */
#include "engine/model/dtype.h"

#include <string.h>

static const struct { const char *name; size_t bytes; } dtypes[MOE_N_DTYPES] = {
    [MOE_F32] = {"F32", 4}, [MOE_F16] = {"F16", 2}, [MOE_BF16] = {"BF16", 2},
    [MOE_I8] = {"I8", 1},   [MOE_U8] = {"U8", 1},   [MOE_I32] = {"I32", 4},
    [MOE_I64] = {"I64", 8},
};

size_t moe_dtype_bytes(moe_dtype t)
{
    return dtypes[t].bytes;
}

const char *moe_dtype_name(moe_dtype t)
{
    return dtypes[t].name;
}

bool dtype_parse(const char *name, moe_dtype *out)
{
    for (int t = 0; t < MOE_N_DTYPES; t++)
        if (strcmp(dtypes[t].name, name) == 0) {
            *out = (moe_dtype)t;
            return true;
        }
    return false;
}

static uint16_t load16(const void *p, size_t i)
{
    uint16_t v;
    memcpy(&v, (const char *)p + 2 * i, sizeof v);
    return v;
}

static uint32_t load32(const void *p, size_t i)
{
    uint32_t v;
    memcpy(&v, (const char *)p + 4 * i, sizeof v);
    return v;
}

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Exponent and fraction moved into their fp32 places make a float that is
 * 2^-112 of the value, for subnormal halves too; the product is exact. */
static void f16_to_f32(const void *from, size_t n, float *to)
{
    const float two_112 = 0x1p112f;
    for (size_t i = 0; i < n; i++) {
        uint32_t h = load16(from, i), sign = (h & 0x8000u) << 16;
        float magnitude = float_of((h & 0x7fffu) << 13) * two_112;
        uint32_t bits;
        memcpy(&bits, &magnitude, sizeof bits);
        /* The largest exponent means infinity or NaN, not 2^16 and up. */
        bits |= (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
        to[i] = float_of(bits | sign);
    }
}

static void bf16_to_f32(const void *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = float_of((uint32_t)load16(from, i) << 16);
}

void dtype_to_f32(moe_dtype t, const void *from, size_t n, float *to)
{
    if (t == MOE_F16)
        f16_to_f32(from, n, to);
    else if (t == MOE_BF16)
        bf16_to_f32(from, n, to);
    else
        memcpy(to, from, n * sizeof *to);
}

/* Not finite: every bit of the exponent is set. */
static bool is_odd(moe_dtype t, const void *p, size_t i)
{
    if (t == MOE_F32)
        return (load32(p, i) & 0x7f800000u) == 0x7f800000u;
    uint16_t exponent = t == MOE_F16 ? 0x7c00 : 0x7f80;
    return (load16(p, i) & exponent) == exponent;
}

/* Branch-free over a block, so that it vectorises. */
static bool block_has_odd(moe_dtype t, const void *p, size_t begin, size_t end)
{
    unsigned any = 0;
    if (t == MOE_F32) {
        for (size_t i = begin; i < end; i++)
            any |= (load32(p, i) & 0x7f800000u) == 0x7f800000u;
        return any;
    }
    uint16_t exponent = t == MOE_F16 ? 0x7c00 : 0x7f80;
    for (size_t i = begin; i < end; i++)
        any |= (load16(p, i) & exponent) == exponent;
    return any;
}

size_t dtype_first_not_finite(moe_dtype t, const void *values, size_t n)
{
    enum { STEP = 4096 };
    for (size_t begin = 0; begin < n; begin += STEP) {
        size_t end = n - begin < STEP ? n : begin + STEP;
        if (!block_has_odd(t, values, begin, end))
            continue;
        for (size_t i = begin; i < end; i++)
            if (is_odd(t, values, i))
                return i;
    }
    return n;
}
