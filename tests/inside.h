/*  inside.h - what some tests read behind the API: a dictionary's arrays, the streams of draws. Behind
    sae.h; where that brings its implementation along, all of it is there already. */
#ifndef SAE_IMPLEMENTATION
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include "../src/base/random.h"
#include "../src/dict/dictionary.h"
#pragma GCC diagnostic pop
#endif
