#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef SAE_API
#define SAE_API extern /* define it to static or to a dllexport attribute, as you need */
#endif

/* Lets compilers hold printf's arguments against its format. */
#if defined(__MINGW32__)
#define SAE_PRINTF(format_index, first) __attribute__((format(gnu_printf, format_index, first)))
#elif defined(__GNUC__)
#define SAE_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define SAE_PRINTF(format_index, first)
#endif

#define SAE_VERSION_MAJOR 0
#define SAE_VERSION_MINOR 2
#define SAE_VERSION_PATCH 0
#define SAE_VERSION_NUMBER                                                                         \
    (SAE_VERSION_MAJOR * 10000 + SAE_VERSION_MINOR * 100 + SAE_VERSION_PATCH)
#define SAE_VERSION "0.2.0"
