/* blas.c: OpenBLAS behind four calls. */
#include <cblas.h>

#include "convert/blas.h"

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
