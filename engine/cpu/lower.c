/* lower.c: rows of activations made bf16 or int8, or moved apart, before a product takes
 * them. A row is made by itself, so that the result depends on nothing beside it. */
#include <assert.h>
#include <string.h>

#include "engine/cpu/cpu.h"

enum { ROWS_PER_TASK = 16 };

typedef struct {
    cpu_backend *b;
    moe_dtype t;
    const float *x;
    size_t ldx;
    int n_rows, k;
} job;

static void lower_task(void *ctx, int task, int thread)
{
    (void)thread;
    const job *j = ctx;
    const cpu_kernels *kernels = j->b->kernels;
    int end = (task + 1) * ROWS_PER_TASK;
    end = end > j->n_rows ? j->n_rows : end;
    for (int i = task * ROWS_PER_TASK; i < end; i++) {
        const float *x = j->x + (size_t)i * j->ldx;
        uint32_t *to = j->b->low_x + (size_t)i * j->b->ld_low;
        if (j->t == MOE_F32)
            memcpy(to, x, (size_t)j->k * sizeof *x);
        else if (j->t == MOE_BF16)
            kernels->to_bf16(x, j->k, to);
        else
            j->b->low_scale[i] = kernels->to_i8(x, j->k, false, to);
    }
}

void cpu_lower_rows(cpu_backend *b, moe_dtype t, const float *x, size_t ldx, int n_rows,
                    int k)
{
    assert((size_t)k * moe_dtype_bytes(t) <= b->ld_low * sizeof *b->low_x);
    job j = {.b = b, .t = t, .x = x, .ldx = ldx, .n_rows = n_rows, .k = k};
    pool_run(b->pool, lower_task, &j, cpu_ceil(n_rows, ROWS_PER_TASK));
}
