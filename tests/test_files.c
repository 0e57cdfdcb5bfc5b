/*  Proves: dictionaries written by sae.h come back bit for bit in both formats, with any instruction
    set; damage is seen by CRC-32 when it is read; files written by the real programs open with their
    numbers.
    Oracle: the dictionary that was saved; f.npy, x_hat.npy (and f_raw, f_threshold, f_batch) that the
    real programs computed: a few fixtures in tests/fixtures, all of dl, pt and safetensors in
    ../shared/fixtures where that is.
    Tolerance: none for round trips; for fixtures what their about.json says (2e-5 of max(1, largest
    entry of the row)). */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

static sae_context *ctx;

/* ---- round trips ----------------------------------------------------------------------------- */

static void same_dictionary(const sae_dictionary *a, const sae_dictionary *b, const char *how) {
    common_block x[6], y[6];
    size_t n = common_blocks(a, x), k = common_blocks(b, y);
    CHECK(a->desc.arch == b->desc.arch && a->desc.activation_dim == b->desc.activation_dim
              && a->desc.dict_size == b->desc.dict_size, "%s: another class or size", how);
    CHECK(a->desc.k == b->desc.k, "%s: k %d, want %d", how, (int)b->desc.k, (int)a->desc.k);
    CHECK(a->desc.num_groups == b->desc.num_groups
              && !memcmp(a->desc.group_sizes, b->desc.group_sizes,
                      a->desc.num_groups * sizeof(size_t)), "%s: other groups", how);
    CHECK(!memcmp(&a->threshold, &b->threshold, sizeof a->threshold), "%s: threshold", how);
    CHECK(n == k, "%s: %d blocks, want %d", how, (int)k, (int)n);
    for (size_t i = 0; i < n && i < k; i++)
        for (size_t r = 0; r < x[i].rows; r++)
            CHECK(!memcmp(x[i].data + r * x[i].stride, y[i].data + r * y[i].stride,
                          x[i].columns * sizeof(float)), "%s: %s row %d", how, x[i].name, (int)r);
}

static void round_trips(void) {
    static const char *const endings[] = { "safetensors", "pt" };
    static const size_t sizes[][2] = { { 20, 64 }, { 7, 33 }, { 16, 16 }, { 1, 4 } };
    for (size_t i = 0; i < COMMON_KINDS + 1; i++)
        for (size_t z = 0; z < 4; z++) {
            sae_trainer_desc s = common_trainer(common_kind(i % COMMON_KINDS), sizes[z][0],
                                                sizes[z][1], 8, 20);
            sae_dictionary_desc dd;
            sae_dictionary *dict, *back;
            if (i == COMMON_KINDS) s = common_trainer(SAE_TRAINER_STANDARD_APRIL, sizes[z][0],
                                                      sizes[z][1], 8, 20),
                                   s.arch = SAE_ARCH_STANDARD_NEW;
            if (s.kind == SAE_TRAINER_MATRYOSHKA && sizes[z][1] < 16) continue;
            dd = common_dictionary(&s);
            check_test = sae_arch_name(dd.arch);
            CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), continue);
            common_shake(dict, 6, 0, 0.1);
            if (dd.k) dict->threshold = 0.125f + 1e-7f;
            if (dd.layers) { /* a CrossCoder whose normalizer is not known */
                dict->code = (int)SAE_CODE_CROSSCODER;
                dict->target_rms = 1;
            }
            for (size_t e = 0; e < 2; e++) {
                const char *path = check_path("%s/ae.%s", check_temp(), endings[e]);
                sae_load_desc load = { dd.arch, 0, true, false, 0, 0, NULL, 0, NULL, 0 };
                CHECK_OK(ctx, sae_dictionary_save(dict, path), continue);
                CHECK(!check_exists(check_path("%s.tmp", path)), "the temporary stays");
                CHECK_OK(ctx, sae_dictionary_load(ctx, &load, path, &back), continue);
                same_dictionary(dict, back, endings[e]);
                sae_dictionary_destroy(back);
                /* without being told, where the tensors' names tell */
                if (dd.arch != SAE_ARCH_TOP_K && dd.arch != SAE_ARCH_BATCH_TOP_K) {
                    load.arch = SAE_ARCH_DEFAULT;
                    CHECK_OK(ctx, sae_dictionary_load(ctx, &load, path, &back), continue);
                    same_dictionary(dict, back, "untold");
                    sae_dictionary_destroy(back);
                }
            }
            sae_dictionary_destroy(dict);
        }
    check_test = NULL;
}

/* Any tensors, any container. */
static void tensor_round_trips(void) {
    static const char *const endings[] = { "npz", "safetensors", "pt" };
    static const float f32[6] = { 0, -0.0f, 1.5f, -3e38f, 1e-40f, 7 };
    static const int64_t i64[3] = { -1, 0, INT64_MAX };
    static const uint16_t f16[4] = { 0x3c00, 0xc000, 0x0001, 0x7bff };
    static const uint8_t u8[2] = { 0, 255 };
    static const int32_t i32[1] = { -7 };
    static const double f64[2] = { 0.1, -2 };
    sae_tensor t[6];
    memset(t, 0, sizeof t);
    t[0].name = "weights", t[0].dtype = SAE_F32, t[0].ndim = 2, t[0].shape[0] = 2,
    t[0].shape[1] = 3, t[0].data = f32;
    t[1].name = "long", t[1].dtype = SAE_I64, t[1].ndim = 1, t[1].shape[0] = 3, t[1].data = i64;
    t[2].name = "half", t[2].dtype = SAE_F16, t[2].ndim = 1, t[2].shape[0] = 4, t[2].data = f16;
    t[3].name = "bytes", t[3].dtype = SAE_U8, t[3].ndim = 1, t[3].shape[0] = 2, t[3].data = u8;
    t[4].name = "scalar", t[4].dtype = SAE_I32, t[4].ndim = 0, t[4].data = i32;
    t[5].name = "double", t[5].dtype = SAE_F64, t[5].ndim = 1, t[5].shape[0] = 2, t[5].data = f64;
    for (size_t e = 0; e < 3; e++) {
        const char *path = check_path("%s/any.%s", check_temp(), endings[e]);
        sae_tensor_file *file;
        check_test = endings[e];
        CHECK_OK(ctx, sae_tensor_file_write(ctx, path, t, 6), continue);
        CHECK_OK(ctx, sae_tensor_file_open(ctx, path, &file), continue);
        CHECK(sae_tensor_file_count(file) == 6, "%d tensors", (int)sae_tensor_file_count(file));
        for (size_t i = 0; i < 6; i++) {
            const sae_tensor *g = sae_tensor_file_find(file, t[i].name);
            size_t n = 1;
            CHECK(g != NULL, "no %s", t[i].name);
            if (!g) continue;
            for (size_t k = 0; k < t[i].ndim; k++) n *= (size_t)t[i].shape[k];
            CHECK(g->dtype == t[i].dtype && g->ndim == t[i].ndim
                      && !memcmp(g->shape, t[i].shape, t[i].ndim * sizeof *g->shape),
                  "%s: %s, %d dims", t[i].name, sae_dtype_name(g->dtype), (int)g->ndim);
            CHECK(!memcmp(g->data, t[i].data, n * sae_dtype_size(g->dtype)), "%s: other bytes",
                  t[i].name);
        }
        CHECK(sae_tensor_file_find(file, "nothing") == NULL, "a tensor from nowhere");
        CHECK(sae_tensor_file_get(file, 6) == NULL, "a tensor past the end");
        sae_tensor_file_close(file);
    }
    check_test = "npy";
    {
        const char *path = check_path("%s/any.npy", check_temp());
        sae_tensor_file *file;
        float out[6];
        CHECK_OK(ctx, sae_tensor_file_write(ctx, path, t, 1), return);
        CHECK_OK(ctx, sae_tensor_file_open(ctx, path, &file), return);
        sae_tensor_to_f32(sae_tensor_file_get(file, 0), out);
        CHECK(!memcmp(out, f32, sizeof f32), "other floats");
        sae_tensor_file_close(file);
        CHECK(sae_tensor_file_write(ctx, path, t, 2) != SAE_OK, "two tensors in an .npy");
    }
    check_test = NULL;
}

/* A .pt of one tensor "w" over six floats 0 to 5, with the shape and strides given. */
static bool write_strided(const char *path, const uint64_t *shape, const int64_t *stride, size_t n) {
    static const float held[6] = { 0, 1, 2, 3, 4, 5 };
    saei_zip_writer *z = (saei_zip_writer *)calloc(1, sizeof *z);
    saei_writer w;
    saei_text p;
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    if (!z || saei_writer_open(ctx, "test", path, &w) != SAE_OK) return free(z), false;
    z->out = &w;
    z->head.ctx = z->directory.ctx = ctx;
    saei_crc_tables(&z->crc);
    saei_text_put(&p, "\x80\x02}(", 4);
    saei_pickle_put_text(&p, "w");
    saei_text_add(&p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    saei_pickle_put_text(&p, "storage");
    saei_text_add(&p, "ctorch\nFloatStorage\n");
    saei_pickle_put_text(&p, "0");
    saei_pickle_put_text(&p, "cpu");
    saei_pickle_put_int(&p, 6);
    saei_text_put(&p, "tQK\x00", 4);
    saei_pickle_put_sizes(&p, shape, NULL, n);
    saei_pickle_put_sizes(&p, NULL, stride, n);
    saei_text_add(&p, "\x89" "ccollections\nOrderedDict\n)RtRu.");
    saei_zip_put(z, "t/data.pkl", p.data, p.size, "", 0);
    saei_zip_put(z, "t/data/0", held, sizeof held, "", 0);
    saei_zip_put(z, "t/version", "3\n", 2, "", 0);
    saei_zip_end_write(z);
    saei_free(ctx, p.data);
    saei_free(ctx, z->head.data);
    saei_free(ctx, z->directory.data);
    free(z);
    return saei_writer_finish(&w) == SAE_OK;
}

/* Strides of axes that no step is taken along are anything in a .pt; they may not be counted with. */
static void strides(void) {
    static const struct {
        uint64_t shape[4];
        int64_t stride[4];
        size_t ndim, values;
        int64_t want[4]; /* strides when it is open */
    } cases[] = {
        { { 2, 3 }, { 1, 2 }, 2, 6, { 1, 2 } },
        { { 1, 6 }, { INT64_MAX, 1 }, 2, 6, { 6, 1 } },
        { { 6, 1 }, { 1, INT64_MAX }, 2, 6, { 1, 1 } },
        { { 1, 1, 1, 3 }, { INT64_MAX, INT64_MAX / 2, INT64_MAX - 7, 2 }, 4, 3, { 3, 3, 3, 2 } },
        { { 0, 3 }, { INT64_MAX, INT64_MAX }, 2, 0, { 3, 1 } },
        { { 5, 0 }, { INT64_MAX, INT64_MAX }, 2, 0, { 1, 1 } },
    };
    check_test = "strides";
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const char *path = check_path("%s/strided.pt", check_temp());
        sae_tensor_file *file;
        const sae_tensor *t;
        float out[6] = { 9, 9, 9, 9, 9, 9 };
        CHECK(write_strided(path, cases[c].shape, cases[c].stride, cases[c].ndim), "not written");
        CHECK_OK(ctx, sae_tensor_file_open(ctx, path, &file), continue);
        t = sae_tensor_file_get(file, 0);
        CHECK(!memcmp(t->stride, cases[c].want, cases[c].ndim * sizeof *t->stride),
              "case %zu: strides %lld, %lld", c, (long long)t->stride[0], (long long)t->stride[1]);
        sae_tensor_to_f32(t, out);
        for (size_t i = 0; i < 6; i++) {
            float want = i >= cases[c].values ? 9.0f : cases[c].ndim == 4 ? 2.0f * (float)i : (float)i;
            if (c == 0) want = (float)(i / 3 + i % 3 * 2);
            CHECK(out[i] == want, "case %zu: value %zu is %g", c, i, (double)out[i]);
        }
        sae_tensor_file_close(file);
    }
    check_test = NULL;
}

/* ---- how it is read -------------------------------------------------------------------------- */

/* Every instruction set reads the same bits, and sees a NaN or an infinity wherever it is. */
static void instruction_sets(void) {
    static const sae_arch archs[] = { SAE_ARCH_GATED, SAE_ARCH_JUMP_RELU };
    const size_t d = 70, m = 150; /* no multiple of a tile, a band or a vector */
    check_rng rng = { 9 };
    for (size_t a = 0; a < 2; a++) {
        sae_dictionary_desc desc;
        sae_dictionary *dict, *back = NULL;
        size_t size;
        char *data;
        memset(&desc, 0, sizeof desc);
        desc.arch = archs[a];
        desc.activation_dim = d;
        desc.dict_size = m;
        CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return);
        common_shake(dict, 4, 0, 0.1);
        CHECK_OK(ctx, sae_dictionary_save(dict, check_path("%s/set.pt", check_temp())), (void)0);
        CHECK_OK(ctx, sae_dictionary_save(dict, check_path("%s/set.safetensors", check_temp())),
                 (void)0);
        data = check_read(check_path("%s/set.safetensors", check_temp()), &size);
        for (size_t s = 0; data && s < COMMON_SETS; s++) {
            sae_load_desc load = { desc.arch, 0, true, false, 0, 0, NULL, 0, NULL, 0 };
            sae_context_desc with;
            sae_context *own = NULL;
            memset(&with, 0, sizeof with);
            with.instruction_set = check_test = common_sets[s];
            with.threads = 2;
            if (sae_context_create(&with, &own) != SAE_OK) continue; /* not on this CPU */
            for (size_t e = 0; e < 2; e++) {
                const char *path = check_path("%s/set.%s", check_temp(), e ? "pt" : "safetensors");
                CHECK_OK(own, sae_dictionary_load(own, &load, path, &back), continue);
                CHECK(common_hash(back) == common_hash(dict), "%s reads other bits", path);
                same_dictionary(dict, back, path);
                sae_dictionary_destroy(back);
            }
            for (int i = 0; i < 60; i++) {
                static const uint32_t bad[] = { 0x7fc00000u, 0x7f800000u, 0xff800000u };
                size_t at = size - 4 - 4 * (size_t)(check_bits(&rng) % (2 * d * m));
                const char *path = check_path("%s/bad.safetensors", check_temp());
                char good[4];
                memcpy(good, data + at, 4);
                memcpy(data + at, &bad[i % 3], 4);
                check_write(path, data, size);
                memcpy(data + at, good, 4);
                CHECK(sae_dictionary_load(own, &load, path, &back) == SAE_ERR_FORMAT
                          && strstr(sae_error(own), "NaN or infinity"),
                      "byte %d of %d: %s", (int)at, (int)size, sae_error(own));
            }
            sae_context_destroy(own);
        }
        free(data);
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* CRC-32 against its definition, bit by bit; large entries are checked when they are read. */
static void checksums(void) {
    sae_dictionary_desc desc;
    sae_dictionary *dict, *back = NULL;
    sae_load_desc part = { SAE_ARCH_JUMP_RELU, 0, true, false, 100, 20, NULL, 0, NULL, 0 };
    const char *path = check_path("%s/sum.pt", check_temp()), *names[] = { "W_enc", "W_dec" };
    static unsigned char bytes[1000];
    saei_crc_table table;
    check_rng rng = { 3 };
    size_t size = 0;
    char *data;
    check_test = "checksums";
    saei_crc_tables(&table);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)check_bits(&rng);
    CHECK(saei_crc(&table, 0, "123456789", 9) == 0xCBF43926u, "not CRC-32");
    for (size_t n = 0; n < 500; n++) {
        const unsigned char *from = bytes + n % 70;
        uint32_t want = ~0u, half = saei_crc(&table, 0, from, n / 3);
        for (size_t i = 0; i < 8 * n; i++) {
            want ^= (uint32_t)(from[i / 8] >> i % 8 & 1);
            want = want >> 1 ^ (want & 1 ? 0xEDB88320u : 0);
        }
        CHECK(saei_crc(&table, 0, from, n) == ~want, "%d bytes", (int)n);
        CHECK(saei_crc(&table, half, from + n / 3, n - n / 3) == ~want, "%d in two", (int)n);
        saei_crc_tables(&table);
        if (n % 2 == 0) table.folds = false; /* the next one without carry-less products */
    }
    memset(&desc, 0, sizeof desc);
    desc.arch = SAE_ARCH_JUMP_RELU;
    desc.activation_dim = 70;
    desc.dict_size = 150;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &desc, &dict), return);
    CHECK_OK(ctx, sae_dictionary_save(dict, path), return);
    data = check_read(path, &size);
    for (size_t i = 0; data && i < 2; i++) {
        const float *row = i ? dict->W_dec : dict->W_enc; /* W_enc lies turned: one float */
        sae_tensor_file *file = NULL;
        char *at = data;
        while (at < data + size - 8 && memcmp(at, row, i ? 8 : 4)) at++;
        CHECK(at < data + size - 8, "%s is not in the file", names[i]);
        *at = (char)(*at ^ 1);
        check_write(path, data, size);
        *at = (char)(*at ^ 1);
        CHECK_OK(ctx, sae_tensor_file_open(ctx, path, &file), continue);
        CHECK_OK(ctx, sae_tensor_file_check(file, sae_tensor_file_find(file, names[1 - i])),
                 (void)0);
        CHECK(sae_tensor_file_check(file, sae_tensor_file_find(file, names[i])) == SAE_ERR_FORMAT
                  && strstr(sae_error(ctx), "CRC-32"), "%s passes", names[i]);
        CHECK(sae_tensor_file_check(file, NULL) == SAE_ERR_FORMAT, "the file passes");
        CHECK(sae_tensor_file_check(file, (const sae_tensor *)(const void *)data) == SAE_ERR_INVALID,
              "a stranger passes");
        sae_tensor_file_close(file);
        CHECK(sae_dictionary_load(ctx, NULL, path, &back) == SAE_ERR_FORMAT
                  && strstr(sae_error(ctx), "CRC-32"), "%s loads: %s", names[i], sae_error(ctx));
        CHECK_OK(ctx, sae_dictionary_load(ctx, &part, path, &back), continue);
        CHECK(!memcmp(back->W_dec, dict->W_dec + 100 * dict->ld, 70 * sizeof(float)), "other rows");
        sae_dictionary_destroy(back);
    }
    free(data);
    sae_dictionary_destroy(dict);
    check_test = NULL;
}

/* ---- fixtures -------------------------------------------------------------------------------- */

static void dictionary_fixture(const sae_json *about, const char *folder, const char *path) {
    static const struct { const char *suffix; bool raw; sae_rule rule; } ways[] = {
        { "", false, SAE_RULE_DEFAULT },
        { "_raw", true, SAE_RULE_DEFAULT },
        { "_threshold", false, SAE_RULE_THRESHOLD },
        { "_batch", false, SAE_RULE_TOP_K },
    };
    size_t count, rows;
    float *x = check_tensor(ctx, check_path("%s/x.npy", folder), NULL, &count, &rows);
    for (size_t w = 0; x && w < 4; w++) {
        sae_load_desc load = { SAE_ARCH_DEFAULT, 0, ways[w].raw, false, 0, 0, NULL, 0, NULL, 0 };
        const char *f_name = check_path("f%s", ways[w].suffix);
        const char *x_name = check_path("x_hat%s", ways[w].suffix);
        sae_dictionary *dict = NULL;
        sae_dictionary_desc info;
        sae_result result;
        float *f, *x_hat;
        if (!check_exists(check_path("%s/%s.npy", folder, f_name))) continue;
        result = sae_dictionary_load(ctx, &load, path, &dict);
        if (result != SAE_OK && !strcmp(common_about_text(about, "expect"), "either")) {
            CHECK(sae_error(ctx)[0], "refused without a word");
            break;
        }
        CHECK(result == SAE_OK, "%s: %s", sae_result_name(result), sae_error(ctx));
        if (result != SAE_OK) break;
        info = *sae_dictionary_get_desc(dict);
        CHECK(info.activation_dim * rows == count, "d is %d", (int)info.activation_dim);
        if (ways[w].rule) CHECK_OK(ctx, sae_dictionary_set_rule(dict, ways[w].rule), (void)0);
        f = (float *)malloc(rows * info.dict_size * sizeof *f);
        x_hat = (float *)malloc(count * sizeof *x_hat);
        CHECK_OK(ctx, sae_forward(dict, x, rows, x_hat, f), (void)0);
        if (!(ways[w].rule == SAE_RULE_TOP_K && strstr(folder, "exact"))) { /* ties at the cut */
            common_near(ctx, about, folder, f_name, f, rows, info.dict_size);
            if (check_exists(check_path("%s/%s.npy", folder, x_name)))
                common_near(ctx, about, folder, x_name, x_hat, rows, info.activation_dim);
        }
        if (w == 0 && check_exists(check_path("%s/f_output_features.npy", folder))) {
            sae_output_features(dict, rows, f);
            common_near(ctx, about, folder, "f_output_features", f, rows, info.dict_size);
        }
        free(f);
        free(x_hat);
        sae_dictionary_destroy(dict);
    }
    free(x);
}

/* Plain tensors with their expected values, exact. */
static void tensor_fixture(const sae_json *about, const char *folder, const char *path) {
    const sae_json *tensors = sae_json_get(about, "tensors");
    sae_tensor_file *file;
    sae_result result = sae_tensor_file_open(ctx, path, &file);
    if (result != SAE_OK && !strcmp(common_about_text(about, "expect"), "either")) return;
    CHECK(result == SAE_OK, "%s: %s", sae_result_name(result), sae_error(ctx));
    if (result != SAE_OK) return;
    for (const sae_json *t = sae_json_first(tensors); t; t = sae_json_next(t)) {
        const sae_json *expected = sae_json_get(t, "expected");
        const sae_tensor *got = sae_tensor_file_find(file, sae_json_key(t));
        size_t n = 1, count = 0;
        float *want, *values;
        if (!got && sae_tensor_file_count(file) == 1) got = sae_tensor_file_get(file, 0);
        CHECK(got != NULL, "no tensor %s", sae_json_key(t));
        if (!got || !expected) continue;
        want = check_tensor(ctx, check_path("%s/%s", folder, sae_json_text(expected)), NULL, &count, NULL);
        for (size_t i = 0; i < got->ndim; i++) n *= (size_t)got->shape[i];
        CHECK(n == count, "%s has %d values, want %d", sae_json_key(t), (int)n, (int)count);
        if (want && n == count) {
            size_t other = 0;
            values = (float *)malloc((n + 1) * sizeof *values);
            sae_tensor_to_f32(got, values);
            for (size_t i = 0; i < n; i++)
                other += !(values[i] == want[i] || (isnan(values[i]) && isnan(want[i])));
            CHECK(other == 0, "%s: %d other values", sae_json_key(t), (int)other);
            free(values);
        }
        free(want);
    }
    sae_tensor_file_close(file);
}

static void fixture(const sae_json *about, const char *folder, const char *path) {
    if (check_exists(check_path("%s/x.npy", folder))) dictionary_fixture(about, folder, path);
    else tensor_fixture(about, folder, path);
}

/* What the reference opened (tests/make_fixtures.py; `fixtures` holds its output against ours): the
   same tensors are written as the same bytes today. */
static void ours(void) {
    static const char *const names[] = { "standard", "standard_april", "standard_new", "gated", "top_k",
                                         "batch_top_k", "matryoshka", "jumprelu" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *folder = check_path("%s/tests/fixtures/ours_%s", check_root(), names[i]);
        const char *path = check_path("%s/ae.pt", check_temp());
        sae_load_desc load = { SAE_ARCH_DEFAULT, 0, true, false, 0, 0, NULL, 0, NULL, 0 };
        sae_dictionary *dict;
        size_t want_size = 0, size = 0;
        char *want, *got;
        check_test = names[i];
        CHECK_OK(ctx, sae_dictionary_load(ctx, &load, folder, &dict), continue);
        CHECK_OK(ctx, sae_dictionary_save(dict, path), (void)0);
        want = check_read(check_path("%s/ae.pt", folder), &want_size);
        got = check_read(path, &size);
        CHECK(want && got && size == want_size && !memcmp(want, got, size),
              "ae.pt is not written as when the reference opened it");
        free(want);
        free(got);
        sae_dictionary_destroy(dict);
    }
    check_test = NULL;
}

/* Of two that write one file at a time the later wins, the other is told and harms nothing. */
static void two_writers(void) {
    const char *folder = check_path("%s/two", check_temp());
    const char *path = check_path("%s/a.txt", folder);
    saei_writer first, second;
    size_t size = 0;
    char *now;
    mkdir(folder, 0777);
    for (int given_up = 0; given_up < 2; given_up++) {
        CHECK_OK(ctx, saei_writer_open(ctx, "first", path, &first), return);
        saei_writer_put(&first, "old", 3);
        CHECK_OK(ctx, saei_writer_open(ctx, "second", path, &second), return);
        if (given_up) saei_writer_abandon(&first);
        else
            CHECK(saei_writer_finish(&first) == SAE_ERR_IO
                      && strstr(sae_error(ctx), "another program"),
                  "the first writer: %s", sae_error(ctx));
        saei_writer_put(&second, "later", 5);
        CHECK_OK(ctx, saei_writer_finish(&second), (void)0);
        now = check_read(path, &size);
        CHECK(now && size == 5 && !memcmp(now, "later", 5), "%d bytes", (int)size);
        CHECK(rmdir(folder) != 0 && unlink(path) == 0 && rmdir(folder) == 0, "another file is left");
        mkdir(folder, 0777);
        free(now);
    }
    check_remove(folder);
}

int main(void) {
    static const char *const kinds[] = { "dl", "pt", "safetensors" };
    if (!(ctx = check_context(1))) return check_end();
    round_trips();
    tensor_round_trips();
    strides();
    instruction_sets();
    checksums();
    two_writers();
    char root[512];
    snprintf(root, sizeof root, "%s/tests/fixtures", check_root());
    CHECK(common_fixtures(ctx, root, fixture) >= 17, "fixtures are missing");
    ours();
    for (size_t i = 0; i < 3; i++) {
        snprintf(root, sizeof root, "%s/fixtures/%s", check_shared(), kinds[i]);
        if (!check_exists(root)) {
            SKIP("no ../shared/fixtures/%s", kinds[i]);
            continue;
        }
        CHECK(common_fixtures(ctx, root, fixture) > 10, "hardly any fixtures in %s", root);
    }
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
