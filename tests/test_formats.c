/*  Proves: dictionaries of other programs open with those programs' numbers or are refused in one
    clear line; some latents of a file are those of the whole; the variations compute what their formulas say; what is exported comes back bit for
    bit and computes the same; opening takes the memory of one dictionary.
    Oracle: f.npy and x_hat.npy of the fixtures, computed by the real programs: a selection in
    tests/formats (rows cut to 8 where they do not choose together), all of saelens, hub, sparsify,
    openai, arrays and refuse in ../shared/fixtures where that is; for the variations a naive
    evaluation in double; for exports the dictionary that was exported.
    Tolerance: that of each about.json; 2e-6 of max(1, largest of the row) against the naive one;
    none for what is copied; 1e-5 where b_dec or norms move into other parameters. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

static sae_context *ctx;

/* The largest share of a row's largest entry (at least 1) by which got differs from want. */
static double row_distance(const float *got, const float *want, size_t n) {
    double largest, worst = check_distance(got, want, n, &largest);
    return worst / (largest > 1 ? largest : 1);
}

/* ---- the variations against a naive evaluation ----------------------------------------------- */

static double naive_p(const sae_dictionary *dict, const double *x, size_t i) {
    double p = dict->b_enc[i];
    bool subtract = dict->desc.arch == SAE_ARCH_JUMP_RELU ? dict->desc.subtract_b_dec
                    : dict->desc.arch == SAE_ARCH_STANDARD_NEW ? false : !dict->desc.no_b_dec_subtraction;
    for (size_t c = 0; c < dict->desc.activation_dim; c++)
        p += (double)dict->W_enc[i * dict->ld + c]
             * (x[c] - (subtract ? (double)dict->b_dec[c] : 0));
    return p;
}

/* How many latents come before i: k of them are kept. */
static size_t naive_rank(const double *p, size_t m, size_t i, bool magnitude) {
    size_t rank = 0;
    for (size_t j = 0; j < m; j++) {
        double a = magnitude ? fabs(p[i]) : p[i], b = magnitude ? fabs(p[j]) : p[j];
        rank += b > a || (b == a && j < i);
    }
    return rank;
}

static void naive_row(const sae_dictionary *dict, const float *raw, float *f, float *x_hat) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->activation_dim, m = h->dict_size, out = h->output_dim;
    double x[64], p[256], mean = 0, square = 0, scale = 1;
    for (size_t c = 0; c < d; c++) mean += (double)raw[c] / (double)d;
    if (h->input_norm != SAE_INPUT_NORM_LAYER) mean = 0;
    for (size_t c = 0; c < d; c++) square += ((double)raw[c] - mean) * ((double)raw[c] - mean);
    if (h->input_norm == SAE_INPUT_NORM_LAYER) scale = sqrt(square / (double)(d - 1));
    if (h->input_norm == SAE_INPUT_NORM_CONSTANT) scale = sqrt(square / (double)d);
    for (size_t c = 0; c < d; c++)
        x[c] = ((double)raw[c] - mean)
               / (scale + (h->input_norm == SAE_INPUT_NORM_LAYER ? 1e-5 : 0));
    for (size_t i = 0; i < m; i++) p[i] = naive_p(dict, x, i);
    for (size_t i = 0; i < m; i++) {
        bool keep = true, sign = h->activation == SAE_ACTIVATION_SIGNED
                                 || h->activation == SAE_ACTIVATION_MAGNITUDE;
        if (h->arch == SAE_ARCH_JUMP_RELU) keep = p[i] > (double)dict->aux0[i];
        if (h->arch == SAE_ARCH_TOP_K && h->activation == SAE_ACTIVATION_GROUP_MAX) {
            size_t size = m / h->k, g = i / size * size;
            keep = naive_rank(p + g, size, i - g, false) == 0;
        } else if (h->arch == SAE_ARCH_TOP_K)
            keep = naive_rank(p, m, i, h->activation == SAE_ACTIVATION_MAGNITUDE) < h->k;
        f[i] = keep && (sign || p[i] > 0) ? (float)p[i] : 0;
    }
    for (size_t c = 0; c < out; c++) {
        double y = dict->b_dec[c];
        for (size_t i = 0; i < m; i++)
            y += (double)f[i] * (double)dict->W_dec[i * dict->ld_out + c];
        if (!h->output_normalized) y = y * scale + mean;
        for (size_t k = 0; h->skip && k < d; k++)
            y += (double)dict->W_skip[c * dict->ld + k] * (double)raw[k];
        x_hat[c] = (float)y;
    }
}

static sae_dictionary *random_dictionary(const sae_dictionary_desc *desc, uint64_t seed) {
    sae_dictionary *dict = NULL;
    check_rng rng = { seed };
    CHECK_OK(ctx, sae_dictionary_create(ctx, desc, &dict), return NULL);
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        for (size_t c = 0; c < dict->desc.activation_dim; c++)
            dict->W_enc[i * dict->ld + c] = (float)(0.4 * check_normal(&rng));
        for (size_t c = 0; c < dict->desc.output_dim; c++)
            dict->W_dec[i * dict->ld_out + c] = (float)(0.4 * check_normal(&rng));
        dict->b_enc[i] = (float)(0.2 * check_normal(&rng));
        if (dict->aux0) dict->aux0[i] = (float)(0.2 * check_uniform(&rng));
        if (dict->aux1) dict->aux1[i] = (float)(0.1 * check_normal(&rng));
    }
    for (size_t c = 0; c < dict->desc.output_dim; c++)
        dict->b_dec[c] = (float)(0.3 * check_normal(&rng));
    for (size_t r = 0; dict->W_skip && r < dict->desc.output_dim; r++)
        for (size_t c = 0; c < dict->desc.activation_dim; c++)
            dict->W_skip[r * dict->ld + c] = (float)(0.3 * check_normal(&rng));
    if (desc->k) dict->threshold = 0.25f;
    return dict;
}

/* Dense, sparse and subset encoding and both decodings of one dictionary. */
static void against_naive(const sae_dictionary *dict) {
    enum { ROWS = 37 };
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->activation_dim, m = h->dict_size, out = h->output_dim, at = 0;
    float x[ROWS * 64], f[ROWS * 256], x_hat[ROWS * 64], want_f[256], want_x[64], back[ROWS * 64];
    size_t begin[ROWS + 1];
    uint32_t latent[ROWS * 256];
    float value[ROWS * 256];
    sae_sparse code = { begin, latent, value, ROWS * 256 };
    check_rng rng = { 99 };
    for (size_t i = 0; i < ROWS * d; i++) x[i] = (float)(check_normal(&rng) + 0.2);
    for (size_t c = 0; c < d; c++) x[5 * d + c] *= 50;
    CHECK_OK(ctx, sae_forward(dict, x, ROWS, x_hat, f), return);
    CHECK_OK(ctx, sae_forward(dict, x, ROWS, back, NULL), return);
    CHECK(!memcmp(back, x_hat, ROWS * out * sizeof *x_hat), "forward with and without f differ");
    CHECK_OK(ctx, sae_encode_sparse(dict, x, ROWS, &code), return);
    CHECK_OK(ctx, sae_decode_sparse(dict, &code, ROWS, back), return);
    CHECK_OK(ctx, sae_decode_finish(dict, x, ROWS, back), return);
    CHECK(!memcmp(back, x_hat, ROWS * out * sizeof *x_hat), "sparse decoding differs");
    for (size_t r = 0; r < ROWS; r++) {
        double worst;
        naive_row(dict, x + r * d, want_f, want_x);
        worst = row_distance(f + r * m, want_f, m);
        CHECK(worst <= 2e-6, "latents of row %d off by %.1e", (int)r, worst);
        worst = row_distance(x_hat + r * out, want_x, out);
        CHECK(worst <= 2e-6, "x_hat of row %d off by %.1e", (int)r, worst);
        for (size_t i = 0; i < m; i++) {
            bool listed = at < begin[r + 1] && latent[at] == i;
            CHECK(listed == (f[r * m + i] != 0), "row %d latent %d: listed or not", (int)r, (int)i);
            if (listed) CHECK(value[at++] == f[r * m + i], "row %d: another value", (int)r);
        }
    }
}

static void variations(void) {
    static const struct {
        sae_arch arch;
        sae_activation latents;
        sae_input_norm norm;
        bool output_normalized, no_b_dec_subtraction, skip;
        size_t d, m, out, k;
    } cases[] = {
        { SAE_ARCH_STANDARD, SAE_ACTIVATION_SIGNED, 0, false, false, false, 18, 60, 0, 0 },
        { SAE_ARCH_STANDARD, 0, SAE_INPUT_NORM_LAYER, false, false, false, 20, 72, 0, 0 },
        { SAE_ARCH_STANDARD, 0, SAE_INPUT_NORM_CONSTANT, false, false, true, 20, 72, 0, 0 },
        { SAE_ARCH_STANDARD_NEW, 0, 0, false, false, true, 20, 72, 17, 0 },
        { SAE_ARCH_STANDARD_NEW, 0, SAE_INPUT_NORM_LAYER, true, false, true, 20, 70, 51, 0 },
        { SAE_ARCH_JUMP_RELU, 0, SAE_INPUT_NORM_CONSTANT, true, false, true, 7, 33, 64, 0 },
        { SAE_ARCH_JUMP_RELU, 0, 0, false, false, false, 33, 50, 5, 0 },
        { SAE_ARCH_TOP_K, SAE_ACTIVATION_MAGNITUDE, 0, false, false, false, 20, 72, 0, 5 },
        { SAE_ARCH_TOP_K, SAE_ACTIVATION_MAGNITUDE, 0, false, true, false, 16, 16, 0, 16 },
        { SAE_ARCH_TOP_K, SAE_ACTIVATION_SIGNED, SAE_INPUT_NORM_LAYER, false, false, false, 18, 60, 0,
          50 },
        { SAE_ARCH_TOP_K, SAE_ACTIVATION_GROUP_MAX, 0, false, true, true, 16, 72, 0, 8 },
        { SAE_ARCH_TOP_K, SAE_ACTIVATION_GROUP_MAX, 0, false, false, false, 16, 60, 0, 60 },
        { SAE_ARCH_TOP_K, 0, SAE_INPUT_NORM_LAYER, false, true, false, 60, 100, 0, 3 },
        { SAE_ARCH_TOP_K, 0, 0, false, true, true, 9, 40, 12, 4 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_dictionary_desc desc;
        sae_dictionary *dict;
        memset(&desc, 0, sizeof desc);
        desc.arch = cases[i].arch;
        desc.activation = cases[i].latents;
        desc.input_norm = cases[i].norm;
        desc.output_normalized = cases[i].output_normalized;
        desc.no_b_dec_subtraction = cases[i].no_b_dec_subtraction;
        desc.skip = cases[i].skip;
        desc.activation_dim = cases[i].d;
        desc.dict_size = cases[i].m;
        desc.output_dim = cases[i].out;
        desc.k = cases[i].k;
        check_test = check_path("variation %d", (int)i);
        dict = random_dictionary(&desc, 40 + i);
        if (dict) against_naive(dict);
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* What a class does not have is refused, with the field in the message. */
static void refused_descs(void) {
    static const struct { const char *field; sae_dictionary_desc desc; } cases[] = {
        { "activation", { .arch = SAE_ARCH_GATED, .activation = SAE_ACTIVATION_SIGNED } },
        { "activation", { .arch = SAE_ARCH_STANDARD, .activation = SAE_ACTIVATION_MAGNITUDE } },
        { "group max", { .arch = SAE_ARCH_TOP_K, .k = 5, .activation = SAE_ACTIVATION_GROUP_MAX } },
        { "k_fraction", { .arch = SAE_ARCH_TOP_K, .k = 5, .k_fraction = 0.5 } },
        { "k_fraction", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .k_fraction = 1 } },
        { "input_norm", { .arch = SAE_ARCH_STANDARD, .input_norm = (sae_input_norm)3 } },
        { "gate", { .arch = SAE_ARCH_GATED, .gate = SAE_GATE_NORM } },
        { "gate", { .arch = SAE_ARCH_TOP_K, .k = 5, .gate = (sae_gate)4 } },
        { "gate", { .arch = SAE_ARCH_TOP_K, .k = 5, .activation = SAE_ACTIVATION_SIGNED,
                    .gate = SAE_GATE_NORM } },
        { "gate_norm", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .gate = SAE_GATE_MIXED,
                         .gate_norm = -1 } },
        { "glu", { .arch = SAE_ARCH_MATRYOSHKA, .k = 5, .glu = true } },
        { "layers", { .arch = SAE_ARCH_STANDARD, .layers = 3 } },
        { "layers", { .arch = SAE_ARCH_STANDARD, .layers = 8, .output_dim = 12 } },
        { "layers", { .arch = SAE_ARCH_IDENTITY, .dict_size = 8, .layers = 2 } },
        { "layer_codes", { .arch = SAE_ARCH_GATED, .layers = 2, .layer_codes = true } },
        { "over_layers", { .arch = SAE_ARCH_TOP_K, .k = 5, .layers = 2, .over_layers = true } },
        { "normalizer", { .arch = SAE_ARCH_STANDARD_NEW, .output_dim = 4, .normalizer = true } },
        { "k is 33", { .arch = SAE_ARCH_TOP_K, .k = 33, .layers = 2, .layer_codes = true,
                       .over_layers = true } },
        { "residual_threshold", { .arch = SAE_ARCH_STANDARD, .repeats = true } },
        { "residual_threshold", { .arch = SAE_ARCH_MATCHING_PURSUIT, .residual_threshold = -1 } },
        { "MatchingPursuitSAE", { .arch = SAE_ARCH_MATCHING_PURSUIT, .skip = true } },
        { "output_dim", { .arch = SAE_ARCH_STANDARD, .output_dim = 9 } },
        { "output_dim", { .arch = SAE_ARCH_STANDARD_NEW, .output_dim = 9,
                          .input_norm = SAE_INPUT_NORM_LAYER } },
        { "IdentityDict", { .arch = SAE_ARCH_IDENTITY, .dict_size = 8, .skip = true } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_dictionary_desc desc = cases[i].desc;
        sae_dictionary *dict = NULL;
        desc.activation_dim = 8;
        if (!desc.dict_size) desc.dict_size = 16;
        CHECK(sae_dictionary_create(ctx, &desc, &dict) == SAE_ERR_INVALID && !dict, "%s is taken",
              cases[i].field);
        CHECK(strstr(sae_error(ctx), cases[i].field), "no %s in: %s", cases[i].field,
              sae_error(ctx));
    }
}

/* What a config says in place of a number is named in the message, whatever it is. */
static void refused_values(void) {
    static const char *const values[][2] = { { "{}", "an object" }, { "[1]", "a list" },
        { "\"32\"", "32" }, { "true", "true" }, { "1.5", "1.5" } };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        char config[128], want[64];
        sae_load_desc desc;
        sae_dictionary *dict = NULL;
        memset(&desc, 0, sizeof desc);
        snprintf(config, sizeof config, "{\"architecture\": \"standard\", \"d_in\": %s, \"d_sae\": 8}",
                 values[i][0]);
        snprintf(want, sizeof want, "d_in in cfg.json is %s, allowed is", values[i][1]);
        desc.config = config;
        desc.config_size = strlen(config);
        CHECK(sae_dictionary_load(ctx, &desc, check_path("%s/tests/formats/saelens/square", check_root()),
                                  &dict) == SAE_ERR_FORMAT && !dict && strstr(sae_error(ctx), want),
              "%s: %s", values[i][0], sae_error(ctx));
    }
}

/* ---- fixtures -------------------------------------------------------------------------------- */

/* One line, not too long, that names something. */
static void clear_message(void) {
    const char *text = sae_error(ctx);
    CHECK(text[0] && !strchr(text, '\n') && strlen(text) < 800, "refused with: %s", text);
}

static void dictionary_fixture(const sae_json *about, const char *folder, const char *path) {
    size_t count, rows;
    float *x = check_tensor(ctx, check_path("%s/x.npy", folder), NULL, &count, &rows), *f, *x_hat;
    sae_dictionary *dict = NULL;
    sae_dictionary_desc info;
    sae_load_desc load;
    sae_result result;
    size_t m;
    memset(&load, 0, sizeof load);
    load.k = (size_t)sae_json_number(sae_json_get(about, "k"));
    result = sae_dictionary_load(ctx, load.k ? &load : NULL, path, &dict);
    if (result != SAE_OK && strcmp(common_about_text(about, "expect"), "load") != 0) clear_message();
    else CHECK(result == SAE_OK, "%s: %s", sae_result_name(result), sae_error(ctx));
    if (result != SAE_OK || !x) {
        CHECK(!dict, "a dictionary in spite of %s", sae_result_name(result));
        free(x);
        return;
    }
    info = *sae_dictionary_get_desc(dict);
    CHECK(info.activation_dim * rows == count, "d is %d", (int)info.activation_dim);
    CHECK(sae_dictionary_origin(dict)->format != SAE_FORMAT_NONE, "it comes from nowhere");
    m = sae_dictionary_num_latents(dict);
    f = (float *)malloc(rows * m * sizeof *f);
    x_hat = (float *)malloc(rows * info.output_dim * sizeof *x_hat);
    CHECK_OK(ctx, sae_forward(dict, x, rows, x_hat, f), (void)0);
    common_near(ctx, about, folder, "f", f, rows, m);
    common_near(ctx, about, folder, "x_hat", x_hat, rows, info.output_dim);
    free(f);
    free(x_hat);
    free(x);
    sae_dictionary_destroy(dict);
}

static void refused_fixture(const sae_json *about, const char *path) {
    sae_tensor_file *file = NULL;
    sae_dictionary *dict = NULL;
    sae_result result = sae_dictionary_load(ctx, NULL, path, &dict);
    if (result != SAE_OK) clear_message();
    else if (!strcmp(common_about_text(about, "expect"), "refuse"))
        CHECK(false, "opened in spite of: %s", common_about_text(about, "why"));
    if (sae_tensor_file_open(ctx, path, &file) != SAE_OK) clear_message();
    sae_tensor_file_close(file);
    sae_dictionary_destroy(dict);
}

static void array_fixture(const sae_json *about, const char *path) {
    sae_tensor_file *file = NULL;
    sae_result result = sae_tensor_file_open(ctx, path, &file);
    const sae_json *tensors = sae_json_get(about, "tensors");
    if (result != SAE_OK && strcmp(common_about_text(about, "expect"), "load") != 0) clear_message();
    else CHECK(result == SAE_OK, "%s: %s", sae_result_name(result), sae_error(ctx));
    for (const sae_json *t = file ? sae_json_first(tensors) : NULL; t; t = sae_json_next(t))
        CHECK(sae_tensor_file_find(file, sae_json_key(t)) || sae_tensor_file_count(file) == 1,
              "no tensor %s", sae_json_key(t));
    sae_tensor_file_close(file);
}

/* Some latents of a dictionary are those of the whole, bit for bit. */
static void ranges_of(const sae_json *about, const char *folder, const char *path) {
    sae_load_desc load = { .raw_decoder_norms = true };
    sae_dictionary *all = NULL, *part = NULL;
    size_t m;
    (void)about;
    (void)folder;
    if (sae_dictionary_load(ctx, &load, path, &all) != SAE_OK) return;
    m = all->desc.dict_size;
    const size_t ranges[][2] = { { 0, 1 }, { m / 3, m / 2 }, { m - 1, 5 }, { m / 2, 0 }, { 0, m } };
    bool needs_all = all->desc.arch == SAE_ARCH_IDENTITY
                     || all->desc.arch == SAE_ARCH_MATCHING_PURSUIT
                     || all->desc.activation == SAE_ACTIVATION_GROUP_MAX;
    for (size_t i = 0; i < 5; i++) {
        size_t first = ranges[i][0], n = ranges[i][1] ? ranges[i][1] : m, sum = 0;
        sae_result result;
        load.first_latent = first;
        load.num_latents = ranges[i][1];
        if (n > m - first) n = m - first;
        result = sae_dictionary_load(ctx, &load, path, &part);
        if (needs_all && n < m) {
            CHECK(result == SAE_ERR_UNSUPPORTED && strstr(sae_error(ctx), "needs them all"),
                  "latents %d, %d: %s", (int)first, (int)n, sae_error(ctx));
            continue;
        }
        CHECK(result == SAE_OK, "latents %d, %d: %s", (int)first, (int)n, sae_error(ctx));
        if (result != SAE_OK) continue;
        CHECK(part->desc.dict_size == n && part->desc.output_dim == all->desc.output_dim,
              "%d latents, want %d", (int)part->desc.dict_size, (int)n);
        CHECK(sae_dictionary_origin(part)->dict_size == m
                  && sae_dictionary_origin(part)->k == sae_dictionary_origin(all)->k
                  && sae_dictionary_origin(part)->first_latent == first, "another origin");
        size_t most = all->desc.over_layers ? n * all->desc.layers : n;
        CHECK(part->desc.k == (all->desc.k < most ? all->desc.k : most), "k %d", (int)part->desc.k);
        for (size_t g = 0; g < part->desc.num_groups; g++) sum += part->desc.group_sizes[g];
        CHECK(!part->desc.num_groups == !all->desc.num_groups && (!sum || sum == n), "groups");
        CHECK(!memcmp(part->W_enc, all->W_enc + first * all->ld, n * all->ld * sizeof(float))
                  && !memcmp(part->W_dec, all->W_dec + first * all->ld_out,
                             n * all->ld_out * sizeof(float)), "other rows");
        CHECK(!memcmp(part->b_enc, all->b_enc + first, n * sizeof(float)), "b_enc");
        CHECK(!all->aux0 || !memcmp(part->aux0, all->aux0 + first, n * sizeof(float)), "aux0");
        CHECK(!all->aux1 || !memcmp(part->aux1, all->aux1 + first, n * sizeof(float)), "aux1");
        for (size_t l = 0; all->gate && l < (all->desc.layer_codes ? all->desc.layers : 1); l++)
            CHECK(!memcmp(part->gate + l * n, all->gate + l * m + first, n * sizeof(float)), "gate");
        CHECK(!all->W_glu || !memcmp(part->W_glu, all->W_glu + first * all->ld,
                                     n * all->ld * sizeof(float)), "W_glu");
        CHECK(!all->mean || !memcmp(part->mean, all->mean, all->ld * sizeof(float)), "mean");
        CHECK(!memcmp(part->b_dec, all->b_dec, all->ld_out * sizeof(float)), "b_dec");
        CHECK(!memcmp(&part->threshold, &all->threshold, sizeof(float)), "threshold");
        CHECK(!all->W_skip || !memcmp(part->W_skip, all->W_skip,
                                      all->desc.output_dim * all->ld * sizeof(float)), "W_skip");
        sae_dictionary_destroy(part);
    }
    load.first_latent = m;
    CHECK(sae_dictionary_load(ctx, &load, path, &part) == SAE_ERR_INVALID
              && strstr(sae_error(ctx), "first_latent"), "latent %d of %d", (int)m, (int)m);
    sae_dictionary_destroy(all);
}

static void fixture(const sae_json *about, const char *folder, const char *path) {
    /* the same bytes with two meanings: what an unregistered copy gives in SAELens */
    if (strstr(folder, "llama_scope_unfolded")) SKIP("%s", folder);
    else if (strstr(folder, "/refuse/")) refused_fixture(about, path);
    else if (check_exists(check_path("%s/x.npy", folder))) dictionary_fixture(about, folder, path);
    else array_fixture(about, path);
}

/* ---- export ---------------------------------------------------------------------------------- */

/* Both on the same rows; tolerance 0: the same bits. scaled: latents may carry decoder norms. */
static void same_function(const sae_dictionary *a, const sae_dictionary *b, double tolerance,
                          bool scaled) {
    enum { ROWS = 24 };
    sae_dictionary_desc h = *sae_dictionary_get_desc(a), g = *sae_dictionary_get_desc(b);
    float *x = (float *)malloc(ROWS * h.activation_dim * sizeof *x), *f[2], *x_hat[2];
    check_rng rng = { 3 };
    CHECK(h.activation_dim == g.activation_dim && h.dict_size == g.dict_size
              && h.output_dim == g.output_dim, "another shape");
    for (size_t i = 0; i < ROWS * h.activation_dim; i++) x[i] = (float)check_normal(&rng);
    for (size_t i = 0; i < 2; i++) {
        f[i] = (float *)malloc(ROWS * h.dict_size * sizeof **f);
        x_hat[i] = (float *)malloc(ROWS * h.output_dim * sizeof **x_hat);
        CHECK_OK(ctx, sae_forward(i ? b : a, x, ROWS, x_hat[i], f[i]), (void)0);
    }
    for (size_t r = 0; r < ROWS; r++) {
        double worst = row_distance(f[1] + r * h.dict_size, f[0] + r * h.dict_size, h.dict_size);
        if (!scaled) CHECK(worst <= tolerance, "latents of row %d off by %.1e", (int)r, worst);
        worst = row_distance(x_hat[1] + r * h.output_dim, x_hat[0] + r * h.output_dim,
                             h.output_dim);
        CHECK(worst <= tolerance, "x_hat of row %d off by %.1e", (int)r, worst);
    }
    for (size_t i = 0; i < 2; i++) {
        free(f[i]);
        free(x_hat[i]);
    }
    free(x);
}

/* NULL where the format cannot say it; then `why` must be in the message and nothing written. */
static sae_dictionary *exported(const sae_dictionary *dict, sae_format format, const char *why) {
    const char *folder = check_path("%s/%s", check_temp(), sae_format_name(format));
    sae_export_desc desc;
    sae_load_desc load;
    sae_dictionary *back = NULL;
    sae_result result;
    memset(&desc, 0, sizeof desc);
    memset(&load, 0, sizeof load);
    desc.format = format;
    check_remove(folder);
    result = sae_dictionary_export(dict, &desc, folder);
    if (why) {
        CHECK(result == SAE_ERR_UNSUPPORTED && strstr(sae_error(ctx), why), "%s: %s, want %s",
              sae_result_name(result), sae_error(ctx), why);
        CHECK(!check_exists(folder), "refused, but %s was made", folder);
        return NULL;
    }
    CHECK_OK(ctx, result, return NULL);
    load.raw = true;
    CHECK_OK(ctx, sae_dictionary_load(ctx, &load, folder, &back), return NULL);
    CHECK(sae_dictionary_origin(back)->format == format, "another format");
    return back;
}

static sae_dictionary_desc class_desc(sae_arch arch) {
    sae_dictionary_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.arch = arch;
    desc.activation_dim = 12;
    desc.dict_size = 40;
    if (saei_arch_selects(arch)) desc.k = 5;
    if (arch == SAE_ARCH_MATRYOSHKA) {
        desc.num_groups = 2;
        desc.group_sizes[0] = 15;
        desc.group_sizes[1] = 25;
    }
    return desc;
}

/* Every class of the reference into every format. */
static void matrix(void) {
    for (int arch = SAE_ARCH_STANDARD; arch <= SAE_ARCH_JUMP_RELU; arch++) {
        sae_dictionary_desc desc = class_desc((sae_arch)arch);
        sae_dictionary *dict = random_dictionary(&desc, 7), *back;
        bool top_k = arch == SAE_ARCH_TOP_K, folds = arch == SAE_ARCH_STANDARD
                                                     || arch == SAE_ARCH_GATED
                                                     || arch == SAE_ARCH_JUMP_RELU;
        check_test = sae_arch_name((sae_arch)arch);
        back = exported(dict, SAE_FORMAT_DICTIONARY_LEARNING, NULL);
        if (back) {
            CHECK(back->desc.arch == (sae_arch)arch, "it is %s", sae_arch_name(back->desc.arch));
            CHECK(!folds || saei_decoder_is_unit(back), "decoder rows are not of norm 1");
            same_function(dict, back, folds ? 1e-5 : 0, folds);
            if (!folds)
                CHECK(common_hash(dict) == common_hash(back), "other bits in the parameters");
        }
        sae_dictionary_destroy(back);
        back = exported(dict, SAE_FORMAT_SAE_LENS, NULL);
        if (back) same_function(dict, back, 0, false);
        if (back && saei_layout_of((sae_arch)arch) && !saei_arch_selects((sae_arch)arch))
            CHECK(common_hash(dict) == common_hash(back), "other bits in the parameters");
        sae_dictionary_destroy(back);
        back = exported(dict, SAE_FORMAT_SPARSIFY, top_k ? NULL : "the k largest");
        if (back) same_function(dict, back, 0, false);
        sae_dictionary_destroy(back);
        /* unit decoders are written as they are */
        sae_dictionary_destroy(dict);
        dict = random_dictionary(&desc, 8);
        saei_fold_decoder_norms(dict);
        back = exported(dict, SAE_FORMAT_DICTIONARY_LEARNING, NULL);
        if (back) CHECK(common_hash(dict) == common_hash(back), "other bits in the parameters");
        sae_dictionary_destroy(back);
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* The variations: where they can go, and where they cannot. */
static void matrix_of_variations(void) {
    static const struct {
        const char *name;
        sae_dictionary_desc desc;
        const char *dl, *lens, *sparsify; /* NULL: it can; else a part of the refusal */
    } cases[] = {
        { "no_b_dec_subtraction, top-k", { .arch = SAE_ARCH_TOP_K, .k = 5, .no_b_dec_subtraction = true }, NULL, NULL,
          NULL },
        { "no_b_dec_subtraction, gated", { .arch = SAE_ARCH_GATED, .no_b_dec_subtraction = true }, NULL, NULL,
          "the k largest" },
        { "subtract_b_dec", { .arch = SAE_ARCH_JUMP_RELU, .subtract_b_dec = true }, NULL, NULL,
          "the k largest" },
        { "layer norm", { .arch = SAE_ARCH_TOP_K, .k = 5, .input_norm = SAE_INPUT_NORM_LAYER },
          "normalisation", NULL, "normalisation" },
        { "constant norm", { .arch = SAE_ARCH_GATED, .input_norm = SAE_INPUT_NORM_CONSTANT },
          "normalisation", NULL, "the k largest" },
        { "magnitude", { .arch = SAE_ARCH_TOP_K, .k = 5, .activation = SAE_ACTIVATION_MAGNITUDE },
          "below 0", NULL, "below 0" },
        { "identity", { .arch = SAE_ARCH_STANDARD, .activation = SAE_ACTIVATION_SIGNED }, "below 0",
          "below 0", "the k largest" },
        { "group max", { .arch = SAE_ARCH_TOP_K, .k = 5, .activation = SAE_ACTIVATION_GROUP_MAX },
          "group max", "group max", NULL },
        { "skip, top-k", { .arch = SAE_ARCH_TOP_K, .k = 5, .skip = true }, "skip", "skip", NULL },
        { "skip, relu", { .arch = SAE_ARCH_STANDARD_NEW, .skip = true }, "skip", NULL,
          "the k largest" },
        { "skip, relu, centred", { .arch = SAE_ARCH_STANDARD, .skip = true }, "skip", "skip",
          "the k largest" },
        { "transcoder", { .arch = SAE_ARCH_JUMP_RELU, .output_dim = 9 }, "transcoders", NULL,
          "the k largest" },
        { "transcoder, skip, norm", { .arch = SAE_ARCH_JUMP_RELU, .output_dim = 9, .skip = true,
          .input_norm = SAE_INPUT_NORM_LAYER, .output_normalized = true }, "transcoders", NULL,
          "the k largest" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_dictionary_desc desc = cases[i].desc;
        sae_dictionary *dict, *back;
        bool moved = desc.no_b_dec_subtraction || desc.subtract_b_dec;
        desc.activation_dim = 12;
        desc.dict_size = 40;
        check_test = cases[i].name;
        dict = random_dictionary(&desc, 20 + i);
        if (!dict) continue;
        back = exported(dict, SAE_FORMAT_DICTIONARY_LEARNING, cases[i].dl);
        if (back) CHECK(saei_is_plain(&back->desc), "a variation came back");
        if (back) same_function(dict, back, moved ? 1e-5 : 0, desc.arch != SAE_ARCH_TOP_K);
        sae_dictionary_destroy(back);
        back = exported(dict, SAE_FORMAT_SAE_LENS, cases[i].lens);
        if (back) same_function(dict, back, 0, false);
        sae_dictionary_destroy(back);
        back = exported(dict, SAE_FORMAT_SPARSIFY, cases[i].sparsify);
        if (back) same_function(dict, back, 0, false);
        sae_dictionary_destroy(back);
        if (!saei_is_plain(&dict->desc)) { /* a state_dict says a skip and another width */
            const sae_dictionary_desc *h = &dict->desc;
            bool says = saei_is_state_dict(h) && !h->subtract_b_dec
                        && (!h->no_b_dec_subtraction || h->output_dim != h->activation_dim);
            CHECK(sae_dictionary_save(dict, check_path("%s/x.pt", check_temp()))
                      == (says ? SAE_OK : SAE_ERR_UNSUPPORTED), "saved as the reference's");
        }
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* The origin goes along; unset thresholds and wrong formats are refused. */
static void export_rest(void) {
    sae_dictionary_desc desc = class_desc(SAE_ARCH_BATCH_TOP_K);
    sae_dictionary *dict = random_dictionary(&desc, 9), *back = NULL;
    sae_export_desc how;
    sae_origin origin;
    float log_sparsity[40];
    size_t count;
    float *read;
    const char *folder = check_path("%s/rest", check_temp());
    memset(&how, 0, sizeof how);
    memset(&origin, 0, sizeof origin);
    snprintf(origin.model, sizeof origin.model, "EleutherAI/pythia-70m \"quoted\"");
    origin.layer = 3;
    origin.context_size = 64;
    for (size_t i = 0; i < 40; i++) log_sparsity[i] = -(float)i;
    how.format = SAE_FORMAT_SAE_LENS;
    how.origin = &origin;
    how.log_sparsity = log_sparsity;
    CHECK_OK(ctx, sae_dictionary_export(dict, &how, folder), return);
    CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, folder, &back), return);
    CHECK(back->desc.arch == SAE_ARCH_JUMP_RELU && back->desc.subtract_b_dec, "not jumprelu");
    CHECK(!strcmp(back->origin.model, "pythia-70m \"quoted\"") && back->origin.layer == 3
              && !strcmp(back->origin.hook, "blocks.3.hook_resid_post")
              && back->origin.context_size == 64, "another origin: %s, %s", back->origin.model,
          back->origin.hook);
    sae_dictionary_destroy(back);
    read = check_tensor(ctx, check_path("%s/sparsity.safetensors", folder), "sparsity", &count,
                        NULL);
    CHECK(read && count == 40 && !memcmp(read, log_sparsity, sizeof log_sparsity), "sparsity");
    free(read);
    how.format = SAE_FORMAT_GEMMA_SCOPE;
    CHECK(sae_dictionary_export(dict, &how, folder) == SAE_ERR_INVALID, "gemma_scope is written");
    CHECK_OK(ctx, sae_dictionary_set_rule(dict, SAE_RULE_TOP_K), (void)0);
    dict->threshold = -1;
    exported(dict, SAE_FORMAT_SAE_LENS, "threshold was never set");
    exported(dict, SAE_FORMAT_DICTIONARY_LEARNING, "threshold was never set");
    sae_dictionary_destroy(dict);
}

/* What a SAELens cfg.json says of its use is in the origin, in either spelling, and goes along. */
static void use_in_origin(void) {
    static const struct {
        const char *use; /* of the metadata; "flat": of a cfg before 6.0 */
        bool flat;
        int bos;
        int64_t head, first, end, step; /* head -1: none */
        bool special;
        const char *hook_out, *options;
    } cases[] = {
        { "\"prepend_bos\": true, \"seqpos_slice\": [1, null]", false, 1, -1, 1, INT64_MAX, 1, false,
          "", "" },
        { "\"prepend_bos\": false, \"seqpos_slice\": [null]", false, -1, -1, 0, 0, 0, false, "", "" },
        { "\"seqpos_slice\": null, \"hook_name_out\": \"blocks.3.hook_mlp_out\"", false, 0, -1, 0,
          0, 0, false, "blocks.3.hook_mlp_out", "" },
        { "\"seqpos_slice\": [-5], \"hook_head_index\": 2", false, 0, 2, 0, -5, 1, false, "", "" },
        { "\"seqpos_slice\": [5, -5, 3], \"exclude_special_tokens\": [7]", false, 0, -1, 5, -5, 3,
          true, "", "" },
        { "\"seqpos_slice\": [null, null], \"exclude_special_tokens\": false, "
          "\"model_from_pretrained_kwargs\": {\"center_writing_weights\": true, \"fold_ln\": true, "
          "\"fold_value_biases\": true}", false, 0, -1, 0, 0, 0, false, "",
          "center_writing_weights, fold_value_biases" },
        { "\"hook_point_head_index\": 0, \"hook_point\": \"blocks.3.attn.hook_z\"", true, 1, 0, 0, 0,
          0, false, "", "" },
        { "\"hook_head_index\": null, \"prepend_bos\": false", true, -1, -1, 0, 0, 0, false, "", "" }
    };
    static const char *const refused[] = {
        "\"prepend_bos\": 1", "\"hook_head_index\": -1", "\"hook_head_index\": \"all\"",
        "\"seqpos_slice\": []", "\"seqpos_slice\": [1, 2, 0]", "\"seqpos_slice\": [1, 2, 3, 4]",
        "\"seqpos_slice\": 3", "\"seqpos_slice\": [1.5]"
    };
    sae_dictionary_desc desc = class_desc(SAE_ARCH_STANDARD);
    sae_dictionary *dict = random_dictionary(&desc, 10), *back;
    sae_export_desc how;
    char text[600];
    const char *folder = check_path("%s/use", check_temp());
    memset(&how, 0, sizeof how);
    how.format = SAE_FORMAT_SAE_LENS;
    CHECK_OK(ctx, sae_dictionary_export(dict, &how, folder), return);
    sae_dictionary_destroy(dict);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_load_desc load;
        memset(&load, 0, sizeof load);
        snprintf(text, sizeof text, "{\"architecture\": \"standard\", \"d_in\": %zu, \"d_sae\": %zu, "
                 "\"apply_b_dec_to_input\": true, %s%s%s}", desc.activation_dim, desc.dict_size,
                 cases[i].flat ? "" : "\"metadata\": {\"sae_lens_version\": \"6.18.0\", ",
                 cases[i].use, cases[i].flat ? "" : "}");
        load.config = text;
        load.config_size = strlen(text);
        check_test = cases[i].use;
        CHECK_OK(ctx, sae_dictionary_load(ctx, &load, folder, &dict), continue);
        how.origin = NULL;
        CHECK_OK(ctx, sae_dictionary_export(dict, &how, check_path("%s/use2", check_temp())),
                 continue);
        CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, check_path("%s/use2", check_temp()), &back),
                 continue);
        for (size_t k = 0; k < 2; k++) {
            const sae_origin *o = &(k ? back : dict)->origin;
            CHECK(o->prepend_bos == cases[i].bos, "prepend_bos is %d", o->prepend_bos);
            CHECK((o->one_head ? (int64_t)o->head : -1) == cases[i].head, "head is %zu", o->head);
            CHECK(o->positions[0] == cases[i].first && o->positions[1] == cases[i].end
                      && o->positions[2] == cases[i].step, "positions are %lld, %lld, %lld",
                  (long long)o->positions[0], (long long)o->positions[1],
                  (long long)o->positions[2]);
            CHECK(o->no_special == cases[i].special, "no_special is %d", o->no_special);
            CHECK(strcmp(o->hook_out, cases[i].hook_out) == 0, "hook_out is %s", o->hook_out);
            CHECK(strcmp(o->model_options, cases[i].options) == 0, "options are %s",
                  o->model_options);
        }
        sae_dictionary_destroy(dict);
        sae_dictionary_destroy(back);
    }
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        sae_load_desc load;
        memset(&load, 0, sizeof load);
        snprintf(text, sizeof text, "{\"architecture\": \"standard\", \"d_in\": %zu, \"d_sae\": %zu, "
                 "\"metadata\": {\"sae_lens_version\": \"6.18.0\", %s}}", desc.activation_dim,
                 desc.dict_size, refused[i]);
        load.config = text;
        load.config_size = strlen(text);
        check_test = refused[i];
        CHECK(sae_dictionary_load(ctx, &load, folder, &dict) == SAE_ERR_FORMAT
                  && strstr(sae_error(ctx), "allowed is"), "%s", sae_error(ctx));
    }
    check_test = NULL;
}

/* ---- what uses a dictionary ------------------------------------------------------------------ */

/* x_hat against targets as wide as it is, with another width of the input: the l2_loss and the
   variance of a sum in double. */
static void evaluate_transcoder(void) {
    enum { ROWS = 40, OUT = 9 };
    sae_dictionary_desc desc = class_desc(SAE_ARCH_STANDARD_NEW);
    sae_evaluate_desc how;
    sae_metrics got;
    sae_dictionary *dict;
    float x[ROWS * 12], y[ROWS * OUT], x_hat[ROWS * OUT];
    double l2 = 0, mean[2][OUT] = { { 0 } }, sum[2] = { 0 };
    check_rng rng = { 17 };
    desc.output_dim = OUT;
    desc.skip = true;
    dict = random_dictionary(&desc, 18);
    memset(&how, 0, sizeof how);
    for (size_t i = 0; i < ROWS * 12; i++) x[i] = (float)check_normal(&rng);
    for (size_t i = 0; i < ROWS * OUT; i++) y[i] = (float)check_normal(&rng);
    how.buffer.source.data = x;
    how.buffer.source.rows = ROWS;
    how.buffer.source.dim = 12;
    how.buffer.batch_size = ROWS;
    check_test = "evaluate";
    CHECK(sae_evaluate(dict, &how, &got) == SAE_ERR_INVALID && strstr(sae_error(ctx), "target"),
          "no target, but: %s", sae_error(ctx));
    how.buffer.source.target = y;
    CHECK_OK(ctx, sae_evaluate(dict, &how, &got), return);
    CHECK_OK(ctx, sae_forward(dict, x, ROWS, x_hat, NULL), return);
    for (size_t i = 0; i < ROWS * OUT; i++) {
        mean[0][i % OUT] += (double)y[i] / ROWS;
        mean[1][i % OUT] += ((double)y[i] - (double)x_hat[i]) / ROWS;
    }
    for (size_t r = 0; r < ROWS; r++) {
        double square = 0;
        for (size_t c = 0; c < OUT; c++) {
            double want = y[r * OUT + c], e = want - (double)x_hat[r * OUT + c];
            square += e * e;
            sum[0] += (want - mean[0][c]) * (want - mean[0][c]);
            sum[1] += (e - mean[1][c]) * (e - mean[1][c]);
        }
        l2 += sqrt(square) / ROWS;
    }
    CHECK_REL(got.l2_loss, l2, 1e-9, "l2_loss");
    CHECK_REL(got.frac_variance_explained, 1 - sum[1] / sum[0], 1e-9, "variance explained");
    sae_dictionary_destroy(dict);
    check_test = NULL;
}

/* A trainer starts from any program's file, if it is the trainer's class as it is. */
static void start_from_others(void) {
    static const struct { const char *file, *why; } cases[] = {
        { "saelens/square", NULL },
        { "saelens/gated", "GatedAutoEncoder" },
        { "saelens/norm_constant", "with variations" },
    };
    for (size_t i = 0; i < 3; i++) {
        sae_trainer_desc desc =
            common_trainer(SAE_TRAINER_STANDARD, i ? 20 : 16, i ? 72 : 16, 8, 9);
        sae_trainer *trainer = NULL;
        sae_result result;
        check_test = cases[i].file;
        desc.init = check_path("%s/tests/formats/%s", check_root(), cases[i].file);
        result = sae_trainer_create(ctx, &desc, &trainer);
        if (cases[i].why)
            CHECK(result == SAE_ERR_MISMATCH && strstr(sae_error(ctx), cases[i].why), "%s",
                  sae_error(ctx));
        else CHECK(result == SAE_OK, "%s", sae_error(ctx));
        sae_trainer_destroy(trainer);
    }
    check_test = NULL;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Opening takes at most 1.1 times the dictionary, whatever the file. */
static void memory_of_opening(void) {
    sae_dictionary_desc desc = class_desc(SAE_ARCH_JUMP_RELU);
    sae_context *counted;
    sae_dictionary *dict, *back;
    size_t bytes, before;
    desc.activation_dim = 200;
    desc.dict_size = 1500;
    dict = random_dictionary(&desc, 5);
    if (!dict || !(counted = common_counted(NULL, 1))) return;
    bytes = dict->num_params * sizeof(float);
    for (sae_format format = SAE_FORMAT_DICTIONARY_LEARNING; format <= SAE_FORMAT_SAE_LENS;
         format = (sae_format)(format + 1)) {
        check_test = sae_format_name(format);
        back = exported(dict, format, NULL);
        sae_dictionary_destroy(back);
        back = NULL;
        common_memory.most = before = common_memory.held; /* what a context takes */
        CHECK_OK(counted, sae_dictionary_load(counted, NULL, check_path("%s/%s", check_temp(),
                                              sae_format_name(format)), &back), continue);
        CHECK(common_memory.most - before <= bytes + bytes / 10,
              "opening takes %d bytes, the dictionary %d", (int)(common_memory.most - before),
              (int)bytes);
        sae_dictionary_destroy(back);
    }
    sae_context_destroy(counted);
    CHECK(common_memory.held == 0, "%d bytes stay", (int)common_memory.held);
    sae_dictionary_destroy(dict);
    check_test = NULL;
}

int main(void) {
    static const char *const kinds[] = { "saelens", "hub", "sparsify", "openai", "arrays",
                                         "refuse" }; /* test_layers has layouts */
    char root[512];
    if (!(ctx = check_context(1))) return check_end();
    variations();
    refused_descs();
    refused_values();
    matrix();
    matrix_of_variations();
    export_rest();
    use_in_origin();
    evaluate_transcoder();
    start_from_others();
    memory_of_opening();
    snprintf(root, sizeof root, "%s/tests/formats", check_root());
    CHECK(common_fixtures(ctx, root, fixture) >= 50, "fixtures are missing");
    common_fixtures(ctx, root, ranges_of);
    snprintf(root, sizeof root, "%s/tests/fixtures", check_root());
    CHECK(common_fixtures(ctx, root, ranges_of) >= 17, "fixtures are missing");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        snprintf(root, sizeof root, "%s/fixtures/%s", check_shared(), kinds[i]);
        if (!check_exists(root)) SKIP("no ../shared/fixtures/%s", kinds[i]);
        else CHECK(common_fixtures(ctx, root, fixture) >= 6, "hardly any fixtures in %s", root);
    }
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
