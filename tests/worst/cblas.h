/*  A BLAS whose sums are as wrong as sae.h's bound allows, for tests of SAE_CBLAS (-Itests/worst): one of d
    terms is d 2^-24 |x||w| off, up or down as a hash of its place says, or all to one side; subnormal
    numbers are 0. */
#ifndef WORST_CBLAS_H
#define WORST_CBLAS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum CBLAS_ORDER { CblasRowMajor = 101 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 };

static long cblas_calls, cblas_misused; /* of cblas_sgemm; with other arguments than sae.h's */
static int cblas_side;                  /* -1, 1: all products off to that side; 0: both */

static double cblas_normal(float x) { return fabsf(x) < 1.17549435e-38f ? 0 : (double)x; }

static double cblas_norm(const float *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static void cblas_sgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE a, enum CBLAS_TRANSPOSE b, int m,
                        int n, int k, float alpha, const float *A, int lda, const float *B, int ldb,
                        float beta, float *C, int ldc) {
    cblas_calls++;
    if (order != CblasRowMajor || a != CblasNoTrans || b != CblasTrans || alpha != 1 || beta != 0
        || m < 1 || n < 1 || k < 1 || lda < k || ldb < k || ldc < n)
        cblas_misused++;
    for (int j = 0; j < n; j++) {
        const float *w = B + (size_t)j * (size_t)ldb;
        double off = k * 5.9604644775390625e-8 * cblas_norm(w, k);
        for (int i = 0; i < m; i++) {
            const float *x = A + (size_t)i * (size_t)lda;
            uint32_t hash = ((uint32_t)i * 2654435761u ^ (uint32_t)j * 2246822519u) * 3266489917u;
            double side = cblas_side ? cblas_side : hash >> 31 ? 1 : -1, sum = 0;
            for (int c = 0; c < k; c++) sum += cblas_normal(x[c]) * cblas_normal(w[c]);
            C[(size_t)i * (size_t)ldc + (size_t)j] = (float)(sum + side * off * cblas_norm(x, k));
        }
    }
}

#endif
