/* rows.c: operations that work on rows one by one: embedding lookup, addition
 * with layer norm, gathering. Tasks are blocks of rows. */
#include <string.h>

#include "engine/cpu/cpu.h"

enum { ROWS_PER_TASK = 16 };

typedef struct {
    const cpu_kernels *kernels;
    const moe_weights *w;
    const int32_t *ids, *types, *cu_seqlens;
    int n_seqs;
    float *y;
    float *scratch;
    size_t thread_floats;
} embed_job;

int cpu_find_sequence(const int32_t *cu_seqlens, int n_seqs, int t)
{
    int low = 0, high = n_seqs - 1;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (cu_seqlens[middle + 1] > t)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* y += a table's row, if there is such a table (some models have no types). */
static void add_row(const cpu_kernels *kernels, const moe_table *table, int row,
                    float *scratch, float *y)
{
    if (!table->rows)
        return;
    kernels->widen(table, row, scratch);
    for (int i = 0; i < table->d; i++)
        y[i] += scratch[i];
}

/* How many tokens of [from, to) count as positions: all but RoBERTa's padding. */
static int count_positions(const moe_weights *w, const int32_t *ids, int from, int to)
{
    int n = to - from;
    for (int t = from; w->first_position && t < to; t++)
        n -= ids[t] == w->pad_id;
    return n;
}

static void embed_task(void *ctx, int task, int thread)
{
    const embed_job *j = ctx;
    const moe_weights *w = j->w;
    float *scratch = j->scratch + (size_t)thread * j->thread_floats;
    int t = task * ROWS_PER_TASK, end = t + ROWS_PER_TASK;
    if (end > j->cu_seqlens[j->n_seqs])
        end = j->cu_seqlens[j->n_seqs];
    int s = cpu_find_sequence(j->cu_seqlens, j->n_seqs, t);
    int position = count_positions(w, j->ids, j->cu_seqlens[s], t);
    for (; t < end; t++) {
        for (; j->cu_seqlens[s + 1] <= t; s++)
            position = 0;
        int counts = count_positions(w, j->ids, t, t + 1);
        int row = counts ? w->first_position + position : w->first_position - 1;
        float *y = j->y + (size_t)t * (size_t)w->words.d;
        j->kernels->widen(&w->words, j->ids[t], y);
        add_row(j->kernels, &w->positions, row, scratch, y);
        add_row(j->kernels, &w->types, j->types ? j->types[t] : 0, scratch, y);
        if (w->embed_norm.gamma)
            j->kernels->norm(&w->embed_norm, y, NULL, y);
        position += counts;
    }
}

void cpu_embed(moe_backend *base, const moe_weights *w, const int32_t *ids,
               const int32_t *types, const int32_t *cu_seqlens, int n_seqs, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    if (n_seqs == 0)
        return;
    embed_job j = {
        .kernels = b->kernels, .w = w, .ids = ids, .types = types,
        .cu_seqlens = cu_seqlens, .n_seqs = n_seqs, .y = y,
        .scratch = b->thread_scratch, .thread_floats = b->thread_floats,
    };
    pool_run(b->pool, embed_task, &j, cpu_ceil(cu_seqlens[n_seqs], ROWS_PER_TASK));
}

typedef struct {
    const cpu_kernels *kernels;
    const moe_norm *w;
    const float *x, *residual;
    int n_rows;
    float *sum, *y; /* sum: pre_norm's, else NULL */
} norm_job;

static void norm_task(void *ctx, int task, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    int end = (task + 1) * ROWS_PER_TASK;
    end = end > j->n_rows ? j->n_rows : end;
    for (int i = task * ROWS_PER_TASK; i < end; i++) {
        size_t at = (size_t)i * (size_t)j->w->d;
        j->kernels->norm(j->w, j->x + at, j->residual + at, j->y + at);
    }
}

void cpu_add_norm(moe_backend *base, const moe_norm *w, const float *x,
                  const float *residual, int n_rows, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    norm_job j = {.kernels = b->kernels, .w = w, .x = x, .residual = residual,
                  .n_rows = n_rows, .y = y};
    pool_run(b->pool, norm_task, &j, cpu_ceil(n_rows, ROWS_PER_TASK));
}

static void pre_norm_task(void *ctx, int task, int thread)
{
    (void)thread;
    const norm_job *j = ctx;
    int end = (task + 1) * ROWS_PER_TASK;
    end = end > j->n_rows ? j->n_rows : end;
    for (int i = task * ROWS_PER_TASK; i < end; i++) {
        size_t at = (size_t)i * (size_t)j->w->d;
        const float *row = j->residual + at;
        if (j->x) {
            float *sum = j->sum + at;
            for (int c = 0; c < j->w->d; c++)
                sum[c] = j->x[at + (size_t)c] + row[c];
            row = sum;
        }
        j->kernels->norm(j->w, row, NULL, j->y + at);
    }
}

void cpu_pre_norm(moe_backend *base, const moe_norm *w, const float *x,
                  const float *residual, int n_rows, float *sum, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    norm_job j = {.kernels = b->kernels, .w = w, .x = x, .residual = residual,
                  .n_rows = n_rows, .sum = sum, .y = y};
    pool_run(b->pool, pre_norm_task, &j, cpu_ceil(n_rows, ROWS_PER_TASK));
}

typedef struct {
    const moe_ffn *w;
    const moe_shift *shift;
    const int32_t *cu_seqlens;
    int n_seqs;
    float *y;
} shift_job;

static void shift_task(void *ctx, int task, int thread)
{
    (void)thread;
    const shift_job *j = ctx;
    size_t d = (size_t)j->w->d;
    int t = task * ROWS_PER_TASK, end = t + ROWS_PER_TASK;
    end = end > j->cu_seqlens[j->n_seqs] ? j->cu_seqlens[j->n_seqs] : end;
    for (int s = cpu_find_sequence(j->cu_seqlens, j->n_seqs, t); t < end; t++) {
        while (j->cu_seqlens[s + 1] <= t)
            s++;
        const moe_shift *by = &j->shift[s];
        if (by->row < 0)
            continue;
        const float *low = j->w->shift + (size_t)by->row * d;
        const float *high = by->row + 1 < j->w->n_shifts ? low + d : low;
        float *y = j->y + (size_t)t * d;
        for (size_t i = 0; i < d; i++)
            y[i] += (1 - by->part) * low[i] + by->part * high[i];
    }
}

void cpu_add_shift(moe_backend *base, const moe_ffn *w, const moe_shift *shift,
                   const int32_t *cu_seqlens, int n_seqs, float *y)
{
    cpu_backend *b = (cpu_backend *)base;
    shift_job j = {.w = w, .shift = shift, .cu_seqlens = cu_seqlens, .n_seqs = n_seqs, .y = y};
    if (n_seqs > 0)
        pool_run(b->pool, shift_task, &j, cpu_ceil(cu_seqlens[n_seqs], ROWS_PER_TASK));
}

/* For the few rows that a head reads: not worth a second thread. */
void cpu_gather_rows(moe_backend *b, const float *x, int d, const int32_t *row,
                     int n_rows, float *y)
{
    (void)b;
    for (int i = 0; i < n_rows; i++)
        memcpy(y + (size_t)i * (size_t)d, x + (size_t)row[i] * (size_t)d,
               (size_t)d * sizeof *y);
}
