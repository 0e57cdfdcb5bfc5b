/* sae: the headers a language model and its page need, compiled. */
#include "sae.h"
#define NEOX_IMPLEMENTATION
#include "neox.h"
#define FEATURES_IMPLEMENTATION
#include "sae_features.h"
#define PAGE_IMPLEMENTATION
#include "page.h"
