#pragma once

/* ==== >>system ================================================================================ */
#if defined(__MINGW32__) && !defined(__USE_MINGW_ANSI_STDIO)
#define __USE_MINGW_ANSI_STDIO 1 /* %zu, %lld and the length that snprintf would need */
#endif
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_MSC_VER)
#include <intrin.h>
#elif !defined(__GNUC__) && defined(__cplusplus)
#include <atomic>
#elif !defined(__GNUC__)
#include <stdatomic.h>
#endif
#if defined(SAE_NO_STDIO)
/* nothing of the system's: no files, no maps */
#elif defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#if !defined(__cplusplus)
ssize_t readlink(const char *path, char *out, size_t size); /* -std=c99 hides it */
#endif
#if defined(O_CLOEXEC)
#define SAEI_CLOEXEC O_CLOEXEC
#else
#define SAEI_CLOEXEC 0
#endif
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(SAE_CBLAS)
#if defined(SAE_CBLAS_HEADER)
#include SAE_CBLAS_HEADER
#else
#include <cblas.h>
#endif
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD > 0 && FLT_EVAL_METHOD != 16
#error "sae.h: floats are evaluated wider than they are; on 32-bit x86 add -msse2 -mfpmath=sse"
#endif
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define SAEI_X86 1
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON) && defined(__GNUC__)
#define SAEI_NEON 1
#include <arm_neon.h>
#endif
