/* sae: convert. */
#include "tool.h"

enum { PROBES = 64 }; /* random rows on which both dictionaries are compared */

/* A number from -1 to 1, of no great quality. */
static float draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / 8388608.0 - 1);
}

static double norm_of(const float *w, size_t n) {
    double sum = 0;
    size_t i;
    for (i = 0; w && i < n; i++) sum += (double)w[i] * (double)w[i];
    return w ? sqrt(sum) : 1;
}

/* The largest difference of an entry, as a share of the largest entry of its row (at least 1). */
static double difference(const float *a, const float *b, size_t rows, size_t width) {
    double worst = 0;
    size_t r, j;
    for (r = 0; r < rows; r++) {
        double largest = 1, most = 0;
        for (j = 0; j < width; j++) {
            double e = fabs((double)a[r * width + j] - (double)b[r * width + j]);
            if (!(e <= most)) most = e;
            if (fabs((double)a[r * width + j]) > largest)
                largest = fabs((double)a[r * width + j]);
        }
        if (!(most / largest <= worst)) worst = most / largest;
    }
    return worst;
}

/* Both on the same random rows, of about the size that the dictionary's own directions have. Where
   decoder rows were rescaled, latents are compared with their norms. */
static int compare(const sae_dictionary *from, const sae_dictionary *to) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(from);
    size_t d = info.activation_dim, m = info.dict_size, out = info.output_dim, r, i;
    float *x = (float *)keep_alloc(PROBES * d, sizeof *x);
    float *ratio = (float *)keep_alloc(m, sizeof *ratio);
    float *f[2], *x_hat[2];
    const sae_dictionary *both[2];
    uint64_t state = 1;
    bool rescaled = false;
    both[0] = from;
    both[1] = to;
    for (r = 0; r < PROBES; r++) {
        float size = r % 4 == 0 ? 0.1f : r % 4 == 1 ? 10.0f : 1.0f;
        for (i = 0; i < d; i++) x[r * d + i] = size * draw(&state);
    }
    for (i = 0; i < m; i++) {
        double a = norm_of(sae_dictionary_decoder_row(from, i), out);
        double b = norm_of(sae_dictionary_decoder_row(to, i), out);
        ratio[i] = b > 0 ? (float)(a / b) : 1;
        if (fabs((double)ratio[i] - 1) > 1e-5) rescaled = true;
    }
    for (i = 0; i < 2; i++) {
        f[i] = (float *)keep_alloc(PROBES * m, sizeof **f);
        x_hat[i] = (float *)keep_alloc(PROBES * out, sizeof **x_hat);
        if (sae_forward(both[i], x, PROBES, x_hat[i], f[i]) != SAE_OK) return fail_library();
    }
    for (r = 0; rescaled && r < PROBES; r++)
        for (i = 0; i < m; i++) f[0][r * m + i] *= ratio[i];
    if (tool.quiet) return DONE;
    printf("largest difference on %d random rows: latents %.2e%s, x_hat %.2e\n", (int)PROBES,
           difference(f[0], f[1], PROBES, m), rescaled ? " (times the decoder's norms)" : "",
           difference(x_hat[0], x_hat[1], PROBES, out));
    return DONE;
}

/* log10 of how often each latent fires on the rows of --data. */
static int measure_sparsity(const common *c, sae_dictionary *dict, float *log_sparsity) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    size_t m = sae_dictionary_num_latents(dict), block = block_rows(c, dict, 4 * m), n, i;
    uint64_t *count = (uint64_t *)keep_alloc(m, sizeof *count);
    float *x = (float *)keep_alloc(block * info.activation_dim, sizeof *x);
    float *f = (float *)keep_alloc(block * m, sizeof *f);
    reader rows;
    int status;
    memset(&rows, 0, sizeof rows);
    status = open_rows(c, dict, &rows);
    while (status == DONE) {
        status = reader_next(&rows, x, block, &n);
        if (status != DONE || n == 0) break;
        if (sae_encode(dict, x, n, f) != SAE_OK) status = fail_library();
        for (i = 0; i < n * m && status == DONE; i++) count[i % m] += f[i] != 0;
    }
    reader_close(&rows);
    if (status == DONE && rows.rows == 0) status = fail("%s has no rows", c->data.items[0]);
    for (i = 0; i < m && status == DONE; i++)
        log_sparsity[i] = (float)log10((double)count[i] / (double)rows.rows + 1e-10);
    return status;
}

static int run_convert(const common *c, const sae_export_desc *desc, sae_dictionary *dict,
                       const char *folder) {
    sae_load_desc how;
    sae_dictionary *back = NULL;
    int status;
    if (sae_dictionary_export(dict, desc, folder) != SAE_OK) return fail_library();
    printf("%s", tool.notes);
    memset(&how, 0, sizeof how);
    how.raw = c->raw;
    if (sae_dictionary_load(tool.ctx, &how, folder, &back) != SAE_OK) return fail_library();
    if (sae_dictionary_rule(dict) == SAE_RULE_TOP_K
        && sae_dictionary_rule(back) != SAE_RULE_TOP_K)
        sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD); /* as the export said */
    status = compare(dict, back);
    sae_dictionary_destroy(back);
    if (status == DONE && !tool.quiet)
        printf("%s: %s, %zu latents of %zu dimensions\n", folder, sae_format_name(desc->format),
               sae_dictionary_get_desc(dict)->dict_size,
               sae_dictionary_get_desc(dict)->activation_dim);
    return status;
}

/* DST may be new or hold what is written there; SRC, and other programs' files, stay. */
static int check_destination(const char *from, const char *folder, sae_format format) {
    static const struct {
        const char *name;
        sae_format format; /* NONE: of a program that convert does not write for */
    } files[] = {
        { "ae.pt", SAE_FORMAT_DICTIONARY_LEARNING },
        { "ae.safetensors", SAE_FORMAT_DICTIONARY_LEARNING },
        { "config.json", SAE_FORMAT_DICTIONARY_LEARNING },
        { "sae_weights.safetensors", SAE_FORMAT_SAE_LENS },
        { "sae.safetensors", SAE_FORMAT_SPARSIFY }, { "params.npz", SAE_FORMAT_NONE },
        { "params.safetensors", SAE_FORMAT_NONE }, { "hyperparams.json", SAE_FORMAT_NONE },
        { "autoencoder.pt", SAE_FORMAT_NONE }
    };
    size_t i;
    if (same_file(is_folder(from) ? from : folder_of(from), folder))
        return fail("%s would be converted into itself, and lost: name another folder", from);
    for (i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i].format != format && file_exists(joined(folder, files[i].name)))
            return fail("%s holds %s, a file of another format: name another folder", folder,
                        files[i].name);
    return DONE;
}

int verb_convert(int argc, char **argv) {
    common c;
    sae_export_desc desc;
    sae_origin origin;
    sae_dictionary *dict = NULL;
    const char *to = NULL, *model = NULL, *hook = NULL, *layer = NULL, *folder;
    uint64_t number = 0;
    int status;
    memset(&c, 0, sizeof c);
    memset(&desc, 0, sizeof desc);
    const option options[] = {
        { "to", TEXT, &to }, { "raw", FLAG, &c.raw },
        { "safetensors", FLAG, &desc.safetensors }, { "dict-class", TEXT, &c.dict_class },
        { "k", COUNT, &c.k }, { "lm-name", TEXT, &model }, { "hook", TEXT, &hook },
        { "layer", TEXT, &layer }, { "data", LIST, &c.data }, { "batch", COUNT, &c.batch },
        { "dim", COUNT, &c.dim }, { "dtype", TEXT, &c.dtype }, { "tensor", TEXT, &c.tensor },
        { "threads", COUNT, &c.threads }, { "quiet", FLAG, &tool.quiet },
        { "use-top-k", FLAG, &c.use_top_k }, { "use-threshold", FLAG, &c.use_threshold },
        { "input-scale", TEXT, &c.input_scale }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE && c.words.count != 2)
        status = fail_usage("two folders are needed: what to convert, and where to");
    if (status == DONE && !to) status = fail_usage("--to is missing");
    if (status == DONE
        && (!sae_format_from_name(to, &desc.format) || desc.format > SAE_FORMAT_SPARSIFY))
        status = fail_usage("--to is %s, allowed are dictionary_learning, sae_lens, sparsify", to);
    if (status == DONE && layer && !parse_count(layer, &number))
        status = fail_usage("--layer is %s, allowed is a whole number from 0", layer);
    if (status == DONE) status = start_program(&c);
    if (status != DONE) return status;
    folder = c.words.items[1];
    c.words.count = 1;
    status = check_destination(c.words.items[0], folder, desc.format);
    if (status == DONE) status = load_dictionary(&c, false, &dict);
    if (status != DONE) return status;
    if (desc.format == SAE_FORMAT_SPARSIFY
        && sae_dictionary_get_desc(dict)->arch != SAE_ARCH_TOP_K) {
        status = fail("sparsify holds only top-k dictionaries, this is %s",
                      sae_arch_name(sae_dictionary_get_desc(dict)->arch));
        sae_dictionary_destroy(dict);
        return status;
    }
    origin = *sae_dictionary_origin(dict);
    if (model) snprintf(origin.model, sizeof origin.model, "%s", model);
    if (hook) snprintf(origin.hook, sizeof origin.hook, "%s", hook);
    if (layer) origin.layer = (int64_t)number;
    desc.origin = &origin;
    desc.raw = c.raw;
    if (c.data.count) {
        size_t m = sae_dictionary_get_desc(dict)->dict_size;
        float *log_sparsity = (float *)keep_alloc(m, sizeof *log_sparsity);
        status = measure_sparsity(&c, dict, log_sparsity);
        desc.log_sparsity = log_sparsity;
    }
    if (status == DONE) status = run_convert(&c, &desc, dict, folder);
    sae_dictionary_destroy(dict);
    return status;
}
