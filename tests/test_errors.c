/*  Proves: every result code is given where it should be, with a message that names what was given;
    failures leave out-parameters, files and memory as they were; no step and no inference allocates.
    Oracle: the contract in sae.h's public half. A counting allocator that can be told to fail at its
    i-th call drives every way out of create, train, load and save; a backend that fails drives the
    steps. Tolerance: none. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include <signal.h>
#include <sys/resource.h>

/* ---- messages -------------------------------------------------------------------------------- */

static int log_lines;
static char log_last[1024];
static sae_result log_result;
static void on_log(sae_log_level level, sae_result result, const char *message, void *user) {
    (void)level;
    (void)user;
    log_lines++;
    log_result = result;
    snprintf(log_last, sizeof log_last, "%s", message);
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        sae_result try_result = (call);                                                            \
        if (try_result != SAE_OK) return try_result;                                               \
    } while (0)

/* The call must give `want`, with a sentence that holds `given`. */
static bool provoked[16]; /* by -result: each code must come up (every_code) */
#define EXPECT(call, want, given)                                                                  \
    do {                                                                                           \
        sae_result e_;                                                                             \
        sae_context_fail(ctx, SAE_OK, "%s", "");                                                   \
        e_ = (call);                                                                               \
        provoked[-(int)e_ & 15] = true;                                                            \
        CHECK(e_ == (want), "%s gives %s (%s), want %s", #call, sae_result_name(e_),               \
              sae_error(ctx), #want);                                                              \
        CHECK(e_ == SAE_OK || (sae_error(ctx)[0] && strstr(sae_error(ctx), given)),                \
              "%s: \"%s\" does not name \"%s\"", #call, sae_error(ctx), given);                    \
    } while (0)

static void every_code(void) {
#define CODE(name, value, text)                                                                    \
    CHECK(name == SAE_OK || provoked[-(value) & 15], "no call was made to give %s", #name);        \
    CHECK(!strcmp(sae_result_name(name), #name), "the name of %s", #name);
    SAE_RESULTS(CODE)
#undef CODE
}

static void names(void) {
    CHECK(!strcmp(sae_result_name(SAE_ERR_FORMAT), "SAE_ERR_FORMAT"), "name of SAE_ERR_FORMAT");
    CHECK(!strcmp(sae_result_name(SAE_OK), "SAE_OK"), "name of SAE_OK");
    CHECK(sae_result_name((sae_result)1234) != NULL, "name of nothing");
    CHECK(!strcmp(sae_error(NULL), ""), "the error of no context");
    sae_context_destroy(NULL);
    sae_dictionary_destroy(NULL);
    sae_trainer_destroy(NULL);
    sae_buffer_destroy(NULL);
    sae_tensor_file_close(NULL);
    sae_config_close(NULL);
    for (size_t i = 0; i < COMMON_KINDS; i++) {
        sae_trainer_kind kind = SAE_TRAINER_DEFAULT;
        CHECK(sae_trainer_from_name(sae_trainer_name(common_kind(i)), &kind)
                  && kind == common_kind(i),
              "trainer %s", sae_trainer_name(common_kind(i)));
        CHECK(sae_trainer_from_name(sae_trainer_class(common_kind(i)), &kind)
                  && kind == common_kind(i),
              "trainer %s", sae_trainer_class(common_kind(i)));
        kind = SAE_TRAINER_GATED;
        CHECK(!sae_trainer_from_name("nothing", &kind) && kind == SAE_TRAINER_GATED,
              "an unknown name");
    }
}

static void no_pool(size_t parts, sae_part_fn fn, void *arg, void *user) {
    (void)parts;
    (void)fn;
    (void)arg;
    (void)user;
}

static void contexts_refused(void) {
    sae_context_desc desc;
    sae_context *ctx = (sae_context *)(uintptr_t)5;
    memset(&desc, 0, sizeof desc);
    desc.logger.log = on_log;
    desc.threads = -1;
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID, "threads -1");
    desc.threads = 200000;
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID, "threads 200000");
    desc.threads = 0;
    desc.pool.run = no_pool;
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID && strstr(log_last, "threads is 0"),
          "a pool of 0 workers: %s", log_last);
    desc.pool.run = NULL;
    desc.instruction_set = "mmx";
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID && strstr(log_last, "avx512vnni"),
          "instruction set mmx: %s", log_last);
    desc.instruction_set = NULL;
    desc.allocator.alloc = common_alloc;
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID, "alloc without free");
    CHECK(sae_context_create(NULL, NULL) == SAE_ERR_INVALID, "no out");
    CHECK(sae_context_create(&desc, NULL) == SAE_ERR_INVALID && strstr(log_last, "out is NULL"),
          "no out: %s", log_last);
    desc.allocator.free = common_free;
    for (long at = 0; at < 2; at++) {
        common_memory.fail_at = at;
        common_memory.calls = 0;
        CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_OUT_OF_MEMORY
                  && strstr(log_last, "no memory"), "no memory for a context: %s", log_last);
        CHECK(common_memory.live == 0, "%ld blocks of a refused context", common_memory.live);
    }
    common_memory.fail_at = -1;
    log_lines = 0;
    CHECK(ctx == (sae_context *)(uintptr_t)5, "out was touched");
    memset(&desc, 0, sizeof desc);
    desc.logger.log = on_log;
    if (sae_context_create(&desc, &ctx) == SAE_OK) {
        sae_dictionary_desc dd;
        sae_dictionary *dict;
        CHECK(!strcmp(sae_error(ctx), ""), "an error before any");
        memset(&dd, 0, sizeof dd);
        CHECK(sae_dictionary_create(ctx, &dd, &dict) == SAE_ERR_INVALID, "an empty desc");
        CHECK(log_lines == 1 && !strcmp(log_last, sae_error(ctx)) && log_result == SAE_ERR_INVALID,
              "the logger heard %d lines, result %d: %s", log_lines, (int)log_result, log_last);
        sae_context_destroy(ctx);
    }
}

static void contexts(void) {
    CHECK(!strcmp(sae_version(), SAE_VERSION)
              && !strcmp(SAE_VERSION, check_path("%d.%d.%d", SAE_VERSION_NUMBER / 10000,
                                                 SAE_VERSION_NUMBER / 100 % 100,
                                                 SAE_VERSION_NUMBER % 100)),
          "version %s", sae_version());
    contexts_refused();
}

static void dictionaries(sae_context *ctx) {
    sae_dictionary *const untouched = (sae_dictionary *)(uintptr_t)5;
    sae_dictionary *dict = untouched;
    sae_dictionary_desc d, ok;
    float x[2 * 6] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 }, f[2 * 10], x_hat[12];
    uint32_t latents[1] = { 10 };
    sae_sparse s;
    size_t row_begin[3];
    uint32_t latent[20];
    float value[20];
    memset(&ok, 0, sizeof ok);
    ok.arch = SAE_ARCH_TOP_K;
    ok.activation_dim = 6;
    ok.dict_size = 10;
    ok.k = 3;
    EXPECT(sae_dictionary_create(ctx, NULL, &dict), SAE_ERR_INVALID, "desc");
    EXPECT(sae_dictionary_create(ctx, &ok, NULL), SAE_ERR_INVALID, "out");
    d = ok, d.arch = SAE_ARCH_DEFAULT;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "arch");
    d = ok, d.arch = (sae_arch)99;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "99");
    d = ok, d.activation_dim = 0;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "activation_dim");
    d = ok, d.dict_size = 0;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "dict_size");
    d = ok, d.k = 11;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "11");
    d = ok, d.k = 0;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "k is 0");
    d = ok, d.arch = SAE_ARCH_MATRYOSHKA, d.num_groups = 2, d.group_sizes[0] = 4,
    d.group_sizes[1] = 5;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "9");
    d.group_sizes[1] = 6, d.group_sizes[2] = 0, d.num_groups = 3;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "group");
    d.num_groups = SAE_MAX_GROUPS + 1;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "65");
    d.num_groups = 0;
    EXPECT(sae_dictionary_create(ctx, &d, &dict), SAE_ERR_INVALID, "num_groups");
    d = ok, d.activation_dim = SIZE_MAX / 2;
    CHECK(sae_dictionary_create(ctx, &d, &dict) < 0, "a size past all memory");
    d = ok, d.activation_dim = (size_t)1 << 20, d.dict_size = (size_t)1 << 31;
    CHECK(sae_dictionary_create(ctx, &d, &dict) < 0, "a size past all memory");
    CHECK(dict == untouched, "out was touched");

    CHECK_OK(ctx, sae_dictionary_create(ctx, &ok, &dict), return);
    CHECK(sae_encode(NULL, x, 2, f) == SAE_ERR_INVALID, "no dictionary");
    EXPECT(sae_encode(dict, x, SIZE_MAX / 4, f), SAE_ERR_INVALID, "sae_encode");
    EXPECT(sae_encode_subset(dict, x, 2, latents, 1, f), SAE_ERR_INVALID, "10");
    EXPECT(sae_forward_ghost(dict, x, 2, (const uint8_t *)"abcdefghij", x_hat), SAE_ERR_INVALID,
           "AutoEncoderTopK");
    s.row_begin = row_begin, s.latent = latent, s.value = value, s.capacity = 5;
    EXPECT(sae_encode_sparse(dict, x, 2, &s), SAE_ERR_INVALID, "5");
    CHECK(strstr(sae_error(ctx), "6") != NULL, "how much: %s", sae_error(ctx));
    row_begin[0] = 0, row_begin[1] = 1, row_begin[2] = 2;
    latent[0] = 3, latent[1] = 10, value[0] = value[1] = 1;
    s.capacity = 20;
    EXPECT(sae_decode_sparse(dict, &s, 2, x_hat), SAE_ERR_INVALID, "10");
    EXPECT(sae_dictionary_set_rule(dict, (sae_rule)9), SAE_ERR_INVALID, "9");
    EXPECT(sae_dictionary_set_active_groups(dict, 2), SAE_ERR_INVALID, "2");
    EXPECT(sae_dictionary_scale_biases(dict, -2), SAE_ERR_INVALID, "-2");
    EXPECT(sae_grad_pursuit(dict, x, 2, 11, f), SAE_ERR_INVALID, "11");
    EXPECT(sae_geometric_median(ctx, x, 0, 6, x_hat), SAE_ERR_INVALID, "n");
    sae_dictionary_destroy(dict);
}

/* Of what is NULL the message has the name; where there are no rows nothing is missed. */
static void no_arrays(sae_context *ctx, sae_arch arch) {
    sae_dictionary_desc d;
    sae_dictionary *dict;
    sae_session *session = NULL;
    float x[2 * 6] = { 0 }, f[2 * 6];
    const uint32_t latents[1] = { 3 };
    const uint8_t mask[6] = { 0 };
    const sae_steering s = { 3, SAE_STEER_SET, 1 };
    size_t row_begin[3] = { 7, 8, 9 };
    uint32_t latent[12] = { 0 };
    float value[12];
    sae_rows empty, rows;
    sae_sparse none, sparse = { row_begin, latent, value, 12 };
    memset(&d, 0, sizeof d);
    memset(&none, 0, sizeof none);
    memset(&empty, 0, sizeof empty);
    rows = empty, rows.data = x;
    d.arch = arch, d.activation_dim = d.dict_size = 6, d.k = arch == SAE_ARCH_TOP_K ? 2 : 0;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &d, &dict), return);
    check_test = sae_arch_name(arch);
    EXPECT(sae_encode(dict, NULL, 2, f), SAE_ERR_INVALID, "sae_encode: x is NULL");
    EXPECT(sae_encode(dict, x, 2, NULL), SAE_ERR_INVALID, "sae_encode: f is NULL");
    EXPECT(sae_encode_rows(dict, NULL, 2, f), SAE_ERR_INVALID, "sae_encode_rows: x is NULL");
    EXPECT(sae_encode_rows(dict, &empty, 2, f), SAE_ERR_INVALID, "x.data is NULL");
    EXPECT(sae_encode_sparse(dict, NULL, 2, &sparse), SAE_ERR_INVALID, ": x is NULL");
    EXPECT(sae_encode_sparse(dict, x, 2, NULL), SAE_ERR_INVALID, ": out is NULL");
    EXPECT(sae_encode_sparse(dict, x, 2, &none), SAE_ERR_INVALID, ": out.row_begin is NULL");
    none = sparse, none.latent = NULL;
    EXPECT(sae_encode_sparse(dict, x, 2, &none), SAE_ERR_INVALID, ": out.latent is NULL");
    none = sparse, none.value = NULL;
    EXPECT(sae_encode_sparse(dict, x, 2, &none), SAE_ERR_INVALID, ": out.value is NULL");
    row_begin[0] = 0, row_begin[1] = row_begin[2] = 1;
    EXPECT(sae_decode_sparse(dict, &none, 2, x), SAE_ERR_INVALID, "sparse.value is NULL");
    EXPECT(sae_decode_sparse(dict, NULL, 2, x), SAE_ERR_INVALID, ": sparse is NULL");
    EXPECT(sae_decode_sparse(dict, &sparse, 2, NULL), SAE_ERR_INVALID, ": x_hat is NULL");
    none.row_begin = NULL;
    EXPECT(sae_decode_sparse(dict, &none, 2, x), SAE_ERR_INVALID, "sparse.row_begin is NULL");
    EXPECT(sae_decode(dict, NULL, 2, x), SAE_ERR_INVALID, "sae_decode: f is NULL");
    EXPECT(sae_decode(dict, f, 2, NULL), SAE_ERR_INVALID, "sae_decode: x_hat is NULL");
    EXPECT(sae_decode_finish(dict, NULL, 2, x), SAE_ERR_INVALID, ": x is NULL");
    EXPECT(sae_decode_finish(dict, x, 2, NULL), SAE_ERR_INVALID, ": x_hat is NULL");
    EXPECT(sae_forward(dict, NULL, 2, x, NULL), SAE_ERR_INVALID, "sae_forward: x is NULL");
    EXPECT(sae_forward(dict, x, 2, NULL, NULL), SAE_ERR_INVALID, ": x_hat is NULL");
    EXPECT(sae_encode_subset(dict, NULL, 2, latents, 1, f), SAE_ERR_INVALID, ": x is NULL");
    EXPECT(sae_encode_subset(dict, x, 2, NULL, 1, f), SAE_ERR_INVALID, ": latents is NULL");
    EXPECT(sae_encode_subset(dict, x, 2, latents, 1, NULL), SAE_ERR_INVALID, ": f is NULL");
    EXPECT(sae_steer(dict, NULL, 2, &s, 1), SAE_ERR_INVALID, "sae_steer: x is NULL");
    EXPECT(sae_steer(dict, x, 2, NULL, 1), SAE_ERR_INVALID, "sae_steer: steerings is NULL");
    CHECK_OK(ctx, sae_encode(dict, NULL, 0, NULL), (void)0);
    CHECK_OK(ctx, sae_encode_rows(dict, NULL, 0, NULL), (void)0);
    CHECK_OK(ctx, sae_encode_sparse(dict, NULL, 0, NULL), (void)0);
    row_begin[0] = 7;
    CHECK_OK(ctx, sae_encode_sparse(dict, NULL, 0, &sparse), (void)0);
    CHECK(row_begin[0] == 0, "the list of no row begins at %d", (int)row_begin[0]);
    CHECK_OK(ctx, sae_decode(dict, NULL, 0, NULL), (void)0);
    CHECK_OK(ctx, sae_decode_sparse(dict, NULL, 0, NULL), (void)0);
    CHECK_OK(ctx, sae_decode_finish(dict, NULL, 0, NULL), (void)0);
    CHECK_OK(ctx, sae_forward(dict, NULL, 0, NULL, NULL), (void)0);
    CHECK_OK(ctx, sae_encode_subset(dict, NULL, 0, NULL, 3, NULL), (void)0);
    CHECK_OK(ctx, sae_encode_subset(dict, NULL, 2, NULL, 0, NULL), (void)0);
    CHECK_OK(ctx, sae_steer(dict, NULL, 0, NULL, 3), (void)0);
    sae_output_features(dict, 0, NULL);
    if (arch != SAE_ARCH_IDENTITY) {
        EXPECT(sae_grad_pursuit(dict, NULL, 2, 3, f), SAE_ERR_INVALID, ": x is NULL");
        EXPECT(sae_grad_pursuit(dict, x, 2, 3, NULL), SAE_ERR_INVALID, ": f is NULL");
        CHECK_OK(ctx, sae_grad_pursuit(dict, NULL, 0, 3, NULL), (void)0);
        CHECK_OK(ctx, sae_session_create(dict, 2, &session), goto end);
        EXPECT(sae_session_encode(session, NULL, 2, &sparse), SAE_ERR_INVALID, ": x is NULL");
        EXPECT(sae_session_encode(session, &rows, 2, NULL), SAE_ERR_INVALID, ": out is NULL");
        EXPECT(sae_session_forward(session, NULL, 2, x), SAE_ERR_INVALID, ": x is NULL");
        EXPECT(sae_session_forward(session, &rows, 2, NULL), SAE_ERR_INVALID, ": x_hat is NULL");
        row_begin[0] = 7;
        CHECK_OK(ctx, sae_session_encode(session, NULL, 0, &sparse), (void)0);
        CHECK(row_begin[0] == 0, "the list of no row begins at %d", (int)row_begin[0]);
        CHECK_OK(ctx, sae_session_encode(session, NULL, 0, NULL), (void)0);
        CHECK_OK(ctx, sae_session_forward(session, NULL, 0, NULL), (void)0);
    }
    if (arch == SAE_ARCH_STANDARD) {
        EXPECT(sae_forward_ghost(dict, NULL, 2, mask, x), SAE_ERR_INVALID, ": x is NULL");
        EXPECT(sae_forward_ghost(dict, x, 2, NULL, x), SAE_ERR_INVALID, ": mask is NULL");
        EXPECT(sae_forward_ghost(dict, x, 2, mask, NULL), SAE_ERR_INVALID, ": x_ghost is NULL");
        CHECK_OK(ctx, sae_forward_ghost(dict, NULL, 0, NULL, NULL), (void)0);
    }
end:
    sae_session_destroy(session);
    sae_dictionary_destroy(dict);
    check_test = NULL;
}

static void trainers(sae_context *ctx) {
    sae_trainer *const untouched = (sae_trainer *)(uintptr_t)5;
    sae_trainer *trainer = untouched;
    const sae_trainer_desc ok = common_trainer(SAE_TRAINER_TOP_K, 6, 12, 4, 20);
    const sae_trainer_desc standard = common_trainer(SAE_TRAINER_STANDARD, 6, 12, 4, 20);
    const sae_trainer_desc matryoshka = common_trainer(SAE_TRAINER_MATRYOSHKA, 6, 12, 4, 20);
    const sae_trainer_desc anneal = common_trainer(SAE_TRAINER_P_ANNEAL, 6, 12, 4, 20);
    const sae_trainer_desc jump = common_trainer(SAE_TRAINER_JUMP_RELU, 6, 12, 4, 20);
    sae_trainer_desc s;
    sae_memory memory;
#define BAD(start, change, given)                                                                  \
    do {                                                                                           \
        s = start;                                                                                 \
        change;                                                                                    \
        EXPECT(sae_trainer_create(ctx, &s, &trainer), SAE_ERR_INVALID, given);                         \
        if (trainer != untouched) trainer = untouched;                                             \
    } while (0)
    EXPECT(sae_trainer_create(ctx, NULL, &trainer), SAE_ERR_INVALID, "desc");
    EXPECT(sae_trainer_create(ctx, &ok, NULL), SAE_ERR_INVALID, "out");
    BAD(ok, s.kind = (sae_trainer_kind)77, "77");
    BAD(ok, s.kind = (sae_trainer_kind)(SAE_NUM_TRAINERS + 1), "12");
    BAD(ok, s.resample_steps = 5, "resample_steps is 5, which top_k does not have; it belongs to standard");
    BAD(standard, s.sparsity_queue_length = (size_t)INT32_MAX + 1, "sparsity_queue_length");
    EXPECT(sae_trainer_memory(ctx, NULL, &memory), SAE_ERR_INVALID, "desc");
    EXPECT(sae_trainer_memory(ctx, &ok, NULL), SAE_ERR_INVALID, "out");
    s = ok, s.k = 0;
    EXPECT(sae_trainer_memory(ctx, &s, &memory), SAE_ERR_INVALID, "sae_trainer_memory: k is 0");
    BAD(ok, s.activation_dim = 0, "activation_dim");
    BAD(ok, s.dict_size = 0, "dict_size");
    BAD(ok, s.batch_size = 0, "batch_size");
    BAD(ok, s.steps = 0, "steps");
    BAD(ok, s.k = 0, "k");
    BAD(ok, s.k = 13, "13");
    BAD(ok, s.lr = -1, "-1");
    BAD(ok, s.lr = NAN, "lr");
    BAD(ok, s.warmup_steps = 20, "20");
    BAD(ok, (s.warmup_steps = 8, s.decay_start = 8), "decay_start");
    BAD(ok, s.decay_start = 20, "decay_start");
    BAD(ok, s.k_anneal_steps = 20, "k_anneal_steps");
    BAD(ok, (s.k = 6, s.k_anneal_steps = 5), "k");
    BAD(ok, s.threshold_beta = 1.5, "1.5");
    BAD(ok, s.arch = SAE_ARCH_GATED, "arch");
    BAD(standard, (s.sparsity_warmup_steps = 9, s.decay_start = 9), "decay_start");
    BAD(standard, s.sparsity_warmup_steps = 20, "sparsity_warmup_steps");
    BAD(standard, (s.decay_start = 15, s.resample_steps = 5), "resample_steps");
    BAD(standard, s.resample_steps = 20, "resample_steps");
    BAD(standard, s.l1_penalty = NAN, "l1_penalty");
    BAD(standard, s.sparsity_function = SAE_SPARSITY_LP, "sparsity_function");
    BAD(matryoshka, s.num_groups = 0, "group_fractions");
    BAD(matryoshka, s.group_fractions[0] = 0.5, "group_fractions");
    BAD(matryoshka, s.group_fractions[0] = -0.125, "group_fractions");
    BAD(matryoshka, s.num_groups = SAE_MAX_GROUPS + 1, "65");
    BAD(anneal, s.p_end = -1, "p_end");
    BAD(anneal, s.p_end = 0, "p_end");
    BAD(anneal, s.sparsity_function = SAE_SPARSITY_ENTROPY, "sparsity_function");
    BAD(jump, s.bandwidth = -1, "-1");
    BAD(jump, s.target_l0 = -3, "-3");
    BAD(jump, s.ghost_threshold = 3, "ghost_threshold");
    BAD(jump, s.bandwidth = NAN, "bandwidth");
    BAD(jump, s.sparsity_penalty = INFINITY, "inf");
    BAD(jump, s.target_l0 = NAN, "target_l0");
    BAD(ok, s.auxk_alpha = NAN, "auxk_alpha");
    BAD(ok, s.threshold_beta = NAN, "threshold_beta");
    BAD(anneal, s.p_start = NAN, "p_start");
    BAD(anneal, s.initial_sparsity_penalty = NAN, "initial_sparsity_penalty");
    BAD(matryoshka, s.group_weights[1] = NAN, "group_weights[1]");
    BAD(matryoshka, (s.group_fractions[0] = 1e30, s.group_fractions[1] = -1e30), "1e+30");
#undef BAD
    CHECK(trainer == untouched, "out was touched");
    s = ok, s.init = check_path("%s/nothing.pt", check_temp());
    EXPECT(sae_trainer_create(ctx, &s, &trainer), SAE_ERR_NOT_FOUND, "nothing.pt");
    { /* a start of another size */
        sae_trainer_desc other = common_trainer(SAE_TRAINER_TOP_K, 7, 12, 4, 20);
        const char *path = check_path("%s/other.safetensors", check_temp());
        if (common_start(ctx, &other, 1, 0, 0, path)) {
            s.init = path;
            EXPECT(sae_trainer_create(ctx, &s, &trainer), SAE_ERR_MISMATCH, "7");
        }
    }
    s = ok, s.activation_dim = (size_t)1 << 40, s.dict_size = (size_t)1 << 40;
    CHECK(sae_trainer_create(ctx, &s, &trainer) < 0, "a size past all memory");
    CHECK(trainer == untouched, "out was touched");

    for (size_t i = 0; i < COMMON_KINDS; i++) {
        float x[5 * 6];
        uint64_t before;
        sae_stats stats;
        s = common_trainer(common_kind(i), 6, 12, 4, 20);
        check_test = sae_trainer_name(common_kind(i));
        check_activations(1, x, 5, 6);
        CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), continue);
        CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, 4), (void)0);
        CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, 4), (void)0);
        before = common_hash(sae_trainer_dictionary(trainer));
        EXPECT(sae_trainer_step(trainer, x, NULL, 0), SAE_ERR_INVALID, "0");
        EXPECT(sae_trainer_step(trainer, x, NULL, 5), SAE_ERR_INVALID, "5");
        EXPECT(sae_trainer_step(trainer, NULL, NULL, 4), SAE_ERR_INVALID, "x");
        x[13] = NAN;
        EXPECT(sae_trainer_step(trainer, x, NULL, 4), SAE_ERR_NOT_FINITE, "");
        x[13] = INFINITY;
        EXPECT(sae_trainer_step(trainer, x, NULL, 4), SAE_ERR_NOT_FINITE, "");
        {
            float y[5 * 6];
            memcpy(y, x, sizeof y);
            x[13] = 1;
            if (s.num_layers) EXPECT(sae_trainer_step(trainer, x, y, 4), SAE_ERR_INVALID, "target");
            else EXPECT(sae_trainer_step(trainer, x, y, 4), SAE_ERR_NOT_FINITE, "");
        }
        CHECK(common_hash(sae_trainer_dictionary(trainer)) == before,
              "a refused step changed something");
        CHECK(sae_trainer_steps_done(trainer) == 2, "a refused step was counted");
        CHECK_OK(ctx, sae_trainer_stats(trainer, &stats), (void)0);
        CHECK(stats.step == 1, "stats are of step %d", (int)stats.step);
        EXPECT(sae_trainer_stats(trainer, NULL), SAE_ERR_INVALID, "out");
        CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, 3), (void)0);
        CHECK(sae_trainer_get_desc(trainer)->lr > 0 && sae_trainer_get_desc(trainer)->steps == 20,
              "desc");
        sae_trainer_destroy(trainer);
        /* the same updates as without the refused ones */
        trainer = untouched;
        check_test = NULL;
    }
    { /* defaults are idempotent and in the desc */
        sae_trainer_desc a, b;
        memset(&a, 0, sizeof a);
        a.kind = SAE_TRAINER_TOP_K;
        a.activation_dim = 64;
        a.dict_size = 16384;
        a.batch_size = 10;
        a.steps = 5000;
        a.k = 8;
        sae_trainer_defaults(&a);
        b = a;
        sae_trainer_defaults(&b);
        CHECK(!memcmp(&a, &b, sizeof a), "defaults of defaults differ");
        CHECK(a.lr == 2e-4 && a.warmup_steps == 1000 && a.auxk_alpha == 1.0 / 32
                  && a.top_k_aux == 32 && a.dead_feature_threshold == 10000000
                  && a.threshold_beta == 0.999 && a.threshold_start_step == 1000,
              "lr %g, warmup %d, alpha %g, top_k_aux %d", a.lr, (int)a.warmup_steps, a.auxk_alpha,
              (int)a.top_k_aux);
    }
}

/* ---- files ----------------------------------------------------------------------------------- */

static void settings(sae_context *ctx) {
    sae_trainer_desc s;
    memset(&s, 0, sizeof s);
    CHECK_OK(ctx, sae_trainer_desc_set(ctx, &s, "l1-penalty", "0.25"), (void)0);
    CHECK(s.l1_penalty == 0.25, "l1-penalty");
    CHECK_OK(ctx, sae_trainer_desc_set(ctx, &s, "warmup_steps", "17"), (void)0);
    CHECK(s.warmup_steps == 17, "warmup_steps");
    CHECK_OK(ctx, sae_trainer_desc_set(ctx, &s, "group_fractions", "0.25,0.75"), (void)0);
    CHECK(s.num_groups == 2 && s.group_fractions[1] == 0.75, "group_fractions");
    CHECK_OK(ctx, sae_trainer_desc_set(ctx, &s, "decay_start", "none"), (void)0);
    CHECK_OK(ctx, sae_trainer_desc_set(ctx, &s, "device", "cuda:0"), (void)0);
    EXPECT(sae_trainer_desc_set(ctx, &s, "l2_penalty", "1"), SAE_ERR_NOT_FOUND, "l2_penalty");
    EXPECT(sae_trainer_desc_set(ctx, &s, "lr", "fast"), SAE_ERR_INVALID, "fast");
    EXPECT(sae_trainer_desc_set(ctx, &s, "lr", ""), SAE_ERR_INVALID, "lr");
    EXPECT(sae_trainer_desc_set(ctx, &s, "warmup_steps", "-3"), SAE_ERR_INVALID, "-3");
    EXPECT(sae_trainer_desc_set(ctx, &s, "warmup_steps", "99999999999999999999999"), SAE_ERR_INVALID,
           "9999");
    EXPECT(sae_trainer_desc_set(ctx, &s, "sparsity_function", "L7"), SAE_ERR_INVALID, "L7");
    EXPECT(sae_trainer_desc_set(ctx, &s, "k", "3.5"), SAE_ERR_INVALID, "3.5");
}

static int64_t read_one(void *user, float *x, float *target, size_t max_rows) {
    (void)user;
    (void)target;
    (void)max_rows;
    for (int j = 0; j < 6; j++) x[j] = (float)j;
    return 1;
}

static void missing(sae_context *ctx) {
    sae_dictionary *dict = (sae_dictionary *)(uintptr_t)5;
    sae_tensor_file *file = (sae_tensor_file *)(uintptr_t)5;
    sae_config *config = (sae_config *)(uintptr_t)5;
    sae_buffer *buffer = (sae_buffer *)(uintptr_t)5;
    const char *nothing = check_path("%s/no/such/thing.pt", check_temp());
    const char *empty = check_path("%s/empty", check_temp()), *text;
    sae_buffer_desc b;
    float x[6] = { 0 };
    EXPECT(sae_dictionary_load(ctx, NULL, nothing, &dict), SAE_ERR_NOT_FOUND, "thing.pt");
    EXPECT(sae_tensor_file_open(ctx, nothing, &file), SAE_ERR_NOT_FOUND, "thing.pt");
    EXPECT(sae_config_open(ctx, nothing, &config), SAE_ERR_NOT_FOUND, "thing.pt");
    EXPECT(sae_dictionary_load(ctx, NULL, NULL, &dict), SAE_ERR_INVALID, "path");
    mkdir(empty, 0777);
    EXPECT(sae_dictionary_load(ctx, NULL, empty, &dict), SAE_ERR_NOT_FOUND, "empty");
    text = check_path("%s/text.json", check_temp());
    check_write(text, "{\"trainer\": {\"trainer_class\": \"HopefulTrainer\"}}", 48);
    EXPECT(sae_config_open(ctx, text, &config), SAE_ERR_INVALID, "HopefulTrainer");
    check_write(text, "{\"trainer\": {", 13);
    EXPECT(sae_config_open(ctx, text, &config), SAE_ERR_FORMAT, "text.json");
    check_write(text, "", 0);
    EXPECT(sae_config_open(ctx, text, &config), SAE_ERR_FORMAT, "text.json");
    check_remove(text);
    memset(&b, 0, sizeof b);
    EXPECT(sae_buffer_create(ctx, &b, &buffer), SAE_ERR_INVALID, "source");
    b.source.files = &nothing;
    b.source.num_files = 1;
    b.source.dim = 6;
    b.batch_size = 2;
    EXPECT(sae_buffer_create(ctx, &b, &buffer), SAE_ERR_NOT_FOUND, "thing.pt");
    memset(&b, 0, sizeof b);
    b.source.data = x, b.source.rows = 1, b.source.dim = 6, b.source.dtype = SAE_I64;
    EXPECT(sae_buffer_create(ctx, &b, &buffer), SAE_ERR_INVALID, "I64");
    CHECK(dict == (sae_dictionary *)(uintptr_t)5 && file == (sae_tensor_file *)(uintptr_t)5
              && config == (sae_config *)(uintptr_t)5 && buffer == (sae_buffer *)(uintptr_t)5,
          "out was touched");
    b.source.dtype = SAE_F32, b.batch_size = 1, b.single_pass = true;
    CHECK_OK(ctx, sae_buffer_create(ctx, &b, &buffer), return);
    {
        const float *at;
        size_t n;
        CHECK_OK(ctx, sae_buffer_next(buffer, &at, NULL, &n), (void)0);
        EXPECT(sae_buffer_next(buffer, &at, NULL, &n), SAE_ERR_END_OF_DATA, "");
    }
    sae_buffer_destroy(buffer);
    {
        sae_buffer_desc called = b;
        const float *at;
        size_t n;
        called.source.data = NULL, called.source.rows = 0, called.source.read = read_one;
        CHECK_OK(ctx, sae_buffer_create(ctx, &called, &buffer), return);
        CHECK_OK(ctx, sae_buffer_rewind(buffer), (void)0); /* still at the first row */
        CHECK_OK(ctx, sae_buffer_next(buffer, &at, NULL, &n), (void)0);
        EXPECT(sae_buffer_rewind(buffer), SAE_ERR_UNSUPPORTED, "rewind");
        sae_buffer_destroy(buffer);
    }
    x[4] = NAN;
    CHECK_OK(ctx, sae_buffer_create(ctx, &b, &buffer), return);
    {
        const float *at = NULL;
        size_t n = 77;
        EXPECT(sae_buffer_next(buffer, &at, NULL, &n), SAE_ERR_NOT_FINITE, "row 0");
        CHECK(at == NULL && n == 77, "out was touched");
    }
    sae_buffer_destroy(buffer);
}

/* A container under another name is not raw values; values that begin nearly like one are. */
static void containers(sae_context *ctx) {
    static const char *const from[] = { "c.npy", "c.safetensors", "c.npz", "c.pt" };
    static const char *const says[] = { "end in .npy", "end in .safetensors", ".npz)", ".npz)" };
    static const unsigned char zeros[16] = { 0, 0, 0, 0, 0, 0, 0, 0, '{', '"' };
    float values[64 * 4] = { 0 };
    sae_tensor t;
    sae_buffer_desc b;
    sae_buffer *buffer = NULL;
    const char *raw = check_path("%s/c.bin", check_temp());
    memset(&t, 0, sizeof t);
    memset(&b, 0, sizeof b);
    t.name = "x", t.dtype = SAE_F32, t.ndim = 2, t.shape[0] = 64, t.shape[1] = 4, t.data = values;
    b.source.files = &raw, b.source.num_files = 1, b.source.dim = 1, b.source.dtype = SAE_F16;
    b.batch_size = 2;
    for (int i = 0; i < 4; i++) {
        const char *path = check_path("%s/%s", check_temp(), from[i]);
        CHECK_OK(ctx, sae_tensor_file_write(ctx, path, &t, 1), continue);
        CHECK(rename(path, raw) == 0, "cannot rename %s", path);
        EXPECT(sae_buffer_create(ctx, &b, &buffer), SAE_ERR_FORMAT, says[i]);
        b.source.dim = 0; /* looked at before the sizes are */
        EXPECT(sae_buffer_create(ctx, &b, &buffer), SAE_ERR_FORMAT, says[i]);
        b.source.dim = 1;
    }
    CHECK(buffer == NULL, "out was touched");
    check_write(raw, zeros, sizeof zeros);
    CHECK_OK(ctx, sae_buffer_create(ctx, &b, &buffer), (void)0);
    sae_buffer_destroy(buffer);
    check_remove(raw);
}

/* Files that are not what a reader hopes for: refused at once, in words that help. */
static void strange(sae_context *ctx) {
    const char *fifo = check_path("%s/fifo.pt", check_temp());
    sae_tensor_file *file = NULL;
    unsigned old = alarm(20); /* who waits for a FIFO's other end dies of it */
    CHECK(mkfifo(fifo, 0600) == 0, "no FIFO");
    EXPECT(sae_tensor_file_open(ctx, fifo, &file), SAE_ERR_IO, "not a regular file");
    alarm(old);
    check_remove(fifo);
    containers(ctx);
}

/* A JSON of more than 2^20 values is refused before memory is taken for it; one of just as many is
   read. */
static void many_values(void) {
    enum { MOST = 1 << 24 };
    char *text = (char *)malloc(2 * (MOST + 1) + 64);
    const char *path = check_path("%s/many.json", check_temp());
    sae_context *ctx = common_counted(NULL, 1);
    for (size_t more = 0; text && ctx && more < 2; more++) {
        size_t n = 0, values = MOST - 3 + more; /* beside the object, its list and "lr" */
        sae_config *config = NULL;
        n += (size_t)sprintf(text, "{\"lr\":1,\"group_weights\":[");
        for (size_t i = 0; i < values; i++) text[n++] = '1', text[n++] = ',';
        n += (size_t)sprintf(text + n - 1, "]}") - 1;
        check_write(path, text, n);
        if (more) {
            common_memory.calls = 0;
            EXPECT(sae_config_open(ctx, path, &config), SAE_ERR_FORMAT, "more than 16777216 values");
            CHECK(common_memory.calls <= 64, "%ld allocations", common_memory.calls);
        } else { /* read, and refused for what it says */
            EXPECT(sae_config_open(ctx, path, &config), SAE_ERR_INVALID, "group_weights");
        }
        sae_config_close(config);
    }
    check_remove(path);
    free(text);
    sae_context_destroy(ctx);
}

/* A valid file cut at every byte must be refused, and never crash. */
static void truncated(sae_context *ctx) {
    static const char *const endings[] = { "safetensors", "pt", "npz", "npy" };
    sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, 3, 5, 4, 20);
    sae_dictionary_desc dd;
    sae_dictionary *dict, *out;
    float values[20];
    s.k = 2;
    dd = common_dictionary(&s);
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
    memset(values, 0, sizeof values);
    for (size_t e = 0; e < 4; e++) {
        const char *whole = check_path("%s/whole.%s", check_temp(), endings[e]);
        const char *cut = check_path("%s/cut.%s", check_temp(), endings[e]);
        size_t size = 0;
        char *data;
        check_test = endings[e];
        if (e < 2) CHECK_OK(ctx, sae_dictionary_save(dict, whole), continue);
        else {
            sae_tensor t;
            memset(&t, 0, sizeof t);
            t.name = "a", t.dtype = SAE_F32, t.ndim = 2, t.shape[0] = 4, t.shape[1] = 5,
            t.data = values;
            CHECK_OK(ctx, sae_tensor_file_write(ctx, whole, &t, 1), continue);
        }
        data = check_read(whole, &size);
        CHECK(data && size > 50 && size < 20000, "%s has %d bytes", whole, (int)size);
        for (size_t n = 0; data && n < size; n++) {
            sae_tensor_file *file = NULL;
            sae_load_desc load = { SAE_ARCH_TOP_K, 0, false, false, 0, 0, NULL, 0, NULL, 0 };
            sae_result result;
            check_write(cut, data, n);
            sae_context_fail(ctx, SAE_OK, "%s", "");
            result = sae_tensor_file_open(ctx, cut, &file);
            CHECK(result == SAE_ERR_FORMAT || result == SAE_ERR_UNSUPPORTED, "cut at %d of %d gives %s",
                  (int)n, (int)size, sae_result_name(result));
            CHECK(sae_error(ctx)[0], "cut at %d: refused without a word", (int)n);
            if (result == SAE_OK) sae_tensor_file_close(file);
            if (e >= 2) continue;
            out = NULL;
            result = sae_dictionary_load(ctx, &load, cut, &out);
            CHECK(result == SAE_ERR_FORMAT || result == SAE_ERR_UNSUPPORTED, "cut at %d of %d loads: %s",
                  (int)n, (int)size, sae_result_name(result));
            CHECK(!out, "cut at %d: out was touched", (int)n);
            if (result == SAE_OK) sae_dictionary_destroy(out);
        }
        /* one byte changed: refused or opened, never a crash */
        for (size_t n = 0; data && n < size; n++) {
            sae_load_desc load = { SAE_ARCH_TOP_K, 0, false, false, 0, 0, NULL, 0, NULL, 0 };
            sae_tensor_file *file = NULL;
            data[n] = (char)(data[n] ^ 0x5a);
            check_write(cut, data, size);
            data[n] = (char)(data[n] ^ 0x5a);
            if (sae_tensor_file_open(ctx, cut, &file) == SAE_OK) sae_tensor_file_close(file);
            out = NULL;
            if (e < 2 && sae_dictionary_load(ctx, &load, cut, &out) == SAE_OK)
                sae_dictionary_destroy(out);
        }
        free(data);
    }
    sae_dictionary_destroy(dict);
    check_test = NULL;
}

static int entries(const char *folder) {
    DIR *dir = opendir(folder);
    struct dirent *e;
    int n = 0;
    while (dir && (e = readdir(dir)) != NULL) n += e->d_name[0] != '.';
    if (dir) closedir(dir);
    return n;
}

static bool ends_with(const char *text, const char *ending) {
    size_t n = strlen(text), k = strlen(ending);
    return n >= k && !strcmp(text + n - k, ending);
}

/* The first file below folder that is still temporary, or cannot be read as what it is called; NULL
   if there is none. */
static const char *half_written(const char *folder) {
    DIR *dir = opendir(folder);
    struct dirent *e;
    const char *found = NULL;
    while (dir && !found && (e = readdir(dir)) != NULL) {
        const char *path = check_path("%s/%s", folder, e->d_name);
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || stat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) found = half_written(path);
        else if (ends_with(path, ".tmp") || st.st_size == 0) found = path;
    }
    if (dir) closedir(dir);
    return found;
}

/* What a PATH.tmp links to is not written into; a folder of that name is an error, and stays. */
static void temporaries(sae_context *ctx) {
    const char *folder = check_path("%s/temporaries", check_temp());
    const char *path = check_path("%s/a.npy", folder), *other = check_path("%s/other", folder);
    const char *temporary = check_path("%s.tmp", path);
    static const float one = 1;
    size_t size = 0;
    char *now;
    sae_tensor t;
    memset(&t, 0, sizeof t);
    t.dtype = SAE_F32, t.data = &one;
    mkdir(folder, 0777);
    check_write(other, "mine", 4);
    for (int hard = 0; hard < 2; hard++) {
        CHECK((hard ? link(other, temporary) : symlink(other, temporary)) == 0, "no link");
        CHECK_OK(ctx, sae_tensor_file_write(ctx, path, &t, 1), (void)0);
        now = check_read(other, &size);
        CHECK(now && size == 4 && !memcmp(now, "mine", 4), "written through a link");
        CHECK(entries(folder) == 2, "%d files instead of 2", entries(folder));
        free(now);
    }
    CHECK(symlink("nowhere", temporary) == 0, "no link");
    EXPECT(sae_tensor_file_write(ctx, path, &t, 1), SAE_ERR_IO, "sae_tensor_file_write: cannot write");
    EXPECT(sae_tensor_file_write(ctx, path, &t, 1), SAE_ERR_IO, temporary);
    CHECK(unlink(temporary) == 0 && !check_exists(check_path("%s/nowhere", folder)), "followed");
    mkdir(temporary, 0777);
    EXPECT(sae_tensor_file_write(ctx, path, &t, 1), SAE_ERR_IO, temporary);
    CHECK(check_exists(temporary), "a folder is gone");
    check_remove(folder);
}

/* Writing that fails leaves the old file and nothing else. */
static void full_disk(sae_context *ctx) {
    const char *folder = check_path("%s/full", check_temp());
    struct rlimit limit, small;
    sae_dictionary_desc dd;
    sae_dictionary *dict;
    sae_trainer_desc s = common_trainer(SAE_TRAINER_STANDARD, 40, 200, 4, 20);
    dd = common_dictionary(&s);
    mkdir(folder, 0777);
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    for (int e = 0; e < 2; e++) {
        const char *path = check_path("%s/ae.%s", folder, e ? "pt" : "safetensors");
        size_t old_size = 0, size = 0;
        char *old, *now;
        CHECK_OK(ctx, sae_dictionary_save(dict, path), continue);
        old = check_read(path, &old_size);
        dict->b_enc[0] = 5;
        small = limit;
        small.rlim_cur = 20000;
        setrlimit(RLIMIT_FSIZE, &small);
        EXPECT(sae_dictionary_save(dict, path), SAE_ERR_IO, path);
        setrlimit(RLIMIT_FSIZE, &limit);
        now = check_read(path, &size);
        CHECK(now && size == old_size && !memcmp(old, now, size), "the old file is gone");
        CHECK(entries(folder) == e + 1, "%d files instead of %d", entries(folder), e + 1);
        free(old);
        free(now);
    }
    EXPECT(sae_dictionary_save(dict, check_path("%s/no/such/folder/ae.pt", folder)), SAE_ERR_NOT_FOUND,
           "folder");
    EXPECT(sae_dictionary_save(dict, check_path("%s/ae.docx", folder)), SAE_ERR_INVALID, "ae.docx");
    EXPECT(sae_dictionary_save(dict, NULL), SAE_ERR_INVALID, "path");
    sae_dictionary_destroy(dict);
}

/* ---- small runs ------------------------------------------------------------------------------ */

enum { D = 6, M = 24, B = 8, ROWS = 40 };
static float rows[ROWS * D];
static char start_path[300], run_path[300];
static sae_trainer_kind op_kind;

static sae_result op_dictionary(sae_context *ctx) {
    sae_trainer_desc s = common_trainer(op_kind, D, M, B, 20);
    sae_dictionary_desc dd = common_dictionary(&s);
    sae_dictionary *dict;
    TRY(sae_dictionary_create(ctx, &dd, &dict));
    sae_dictionary_destroy(dict);
    return SAE_OK;
}
static sae_result op_save(sae_context *ctx, const char *ending) {
    sae_trainer_desc s = common_trainer(op_kind, D, M, B, 20);
    sae_dictionary_desc dd = common_dictionary(&s);
    sae_load_desc load;
    sae_dictionary *dict, *back;
    sae_result result;
    memset(&load, 0, sizeof load);
    load.arch = dd.arch;
    TRY(sae_dictionary_create(ctx, &dd, &dict));
    if (s.num_layers) dict->code = 1; /* what the trainer makes of it */
    result = sae_dictionary_save(dict, check_path("%s/op.%s", check_temp(), ending));
    sae_dictionary_destroy(dict);
    TRY(result);
    TRY(sae_dictionary_load(ctx, &load, check_path("%s/op.%s", check_temp(), ending), &back));
    sae_dictionary_destroy(back);
    return SAE_OK;
}
static sae_result op_save_pt(sae_context *ctx) { return op_save(ctx, "pt"); }
static sae_result op_save_safetensors(sae_context *ctx) { return op_save(ctx, "safetensors"); }
static sae_result op_trainer(sae_context *ctx) {
    sae_trainer_desc s = common_trainer(op_kind, D, M, B, 20);
    sae_trainer *trainer;
    sae_result result = SAE_OK;
    s.init = start_path;
    if (op_kind == SAE_TRAINER_STANDARD) s.resample_steps = 3;
    TRY(sae_trainer_create(ctx, &s, &trainer));
    for (int i = 0; i < 5 && result == SAE_OK; i++)
        result = sae_trainer_step(trainer, rows + i * B * D, NULL, B);
    sae_trainer_destroy(trainer);
    return result;
}
static sae_result op_train(sae_context *ctx) {
    sae_trainer_desc s[2];
    sae_train_desc d;
    for (int i = 0; i < 2; i++) {
        s[i] = common_trainer(op_kind, 0, M, 0, 0);
        s[i].k = s[i].k ? 2 : 0;
        s[i].warmup_steps = 1;
        if (s[i].sparsity_warmup_steps) s[i].sparsity_warmup_steps = 1;
        if (s[i].anneal_start) s[i].anneal_start = 1;
    }
    memset(&d, 0, sizeof d);
    d.buffer.source.data = rows, d.buffer.source.rows = ROWS, d.buffer.source.dim = D;
    d.buffer.batch_size = B;
    d.trainers = s, d.num_trainers = 2;
    d.steps = 4, d.backup_steps = 2;
    d.normalize_activations = true;
    d.save_dir = run_path;
    check_remove(run_path);
    return sae_train(ctx, &d);
}
static sae_result op_resume(sae_context *ctx) {
    sae_trainer_desc s = common_trainer(op_kind, 0, M, 0, 0);
    sae_train_desc d;
    s.warmup_steps = 1;
    if (s.sparsity_warmup_steps) s.sparsity_warmup_steps = 1;
    if (s.anneal_start) s.anneal_start = 1;
    memset(&d, 0, sizeof d);
    d.buffer.source.data = rows, d.buffer.source.rows = ROWS, d.buffer.source.dim = D;
    d.buffer.batch_size = B;
    d.trainers = &s, d.num_trainers = 1;
    d.steps = 4, d.backup_steps = 2, d.resume = true, d.flat = true;
    d.save_dir = run_path;
    return sae_train(ctx, &d);
}
static sae_result op_evaluate(sae_context *ctx) {
    sae_load_desc load = { SAE_ARCH_DEFAULT, 0, true, false, 0, 0, NULL, 0, NULL, 0 };
    sae_trainer_desc s = common_trainer(op_kind, D, M, B, 20);
    sae_evaluate_desc e;
    sae_dictionary *dict;
    sae_metrics metrics;
    sae_result result;
    float f[B * M];
    load.arch = common_arch(&s);
    memset(&e, 0, sizeof e);
    e.buffer.source.data = rows, e.buffer.source.rows = ROWS, e.buffer.source.dim = D;
    e.buffer.batch_size = B;
    TRY(sae_dictionary_load(ctx, &load, start_path, &dict));
    result = sae_evaluate(dict, &e, &metrics);
    if (result == SAE_OK) result = sae_grad_pursuit(dict, rows, B, 3, f);
    if (result == SAE_OK && dict->desc.k) {
        sae_dictionary_set_rule(dict, SAE_RULE_TOP_K);
        result = sae_encode(dict, rows, B, f);
    }
    if (result == SAE_OK) result = sae_geometric_median(ctx, rows, ROWS, D, f);
    sae_dictionary_destroy(dict);
    return result;
}
static sae_result op_config(sae_context *ctx) {
    sae_config *config;
    TRY(sae_config_open(ctx, check_path("%s/golden/gated/config.json",
                                             check_path("%s/tests", check_root())), &config));
    sae_config_close(config);
    return SAE_OK;
}

static void out_of_memory(bool once) {
    static const struct {
        const char *name;
        sae_result (*op)(sae_context *ctx);
        bool once;
    } ops[] = {
        { "dictionary", op_dictionary, false },
        { "save and load .pt", op_save_pt, false },
        { "save and load .safetensors", op_save_safetensors, false },
        { "trainer", op_trainer, false },
        { "train", op_train, false },
        { "resume", op_resume, false },
        { "evaluate", op_evaluate, false },
        { "config", op_config, true },
    };
    common_memory.fail_once = once;
    snprintf(start_path, sizeof start_path, "%s/op_start.safetensors", check_temp());
    for (size_t k = 0; k < COMMON_KINDS; k++) {
        sae_context *plain = check_context(1);
        sae_trainer_desc s = common_trainer(common_kind(k), D, M, B, 20);
        op_kind = common_kind(k);
        if (!plain || !common_start(plain, &s, 3, 0, 0, start_path)) return;
        sae_context_destroy(plain);
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
            char name[128];
            sae_result result = SAE_ERR_OUT_OF_MEMORY;
            long at;
            if (ops[i].once && k) continue;
            /* whole runs write many files: two trainers will do */
            if ((ops[i].op == op_train || ops[i].op == op_resume) && k % 4 != 3) continue;
            if (ops[i].op == op_resume) { /* a backup to go on from */
                sae_context *c = check_context(1);
                check_remove(run_path);
                if (c) op_resume(c);
                sae_context_destroy(c);
            }
            snprintf(name, sizeof name, "%s, %s%s", sae_trainer_name(op_kind), ops[i].name,
                     common_memory.fail_once ? ", once" : "");
            check_test = name;
            for (at = 0; at < 3000 && result == SAE_ERR_OUT_OF_MEMORY; at++) {
                sae_context *ctx;
                long live = common_memory.live;
                common_memory.fail_at = -1;
                ctx = common_counted(NULL, 1);
                if (!ctx) break;
                common_memory.calls = 0;
                common_memory.fail_at = at;
                result = ops[i].op(ctx);
                common_memory.fail_at = -1;
                CHECK(result == SAE_OK || result == SAE_ERR_OUT_OF_MEMORY,
                      "failing at allocation %d gives %s: %s", (int)at, sae_result_name(result),
                      sae_error(ctx));
                CHECK(result == SAE_OK || sae_error(ctx)[0], "allocation %d: failed without a word",
                      (int)at);
                CHECK(result == SAE_OK
                          || (!strncmp(sae_error(ctx), "sae_", 4) && !strstr(sae_error(ctx), "saei_"))
                          || strstr(sae_error(ctx), "JSON values"),
                      "allocation %d: \"%s\" names no public function", (int)at, sae_error(ctx));
                if (result == SAE_ERR_OUT_OF_MEMORY) provoked[-SAE_ERR_OUT_OF_MEMORY] = true;
                sae_context_destroy(ctx);
                CHECK(common_memory.live == live, "failing at allocation %d leaks %d blocks",
                      (int)at, (int)(common_memory.live - live));
                CHECK(!half_written(check_temp()), "failing at allocation %d leaves %s", (int)at,
                      half_written(check_temp()));
            }
            CHECK(result == SAE_OK, "still %s after %d allocations", sae_result_name(result),
                  (int)at);
        }
    }
    check_test = NULL;
}

/* What a trainer and a session hold is what was told before, and steps and inference take none. */
static void no_allocation(void) {
    for (size_t k = 0; k < COMMON_KINDS; k++) {
        sae_context *ctx = common_counted(NULL, 2);
        sae_trainer_desc s = common_trainer(common_kind(k), D, M, B, 20);
        sae_trainer *trainer;
        const sae_dictionary *dict;
        float f[B * M], x_hat[B * D];
        size_t row_begin[B + 1];
        uint32_t latent[B * M];
        float value[B * M];
        sae_sparse sparse = { row_begin, latent, value, B * M };
        sae_stats stats;
        sae_session *session;
        sae_memory memory;
        size_t held;
        long before;
        if (!ctx) return;
        check_test = sae_trainer_name(common_kind(k));
        if (common_kind(k) == SAE_TRAINER_STANDARD) s.resample_steps = 3;
        if (s.k) s.dead_feature_threshold = B;
        s.lm_name = "a model";
        held = common_memory.held;
        CHECK_OK(ctx, sae_trainer_memory(ctx, &s, &memory), continue);
        CHECK(common_memory.held == held, "telling how much memory kept some");
        CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), continue);
        CHECK(common_memory.held - held == memory.host && !memory.device,
              "a trainer holds %d bytes, told were %d", (int)(common_memory.held - held),
              (int)memory.host);
        before = common_memory.calls;
        for (int i = 0; i < 12; i++)
            CHECK_OK(ctx,
                     sae_trainer_step(trainer, rows + i % 5 * B * D, NULL, B - (size_t)(i % 2)),
                     (void)0);
        CHECK_OK(ctx, sae_trainer_stats(trainer, &stats), (void)0);
        CHECK(common_memory.calls == before, "12 steps took memory %d times",
              (int)(common_memory.calls - before));
        dict = sae_trainer_dictionary(trainer);
        before = common_memory.calls;
        CHECK_OK(ctx, sae_forward(dict, rows, B, x_hat, f), (void)0);
        CHECK_OK(ctx, sae_forward(dict, rows, B, x_hat, NULL), (void)0);
        CHECK_OK(ctx, sae_encode(dict, rows, B, f), (void)0);
        CHECK_OK(ctx, sae_decode(dict, f, B, x_hat), (void)0);
        CHECK_OK(ctx, sae_encode_sparse(dict, rows, B, &sparse), (void)0);
        CHECK_OK(ctx, sae_decode_sparse(dict, &sparse, B, x_hat), (void)0);
        CHECK(common_memory.calls == before, "inference took memory %d times", (int)(common_memory.calls - before));
        held = common_memory.held;
        if (sae_trainer_get_desc(trainer)->num_layers || s.kind == SAE_TRAINER_SPARSIFY)
            /* no session runs dictionaries of layers, or transcoders */
            EXPECT(sae_session_memory(dict, B, &memory), SAE_ERR_UNSUPPORTED, "variations");
        else {
            CHECK_OK(ctx, sae_session_memory(dict, B, &memory), continue);
            CHECK(common_memory.held == held, "telling how much memory kept some");
            CHECK_OK(ctx, sae_session_create(dict, B, &session), continue);
            CHECK(common_memory.held - held == memory.host && !memory.device,
                  "a session holds %d bytes, told were %d", (int)(common_memory.held - held),
                  (int)memory.host);
            sae_session_destroy(session);
        }
        sae_trainer_destroy(trainer);
        sae_context_destroy(ctx);
        CHECK(common_memory.live == 0, "%d blocks are left", (int)common_memory.live);
        common_memory.live = 0;
    }
    check_test = NULL;
}

/* Nor does any other class, or call. */
static void no_allocation_classes(void) {
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_IDENTITY; arch++) {
        sae_context *ctx = common_counted(NULL, 2);
        sae_dictionary_desc dd;
        sae_dictionary *dict;
        float f[B * M], x_hat[B * D], value[B * M];
        size_t row_begin[B + 1];
        uint32_t latent[B * M], some[2] = { 4, 1 };
        uint8_t mask[M] = { 1, 0, 1 };
        sae_sparse sparse = { row_begin, latent, value, B * M };
        long before;
        if (!ctx) return;
        check_test = sae_arch_name((sae_arch)arch);
        memset(&dd, 0, sizeof dd);
        dd.arch = (sae_arch)arch, dd.activation_dim = D;
        dd.dict_size = arch == SAE_ARCH_IDENTITY ? D : M;
        if (arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K || arch == SAE_ARCH_MATRYOSHKA)
            dd.k = 3;
        if (arch == SAE_ARCH_MATRYOSHKA)
            dd.num_groups = 2, dd.group_sizes[0] = 5, dd.group_sizes[1] = M - 5;
        CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), continue);
        before = common_memory.calls;
        for (int rule = 0; rule < (dd.k ? 2 : 1); rule++) {
            if (rule) {
                bool batch = arch != SAE_ARCH_TOP_K; /* its top-k rule takes memory, as it says */
                CHECK_OK(ctx, sae_dictionary_set_rule(dict, batch ? SAE_RULE_THRESHOLD
                                                                  : SAE_RULE_TOP_K), (void)0);
            } else if (dd.k)
                CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD), (void)0);
            CHECK_OK(ctx, sae_forward(dict, rows, B, x_hat, f), (void)0);
            CHECK_OK(ctx, sae_forward(dict, rows, B, x_hat, NULL), (void)0);
            CHECK_OK(ctx, sae_encode(dict, rows, B, f), (void)0);
            CHECK_OK(ctx, sae_decode(dict, f, B, x_hat), (void)0);
            CHECK_OK(ctx, sae_encode_sparse(dict, rows, B, &sparse), (void)0);
            CHECK_OK(ctx, sae_decode_sparse(dict, &sparse, B, x_hat), (void)0);
            CHECK_OK(ctx, sae_encode_subset(dict, rows, B, some, 2, f), (void)0);
            sae_output_features(dict, B, f);
        }
        if (arch == SAE_ARCH_STANDARD)
            CHECK_OK(ctx, sae_forward_ghost(dict, rows, B, mask, x_hat), (void)0);
        CHECK_OK(ctx, sae_dictionary_scale_biases(dict, 2), (void)0);
        CHECK_OK(ctx, sae_dictionary_normalize_decoder(dict), (void)0);
        CHECK(common_memory.calls == before, "inference took memory %d times", (int)(common_memory.calls - before));
        sae_dictionary_destroy(dict);
        sae_context_destroy(ctx);
        CHECK(common_memory.live == 0, "%d blocks are left", (int)common_memory.live);
        common_memory.live = 0;
    }
    check_test = NULL;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static bool stop_at_once(void *user, const sae_progress *p) {
    (void)user;
    return p->step < 3;
}
static int64_t read_fails(void *user, float *x, float *target, size_t max_rows) {
    (void)user;
    (void)x;
    (void)target;
    (void)max_rows;
    return SAE_ERR_IO;
}
static void loops(sae_context *ctx) {
    sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, 0, M, 0, 0), other;
    sae_train_desc d, ok;
    memset(&ok, 0, sizeof ok);
    ok.buffer.source.data = rows, ok.buffer.source.rows = ROWS, ok.buffer.source.dim = D;
    ok.buffer.batch_size = B;
    ok.trainers = &s, ok.num_trainers = 1, ok.steps = 10;
    s.threshold_start_step = 4;
    check_remove(run_path);
    EXPECT(sae_train(ctx, NULL), SAE_ERR_INVALID, "desc");
    d = ok, d.steps = 0;
    EXPECT(sae_train(ctx, &d), SAE_ERR_INVALID, "steps");
    d = ok, d.num_trainers = 0;
    EXPECT(sae_train(ctx, &d), SAE_ERR_INVALID, "num_trainers");
    d = ok, d.progress = stop_at_once;
    EXPECT(sae_train(ctx, &d), SAE_ERR_CANCELLED, "");
    memset(&d.buffer.source, 0, sizeof d.buffer.source);
    d = ok, d.buffer.source.data = NULL, d.buffer.source.rows = 0,
    d.buffer.source.read = read_fails;
    EXPECT(sae_train(ctx, &d), SAE_ERR_IO, "");
    d = ok, d.buffer.single_pass = true;
    EXPECT(sae_train(ctx, &d), SAE_ERR_END_OF_DATA, "");
    d = ok, other = s, other.activation_dim = D + 1, d.trainers = &other;
    CHECK(sae_train(ctx, &d) < 0 && sae_error(ctx)[0], "a trainer of another width");
    /* a backup of other settings */
    d = ok, d.save_dir = run_path, d.backup_steps = 2, d.progress = stop_at_once;
    EXPECT(sae_train(ctx, &d), SAE_ERR_CANCELLED, "");
    other = s, other.lr = 5e-3, d.trainers = &other, d.resume = true;
    EXPECT(sae_train(ctx, &d), SAE_ERR_MISMATCH, "");
    d.save_dir = check_path("%s/op_start.safetensors", check_temp()); /* a file, not a folder */
    CHECK(sae_train(ctx, &d) < 0 && sae_error(ctx)[0], "a file for a folder");
    /* a folder whose config.json is damaged is none of a finished run: it starts anew, in silence */
    check_remove(run_path);
    d = ok, d.save_dir = run_path, d.resume = true, d.flat = true;
    CHECK_OK(ctx, sae_train(ctx, &d), return);
    check_write(check_path("%s/config.json", run_path), "{\"sae.h\": {", 11);
    sae_context_fail(ctx, SAE_OK, "%s", "");
    CHECK_OK(ctx, sae_train(ctx, &d), (void)0);
    CHECK(!sae_error(ctx)[0], "a run that succeeds leaves \"%s\"", sae_error(ctx));
    check_remove(run_path);
    /* diverging */
    s.lr = 1e30, s.warmup_steps = SAE_NONE;
    d = ok;
    CHECK(sae_train(ctx, &d) != SAE_OK || true, "lr 1e30"); /* must not crash */
    {
        sae_evaluate_desc e;
        sae_dictionary_desc dd;
        sae_dictionary *dict;
        sae_metrics m;
        sae_trainer_desc wide = common_trainer(SAE_TRAINER_STANDARD, D + 1, M, B, 20);
        dd = common_dictionary(&wide);
        memset(&e, 0, sizeof e);
        e.buffer = ok.buffer;
        CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
        EXPECT(sae_evaluate(dict, &e, &m), SAE_ERR_MISMATCH, "7");
        sae_dictionary_destroy(dict);
    }
}

/* ---- a backend that fails -------------------------------------------------------------------- */

static int backend_left; /* allocations until none are left; status calls until one fails */
static bool backend_broken;
static void *failing_alloc(const sae_work *w, size_t bytes) {
    if (backend_left-- <= 0) return NULL;
    return sae_cpu_backend()->alloc(w, bytes);
}
static sae_result failing_status(const sae_work *w) {
    if (backend_broken) return sae_backend_fail(w->ctx, SAE_ERR_BACKEND, "test: the device fell off");
    return sae_cpu_backend()->status(w);
}
static sae_result failing_open(const sae_context *ctx, void **state) {
    (void)state;
    return sae_backend_fail(ctx, SAE_ERR_BACKEND, "test: no device");
}
static void backend_guard(const sae_work *w, const uint32_t *bad, uint64_t step) {
    (void)w, (void)bad, (void)step;
}
static void backend_begin(const sae_work *w) { (void)w; }
static void backends(void) {
    for (size_t k = 0; k < COMMON_KINDS; k++) {
        sae_backend fake = *sae_cpu_backend();
        sae_trainer_desc s = common_trainer(common_kind(k), D, M, B, 20);
        sae_context *ctx;
        sae_trainer *trainer = NULL;
        sae_result result = SAE_ERR_OUT_OF_MEMORY;
        sae_stats stats;
        int left;
        check_test = sae_trainer_name(common_kind(k));
        fake.name = "failing";
        fake.alloc = failing_alloc;
        fake.status = failing_status;
        ctx = common_counted(&fake, 1);
        if (!ctx) return;
        for (left = 0; left < 500 && result == SAE_ERR_OUT_OF_MEMORY; left++) {
            backend_left = left;
            result = sae_trainer_create(ctx, &s, &trainer);
            CHECK(result == SAE_OK
                      || (result == SAE_ERR_OUT_OF_MEMORY && sae_error(ctx)[0] && !trainer),
                  "%d allocations of the backend give %s", left, sae_result_name(result));
        }
        CHECK(result == SAE_OK, "%s after %d allocations", sae_result_name(result), left);
        if (trainer) {
            CHECK_OK(ctx, sae_trainer_step(trainer, rows, NULL, B), (void)0);
            backend_broken = true;
            result = sae_trainer_step(trainer, rows, NULL, B);
            if (result == SAE_OK) result = sae_trainer_stats(trainer, &stats);
            provoked[-(int)result & 15] = true;
            CHECK(result == SAE_ERR_BACKEND && strstr(sae_error(ctx), "fell off"), "%s: %s",
                  sae_result_name(result), sae_error(ctx));
            backend_broken = false;
            sae_trainer_destroy(trainer);
        }
        sae_context_destroy(ctx);
        CHECK(common_memory.live == 0, "%d blocks are left", (int)common_memory.live);
        common_memory.live = 0;
        fake.open = failing_open;
        ctx = common_counted(&fake, 1);
        trainer = NULL;
        result = sae_trainer_create(ctx, &s, &trainer);
        CHECK(result == SAE_ERR_BACKEND && !trainer, "no device gives %s", sae_result_name(result));
        sae_context_destroy(ctx);
        CHECK(common_memory.live == 0, "%d blocks are left", (int)common_memory.live);
        common_memory.live = 0;
    }
    check_test = NULL;
}

/* Tables of operations that cannot be used are refused by name. */
static void incomplete_backends(void) {
    static const char *const says[] = { "adam of the backend \"cpu\"", "free of the backend \"cpu\"",
                                        "guard and tripped", "begin_step and end_step", "no name" };
    for (int i = 0; i < 5; i++) {
        sae_backend table = *sae_cpu_backend();
        sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, D, M, B, 20);
        sae_context *ctx = common_counted(&table, 1);
        sae_trainer *trainer = NULL;
        sae_result result;
        if (!ctx) return;
        if (i == 0) table.adam = NULL;
        if (i == 1) table.free = NULL;
        if (i == 2) table.guard = backend_guard;
        if (i == 3) table.begin_step = backend_begin;
        if (i == 4) table.name = NULL;
        result = sae_trainer_create(ctx, &s, &trainer);
        CHECK(result == SAE_ERR_INVALID && !trainer && strstr(sae_error(ctx), says[i]), "%s: %s",
              sae_result_name(result), sae_error(ctx));
        sae_context_destroy(ctx);
        CHECK(common_memory.live == 0, "%d blocks are left", (int)common_memory.live);
        common_memory.live = 0;
    }
}

/* A run whose disk fills up at so many bytes a file: an old result stays as it was, and once there
   is room again --resume ends where an undisturbed run ends. */
static void full_disk_run(sae_context *ctx) {
    sae_trainer_desc s = common_trainer(SAE_TRAINER_BATCH_TOP_K, 0, M, 0, 0);
    const uint64_t save_steps[] = { 3 };
    const char *final = check_path("%s/ae.safetensors", run_path);
    struct rlimit limit, small;
    sae_train_desc d;
    char *want, *got;
    size_t want_size = 0, size = 0, failures = 0;
    s.threshold_start_step = 4;
    memset(&d, 0, sizeof d);
    d.buffer.source.data = rows, d.buffer.source.rows = ROWS, d.buffer.source.dim = D;
    d.buffer.batch_size = B;
    d.trainers = &s, d.num_trainers = 1, d.flat = true, d.steps = 8;
    d.save_dir = run_path, d.save_steps = save_steps, d.num_save_steps = 1, d.backup_steps = 2;
    check_remove(run_path);
    CHECK_OK(ctx, sae_train(ctx, &d), return);
    want = check_read(final, &want_size);
    CHECK(want && want_size > 1000, "%s has %d bytes", final, (int)want_size);
    getrlimit(RLIMIT_FSIZE, &limit);
    for (rlim_t room = 1; room < 40000; room = room * 2 + 100) {
        sae_result result;
        check_remove(run_path);
        d.resume = false;
        small = limit, small.rlim_cur = room;
        setrlimit(RLIMIT_FSIZE, &small);
        sae_context_fail(ctx, SAE_OK, "%s", "");
        result = sae_train(ctx, &d);
        setrlimit(RLIMIT_FSIZE, &limit);
        CHECK(result == SAE_OK || (result == SAE_ERR_IO && strstr(sae_error(ctx), run_path)),
              "room for %d bytes: %s: %s", (int)room, sae_result_name(result), sae_error(ctx));
        failures += result != SAE_OK;
        CHECK(!half_written(run_path), "room for %d bytes leaves %s", (int)room,
              half_written(run_path));
        d.resume = true;
        CHECK_OK(ctx, sae_train(ctx, &d), continue);
        got = check_read(final, &size);
        CHECK(got && size == want_size && !memcmp(want, got, size),
              "room for %d bytes, then resumed: another result", (int)room);
        free(got);
        /* over a finished run */
        d.resume = false;
        setrlimit(RLIMIT_FSIZE, &small);
        if (sae_train(ctx, &d) != SAE_OK) {
            sae_dictionary *dict;
            setrlimit(RLIMIT_FSIZE, &limit);
            CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, run_path, &dict), continue);
            sae_dictionary_destroy(dict);
        }
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    CHECK(failures >= 4, "only %d runs found the disk full", (int)failures);
    free(want);
}

/* ---- what is not what it seems ----------------------------------------------------------------- */

static bool stop_after_four(void *user, const sae_progress *p) {
    (void)user;
    return p->step < 4;
}

/* A backup whose numbers no run can have, and a file that only has a backup's name. */
static void false_backups(sae_context *ctx) {
    static const struct {
        size_t index; /* in saei_trainer_numbers: step, rows, k, p, next_p, coefficient, ... */
        double value;
    } bad[] = { { 0, -1 }, { 0, 1e300 }, { 1, NAN }, { 2, 0 }, { 2, 1e6 }, { 2, 1.5 }, { 6, 99 },
                { 7, -3 } };
    sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, 0, M, 0, 0);
    const char *path = check_path("%s/backup.safetensors", run_path);
    sae_train_desc d;
    char *whole, *at;
    size_t size;
    memset(&d, 0, sizeof d);
    d.buffer.source.data = rows, d.buffer.source.rows = ROWS, d.buffer.source.dim = D;
    d.buffer.batch_size = B;
    d.trainers = &s, d.num_trainers = 1, d.steps = 20, d.backup_steps = 2;
    d.save_dir = run_path;
    d.progress = stop_after_four;
    check_remove(run_path);
    EXPECT(sae_train(ctx, &d), SAE_ERR_CANCELLED, "4 of 20");
    whole = check_read(path, &size);
    CHECK(whole != NULL, "no backup");
    if (!whole) return;
    { /* the tensor "numbers" in the bytes of the file */
        sae_tensor_file *file;
        const sae_tensor *t = NULL;
        size_t offset = 0;
        CHECK_OK(ctx, sae_tensor_file_open(ctx, path, &file), goto end);
        t = sae_tensor_file_find(file, "trainer_0.numbers");
        CHECK(t && t->shape[0] == 8, "no numbers");
        for (size_t i = 0; t && !offset && i + 64 <= size; i++) /* its 8 numbers */
            if (!memcmp(whole + i, t->data, 64)) offset = i;
        sae_tensor_file_close(file);
        if (!offset) goto end;
        at = whole + offset;
    }
    d.resume = true;
    d.progress = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double old;
        memcpy(&old, at + 8 * bad[i].index, 8);
        memcpy(at + 8 * bad[i].index, &bad[i].value, 8);
        CHECK(check_write(path, whole, size), "cannot write");
        EXPECT(sae_train(ctx, &d), SAE_ERR_FORMAT, "numbers");
        memcpy(at + 8 * bad[i].index, &old, 8);
    }
    CHECK(check_write(path, whole, size), "cannot write");
    CHECK_OK(ctx, sae_train(ctx, &d), (void)0);
    CHECK(!check_exists(path), "the backup of a finished run is still there");
    CHECK(check_write(path, "my notes", 8), "cannot write");
    d.resume = false;
    EXPECT(sae_train(ctx, &d), SAE_ERR_INVALID, "backup.safetensors");
    free(whole);
    whole = check_read(path, &size);
    CHECK(whole && size == 8 && !memcmp(whole, "my notes", 8), "a foreign file was touched");
end:
    free(whole);
    check_remove(run_path);
}

/* Fields that a class does not have, and what its file cannot say. */
static void other_classes(sae_context *ctx) {
    sae_dictionary_desc dd;
    sae_dictionary *dict = NULL;
    sae_sparse code;
    size_t begin[2] = { 0, 1 };
    float x[6] = { 0 };
    char text[8];
    memset(&dd, 0, sizeof dd);
    dd.arch = SAE_ARCH_STANDARD, dd.activation_dim = 6, dd.dict_size = 10, dd.num_groups = 5000;
    EXPECT(sae_dictionary_create(ctx, &dd, &dict), SAE_ERR_INVALID, "5000");
    dd.num_groups = 0, dd.subtract_b_dec = true;
    EXPECT(sae_dictionary_create(ctx, &dd, &dict), SAE_ERR_INVALID, "subtract_b_dec");
    dd.arch = SAE_ARCH_JUMP_RELU, dd.no_b_dec_subtraction = true;
    EXPECT(sae_dictionary_create(ctx, &dd, &dict), SAE_ERR_INVALID, "no_b_dec_subtraction");
    dd.no_b_dec_subtraction = false;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
    EXPECT(sae_dictionary_save(dict, check_path("%s/lost.pt", check_temp())), SAE_ERR_UNSUPPORTED,
           "subtract_b_dec");
    memset(&code, 0, sizeof code);
    code.row_begin = begin;
    EXPECT(sae_decode_sparse(dict, &code, 1, x), SAE_ERR_INVALID, "NULL");
    sae_dictionary_destroy(dict);
    dd.subtract_b_dec = false, dd.input_norm = SAE_INPUT_NORM_LAYER;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return);
    EXPECT(sae_dictionary_scale_biases(dict, 2), SAE_ERR_UNSUPPORTED, "input_norm");
    sae_dictionary_destroy(dict);
    sae_error_copy(ctx, text, sizeof text);
    CHECK(strlen(text) == 7 && !strncmp(text, sae_error(ctx), 7), "the copy is \"%s\"", text);
}

/* One dimension: top_k_aux is d / 2 = 0 by the formula, and latents die all the same. */
static void one_dimension(sae_context *ctx) {
    sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, 1, 8, 4, 20);
    sae_trainer *t;
    s.dead_feature_threshold = 4;
    s.k = 1;
    CHECK_OK(ctx, sae_trainer_create(ctx, &s, &t), return);
    for (int i = 0; i < 5; i++)
        CHECK_OK(ctx, sae_trainer_step(t, rows + 4 * i, NULL, 4), (void)0);
    sae_trainer_destroy(t);
    s = common_trainer(SAE_TRAINER_P_ANNEAL, 4, 8, 4, 20);
    s.sparsity_queue_length = SIZE_MAX / 2 + 1;
    EXPECT(sae_trainer_create(ctx, &s, &t), SAE_ERR_INVALID, "sparsity_queue_length");
}

/* Eight threads of the caller's, each with a context of one thread: what they train are the bits
   that one alone trains, and the sanitizers see no part outside its own scratch. */
static void inside_a_team(void) {
    enum { TEAM = 8 };
    uint64_t hash[TEAM];
    memset(hash, 0, sizeof hash);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(TEAM)
#endif
    for (int i = 0; i < TEAM; i++) {
        sae_trainer_desc s = common_trainer(SAE_TRAINER_TOP_K, D, M, B, 20);
        sae_context_desc desc;
        sae_context *own = NULL;
        sae_trainer *t = NULL;
        s.k = 2;
        memset(&desc, 0, sizeof desc);
        desc.threads = 1;
        if (sae_context_create(&desc, &own) != SAE_OK) continue;
        if (sae_trainer_create(own, &s, &t) == SAE_OK)
            for (size_t step = 0; step < 5; step++) sae_trainer_step(t, rows + step * B * D, NULL, B);
        if (t) hash[i] = common_hash(sae_trainer_dictionary(t));
        sae_trainer_destroy(t);
        sae_context_destroy(own);
    }
    for (int i = 0; i < TEAM; i++)
        CHECK(hash[i] && hash[i] == hash[0], "thread %d of a team trains other bits", i);
}

int main(void) {
    sae_context *ctx;
    names();
    contexts();
    if (!(ctx = check_context(1))) return check_end();
    check_activations(7, rows, ROWS, D);
    snprintf(run_path, sizeof run_path, "%s/run", check_temp());
    check_test = "dictionaries";
    dictionaries(ctx);
    no_arrays(ctx, SAE_ARCH_STANDARD);
    no_arrays(ctx, SAE_ARCH_TOP_K);
    no_arrays(ctx, SAE_ARCH_IDENTITY);
    check_test = "trainers";
    trainers(ctx);
    check_test = "settings";
    settings(ctx);
    check_test = "missing files";
    missing(ctx);
    strange(ctx);
    many_values();
    truncated(ctx);
    check_test = "temporaries";
    temporaries(ctx);
    check_test = "full disk";
    full_disk(ctx);
    full_disk_run(ctx);
    check_test = "no allocation";
    no_allocation();
    no_allocation_classes();
    out_of_memory(false);
    out_of_memory(true);
    common_memory.fail_once = false;
    backends();
    incomplete_backends();
    check_test = "loop";
    loops(ctx);
    check_test = "not what it seems";
    false_backups(ctx);
    other_classes(ctx);
    one_dimension(ctx);
    inside_a_team();
    sae_context_destroy(ctx);
    every_code();
    check_remove(check_temp());
    return check_end();
}
