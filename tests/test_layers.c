/*  Proves: dictionaries whose choice of latents has weights, with a gated linear unit, of several layers, and
    matching pursuit compute what core.h says of them, dense, sparse, of some latents, in forward and
    in steering, with the same bits for every instruction set and number of threads; cross-layer transcoders and
    sets of transcoders of every layout open with the numbers of their formulas, or are refused with the
    reason; files beside each other are neither lost nor taken for others; what is recognised opens.
    Oracle: an evaluation of the formulas in double, below; for files the numbers that
    tests/make_layout_fixtures.py gives by numpy in float64 (tests/layers), and those of the real programs in
    ../shared/fixtures/layouts where that is.
    Tolerance: 5e-6 of max(1, largest of the row) against double (2e-5 for steering, whose f are subtracted);
    that of each about.json; none between instruction sets and threads. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

enum { ROWS = 19, MOST_D = 64, MOST_M = 256 };

static sae_context *ctx;

static double row_distance(const float *got, const double *want, size_t n) {
    double worst = 0, largest = 1;
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        if (!(e <= worst)) worst = e;
        largest = fmax(largest, fabs(want[i]));
    }
    return worst / largest;
}

/* ---- the formulas in double -------------------------------------------------------------------------- */

/* A row as the encoder takes it; scale[l]: by what x_hat of layer l is multiplied at the end. */
static void naive_input(const sae_dictionary *dict, const float *x, double *y, double *scale) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->activation_dim / h->layers;
    bool subtracts = (h->arch == SAE_ARCH_STANDARD || h->arch == SAE_ARCH_TOP_K || h->arch == SAE_ARCH_BATCH_TOP_K)
                     && !h->no_b_dec_subtraction;
    for (size_t l = 0; l < h->layers; l++) {
        double square = 0;
        for (size_t c = 0; c < d; c++) square += (double)x[l * d + c] * (double)x[l * d + c];
        scale[l] = h->input_norm ? sqrt(square / (double)d) : 1;
        for (size_t c = l * d; c < (l + 1) * d; c++) {
            y[c] = (double)x[c] / scale[l];
            if (h->normalizer) y[c] = (y[c] - (double)dict->mean[c]) * (double)dict->scale[l];
            if (subtracts) y[c] -= (double)dict->b_dec[c];
        }
    }
}

static double naive_weight(const sae_dictionary *dict, size_t code) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->output_dim / h->layers, i = code % h->dict_size;
    double all = 0, sum = 0, own = 0;
    for (size_t l = 0; l < h->layers; l++) {
        double square = 0;
        for (size_t c = l * d; c < (l + 1) * d; c++)
            square += (double)dict->W_dec[i * dict->ld_out + c] * (double)dict->W_dec[i * dict->ld_out + c];
        all += square;
        sum += sqrt(square);
        if (l == code / h->dict_size) own = sqrt(square);
    }
    if (h->gate == SAE_GATE_NORM) return h->layer_codes ? own : sqrt(all);
    if (h->gate == SAE_GATE_NORM_SUM) return sum;
    if (h->gate == SAE_GATE_MIXED)
        return h->gate_norm == 0 && h->gate_norm_sum == 0
                   ? sqrt(all) + 0.1 * sum : h->gate_norm * sqrt(all) + h->gate_norm_sum * sum;
    return 1;
}

/* p [ROWS,codes] of all rows, and q = p w. */
static void naive_pre(const sae_dictionary *dict, const float *x, double *p, double *q) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->activation_dim, m = h->dict_size, codes = sae_dictionary_num_latents(dict);
    double y[MOST_D], scale[MOST_D];
    for (size_t r = 0; r < ROWS; r++) {
        naive_input(dict, x + r * d, y, scale);
        for (size_t code = 0; code < codes; code++) {
            size_t i = code % m;
            double v = dict->b_enc[i], z = h->glu ? (double)dict->b_glu[i] : 0;
            for (size_t c = 0; c < d; c++) v += y[c] * (double)dict->W_enc[i * dict->ld + c];
            for (size_t c = 0; h->glu && c < d; c++) z += y[c] * (double)dict->W_glu[i * dict->ld + c];
            if (h->glu) v /= 1 + exp(-z);
            p[r * codes + code] = v;
            q[r * codes + code] = v * naive_weight(dict, code);
        }
    }
}

/* Of n values those that are among the k largest. */
static size_t naive_rank(const double *q, size_t first, size_t n, size_t step, size_t rows, size_t i) {
    size_t rank = 0;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = first + r * step; j < first + r * step + n; j++) rank += q[j] > q[i] || (q[j] == q[i] && j < i);
    return rank;
}

static void naive_choose(const sae_dictionary *dict, const double *p, const double *q, double *f) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t m = h->dict_size, codes = sae_dictionary_num_latents(dict);
    bool apart = h->layer_codes && !h->over_layers;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t code = 0; code < codes; code++) {
            size_t at = r * codes + code, first = apart ? code / m * m : 0, n = apart ? m : codes;
            bool on = q[at] > 0;
            if (h->arch == SAE_ARCH_JUMP_RELU)
                on = q[at] > (double)dict->aux0[code % m] && (h->activation || q[at] > 0);
            if (h->arch == SAE_ARCH_TOP_K)
                on = on && naive_rank(q, r * codes + first, n, codes, 1, at) < h->k;
            if (h->arch == SAE_ARCH_BATCH_TOP_K && dict->rule == SAE_RULE_TOP_K)
                on = on && naive_rank(q, first, n, codes, ROWS, at) < h->k * ROWS;
            if (h->arch == SAE_ARCH_BATCH_TOP_K && dict->rule == SAE_RULE_THRESHOLD)
                on = on && q[at] > (double)(dict->thresholds ? dict->thresholds[code / m] : dict->threshold);
            f[at] = on ? p[at] : 0;
        }
}

/* What one code adds to a column of what is decoded. */
static double naive_direction(const sae_dictionary *dict, size_t code, size_t c) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->output_dim / h->layers;
    if (h->layer_codes && c / d != code / h->dict_size) return 0;
    return (double)dict->W_dec[code % h->dict_size * dict->ld_out + c];
}

static void naive_decode(const sae_dictionary *dict, const float *x, const double *f, double *x_hat) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t codes = sae_dictionary_num_latents(dict), d = h->output_dim / h->layers;
    double y[MOST_D], scale[MOST_D];
    for (size_t r = 0; r < ROWS; r++) {
        naive_input(dict, x + r * h->activation_dim, y, scale);
        for (size_t c = 0; c < h->output_dim; c++) {
            double v = dict->b_dec[c];
            for (size_t i = 0; i < codes; i++) v += f[r * codes + i] * naive_direction(dict, i, c);
            if (h->normalizer) v = v / (double)dict->output_scale[c / d] + (double)dict->mean[c];
            if (!h->output_normalized) v *= scale[c / d];
            for (size_t k = 0; h->skip && k < h->activation_dim; k++)
                v += (double)dict->W_skip[c * dict->ld + k] * (double)x[r * h->activation_dim + k];
            x_hat[r * h->output_dim + c] = v;
        }
    }
}

/* Greedily, as the program does it. */
static void naive_pursuit(const sae_dictionary *dict, const float *x, double *f) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t d = h->activation_dim, m = h->dict_size, most = h->max_iterations ? h->max_iterations : d;
    memset(f, 0, ROWS * m * sizeof *f);
    for (size_t r = 0; r < ROWS; r++) {
        double left[MOST_D], *row = f + r * m;
        for (size_t c = 0; c < d; c++) left[c] = (double)x[r * d + c] - (double)dict->b_dec[c];
        for (size_t step = 0; step < most; step++) {
            double best = 0, norm = 0;
            size_t at = 0;
            bool known;
            for (size_t i = 0; i < m; i++) {
                double v = 0;
                for (size_t c = 0; c < d; c++) v += left[c] * (double)dict->W_dec[i * dict->ld_out + c];
                if (v > best) best = v, at = i;
            }
            known = row[at] != 0;
            row[at] += best;
            for (size_t c = 0; c < d; c++) {
                left[c] -= best * (double)dict->W_dec[at * dict->ld_out + c];
                norm += left[c] * left[c];
            }
            if ((known || best == 0) && !h->repeats) break;
            if (h->residual_threshold > 0 && sqrt(norm) < h->residual_threshold) break;
        }
    }
}

/* ---- dictionaries ------------------------------------------------------------------------------------ */

/* Every tensor set through the API; decoder rows of very different norms, one of norm 0. */
static sae_dictionary *make(sae_context *where, const sae_dictionary_desc *desc, uint64_t seed) {
    sae_dictionary *dict = NULL;
    check_rng rng = { seed };
    CHECK_OK(where, sae_dictionary_create(where, desc, &dict), return NULL);
    for (size_t t = 0; t < sae_dictionary_num_tensors(dict); t++) {
        sae_tensor tensor;
        float values[MOST_M * MOST_D];
        size_t rows, cols;
        sae_dictionary_get_tensor(dict, t, &tensor);
        cols = tensor.ndim ? (size_t)tensor.shape[tensor.ndim - 1] : 1;
        rows = tensor.ndim == 2 ? (size_t)tensor.shape[0] : 1;
        if (tensor.dtype != SAE_F32) continue; /* k */
        for (size_t i = 0; i < rows * cols; i++) {
            bool scale = strstr(tensor.name, "scale") || !strcmp(tensor.name, "threshold");
            values[i] = (float)(scale ? 0.4 + 0.5 * check_uniform(&rng) : 0.35 * check_normal(&rng));
            if (!strcmp(tensor.name, "W_dec")) values[i] *= (float)(i / cols % 5) * 0.6f;
        }
        CHECK_OK(where, sae_dictionary_set_tensor(dict, tensor.name, values, rows * cols), (void)0);
    }
    return dict;
}

static void make_rows(float *x, size_t width) {
    check_rng rng = { 77 };
    for (size_t i = 0; i < ROWS * width; i++) x[i] = (float)(check_normal(&rng) + 0.3);
    for (size_t c = 0; c < width; c++) x[3 * width + c] *= 40;
}

/* Sparse, subset and forward against the dense f and x_hat of the same calls. */
static void same_ways(const sae_dictionary *dict, const float *x, const float *f, const float *x_hat) {
    size_t codes = sae_dictionary_num_latents(dict), out = dict->desc.output_dim, at = 0;
    size_t capacity = sae_dictionary_capacity(dict, ROWS), begin[ROWS + 1];
    uint32_t *latent = (uint32_t *)malloc((capacity + 1) * sizeof *latent), named[5];
    float *value = (float *)malloc((capacity + 1) * sizeof *value), some[ROWS * 5];
    float *back = (float *)malloc(ROWS * out * sizeof *back);
    sae_sparse code = { begin, latent, value, capacity };
    CHECK_OK(ctx, sae_encode_sparse(dict, x, ROWS, &code), goto end);
    for (size_t i = 0; i < ROWS * codes; i++) {
        bool listed = at < begin[i / codes + 1] && latent[at] == i % codes;
        CHECK(listed == (f[i] != 0), "row %d latent %d: listed or not", (int)(i / codes), (int)(i % codes));
        if (listed) CHECK(value[at++] == f[i], "row %d: another value", (int)(i / codes));
    }
    CHECK(at == begin[ROWS], "%d entries, %d were expected", (int)begin[ROWS], (int)at);
    CHECK_OK(ctx, sae_decode_sparse(dict, &code, ROWS, back), goto end);
    CHECK_OK(ctx, sae_decode_finish(dict, x, ROWS, back), goto end);
    CHECK(!memcmp(back, x_hat, ROWS * out * sizeof *back), "sparse decoding differs");
    CHECK_OK(ctx, sae_forward(dict, x, ROWS, back, NULL), goto end);
    CHECK(!memcmp(back, x_hat, ROWS * out * sizeof *back), "forward without f differs");
    if (begin[ROWS] > 0) {
        code.capacity = begin[ROWS] - 1;
        CHECK(sae_encode_sparse(dict, x, ROWS, &code) == SAE_ERR_INVALID, "too small a list is taken");
    }
    for (size_t j = 0; j < 5; j++) named[j] = (uint32_t)((j * 37 + 11) % codes);
    if (dict->desc.arch == SAE_ARCH_MATCHING_PURSUIT)
        CHECK(sae_encode_subset(dict, x, ROWS, named, 5, some) == SAE_ERR_UNSUPPORTED, "a subset");
    else if (dict->rule != SAE_RULE_TOP_K) {
        CHECK_OK(ctx, sae_encode_subset(dict, x, ROWS, named, 5, some), goto end);
        for (size_t i = 0; i < ROWS * 5; i++)
            CHECK(some[i] == f[i / 5 * codes + named[i % 5]], "subset, row %d", (int)(i / 5));
    }
end:
    free(latent);
    free(value);
    free(back);
}

/* Steered rows against x + sum (target - f) direction. */
static void steered(const sae_dictionary *dict, const float *x, const double *f) {
    const sae_dictionary_desc *h = &dict->desc;
    size_t codes = sae_dictionary_num_latents(dict), d = h->activation_dim, width = d / h->layers;
    sae_steering list[4] = { { 3, SAE_STEER_ADD, 1.5f }, { 7, SAE_STEER_ABLATE, 0 },
                             { 0, SAE_STEER_SET, 0.5f }, { 11, SAE_STEER_SCALE, 3 } };
    float got[MOST_D];
    double want[MOST_D], y[MOST_D], scale[MOST_D];
    bool together = h->arch == SAE_ARCH_BATCH_TOP_K && dict->rule == SAE_RULE_TOP_K;
    if (h->skip || h->output_dim != d || together) return;
    list[2].latent = (uint32_t)(codes - 2);
    for (size_t r = 0; r < ROWS; r++) {
        memcpy(got, x + r * d, d * sizeof *got);
        if (h->arch == SAE_ARCH_MATCHING_PURSUIT) {
            CHECK(sae_steer(dict, got, 1, list, 4) == SAE_ERR_UNSUPPORTED, "steers");
            CHECK_OK(ctx, sae_steer(dict, got, 1, list, 1), return);
        } else CHECK_OK(ctx, sae_steer(dict, got, 1, list, 4), return);
        naive_input(dict, x + r * d, y, scale);
        for (size_t c = 0; c < d; c++) {
            want[c] = x[r * d + c];
            for (size_t j = 0; j < (h->arch == SAE_ARCH_MATCHING_PURSUIT ? 1u : 4u); j++) {
                double now = f[r * codes + list[j].latent];
                double change = list[j].mode == SAE_STEER_SET     ? (double)list[j].value - now
                                : list[j].mode == SAE_STEER_SCALE ? (double)list[j].value * now - now
                                : list[j].mode == SAE_STEER_ADD   ? (double)list[j].value
                                                                  : -now;
                double unit = h->normalizer ? (double)dict->output_scale[c / width] : 1;
                want[c] += change * naive_direction(dict, list[j].latent, c) / unit * scale[c / width];
            }
        }
        CHECK(row_distance(got, want, d) <= 2e-5, "steered row %d off by %.1e", (int)r,
              row_distance(got, want, d));
    }
}

/* The same dictionary with other instruction sets and threads: the same bits. */
static void same_bits(const sae_dictionary_desc *desc, sae_rule rule, uint64_t seed, const float *x,
                      const float *f, const float *x_hat) {
    for (size_t s = 0; s < COMMON_SETS; s++) {
        sae_context_desc how;
        sae_context *where = NULL;
        sae_dictionary *dict;
        size_t codes, out;
        float *g, *y;
        memset(&how, 0, sizeof how);
        how.instruction_set = common_sets[s];
        how.threads = (int)s + 1;
        if (sae_context_create(&how, &where) != SAE_OK) continue;
        dict = make(where, desc, seed);
        sae_dictionary_set_rule(dict, rule);
        codes = sae_dictionary_num_latents(dict);
        out = dict->desc.output_dim;
        g = (float *)malloc(ROWS * codes * sizeof *g);
        y = (float *)malloc(ROWS * out * sizeof *y);
        CHECK_OK(where, sae_dictionary_prepare(dict), (void)0);
        CHECK_OK(where, sae_forward(dict, x, ROWS, y, g), (void)0);
        CHECK(!memcmp(g, f, ROWS * codes * sizeof *g) && !memcmp(y, x_hat, ROWS * out * sizeof *y),
              "other bits with %s", common_sets[s]);
        for (size_t r = 0; r < ROWS && rule != SAE_RULE_TOP_K; r++) { /* a row alone */
            CHECK_OK(where, sae_forward(dict, x + r * desc->activation_dim, 1, y, g), (void)0);
            CHECK(!memcmp(g, f + r * codes, codes * sizeof *g), "other bits of row %d alone", (int)r);
        }
        free(g);
        free(y);
        sae_dictionary_destroy(dict);
        sae_context_destroy(where);
    }
}

static void against_naive(const sae_dictionary_desc *desc, sae_rule rule, uint64_t seed) {
    static float x[ROWS * MOST_D], f[ROWS * MOST_M], x_hat[ROWS * MOST_D];
    static double p[ROWS * MOST_M], q[ROWS * MOST_M], want_f[ROWS * MOST_M], want_x[ROWS * MOST_D];
    sae_dictionary *dict = make(ctx, desc, seed);
    size_t codes, out;
    if (!dict) return;
    codes = sae_dictionary_num_latents(dict);
    out = dict->desc.output_dim;
    CHECK_OK(ctx, sae_dictionary_set_rule(dict, rule), (void)0);
    make_rows(x, desc->activation_dim);
    CHECK_OK(ctx, sae_forward(dict, x, ROWS, x_hat, f), goto end);
    if (desc->arch == SAE_ARCH_MATCHING_PURSUIT) naive_pursuit(dict, x, want_f);
    else {
        naive_pre(dict, x, p, q);
        naive_choose(dict, p, q, want_f);
    }
    naive_decode(dict, x, want_f, want_x);
    for (size_t r = 0; r < ROWS; r++) {
        double worst = row_distance(f + r * codes, want_f + r * codes, codes);
        CHECK(worst <= 5e-6, "latents of row %d off by %.1e", (int)r, worst);
        worst = row_distance(x_hat + r * out, want_x + r * out, out);
        CHECK(worst <= 5e-6, "x_hat of row %d off by %.1e", (int)r, worst);
    }
    same_ways(dict, x, f, x_hat);
    steered(dict, x, want_f);
    same_bits(desc, rule, seed, x, f, x_hat);
end:
    sae_dictionary_destroy(dict);
}

static void dictionaries(void) {
    static const struct { const char *name; sae_dictionary_desc desc; sae_rule rule; } cases[] = {
        { "jumprelu, gate", { .arch = SAE_ARCH_JUMP_RELU, .gate = SAE_GATE_NORM }, 0 },
        { "jumprelu, signed", { .arch = SAE_ARCH_JUMP_RELU, .activation = SAE_ACTIVATION_SIGNED }, 0 },
        { "top-k, gate", { .arch = SAE_ARCH_TOP_K, .k = 5, .gate = SAE_GATE_NORM }, 0 },
        { "top-k of many, gate", { .arch = SAE_ARCH_TOP_K, .k = 60, .gate = SAE_GATE_NORM }, 0 },
        { "relu, gate", { .arch = SAE_ARCH_STANDARD, .gate = SAE_GATE_NORM }, 0 },
        { "batch, gate", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .gate = SAE_GATE_NORM }, SAE_RULE_THRESHOLD },
        { "batch, gate, top-k", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .gate = SAE_GATE_NORM }, SAE_RULE_TOP_K },
        { "glu", { .arch = SAE_ARCH_STANDARD_NEW, .glu = true, .skip = true }, 0 },
        { "glu, gate, norm", { .arch = SAE_ARCH_JUMP_RELU, .glu = true, .gate = SAE_GATE_NORM, .input_norm = SAE_INPUT_NORM_CONSTANT }, 0 },
        { "glu, top-k, transcoder", { .arch = SAE_ARCH_TOP_K, .k = 4, .glu = true, .no_b_dec_subtraction = true, .output_dim = 24 }, 0 },
        { "crosscoder", { .arch = SAE_ARCH_STANDARD_NEW, .layers = 3, .normalizer = true }, 0 },
        { "crosscoder, sums", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .layers = 3, .gate = SAE_GATE_NORM_SUM, .no_b_dec_subtraction = true }, SAE_RULE_THRESHOLD },
        { "crosscoder, mixed", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .layers = 2, .gate = SAE_GATE_MIXED, .normalizer = true, .no_b_dec_subtraction = true }, SAE_RULE_THRESHOLD },
        { "crosscoder, mixed, batch", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .layers = 2, .gate = SAE_GATE_MIXED, .gate_norm = 0.25, .gate_norm_sum = 2 }, SAE_RULE_TOP_K },
        { "decoupled", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .layers = 3, .gate = SAE_GATE_NORM, .layer_codes = true, .no_b_dec_subtraction = true }, SAE_RULE_THRESHOLD },
        { "decoupled, batch", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 5, .layers = 3, .gate = SAE_GATE_NORM, .layer_codes = true, .normalizer = true, .no_b_dec_subtraction = true }, SAE_RULE_TOP_K },
        { "layer codes, relu", { .arch = SAE_ARCH_STANDARD_NEW, .layers = 2, .layer_codes = true }, 0 },
        { "layer codes, jumprelu", { .arch = SAE_ARCH_JUMP_RELU, .layers = 3, .layer_codes = true, .gate = SAE_GATE_NORM, .normalizer = true }, 0 },
        { "layer codes, top-k", { .arch = SAE_ARCH_TOP_K, .k = 6, .layers = 3, .layer_codes = true, .gate = SAE_GATE_NORM, .no_b_dec_subtraction = true, .input_norm = SAE_INPUT_NORM_CONSTANT }, 0 },
        { "over layers, top-k", { .arch = SAE_ARCH_TOP_K, .k = 70, .layers = 3, .layer_codes = true, .over_layers = true, .gate = SAE_GATE_NORM, .no_b_dec_subtraction = true }, 0 },
        { "over layers, batch", { .arch = SAE_ARCH_BATCH_TOP_K, .k = 12, .layers = 2, .layer_codes = true, .over_layers = true, .gate = SAE_GATE_NORM }, SAE_RULE_TOP_K },
        { "layers, norms apart", { .arch = SAE_ARCH_STANDARD, .layers = 3, .input_norm = SAE_INPUT_NORM_CONSTANT }, 0 },
        { "pursuit", { .arch = SAE_ARCH_MATCHING_PURSUIT, .max_iterations = 6 }, 0 },
        { "pursuit, threshold", { .arch = SAE_ARCH_MATCHING_PURSUIT, .residual_threshold = 4, .max_iterations = 9 }, 0 },
        { "pursuit, repeats", { .arch = SAE_ARCH_MATCHING_PURSUIT, .max_iterations = 5, .repeats = true }, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t size = 0; size < 2; size++) { /* whole vectors, and not */
            sae_dictionary_desc desc = cases[i].desc;
            desc.activation_dim = size ? 42 : 48;
            if (size && desc.output_dim) desc.output_dim = 19;
            desc.dict_size = size ? 71 : 64;
            check_test = cases[i].name;
            against_naive(&desc, cases[i].rule, 100 + i);
        }
    check_test = NULL;
}

/* ---- cross-layer transcoders and sets ------------------------------------------------------------------ */

static void clear_message(sae_context *where) {
    const char *text = sae_error(where);
    CHECK(text[0] && !strchr(text, '\n') && strlen(text) < 800, "refused with: %s", text);
}

/* The same with other instruction sets and threads, row by row, and the lists. */
static void clt_ways(const sae_clt *clt, const char *path, const float *x, size_t rows, const float *f,
                     const float *x_hat) {
    const sae_clt_desc *h = sae_clt_get_desc(clt);
    size_t codes = h->layers * h->dict_size, width = h->layers * h->activation_dim, at = 0;
    size_t *begin = (size_t *)malloc((rows + 1) * sizeof *begin);
    uint32_t *latent = (uint32_t *)malloc(rows * codes * sizeof *latent);
    float *value = (float *)malloc(rows * codes * sizeof *value), *y = (float *)malloc(rows * width * sizeof *y);
    sae_sparse code = { begin, latent, value, rows * codes };
    CHECK_OK(ctx, sae_clt_encode_sparse(clt, x, rows, &code), goto end);
    for (size_t i = 0; i < rows * codes; i++) {
        bool listed = at < begin[i / codes + 1] && latent[at] == i % codes;
        CHECK(listed == (f[i] != 0) && (!listed || value[at] == f[i]), "row %d, latent %d of the lists",
              (int)(i / codes), (int)(i % codes));
        at += listed;
    }
    CHECK_OK(ctx, sae_clt_decode_sparse(clt, &code, rows, y), goto end);
    CHECK_OK(ctx, sae_clt_finish(clt, x, rows, y), goto end);
    CHECK(!memcmp(y, x_hat, rows * width * sizeof *y), "lists decode to something else");
    CHECK_OK(ctx, sae_clt_forward(clt, x, rows, y, NULL), goto end);
    CHECK(!memcmp(y, x_hat, rows * width * sizeof *y), "forward without f differs");
    for (size_t s = 0; s < COMMON_SETS; s++) {
        sae_context_desc how;
        sae_context *where = NULL;
        sae_clt *other = NULL;
        sae_load_desc load;
        memset(&how, 0, sizeof how);
        memset(&load, 0, sizeof load);
        how.instruction_set = common_sets[s];
        how.threads = (int)s + 1;
        if (sae_context_create(&how, &where) != SAE_OK) continue;
        CHECK_OK(where, sae_clt_open(where, &load, path, &other), (void)0);
        for (size_t r = 0; other && r < rows; r += h->arch == SAE_ARCH_BATCH_TOP_K ? rows : 1) {
            size_t n = h->arch == SAE_ARCH_BATCH_TOP_K ? rows : 1;
            CHECK_OK(where, sae_clt_forward(other, x + r * width, n, y, value), break);
            CHECK(!memcmp(y, x_hat + r * width, n * width * sizeof *y)
                      && !memcmp(value, f + r * codes, n * codes * sizeof *value),
                  "other bits of row %d with %s", (int)r, common_sets[s]);
        }
        sae_clt_close(other);
        sae_context_destroy(where);
    }
end:
    free(begin);
    free(latent);
    free(value);
    free(y);
}

static void clt_rows(const sae_clt *clt) {
    const sae_clt_desc *h = sae_clt_get_desc(clt);
    float row[MOST_D];
    CHECK(!sae_clt_decoder_row(clt, h->layers, 0, 0, row) && !sae_clt_decoder_row(clt, 0, h->dict_size, 0, row)
              && !sae_clt_decoder_row(clt, 0, 0, h->layers, row), "a row that is not there");
    for (size_t t = 0; t + 1 < h->layers && h->kind != SAE_CLT_CROSSCODER; t++) {
        double sum = 0;
        CHECK(sae_clt_decoder_row(clt, t + 1, 1, t, row), "no row");
        for (size_t c = 0; c < h->activation_dim; c++) sum += fabs((double)row[c]);
        CHECK(sum == 0, "layer %d writes to the one before", (int)t + 1);
    }
}

static void clt_fixture(const sae_json *about, const char *folder, const char *path) {
    const char *kind = common_about_text(about, "kind");
    bool over = !strcmp(kind, "clt") || !strcmp(kind, "transcoder_set") || sae_clt_recognize(ctx, path);
    size_t count = 0, rows = 0, codes;
    float *x, *f, *x_hat;
    sae_clt *clt = NULL;
    sae_dictionary *dict = NULL;
    if (!strcmp(common_about_text(about, "expect"), "refuse")) {
        const char *why = common_about_text(about, "why");
        sae_result result = sae_clt_open(ctx, NULL, path, &clt);
        CHECK(result != SAE_OK && !clt, "opened in spite of: %s", why);
        clear_message(ctx);
        if (strstr(folder, "/tests/")) CHECK(strstr(sae_error(ctx), why), "no %s in: %s", why, sae_error(ctx));
        CHECK(sae_dictionary_load(ctx, NULL, path, &dict) != SAE_OK && !dict, "opened as one");
        return;
    }
    if (!over || !check_exists(check_path("%s/x.npy", folder))) return;
    CHECK(sae_clt_recognize(ctx, path), "not recognised");
    CHECK(sae_dictionary_load(ctx, NULL, path, &dict) == SAE_ERR_UNSUPPORTED
              && strstr(sae_error(ctx), "sae_clt_open"), "%s", sae_error(ctx));
    x = check_tensor(ctx, check_path("%s/x.npy", folder), NULL, &count, &rows);
    CHECK_OK(ctx, sae_clt_open(ctx, NULL, path, &clt), { free(x); return; });
    codes = sae_clt_get_desc(clt)->layers * sae_clt_get_desc(clt)->dict_size;
    CHECK(rows * sae_clt_get_desc(clt)->layers * sae_clt_get_desc(clt)->activation_dim == count, "another width");
    CHECK(sae_clt_origin(clt)->format != SAE_FORMAT_NONE && sae_clt_origin(clt)->dtype, "it comes from nowhere");
    f = (float *)malloc(rows * codes * sizeof *f);
    x_hat = (float *)malloc(count * sizeof *x_hat);
    CHECK_OK(ctx, sae_clt_forward(clt, x, rows, x_hat, f), (void)0);
    common_near(ctx, about, folder, "f", f, rows, codes);
    common_near(ctx, about, folder, "x_hat", x_hat, rows, count / rows);
    clt_ways(clt, path, x, rows, f, x_hat);
    clt_rows(clt);
    free(x);
    free(f);
    free(x_hat);
    sae_clt_close(clt);
}

static void clt_errors(void) {
    const char *folder = check_path("%s/tests/formats/saelens/square", check_root());
    float x[64] = { 0 }, f[256];
    sae_clt *clt = NULL;
    check_test = "errors";
    CHECK(!sae_clt_recognize(ctx, folder) && !sae_clt_recognize(ctx, "nowhere") && !sae_clt_recognize(NULL, folder),
          "recognised");
    CHECK(sae_clt_open(ctx, NULL, folder, &clt) == SAE_ERR_UNSUPPORTED && !clt, "%s", sae_error(ctx));
    CHECK(sae_clt_open(ctx, NULL, "nowhere", &clt) == SAE_ERR_NOT_FOUND, "%s", sae_error(ctx));
    CHECK(sae_clt_open(ctx, NULL, check_path("%s/cfg.json", folder), &clt) == SAE_ERR_UNSUPPORTED, "a file");
    CHECK(sae_clt_open(ctx, NULL, NULL, &clt) == SAE_ERR_INVALID, "no path");
    CHECK_OK(ctx, sae_clt_open(ctx, NULL, check_path("%s/tests/layers/tracer_set", check_root()), &clt), return);
    CHECK(sae_clt_encode(clt, NULL, 1, f) == SAE_ERR_INVALID, "no x");
    CHECK(sae_clt_encode(clt, x, SIZE_MAX / 8, f) == SAE_ERR_INVALID && strstr(sae_error(ctx), "too many"), "rows");
    CHECK(sae_clt_forward(clt, x, 0, x, NULL) == SAE_OK, "no rows");
    sae_clt_close(clt);
    sae_clt_close(NULL);
    check_test = NULL;
}

/* Memory that runs out at any call is an error, and nothing is lost. */
static void clt_memory(void) {
    static const char *const names[] = { "tracer_clt_threshold", "scopium_clt_topk", "training_all" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *path = check_path("%s/tests/layers/%s", check_root(), names[i]);
        sae_context *counted = common_counted(NULL, 1);
        check_test = names[i];
        for (long at = 0; counted && at < 400; at++) {
            long live = common_memory.live;
            sae_clt *clt = NULL;
            sae_result result;
            common_memory.fail_at = common_memory.calls + at;
            result = sae_clt_open(counted, NULL, path, &clt);
            common_memory.fail_at = -1;
            CHECK(result == SAE_OK || (result == SAE_ERR_OUT_OF_MEMORY && !clt), "call %ld: %s", at,
                  sae_result_name(result));
            sae_clt_close(clt);
            CHECK(common_memory.live == live, "call %ld: %ld blocks are lost", at, common_memory.live - live);
            if (result == SAE_OK) break;
        }
        sae_context_destroy(counted);
    }
    check_test = NULL;
}

int main(void) {
    char root[512];
    if (!(ctx = check_context(1))) return check_end();
    dictionaries();
    clt_errors();
    clt_memory();
    snprintf(root, sizeof root, "%s/tests/layers", check_root());
    CHECK(common_fixtures(ctx, root, clt_fixture) >= 34, "fixtures are missing");
    snprintf(root, sizeof root, "%s/fixtures/layouts", check_shared());
    if (!check_exists(root)) SKIP("no ../shared/fixtures/layouts");
    else CHECK(common_fixtures(ctx, root, clt_fixture) >= 100, "hardly any fixtures in %s", root);
    sae_context_destroy(ctx);
    return check_end();
}
