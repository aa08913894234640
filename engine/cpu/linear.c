/* linear.c: matrix products with packed weights, on all threads. The output is
 * cut into tasks of (block of rows) x (group of 32-column panels): the rows of a
 * block stay in L2 while the panels stream by. Tasks come in the order of their
 * blocks, so that threads work on the same rows and different weights. */
#include "engine/cpu/cpu.h"
#include "engine/model/lower.h"

enum {
    BLOCK_BYTES = 512 << 10, /* of input rows, a share of L2 */
    MIN_ROWS = 48,
    MIN_WORK = 1 << 18,      /* multiply-adds: less is not worth waking a thread */
    FEW_ROWS = 8,            /* that crowd nothing */
    TASKS_PER_THREAD = 12,
};

typedef struct {
    const cpu_backend *b;
    const cpu_product *p;
    int k;                  /* units of depth */
    const float *x;         /* rows of them */
    size_t ldx;
    int row_blocks, groups; /* tasks = row_blocks * groups */
} job;

static int count_row_blocks(const cpu_product *p)
{
    int rows = (int)(BLOCK_BYTES / (moe_dtype_bytes(p->dtype) * (size_t)p->k));
    rows = rows < MIN_ROWS ? MIN_ROWS : rows;
    rows = rows > CPU_TASK_ROWS ? CPU_TASK_ROWS : rows;
    return cpu_ceil(p->n_rows, rows);
}

/* Enough groups to keep the threads busy to the end, no more than panels. */
static int count_groups(const cpu_product *p, int row_blocks, int n_threads)
{
    int panels = cpu_ceil(p->n, MOE_LINEAR_PANEL);
    if (p->plane_panels)
        return cpu_ceil(panels, p->plane_panels);
    int64_t work = (int64_t)p->n_rows * p->k * p->n / row_blocks;
    int64_t most = work / MIN_WORK;
    int groups = cpu_ceil(n_threads * TASKS_PER_THREAD, row_blocks);
    if (groups > most)
        groups = (int)most;
    if (groups > panels)
        groups = panels;
    return groups < 1 ? 1 : groups;
}

/* The panels of a group: [first, end). */
static void find_panels(const job *j, int group, int *first, int *end)
{
    const cpu_product *p = j->p;
    int panels = cpu_ceil(p->n, MOE_LINEAR_PANEL);
    if (p->plane_panels) {
        *first = group * p->plane_panels;
        *end = *first + p->plane_panels < panels ? *first + p->plane_panels : panels;
    } else {
        *first = cpu_part(panels, j->groups, group);
        *end = cpu_part(panels, j->groups, group + 1);
    }
}

static void product_task(void *ctx, int task, int thread)
{
    (void)thread;
    const job *j = ctx;
    const cpu_product *p = j->p;
    const float *a[CPU_TASK_ROWS];
    float *c[CPU_TASK_ROWS];
    int block = task / j->groups, group = task % j->groups, first, end;
    int row = cpu_part(p->n_rows, j->row_blocks, block);
    int end_row = cpu_part(p->n_rows, j->row_blocks, block + 1);
    find_panels(j, group, &first, &end);
    int column = first * MOE_LINEAR_PANEL, end_column = end * MOE_LINEAR_PANEL;
    end_column = end_column > p->n ? p->n : end_column;
    size_t panel_stride = (size_t)j->k * MOE_LINEAR_PANEL;
    const float *w = (const float *)p->w + (size_t)first * panel_stride;
    float *y = p->y + (p->plane_panels ? (size_t)group * p->plane_stride : (size_t)column);
    for (int i = row; i < end_row; i++) {
        a[i - row] = j->x + (size_t)i * j->ldx;
        c[i - row] = y + (size_t)i * p->ldy;
    }
    cpu_gemm_run(j->b->kernels, p->dtype, &(cpu_gemm){
        .m = end_row - row, .n = end_column - column, .k = j->k,
        .a = a, .c = c, .n_blocks = 1, .b = &w,
        .panel_stride = panel_stride, .ldb = MOE_LINEAR_PANEL,
        .bias = p->bias ? p->bias + column : NULL, .act = p->act,
        .a_scale = p->scale ? j->b->low_scale + row : NULL,
        .b_scale = p->scale ? p->scale + column : NULL,
        .b_offset = p->offset ? p->offset + column : NULL,
    });
}

void cpu_product_run(cpu_backend *b, const cpu_product *p)
{
    if (p->n_rows == 0)
        return;
    job j = {.b = b, .p = p, .row_blocks = count_row_blocks(p),
             .k = p->k, .x = p->x, .ldx = p->ldx};
    if (p->dtype != MOE_F32 || (cpu_crowds(p->ldx) && p->n_rows >= FEW_ROWS)) {
        cpu_lower_rows(b, p->dtype, p->x, p->ldx, p->n_rows, p->k);
        j.k = cpu_ceil(p->k, lower_unit(p->dtype));
        j.x = (const float *)(const void *)b->low_x;
        j.ldx = b->ld_low;
    }
    j.groups = count_groups(p, j.row_blocks, b->n_threads);
    pool_run(b->pool, product_task, &j, j.row_blocks * j.groups);
}

void cpu_linear(moe_backend *base, const moe_linear *w, moe_activation act,
                const float *x, int n_rows, float *y)
{
    cpu_product_run((cpu_backend *)base, &(cpu_product){
        .x = x, .ldx = (size_t)w->k, .n_rows = n_rows, .k = w->k, .n = w->n,
        .w = w->w, .bias = w->b, .dtype = w->dtype, .scale = w->scale, .offset = w->offset,
        .act = act, .y = y, .ldy = (size_t)w->n,
    });
}
