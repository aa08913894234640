/* simd_rows.h: operations on one row, a template over vec_*.h. Sums run over
 * LANES partial sums that are added up in one order: they depend on the row's
 * length alone. */
#ifndef MOE_CPU_SIMD_ROWS_H
#define MOE_CPU_SIMD_ROWS_H

#include <math.h>
#include <string.h>

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd_math.h"

/* A row's tail: what is left after whole vectors. */
static inline int whole(int n)
{
    return n / LANES * LANES;
}

/* Two chains each for the maximum and the sum: one would be waited for. */
static float row_max(const float *row, int n)
{
    vec max = v_set(-INFINITY), other = max;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        max = v_max(max, v_load(row + i));
        other = v_max(other, v_load(row + i + LANES));
    }
    for (; i < whole(n); i += LANES)
        max = v_max(max, v_load(row + i));
    if (i < n) {
        lanes rest = v_first(n - i);
        max = v_max(max, v_choose(rest, v_load_some(row + i, rest), max));
    }
    return v_greatest(v_max(max, other));
}

static float softmax(float *row, int n, float scale)
{
    /* e^(scale (x - max)); the product first, so that a fused one can subtract */
    vec by = v_set(scale), shift = v_set(-scale * row_max(row, n));
    vec sum = v_set(0), other = sum;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec e = v_exp(v_fma(by, v_load(row + i), shift));
        vec f = v_exp(v_fma(by, v_load(row + i + LANES), shift));
        v_store(row + i, e);
        v_store(row + i + LANES, f);
        sum = v_add(sum, e);
        other = v_add(other, f);
    }
    for (; i < whole(n); i += LANES) {
        vec e = v_exp(v_fma(by, v_load(row + i), shift));
        v_store(row + i, e);
        sum = v_add(sum, e);
    }
    if (i < n) {
        lanes rest = v_first(n - i);
        vec e = v_exp(v_fma(by, v_load_some(row + i, rest), shift));
        v_store_some(row + i, rest, e);
        other = v_add(other, v_choose(rest, e, v_set(0)));
    }
    return 1 / v_sum(v_add(sum, other));
}

/* y = x + residual; returns its sum. */
static float add_rows(const float *x, const float *residual, int n, float *y)
{
    vec sum = v_set(0);
    int i = 0;
    for (; i < whole(n); i += LANES) {
        vec v = residual ? v_add(v_load(x + i), v_load(residual + i)) : v_load(x + i);
        v_store(y + i, v);
        sum = v_add(sum, v);
    }
    if (i < n) {
        lanes rest = v_first(n - i);
        vec v = v_load_some(x + i, rest);
        v = residual ? v_add(v, v_load_some(residual + i, rest)) : v;
        v_store_some(y + i, rest, v);
        sum = v_add(sum, v);
    }
    return v_sum(sum);
}

static float squared_distance(const float *x, int n, float from)
{
    vec sum = v_set(0), mean = v_set(from);
    int i = 0;
    for (; i < whole(n); i += LANES) {
        vec v = v_sub(v_load(x + i), mean);
        sum = v_fma(v, v, sum);
    }
    if (i < n) {
        lanes rest = v_first(n - i);
        vec v = v_choose(rest, v_sub(v_load_some(x + i, rest), mean), v_set(0));
        sum = v_fma(v, v, sum);
    }
    return v_sum(sum);
}

static void norm(const moe_norm *w, const float *x, const float *residual, float *y)
{
    float mean = add_rows(x, residual, w->d, y) / (float)w->d;
    mean = w->rms ? 0 : mean;
    float variance = squared_distance(y, w->d, mean) / (float)w->d;
    vec shift = v_set(mean), by = v_set(1 / sqrtf(variance + w->eps));
    int i = 0;
    for (; i < whole(w->d); i += LANES) {
        vec v = v_mul(v_sub(v_load(y + i), shift), by);
        vec beta = w->beta ? v_load(w->beta + i) : v_set(0);
        v_store(y + i, v_fma(v, v_load(w->gamma + i), beta));
    }
    if (i < w->d) {
        lanes rest = v_first(w->d - i);
        vec v = v_mul(v_sub(v_load_some(y + i, rest), shift), by);
        vec beta = w->beta ? v_load_some(w->beta + i, rest) : v_set(0);
        v = v_fma(v, v_load_some(w->gamma + i, rest), beta);
        v_store_some(y + i, rest, v);
    }
}

static void normalize(const float *x, int n, float *y)
{
    float squares = squared_distance(x, n, 0);
    vec by = v_set(squares > 0 ? 1 / sqrtf(squares) : 0);
    int i = 0;
    for (; i < whole(n); i += LANES)
        v_store(y + i, v_mul(v_load(x + i), by));
    if (i < n) {
        lanes rest = v_first(n - i);
        v_store_some(y + i, rest, v_mul(v_load_some(x + i, rest), by));
    }
}

/* One row's dot product: two chains of sums, then the tail. */
static float dot(const float *a, const float *b, int n)
{
    vec sum = v_set(0), other = sum;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        sum = v_fma(v_load(a + i), v_load(b + i), sum);
        other = v_fma(v_load(a + i + LANES), v_load(b + i + LANES), other);
    }
    for (; i < whole(n); i += LANES)
        sum = v_fma(v_load(a + i), v_load(b + i), sum);
    if (i < n) {
        lanes rest = v_first(n - i);
        other = v_fma(v_load_some(a + i, rest), v_load_some(b + i, rest), other);
    }
    return v_sum(v_add(sum, other));
}

static void dot_rows(const float *x, int n, const float *const *row, int n_rows, float *y)
{
    for (int r = 0; r < n_rows; r++)
        y[r] = dot(x, row[r], n);
}

/* Some columns' sums stay in registers for all rows. */
static void mix_rows(const float *weight, const float *const *row, int n_rows, int n,
                     float *y)
{
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vec sum = v_set(0), other = sum;
        for (int r = 0; r < n_rows; r++) {
            vec w = v_set(weight[r]);
            sum = v_fma(w, v_load(row[r] + i), sum);
            other = v_fma(w, v_load(row[r] + i + LANES), other);
        }
        v_store(y + i, sum);
        v_store(y + i + LANES, other);
    }
    for (; i < n; i += LANES) {
        bool part = n - i < LANES;
        lanes rest = v_first(part ? n - i : 0);
        vec sum = v_set(0);
        for (int r = 0; r < n_rows; r++)
            sum = v_fma(v_set(weight[r]),
                        part ? v_load_some(row[r] + i, rest) : v_load(row[r] + i), sum);
        if (part)
            v_store_some(y + i, rest, sum);
        else
            v_store(y + i, sum);
    }
}

static void widen(const moe_table *table, int row, float *y)
{
    size_t first = (size_t)row * (size_t)table->d;
    const uint16_t *half = (const uint16_t *)table->rows + first;
    int i = 0, n = table->d;
    if (table->dtype == MOE_F32) {
        memcpy(y, (const float *)table->rows + first, (size_t)n * sizeof *y);
    } else if (table->dtype == MOE_F16) {
        for (; i < whole(n); i += LANES)
            v_store(y + i, v_from_f16(half + i));
        for (; i < n; i++)
            y[i] = float_from_f16(half[i]);
    } else {
        for (; i < whole(n); i += LANES)
            v_store(y + i, v_from_bf16(half + i));
        for (; i < n; i++)
            y[i] = float_from_bf16(half[i]);
    }
}

static void to_bf16(const float *x, int n, uint32_t *y)
{
    uint16_t *to = (uint16_t *)(void *)y;
    int i = 0;
    for (; i < whole(n); i += LANES)
        v_store_bf16(to + i, v_load(x + i));
    if (i < n) {
        uint16_t last[LANES];
        v_store_bf16(last, v_load_some(x + i, v_first(n - i)));
        memcpy(to + i, last, (size_t)(n - i) * sizeof *last);
    }
    if (n % 2)
        to[n] = 0;
}

static float largest(const float *x, int n)
{
    vec most = v_set(0);
    int i = 0;
    for (; i < whole(n); i += LANES)
        most = v_max(most, v_abs(v_load(x + i)));
    if (i < n)
        most = v_max(most, v_abs(v_load_some(x + i, v_first(n - i))));
    return v_greatest(most);
}

static float to_i8(const float *x, int n, bool is_unsigned, uint32_t *y)
{
    uint8_t *to = (uint8_t *)(void *)y;
    float steps = is_unsigned ? 255 : 127, most = largest(x, n);
    float inverse = most > CPU_LEAST_SCALED ? steps / most : 0;
    vec by = v_set(inverse), zero = v_set(is_unsigned ? 0 : 128);
    int i = 0;
    for (; i < whole(n); i += LANES)
        v_store_bytes(to + i, v_add(v_round(v_mul(v_load(x + i), by)), zero));
    if (i < n) {
        uint8_t last[LANES];
        vec rest = v_load_some(x + i, v_first(n - i));
        v_store_bytes(last, v_add(v_round(v_mul(rest, by)), zero));
        memcpy(to + i, last, (size_t)(n - i));
        for (i = n; i % 4; i++)
            to[i] = 0;
    }
    return inverse > 0 ? most / steps : 0;
}

/* Four rows by four columns at a time. */
static void transpose_4x4(const float *x, size_t ldx, float *panel)
{
    __m128 a = _mm_loadu_ps(x), b = _mm_loadu_ps(x + ldx);
    __m128 c = _mm_loadu_ps(x + 2 * ldx), d = _mm_loadu_ps(x + 3 * ldx);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(panel, a);
    _mm_storeu_ps(panel + MOE_LINEAR_PANEL, b);
    _mm_storeu_ps(panel + 2 * MOE_LINEAR_PANEL, c);
    _mm_storeu_ps(panel + 3 * MOE_LINEAR_PANEL, d);
}

static void transpose(const float *x, size_t ldx, int n_rows, int k, float *panel)
{
    if (n_rows < MOE_LINEAR_PANEL)
        memset(panel, 0, (size_t)k * MOE_LINEAR_PANEL * sizeof *panel);
    int j = 0;
    for (; j + 4 <= n_rows; j += 4) {
        const float *rows = x + (size_t)j * ldx;
        int kk = 0;
        for (; kk + 4 <= k; kk += 4)
            transpose_4x4(rows + kk, ldx, panel + kk * MOE_LINEAR_PANEL + j);
        for (; kk < k; kk++)
            for (int i = 0; i < 4; i++)
                panel[kk * MOE_LINEAR_PANEL + j + i] = rows[(size_t)i * ldx + (size_t)kk];
    }
    for (; j < n_rows; j++)
        for (int kk = 0; kk < k; kk++)
            panel[kk * MOE_LINEAR_PANEL + j] = x[(size_t)j * ldx + (size_t)kk];
}

#endif
