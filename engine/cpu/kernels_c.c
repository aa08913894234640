/* kernels_c.c: the kernels in plain C. They mirror their equations and are what
 * the tests hold the other ISAs against; on a machine without AVX2 they run. The
 * loops over 32 columns are written so that a compiler vectorises them. */
#include <math.h>
#include <string.h>

#include "engine/cpu/kernels.h"
#include "engine/model/lower.h"

enum { PANEL = MOE_LINEAR_PANEL };

static float activate(float v, moe_activation act)
{
    switch (act) {
    case MOE_ACT_RELU:
        return v < 0 ? 0 : v;
    case MOE_ACT_GELU_ERF:
        return 0.5f * v * (1 + erff(v * 0.70710678f));
    case MOE_ACT_GELU_TANH:
        return 0.5f * v * (1 + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
    case MOE_ACT_TANH:
        return tanhf(v);
    case MOE_ACT_NONE:
        break;
    }
    return v;
}

/* acc [32] += row i of a times panel p of b. */
static void dot_panel(const cpu_gemm *g, int i, int p, float *restrict acc)
{
    const float *a = g->a[i];
    for (int s = 0; s < g->n_blocks; s++) {
        const float *b = g->b[s] + (size_t)p * g->panel_stride;
        for (int kk = 0; kk < g->k; kk++, b += g->ldb)
            for (int j = 0; j < PANEL; j++)
                acc[j] += a[kk] * b[j];
        a += g->k;
    }
}

static void gemm_c(const cpu_gemm *g)
{
    for (int p = 0; p * PANEL < g->n; p++) {
        int first = p * PANEL;
        int columns = g->n - first < PANEL ? g->n - first : PANEL;
        size_t bytes = (size_t)columns * sizeof(float);
        for (int i = 0; i < g->m; i++) {
            float acc[PANEL] = {0};
            if (g->add)
                memcpy(acc, g->c[i] + first, bytes);
            else if (g->bias)
                memcpy(acc, g->bias + first, bytes);
            dot_panel(g, i, p, acc);
            for (int j = 0; j < columns; j++)
                g->c[i][first + j] = activate(acc[j], g->act);
        }
    }
}

/* The two bf16 of a unit. */
static void open_unit(float unit, float out[2])
{
    uint32_t bits;
    memcpy(&bits, &unit, sizeof bits);
    out[0] = float_from_bf16((uint16_t)bits);
    out[1] = float_from_bf16((uint16_t)(bits >> 16));
}

static void gemm_bf16_c(const cpu_gemm *g)
{
    for (int i = 0; i < g->m; i++)
        for (int j = 0; j < g->n; j++) {
            const float *a = g->a[i];
            float sum = g->add ? g->c[i][j] : g->bias ? g->bias[j] : 0;
            for (int s = 0; s < g->n_blocks; s++) {
                const float *b = g->b[s] + (size_t)(j / PANEL) * g->panel_stride + j % PANEL;
                for (int kk = 0; kk < g->k; kk++, b += g->ldb) {
                    float x[2], y[2];
                    open_unit(*a++, x);
                    open_unit(*b, y);
                    sum += x[0] * y[0];
                    sum += x[1] * y[1];
                }
            }
            g->c[i][j] = activate(sum, g->act);
        }
}

static int32_t dot_i8(const cpu_gemm *g, int i, int j)
{
    const uint8_t *a = (const uint8_t *)g->a[i];
    const float *b = g->b[0] + (size_t)(j / PANEL) * g->panel_stride + j % PANEL;
    int32_t sum = 0;
    for (int kk = 0; kk < g->k; kk++, a += 4, b += g->ldb) {
        const int8_t *w = (const int8_t *)b;
        for (int v = 0; v < 4; v++)
            sum += a[v] * w[v];
    }
    return sum;
}

static void gemm_i8_c(const cpu_gemm *g)
{
    for (int i = 0; i < g->m; i++)
        for (int j = 0; j < g->n; j++) {
            float sum = (float)(dot_i8(g, i, j) - (g->b_offset ? g->b_offset[j] : 0));
            float *c = &g->c[i][j];
            if (g->add)
                *c += g->a_scale[i] * sum;
            else
                *c = g->a_scale[i] * g->b_scale[j] * sum + (g->bias ? g->bias[j] : 0);
            *c = activate(*c, g->act);
        }
}

static void to_bf16_c(const float *x, int n, uint32_t *y)
{
    uint16_t *to = (uint16_t *)(void *)y;
    for (int i = 0; i < n; i++)
        to[i] = lower_bf16(x[i]);
    if (n % 2)
        to[n] = 0;
}

static float to_i8_c(const float *x, int n, bool is_unsigned, uint32_t *y)
{
    uint8_t *to = (uint8_t *)(void *)y;
    float most = 0, steps = is_unsigned ? 255 : 127;
    for (int i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    float inverse = most > CPU_LEAST_SCALED ? steps / most : 0;
    for (int i = 0; i < n; i++) {
        float q = rintf(x[i] * inverse) + (is_unsigned ? 0 : 128);
        to[i] = q >= 0 && q <= 255 ? (uint8_t)q : 0; /* a NaN is anything */
    }
    for (int i = n; i % 4; i++)
        to[i] = 0;
    return inverse > 0 ? most / steps : 0;
}

static float softmax_c(float *row, int n, float scale)
{
    float max = row[0];
    for (int i = 1; i < n; i++)
        max = row[i] > max ? row[i] : max;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        row[i] = expf(scale * (row[i] - max));
        sum += row[i];
    }
    return (float)(1 / sum);
}

static void norm_c(const moe_norm *w, const float *x, const float *residual, float *y)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < w->d; i++) {
        y[i] = residual ? x[i] + residual[i] : x[i];
        sum += y[i];
    }
    double mean = w->rms ? 0 : sum / w->d;
    for (int i = 0; i < w->d; i++)
        squares += (y[i] - mean) * (y[i] - mean);
    float inverse = (float)(1 / sqrt(squares / w->d + w->eps));
    for (int i = 0; i < w->d; i++)
        y[i] = (y[i] - (float)mean) * inverse * w->gamma[i] + (w->beta ? w->beta[i] : 0);
}

float float_from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* A half's exponent and mantissa, moved to a float's places, make a number 2^112
 * times too small; multiplying is exact, subnormals included. */
float float_from_f16(uint16_t bits)
{
    uint32_t wide = (uint32_t)(bits & 0x7fff) << 13;
    float value;
    memcpy(&value, &wide, sizeof value);
    value *= 0x1p112f;
    memcpy(&wide, &value, sizeof value);
    if ((bits & 0x7c00) == 0x7c00) /* infinity and NaN */
        wide |= 0x7f800000;
    wide |= (uint32_t)(bits & 0x8000) << 16;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static void widen_c(const moe_table *table, int row, float *y)
{
    size_t first = (size_t)row * (size_t)table->d;
    const uint16_t *half = (const uint16_t *)table->rows;
    switch (table->dtype) {
    case MOE_F16:
        for (int i = 0; i < table->d; i++)
            y[i] = float_from_f16(half[first + (size_t)i]);
        break;
    case MOE_BF16:
        for (int i = 0; i < table->d; i++)
            y[i] = float_from_bf16(half[first + (size_t)i]);
        break;
    default:
        memcpy(y, (const float *)table->rows + first, (size_t)table->d * sizeof *y);
    }
}

static void normalize_c(const float *x, int n, float *y)
{
    double squares = 0;
    for (int i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    float inverse = squares > 0 ? (float)(1 / sqrt(squares)) : 0;
    for (int i = 0; i < n; i++)
        y[i] = x[i] * inverse;
}

static void transpose_c(const float *x, size_t ldx, int n_rows, int k, float *panel)
{
    for (int kk = 0; kk < k; kk++)
        for (int j = 0; j < PANEL; j++)
            panel[kk * PANEL + j] = j < n_rows ? x[(size_t)j * ldx + (size_t)kk] : 0;
}

static void dot_rows_c(const float *x, int n, const float *const *row, int n_rows, float *y)
{
    for (int r = 0; r < n_rows; r++) {
        y[r] = 0;
        for (int i = 0; i < n; i++)
            y[r] += x[i] * row[r][i];
    }
}

static void mix_rows_c(const float *weight, const float *const *row, int n_rows, int n,
                       float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = 0;
    for (int r = 0; r < n_rows; r++)
        for (int i = 0; i < n; i++)
            y[i] += weight[r] * row[r][i];
}

const cpu_kernels cpu_kernels_c = {
    .isa = "c",
    .gemm = gemm_c,
    .gemm_bf16 = gemm_bf16_c,
    .gemm_i8 = gemm_i8_c,
    .to_bf16 = to_bf16_c,
    .to_i8 = to_i8_c,
    .softmax = softmax_c,
    .norm = norm_c,
    .widen = widen_c,
    .normalize = normalize_c,
    .transpose = transpose_c,
    .dot_rows = dot_rows_c,
    .mix_rows = mix_rows_c,
};
