/*  Proves: a session encodes and reconstructs as sae_encode_sparse and sae_forward do, for every class
    and rule, rows of every type, and names what it does not take. Oracle: these two, on the same
    dictionary. Tolerance: none (==). Another backend's context goes through the same cases. */
#ifndef SAE_IMPLEMENTATION
#define SAE_IMPLEMENTATION
#endif
#include "sae.h"
#include "check.h"
#include "inside.h"

enum { SESSION_D = 19, SESSION_M = 83, SESSION_N = 21 };

static float session_number(check_rng *rng) { return 3 * (float)check_uniform(rng) - 1.5f; }

static void session_pair(const sae_dictionary *dict, const float *x, const sae_rows *rows, size_t n) {
    enum { ROOM = SESSION_N * SESSION_M };
    static size_t begin[2][SESSION_N + 1];
    static uint32_t latent[2][ROOM];
    static float value[2][ROOM], x_hat[2][SESSION_N * SESSION_D];
    sae_sparse code[2];
    sae_session *session = NULL;
    const char *name = sae_arch_name(sae_dictionary_get_desc(dict)->arch);
    int rule = (int)sae_dictionary_rule(dict);
    for (int i = 0; i < 2; i++) {
        code[i].row_begin = begin[i];
        code[i].latent = latent[i];
        code[i].value = value[i];
        code[i].capacity = ROOM;
    }
    CHECK(sae_encode_sparse(dict, x, n, &code[0]) == SAE_OK, "%s: encode", name);
    CHECK(sae_forward(dict, x, n, x_hat[0], NULL) == SAE_OK, "%s: forward", name);
    CHECK(sae_session_create(dict, n, &session) == SAE_OK, "%s: create", name);
    if (!session) return;
    CHECK(sae_session_encode(session, rows, n, &code[1]) == SAE_OK, "%s: session encode", name);
    CHECK(!memcmp(begin[0], begin[1], (n + 1) * sizeof **begin), "%s rule %d: row_begin", name, rule);
    CHECK(!memcmp(latent[0], latent[1], begin[0][n] * sizeof **latent), "%s rule %d: latents", name,
          rule);
    CHECK(!memcmp(value[0], value[1], begin[0][n] * sizeof **value), "%s rule %d: values", name, rule);
    CHECK(sae_session_forward(session, rows, n, x_hat[1]) == SAE_OK, "%s: session forward", name);
    CHECK(!memcmp(x_hat[0], x_hat[1], n * SESSION_D * sizeof(float)), "%s rule %d: x_hat", name, rule);
    sae_session_destroy(session);
}

static void session_fails(sae_context *ctx) {
    sae_dictionary_desc desc;
    sae_dictionary *dict = NULL;
    sae_session *session = NULL;
    float x[3 * SESSION_D] = { 0 }, out[3 * SESSION_D];
    sae_rows rows;
    memset(&rows, 0, sizeof rows);
    memset(&desc, 0, sizeof desc);
    desc.arch = SAE_ARCH_STANDARD;
    desc.activation_dim = SESSION_D;
    desc.dict_size = SESSION_M;
    CHECK(sae_dictionary_create(ctx, &desc, &dict) == SAE_OK, "create");
    CHECK(sae_session_create(NULL, 3, &session) == SAE_ERR_INVALID, "no dictionary");
    CHECK(sae_session_create(dict, 0, &session) == SAE_ERR_INVALID, "no rows");
    CHECK(sae_session_create(dict, 3, &session) == SAE_OK, "create: %s", sae_error(ctx));
    CHECK(sae_session_forward(session, &rows, 3, out) == SAE_ERR_INVALID, "no data");
    rows.data = x;
    CHECK(sae_session_forward(session, &rows, 4, out) == SAE_ERR_INVALID, "too many rows");
    rows.dtype = SAE_I8;
    CHECK(sae_session_forward(session, &rows, 3, out) == SAE_ERR_INVALID, "dtype");
    CHECK(strstr(sae_error(ctx), "I8") != NULL, "%s", sae_error(ctx));
    rows.dtype = SAE_F32;
    rows.stride = SESSION_D - 1;
    CHECK(sae_session_forward(session, &rows, 3, out) == SAE_ERR_INVALID, "stride");
    rows.stride = 0;
    x[7] = NAN;
    CHECK(sae_session_forward(session, &rows, 3, out) == SAE_ERR_NOT_FINITE, "NaN");
    x[7] = 0;
    CHECK(sae_session_forward(session, &rows, 3, out) == SAE_OK, "again: %s", sae_error(ctx));
    sae_session_destroy(session);
    sae_dictionary_destroy(dict);
    desc.no_b_dec_subtraction = true;
    session = NULL;
    CHECK(sae_dictionary_create(ctx, &desc, &dict) == SAE_OK, "create");
    CHECK(sae_session_create(dict, 3, &session) == SAE_ERR_UNSUPPORTED && !session, "a variation");
    sae_dictionary_destroy(dict);
}

/* All classes and rules on the backend of ctx. */
static void sessions(sae_context *ctx) {
    static float x[SESSION_N * SESSION_D];
    static uint16_t half[SESSION_N * (SESSION_D + 2)];
    check_rng rng;
    memset(&rng, 0, sizeof rng);
    for (int arch = SAE_ARCH_STANDARD; arch < SAE_ARCH_IDENTITY; arch++)
        for (int rule = SAE_RULE_DEFAULT; rule <= SAE_RULE_THRESHOLD; rule++)
            for (int type = 0; type < 2; type++) {
                sae_dictionary_desc desc;
                sae_dictionary *dict = NULL;
                sae_rows rows;
                memset(&rows, 0, sizeof rows);
                memset(&desc, 0, sizeof desc);
                desc.arch = (sae_arch)arch;
                desc.activation_dim = SESSION_D;
                desc.dict_size = SESSION_M;
                desc.seed = 5;
                if (arch >= SAE_ARCH_TOP_K && arch <= SAE_ARCH_MATRYOSHKA) desc.k = 7;
                if (arch == SAE_ARCH_MATRYOSHKA) {
                    desc.group_sizes[0] = 30;
                    desc.group_sizes[1] = SESSION_M - 30;
                    desc.num_groups = 2;
                }
                CHECK(sae_dictionary_create(ctx, &desc, &dict) == SAE_OK, "create");
                if (rule && sae_dictionary_set_rule(dict, (sae_rule)rule) != SAE_OK) {
                    sae_dictionary_destroy(dict);
                    continue;
                }
                for (size_t i = 0; i < dict->num_params; i++)
                    if (dict->params[i] != 0) dict->params[i] += 0.2f * session_number(&rng);
                for (size_t i = 0; i < SESSION_M; i++) dict->b_enc[i] = 0.2f * session_number(&rng);
                for (size_t i = 0; dict->aux0 && i < SESSION_M; i++)
                    dict->aux0[i] = 0.3f * session_number(&rng);
                for (size_t i = 0; dict->aux1 && i < SESSION_M; i++)
                    dict->aux1[i] = 0.3f * session_number(&rng);
                dict->threshold = rule == SAE_RULE_THRESHOLD ? 0.4f : -1;
                for (size_t r = 0; r < SESSION_N; r++)
                    for (size_t c = 0; c < SESSION_D; c++) {
                        float v = session_number(&rng);
                        uint32_t bits;
                        memcpy(&bits, &v, sizeof bits);
                        half[r * (SESSION_D + 2) + c] = (uint16_t)(bits >> 16);
                        bits &= type ? 0xFFFF0000u : ~0u;
                        memcpy(x + r * SESSION_D + c, &bits, sizeof bits);
                    }
                rows.data = type ? (const void *)half : x;
                rows.dtype = type ? SAE_BF16 : SAE_DTYPE_DEFAULT;
                rows.stride = type ? SESSION_D + 2 : 0;
                session_pair(dict, x, &rows, SESSION_N);
                sae_dictionary_destroy(dict);
            }
    session_fails(ctx);
}

#ifndef TEST_WITHOUT_MAIN
int main(void) {
    sae_context *ctx = NULL;
    CHECK(sae_context_create(NULL, &ctx) == SAE_OK, "no context");
    sessions(ctx);
    sae_context_destroy(ctx);
    return check_end();
}
#endif
