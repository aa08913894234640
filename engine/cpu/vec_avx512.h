/* vec_avx512.h: 16 floats and what the simd_*.h templates do with them. */
#ifndef MOE_CPU_VEC_AVX512_H
#define MOE_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
typedef __m512 vec;
typedef __mmask16 lanes;

static inline lanes v_first(int n) { return (lanes)((1u << n) - 1); } /* n < 16 */
static inline vec v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vec v_load_some(const float *p, lanes m) { return _mm512_maskz_loadu_ps(m, p); }
static inline void v_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
static inline void v_store_some(float *p, lanes m, vec a) { _mm512_mask_storeu_ps(p, m, a); }
static inline vec v_set(float x) { return _mm512_set1_ps(x); }
static inline vec v_add(vec a, vec b) { return _mm512_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
static inline vec v_div(vec a, vec b) { return _mm512_div_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
/* Of a NaN in b, both give b. */
static inline vec v_max(vec a, vec b) { return _mm512_max_ps(a, b); }
static inline vec v_min(vec a, vec b) { return _mm512_min_ps(a, b); }
static inline vec v_abs(vec a) { return _mm512_abs_ps(a); }
static inline vec v_sign_of(vec magnitude, vec sign)
{
    return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
/* x < y ? a : b */
static inline vec v_if_less(vec x, vec y, vec a, vec b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}
/* a where m, b elsewhere */
static inline vec v_choose(lanes m, vec a, vec b) { return _mm512_mask_blend_ps(m, b, a); }
static inline vec v_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a 2^n for an integral n in [-126, 127] */
static inline vec v_scale(vec a, vec n) { return _mm512_scalef_ps(a, n); }
static inline __m256 v_high(vec a) { return _mm512_extractf32x8_ps(a, 1); }
static inline __m256 v_low(vec a) { return _mm512_castps512_ps256(a); }
static inline vec v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vec v_from_bf16(const uint16_t *p)
{
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
/* 16 nearest bf16, ties to even. */
static inline void v_store_bf16(uint16_t *p, vec a)
{
    __m512i bits = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    bits = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
/* 16 bytes of whole numbers in [0, 255]. */
static inline void v_store_bytes(uint8_t *p, vec a)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
/* Integer lanes less offset (NULL: 0) as floats. */
static inline vec v_from_ints(vec bits, const int32_t *offset)
{
    __m512i i = _mm512_castps_si512(bits);
    if (offset)
        i = _mm512_sub_epi32(i, _mm512_loadu_si512(offset));
    return _mm512_cvtepi32_ps(i);
}

/* sum + the lanes' products of two bf16 each. */
static inline vec v_dot_bf16(vec a, vec b, vec sum)
{
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
#else
    const vec high = _mm512_castsi512_ps(_mm512_set1_epi32(-65536));
    vec a0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 16));
    vec b0 = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(b), 16));
    return v_fma(_mm512_and_ps(a, high), _mm512_and_ps(b, high), v_fma(a0, b0, sum));
#endif
}

/* Integer sum + the lanes' products of four unsigned bytes of a and signed ones of b. */
static inline vec v_dot_i8(vec a, vec b, vec sum)
{
    __m512i x = _mm512_castps_si512(a), y = _mm512_castps_si512(b), s = _mm512_castps_si512(sum);
#ifdef __AVX512VNNI__
    s = _mm512_dpbusd_epi32(s, x, y);
#else /* by 16 bits, since the instruction for bytes saturates */
    __m512i x0 = _mm512_and_si512(x, _mm512_set1_epi16(255)), x1 = _mm512_srli_epi16(x, 8);
    __m512i y0 = _mm512_srai_epi16(_mm512_slli_epi16(y, 8), 8), y1 = _mm512_srai_epi16(y, 8);
    s = _mm512_add_epi32(s, _mm512_madd_epi16(x0, y0));
    s = _mm512_add_epi32(s, _mm512_madd_epi16(x1, y1));
#endif
    return _mm512_castsi512_ps(s);
}

/* Over all lanes, in one order. */
static inline float v_sum(vec a)
{
    __m256 b = _mm256_add_ps(v_low(a), v_high(a));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
static inline float v_greatest(vec a)
{
    __m256 b = _mm256_max_ps(v_low(a), v_high(a));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

#endif
