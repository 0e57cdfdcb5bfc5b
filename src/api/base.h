#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef SAE_API
#define SAE_API extern /* define it to static or to a dllexport attribute, as you need */
#endif

#define SAE_VERSION "0.1.0"
