/* blas.c: OpenBLAS, its products and its LAPACK, behind six calls.
 *
 * LAPACK counts by columns: the lower triangle of our rows is the upper triangle of
 * its columns, and a row of right-hand sides is one of its columns. */
#include "convert/blas.h"

#include <cblas.h>
#include <f77blas.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *kernels_of_this_cpu(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return "Haswell";
#endif
    return NULL;
}

void blas_choose_kernels(char **argv)
{
    const char *better = kernels_of_this_cpu();
    if (!better || getenv("OPENBLAS_CORETYPE") ||
        strcmp(openblas_get_corename(), "Prescott") != 0)
        return;
    if (setenv("OPENBLAS_CORETYPE", better, 1) == 0)
        execv("/proc/self/exe", argv); /* on failure the slow kernels work, too */
}

void blas_begin(void)
{
    openblas_set_num_threads(1);
}

void blas_nt(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
             float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a, lda, b, ldb,
                beta, c, ldc);
}

void blas_nn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
             float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1, a, lda, b, ldb,
                beta, c, ldc);
}

void blas_tn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
             float beta, float *c, int ldc)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, n, k, 1, a, lda, b, ldb,
                beta, c, ldc);
}

void blas_syrk(int n, int k, const float *a, int lda, float beta, float *c, int ldc)
{
    cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, n, k, 1, a, lda, beta, c, ldc);
}

bool blas_cholesky(int n, double *a, int lda)
{
    char upper = 'U';
    int info = 0;
    dpotrf_(&upper, &n, a, &lda, &info);
    return info == 0;
}

void blas_cholesky_solve(int n, int m, const double *l, int ldl, double *b, int ldb)
{
    char upper = 'U';
    int info = 0;
    dpotrs_(&upper, &n, &m, (double *)l, &ldl, b, &ldb, &info); /* only reads l */
}
