/*  cublas_v2.h - the header that cuBLAS programs include; the emulation has cuBLASLt alone. */
#include "cublasLt.h"
