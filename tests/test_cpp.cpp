/*  Proves: the header is valid C++ (C++11 and later), its implementation in one translation unit and
    its use in another, and the two link. Built by tests/namespace.sh, with and without
    TEST_CPP_IMPLEMENTATION. Oracle: the compiler at -Wall -Wextra -Werror. */
#ifdef TEST_CPP_IMPLEMENTATION
#define SAE_IMPLEMENTATION
#include "sae.h"
#else
#include "sae.h"
#include "sae.h" /* twice is fine */
#include <cstdio>
#include <vector>

int main() {
    sae_context *ctx = nullptr;
    sae_dictionary *dict = nullptr;
    sae_dictionary_desc desc = sae_dictionary_desc();
    std::vector<float> x(3 * 8, 0.5f), x_hat(3 * 8), f(3 * 32);
    bool ok;
    desc.arch = SAE_ARCH_TOP_K;
    desc.activation_dim = 8;
    desc.dict_size = 32;
    desc.k = 4;
    ok = sae_context_create(nullptr, &ctx) == SAE_OK &&
         sae_dictionary_create(ctx, &desc, &dict) == SAE_OK &&
         sae_forward(dict, x.data(), 3, x_hat.data(), f.data()) == SAE_OK;
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    std::printf("%d passed, %d failed\n", ok ? 1 : 0, ok ? 0 : 1);
    return ok ? 0 : 1;
}
#endif
