/* vec_avx2.h: 8 floats and what the simd_*.h templates do with them. */
#ifndef MOE_CPU_VEC_AVX2_H
#define MOE_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define LANES 8
typedef __m256 vec;
typedef __m256i lanes;

static inline lanes v_first(int n) /* n < 8 */
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline vec v_load_some(const float *p, lanes m) { return _mm256_maskload_ps(p, m); }
static inline void v_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
static inline void v_store_some(float *p, lanes m, vec a) { _mm256_maskstore_ps(p, m, a); }
static inline vec v_set(float x) { return _mm256_set1_ps(x); }
static inline vec v_add(vec a, vec b) { return _mm256_add_ps(a, b); }
static inline vec v_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
static inline vec v_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
static inline vec v_div(vec a, vec b) { return _mm256_div_ps(a, b); }
static inline vec v_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
/* Of a NaN in b, both give b. */
static inline vec v_max(vec a, vec b) { return _mm256_max_ps(a, b); }
static inline vec v_min(vec a, vec b) { return _mm256_min_ps(a, b); }
static inline vec v_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
static inline vec v_sign_of(vec magnitude, vec sign)
{
    return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}
/* x < y ? a : b */
static inline vec v_if_less(vec x, vec y, vec a, vec b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}
/* a where m, b elsewhere */
static inline vec v_choose(lanes m, vec a, vec b)
{
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m));
}
static inline vec v_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a 2^n for an integral n in [-126, 127] */
static inline vec v_scale(vec a, vec n)
{
    __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
}
static inline vec v_from_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vec v_from_bf16(const uint16_t *p)
{
    __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
/* 8 nearest bf16, ties to even. */
static inline void v_store_bf16(uint16_t *p, vec a)
{
    __m256i bits = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    bits = _mm256_srli_epi32(bits, 16);
    _mm_storeu_si128((__m128i *)(void *)p,
                     _mm_packus_epi32(_mm256_castsi256_si128(bits),
                                      _mm256_extracti128_si256(bits, 1)));
}
/* 8 bytes of whole numbers in [0, 255]. */
static inline void v_store_bytes(uint8_t *p, vec a)
{
    __m256i i = _mm256_cvtps_epi32(a);
    __m128i h = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packus_epi16(h, h));
}
/* Integer lanes less offset (NULL: 0) as floats. */
static inline vec v_from_ints(vec bits, const int32_t *offset)
{
    __m256i i = _mm256_castps_si256(bits);
    if (offset)
        i = _mm256_sub_epi32(i, _mm256_loadu_si256((const __m256i *)(const void *)offset));
    return _mm256_cvtepi32_ps(i);
}

/* sum + the lanes' products of two bf16 each. */
static inline vec v_dot_bf16(vec a, vec b, vec sum)
{
    const vec high = _mm256_castsi256_ps(_mm256_set1_epi32(-65536));
    vec a0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16));
    vec b0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(b), 16));
    return v_fma(_mm256_and_ps(a, high), _mm256_and_ps(b, high), v_fma(a0, b0, sum));
}

/* Integer sum + the lanes' products of four unsigned bytes of a and signed ones of b. */
static inline vec v_dot_i8(vec a, vec b, vec sum)
{
    __m256i x = _mm256_castps_si256(a), y = _mm256_castps_si256(b), s = _mm256_castps_si256(sum);
#ifdef __AVXVNNI__
    s = _mm256_dpbusd_avx_epi32(s, x, y);
#else /* by 16 bits, since the instruction for bytes saturates */
    __m256i x0 = _mm256_and_si256(x, _mm256_set1_epi16(255)), x1 = _mm256_srli_epi16(x, 8);
    __m256i y0 = _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8), y1 = _mm256_srai_epi16(y, 8);
    s = _mm256_add_epi32(s, _mm256_madd_epi16(x0, y0));
    s = _mm256_add_epi32(s, _mm256_madd_epi16(x1, y1));
#endif
    return _mm256_castsi256_ps(s);
}

/* Over all lanes, in one order. */
static inline float v_sum(vec a)
{
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}
static inline float v_greatest(vec a)
{
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
}

#endif
