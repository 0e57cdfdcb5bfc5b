/* sae: the headers a language model and its page need, compiled. */
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"
#define FEATURES_IMPLEMENTATION
#include "sae_features.h"
#define PAGE_IMPLEMENTATION
#include "page.h"
