/* ridge.c: streamed normal equations, solved by Cholesky.
 *
 * With s and u the means of the first block of x and y, it keeps, in doubles,
 *     G = sum (x - s)^T (x - s)   [d, d]
 *     C = sum (y - u)^T (x - s)   [m, d]
 * and the column sums. Shifting by s and u changes nothing in the answer, but keeps
 * small what centring subtracts later: states after a layer norm have columns whose
 * mean is many times their deviation, and products are made in fp32. A block of
 * BLOCK_ROWS is multiplied tile by tile, each tile of G or C being one task that
 * adds its fp32 product to its own doubles: sums have one order whatever the
 * threads.
 *
 * G is held above the diagonal of `g`, its diagonal apart; on and below the diagonal
 * of `g` solving writes the centred G + lambda I and its factor. So the totals
 * survive, and no second square is needed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/ridge.h"

enum { BLOCK_ROWS = 1024, TILE = 256, SOLVE_ROWS = 64, MAX_RAISES = 12 };

/* A pivot below this share of its diagonal is rounding, not information: dependent
 * columns were seen to leave up to 1e-6 either way. */
static const double LEAST_PIVOT = 5e-6;

struct ridge {
    int d, m;
    workers *w;
    int64_t n_rows;
    int n_buffered;
    bool shifted;
    float *x, *y;           /* [BLOCK_ROWS, d], [BLOCK_ROWS, m]: the block at hand */
    float *shift_x, *shift_y; /* [d], [m] */
    double *sum_x, *sum_y;  /* [d], [m] of shifted values */
    double *g;              /* [d, d] */
    double *c;              /* [m, d] */
    double *diagonal;       /* [d] of G */
    float *tile;            /* [workers][TILE, TILE] */
    double *rhs;            /* [workers][SOLVE_ROWS, d] */
};

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int tiles_of(int n)
{
    return (n + TILE - 1) / TILE;
}

moe_status ridge_create(int d, int m, workers *w, ridge **out, moe_error *err)
{
    const size_t columns = (size_t)d, targets = (size_t)m;
    const size_t threads = (size_t)workers_count(w);
    ridge *r = *out = calloc(1, sizeof *r);
    if (r) {
        *r = (ridge){.d = d, .m = m, .w = w};
        r->x = malloc(BLOCK_ROWS * columns * sizeof *r->x);
        r->y = malloc(BLOCK_ROWS * targets * sizeof *r->y);
        r->shift_x = calloc(columns, sizeof *r->shift_x);
        r->shift_y = calloc(targets, sizeof *r->shift_y);
        r->sum_x = calloc(columns, sizeof *r->sum_x);
        r->sum_y = calloc(targets, sizeof *r->sum_y);
        r->g = calloc(columns * columns, sizeof *r->g);
        r->c = calloc(targets * columns, sizeof *r->c);
        r->diagonal = calloc(columns, sizeof *r->diagonal);
        r->tile = malloc(threads * TILE * TILE * sizeof *r->tile);
        r->rhs = malloc(threads * SOLVE_ROWS * columns * sizeof *r->rhs);
        if (r->x && r->y && r->shift_x && r->shift_y && r->sum_x && r->sum_y && r->g &&
            r->c && r->diagonal && r->tile && r->rhs)
            return MOE_OK;
    }
    ridge_free(r);
    *out = NULL;
    return moe_fail(err, MOE_E_MEMORY, "no memory to regress %d values on %d", m, d);
}

void ridge_free(ridge *r)
{
    if (!r)
        return;
    free(r->x);
    free(r->y);
    free(r->shift_x);
    free(r->shift_y);
    free(r->sum_x);
    free(r->sum_y);
    free(r->g);
    free(r->c);
    free(r->diagonal);
    free(r->tile);
    free(r->rhs);
    free(r);
}

int64_t ridge_rows(const ridge *r)
{
    return r->n_rows;
}

/* ---- adding -------------------------------------------------------------- */

static void mean_of_columns(const float *rows, int n_rows, int n, float *mean)
{
    for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int t = 0; t < n_rows; t++)
            sum += rows[(size_t)t * (size_t)n + (size_t)i];
        mean[i] = (float)(sum / n_rows);
    }
}

/* Subtracts the shift and adds what is left to the sums. */
static void shift_columns(float *rows, int n_rows, int n, const float *shift,
                          double *sum)
{
    for (int t = 0; t < n_rows; t++) {
        float *row = rows + (size_t)t * (size_t)n;
        for (int i = 0; i < n; i++) {
            row[i] -= shift[i];
            sum[i] += row[i];
        }
    }
}

static void add_tile(const float *tile, int rows, int columns, double *to, int d)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            to[(size_t)i * (size_t)d + (size_t)j] += tile[i * TILE + j];
}

/* Tile i of the upper half of G, counted column by column: (0,0) (0,1) (1,1) (0,2)
 * ... */
static void gram_tile(const ridge *r, int i, float *tile)
{
    int row = i, column = 0;
    while (row > column)
        row -= ++column;
    const int r0 = row * TILE, c0 = column * TILE, d = r->d;
    const int rows = min_int(TILE, d - r0), columns = min_int(TILE, d - c0);
    double *to = r->g + (size_t)r0 * (size_t)d + c0;
    blas_tn(rows, columns, r->n_buffered, r->x + r0, d, r->x + c0, d, 0, tile, TILE);
    if (row != column) {
        add_tile(tile, rows, columns, to, d);
        return;
    }
    for (int j = 0; j < rows; j++) {
        r->diagonal[r0 + j] += tile[j * TILE + j];
        add_tile(tile + j * TILE + j + 1, 1, columns - j - 1,
                 to + (size_t)j * (size_t)d + j + 1, d);
    }
}

static void cross_tile(const ridge *r, int i, float *tile)
{
    const int r0 = i / tiles_of(r->d) * TILE, c0 = i % tiles_of(r->d) * TILE;
    const int rows = min_int(TILE, r->m - r0), columns = min_int(TILE, r->d - c0);
    blas_tn(rows, columns, r->n_buffered, r->y + r0, r->m, r->x + c0, r->d, 0, tile,
            TILE);
    add_tile(tile, rows, columns, r->c + (size_t)r0 * (size_t)r->d + c0, r->d);
}

static void tile_task(void *ctx, int i, int worker)
{
    const ridge *r = ctx;
    const int n = tiles_of(r->d), n_gram = n * (n + 1) / 2;
    float *tile = r->tile + (size_t)worker * TILE * TILE;
    if (i < n_gram)
        gram_tile(r, i, tile);
    else
        cross_tile(r, i - n_gram, tile);
}

static void add_block(ridge *r)
{
    const int n = tiles_of(r->d);
    if (r->n_buffered == 0)
        return;
    if (!r->shifted) {
        mean_of_columns(r->x, r->n_buffered, r->d, r->shift_x);
        mean_of_columns(r->y, r->n_buffered, r->m, r->shift_y);
        r->shifted = true;
    }
    shift_columns(r->x, r->n_buffered, r->d, r->shift_x, r->sum_x);
    shift_columns(r->y, r->n_buffered, r->m, r->shift_y, r->sum_y);
    workers_run(r->w, tile_task, r, n * (n + 1) / 2 + n * tiles_of(r->m));
    r->n_buffered = 0;
}

void ridge_add(ridge *r, const float *x, int ldx, const float *y, int ldy, int n_rows)
{
    const size_t d = (size_t)r->d, m = (size_t)r->m;
    for (int t = 0; t < n_rows; t++) {
        const size_t at = (size_t)r->n_buffered++;
        memcpy(r->x + at * d, x + (size_t)t * (size_t)ldx, d * sizeof *x);
        memcpy(r->y + at * m, y + (size_t)t * (size_t)ldy, m * sizeof *y);
        if (r->n_buffered == BLOCK_ROWS)
            add_block(r);
    }
    r->n_rows += n_rows;
}

/* ---- solving ------------------------------------------------------------- */

/* The centred diagonal of column i. */
static double spread_of(const ridge *r, size_t i)
{
    const double spread = r->diagonal[i] - r->sum_x[i] * r->sum_x[i] / (double)r->n_rows;
    return spread > 0 || !isfinite(spread) ? spread : 0;
}

static double mean_spread(const ridge *r)
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)r->d; i++)
        sum += spread_of(r, i);
    return sum / r->d;
}

/* The lower triangle of g becomes the centred G + lambda I, then its factor. */
static bool factor(ridge *r, double lambda)
{
    const size_t d = (size_t)r->d;
    for (size_t i = 0; i < d; i++) {
        const double mean = r->sum_x[i] / (double)r->n_rows;
        for (size_t j = 0; j < i; j++)
            r->g[i * d + j] = r->g[j * d + i] - mean * r->sum_x[j];
        r->g[i * d + i] = spread_of(r, i) + lambda;
    }
    if (!blas_cholesky(r->d, r->g, r->d))
        return false;
    for (size_t i = 0; i < d; i++) {
        const double pivot = r->g[i * d + i];
        if (!(pivot * pivot > LEAST_PIVOT * (spread_of(r, i) + lambda)))
            return false;
    }
    return true;
}

/* The first sound factor of lambda, or of larger ones. */
static moe_status factor_soundly(ridge *r, double *relative, moe_error *err)
{
    const double spread = mean_spread(r);
    for (int raises = 0; raises <= MAX_RAISES && isfinite(spread); raises++) {
        if (factor(r, *relative * spread))
            return MOE_OK;
        *relative = fmax(10 * *relative, LEAST_PIVOT);
    }
    return moe_fail(err, MOE_E_ARGUMENT, "the %lld rows to regress on hold values that "
                    "are not finite, or too large", (long long)r->n_rows);
}

typedef struct { const ridge *r; float *a, *c; } solve_job;

/* Rows [i * SOLVE_ROWS ..) of A and c, each one right-hand side. */
static void solve_task(void *ctx, int i, int worker)
{
    const solve_job *job = ctx;
    const ridge *r = job->r;
    const size_t d = (size_t)r->d;
    const int first = i * SOLVE_ROWS, rows = min_int(SOLVE_ROWS, r->m - first);
    double *rhs = r->rhs + (size_t)worker * SOLVE_ROWS * d;
    for (int k = 0; k < rows; k++) {
        const size_t row = (size_t)(first + k);
        const double mean = r->sum_y[row] / (double)r->n_rows;
        for (size_t j = 0; j < d; j++)
            rhs[(size_t)k * d + j] = r->c[row * d + j] - mean * r->sum_x[j];
    }
    blas_cholesky_solve(r->d, rows, r->g, r->d, rhs, r->d);
    for (int k = 0; k < rows; k++) {
        const size_t row = (size_t)(first + k);
        double bias = r->shift_y[row] + r->sum_y[row] / (double)r->n_rows;
        for (size_t j = 0; j < d; j++) {
            const double weight = rhs[(size_t)k * d + j];
            job->a[row * d + j] = (float)weight;
            bias -= weight * (r->shift_x[j] + r->sum_x[j] / (double)r->n_rows);
        }
        job->c[row] = (float)bias;
    }
}

/* A = 0, c = the mean of y. */
static void solve_without_spread(const ridge *r, float *a, float *c)
{
    memset(a, 0, (size_t)r->m * (size_t)r->d * sizeof *a);
    for (int k = 0; k < r->m; k++)
        c[k] = r->n_rows == 0 ? 0
             : (float)(r->shift_y[k] + r->sum_y[k] / (double)r->n_rows);
}

moe_status ridge_solve(ridge *r, double relative, float *a, float *c, double *used,
                       moe_error *err)
{
    add_block(r);
    moe_status status = MOE_OK;
    if (r->n_rows == 0 || mean_spread(r) == 0) {
        solve_without_spread(r, a, c);
    } else {
        solve_job job = {.r = r, .a = a, .c = c};
        status = factor_soundly(r, &relative, err);
        if (status == MOE_OK)
            workers_run(r->w, solve_task, &job, (r->m + SOLVE_ROWS - 1) / SOLVE_ROWS);
    }
    for (int k = 0; status == MOE_OK && k < r->m; k++)
        if (!isfinite(c[k]))
            status = moe_fail(err, MOE_E_ARGUMENT, "value %d of the %lld rows to predict "
                              "is not finite, or too large", k, (long long)r->n_rows);
    if (used)
        *used = relative;
    return status;
}
