/* blas.h: matrix products of the converter; blas.c is the one file that knows
 * OpenBLAS. Matrices are row-major floats, ld* the floats from row to row.
 *
 * OpenBLAS's own threads are off (its sums would depend on their number):
 * callers cut the work into tasks of a fixed shape, see workers.h. All may be
 * called from several threads at once. C is beta C + product; with beta 0 it is
 * not read. */
#ifndef CONVERT_BLAS_H
#define CONVERT_BLAS_H

#include <stdbool.h>

/* OpenBLAS picks its kernels by the CPU's model number and takes a model newer
 * than itself for a Pentium 4, several times slower. Where it did and the CPU has
 * AVX2 or AVX-512, starts the program again with the right kernels named in
 * OPENBLAS_CORETYPE; otherwise returns. Call first thing in main. */
void blas_choose_kernels(char **argv);

/* Call before the first product and before other threads make one. */
void blas_begin(void);

/* C [m, n] with A [m, k], B [n, k]: A B^T */
void blas_nt(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
             float beta, float *c, int ldc);
/* C [m, n] with A [m, k], B [k, n]: A B */
void blas_nn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
             float beta, float *c, int ldc);
/* C [m, n] with A [k, m], B [k, n]: A^T B */
void blas_tn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
             float beta, float *c, int ldc);
/* The lower triangle of C [n, n] with A [k, n]: A^T A */
void blas_syrk(int n, int k, const float *a, int lda, float beta, float *c, int ldc);

/* A = L L^T: the lower triangle of A [n, n], finite, becomes L; the upper one is
 * neither read nor written. false: A is not positive definite, and L is of no use. */
bool blas_cholesky(int n, double *a, int lda);
/* Solves A x = b for each row b of B [m, n] with the L of blas_cholesky; x replaces
 * b. */
void blas_cholesky_solve(int n, int m, const double *l, int ldl, double *b, int ldb);

#endif
