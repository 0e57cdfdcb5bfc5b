/* sae: info. */
#include "tool.h"

typedef struct norms {
    double least, mean, most;
    size_t none; /* rows of norm 0 */
} norms;

static norms row_norms(const sae_dictionary *dict,
                       const float *(*row)(const sae_dictionary *dict, size_t latent)) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    norms all = { 0, 0, 0, 0 };
    size_t i, j;
    size_t width = row == sae_dictionary_decoder_row ? info.output_dim : info.activation_dim;
    for (i = 0; i < info.dict_size; i++) {
        const float *w = row(dict, i);
        double sum = 0;
        for (j = 0; w && j < width; j++) sum += (double)w[j] * (double)w[j];
        sum = sqrt(sum);
        if (i == 0 || sum < all.least) all.least = sum;
        if (sum > all.most) all.most = sum;
        if (sum == 0) all.none++;
        all.mean += sum / (double)info.dict_size;
    }
    return all;
}

/* The variations of the class in words, comma between; "" for none. */
static const char *variations(const sae_dictionary_desc *h, char out[256]) {
    static const char *const latents[] = { "", "signed", "largest magnitude", "group max" };
    static const char *const norms[] = { "", "constant norm", "layer norm" };
    static const char *const gates[] = { "", "norms of the decoder",
                                         "sums of the layers' decoder norms",
                                         "decoder norms and their sums" };
    size_t n = 0;
    out[0] = 0;
    if (h->no_b_dec_subtraction)
        n += (size_t)snprintf(out + n, 256 - n, "b_dec stays in the input, ");
    if (h->subtract_b_dec) n += (size_t)snprintf(out + n, 256 - n, "b_dec leaves the input, ");
    if (h->activation)
        n += (size_t)snprintf(out + n, 256 - n, "latents: %s, ", latents[h->activation]);
    if (h->input_norm)
        n += (size_t)snprintf(out + n, 256 - n, "input: %s%s, ", norms[h->input_norm],
                              h->output_normalized ? " (kept on the output)" : "");
    if (h->output_dim != h->activation_dim) n += (size_t)snprintf(out + n, 256 - n, "transcoder, ");
    if (h->skip) n += (size_t)snprintf(out + n, 256 - n, "skip connection, ");
    if (h->glu) n += (size_t)snprintf(out + n, 256 - n, "gated linear unit, ");
    if (h->gate) n += (size_t)snprintf(out + n, 256 - n, "chosen times %s, ", gates[h->gate]);
    if (h->normalizer) n += (size_t)snprintf(out + n, 256 - n, "layers normalized, ");
    if (h->layer_codes) n += (size_t)snprintf(out + n, 256 - n, "codes of each layer, ");
    if (n) out[n - 2] = 0;
    return out;
}

/* As Python writes it: "1:", "5:-5", "::2". */
const char *slice_text(const int64_t positions[3], char out[96]) {
    size_t n = 0;
    if (positions[0]) n = (size_t)snprintf(out, 96, "%.0f", (double)positions[0]);
    n += (size_t)snprintf(out + n, 96 - n, ":");
    if (positions[1] != INT64_MAX)
        n += (size_t)snprintf(out + n, 96 - n, "%.0f", (double)positions[1]);
    if (positions[2] != 1) snprintf(out + n, 96 - n, ":%.0f", (double)positions[2]);
    return out;
}

static void text_line(const char *name, const char *text) {
    if (text[0]) printf("%-18s %s\n", name, text);
}

/* Which latents are dead depends on the data; the weights alone show only rows of norm 0. */
static void text_info(const sae_dictionary *dict, const sae_trainer_desc *trainer) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    sae_origin origin = *sae_dictionary_origin(dict);
    norms enc = row_norms(dict, sae_dictionary_encoder_row);
    norms dec = row_norms(dict, sae_dictionary_decoder_row);
    char text[256], of[64] = "";
    size_t i;
    bool whole = info.dict_size == origin.dict_size;
    if (!whole) snprintf(of, sizeof of, " (of the first %zu latents)", info.dict_size);
    text_line("format", sae_format_name(origin.format));
    printf("%-18s %s\n", "class", sae_arch_name(info.arch));
    text_line("called there", origin.class_name);
    text_line("variations", variations(&info, text));
    if (info.layers > 1)
        printf("%-18s crosscoder of %zu layers\n", "kind", info.layers);
    printf("%-18s %zu\n%-18s %zu\n", "activation_dim", info.activation_dim, "dict_size",
           origin.dict_size);
    if (info.output_dim != info.activation_dim)
        printf("%-18s %zu\n", "output_dim", info.output_dim);
    if (info.k) printf("%-18s %g\n", "k", (double)origin.k + info.k_fraction);
    if (info.k && sae_dictionary_threshold(dict) < 0) text_line("threshold", "never set");
    else if (info.k) printf("%-18s %g\n", "threshold", (double)sae_dictionary_threshold(dict));
    for (i = 0; whole && i < info.num_groups; i++)
        printf("%-18s %zu\n", i ? "" : "group_sizes", info.group_sizes[i]);
    if (origin.dtype) text_line("dtype in the file", sae_dtype_name(origin.dtype));
    printf("%-18s %.4g .. %.4g, mean %.4g%s\n", "encoder norms", enc.least, enc.most, enc.mean, of);
    printf("%-18s %.4g .. %.4g, mean %.4g%s\n", "decoder norms", dec.least, dec.most, dec.mean, of);
    printf("%-18s %.4f of the latents have an encoder or decoder row of zeros%s\n", "dead-looking",
           (double)(enc.none > dec.none ? enc.none : dec.none) / (double)info.dict_size, of);
    text_line("model", origin.model);
    text_line("model options", origin.model_options);
    text_line("hook", origin.hook);
    text_line("hook out", origin.hook_out);
    if (origin.layer >= 0) printf("%-18s %.0f\n", "layer", (double)origin.layer);
    if (origin.one_head) printf("%-18s %zu\n", "head", origin.head);
    text_line("dataset", origin.dataset);
    if (origin.context_size) printf("%-18s %zu\n", "context size", origin.context_size);
    if (origin.prepend_bos) text_line("bos in front", origin.prepend_bos > 0 ? "yes" : "no");
    if (origin.no_special) text_line("special tokens", "left out");
    if (origin.positions[2]) text_line("positions", slice_text(origin.positions, text));
    text_line("written by version", origin.version);
    if (trainer)
        printf("%-18s %s (%s), %.0f steps, lr %g, seed %.0f\n", "trained by",
               sae_trainer_name(trainer->kind), sae_trainer_class(trainer->kind),
               (double)trainer->steps, trainer->lr, (double)trainer->seed);
}

static void json_text(const char *name, const char *text) {
    if (!text[0]) return;
    printf(", \"%s\": ", name);
    put_json_string(stdout, text);
}

static void json_info(const sae_dictionary *dict, const sae_trainer_desc *trainer) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    sae_origin origin = *sae_dictionary_origin(dict);
    norms enc = row_norms(dict, sae_dictionary_encoder_row);
    norms dec = row_norms(dict, sae_dictionary_decoder_row);
    char text[256];
    size_t i;
    bool whole;
    printf("{\"format\": \"%s\", \"dict_class\": \"%s\", \"activation_dim\": %zu, "
           "\"dict_size\": %zu, \"output_dim\": %zu", sae_format_name(origin.format),
           sae_arch_name(info.arch), info.activation_dim, origin.dict_size, info.output_dim);
    if (info.layers > 1) printf(", \"kind\": \"crosscoder\", \"layers\": %zu", info.layers);
    json_text("class", origin.class_name);
    json_text("variations", variations(&info, text));
    if (info.k)
        printf(", \"k\": %.9g, \"threshold\": %.9g", (double)origin.k + info.k_fraction,
               (double)sae_dictionary_threshold(dict));
    whole = info.dict_size == origin.dict_size;
    if (whole && info.num_groups) printf(", \"group_sizes\": [");
    for (i = 0; whole && i < info.num_groups; i++)
        printf("%zu%s", info.group_sizes[i], i + 1 < info.num_groups ? ", " : "]");
    if (origin.dtype) json_text("dtype", sae_dtype_name(origin.dtype));
    json_text("model", origin.model);
    json_text("model_options", origin.model_options);
    json_text("hook", origin.hook);
    json_text("hook_out", origin.hook_out);
    json_text("dataset", origin.dataset);
    json_text("version", origin.version);
    if (origin.layer >= 0) printf(", \"layer\": %.0f", (double)origin.layer);
    if (origin.one_head) printf(", \"head\": %zu", origin.head);
    if (origin.context_size) printf(", \"context_size\": %zu", origin.context_size);
    if (origin.prepend_bos)
        printf(", \"prepend_bos\": %s", origin.prepend_bos > 0 ? "true" : "false");
    if (origin.no_special) printf(", \"exclude_special_tokens\": true");
    if (origin.positions[2]) json_text("positions", slice_text(origin.positions, text));
    printf(", \"encoder_norm\": {\"min\": %.9g, \"mean\": %.9g, \"max\": %.9g}", enc.least,
           enc.mean, enc.most);
    printf(", \"decoder_norm\": {\"min\": %.9g, \"mean\": %.9g, \"max\": %.9g}", dec.least,
           dec.mean, dec.most);
    if (!whole) printf(", \"norms_of_first_latents\": %zu", info.dict_size);
    printf(", \"frac_zero_rows\": %.9g",
           (double)(enc.none > dec.none ? enc.none : dec.none) / (double)info.dict_size);
    if (trainer) {
        printf(", \"trainer\": {\"name\": \"%s\", \"trainer_class\": \"%s\", \"steps\": %.0f, "
               "\"lr\": %.9g, "
               "\"seed\": %.0f, \"layer\": %.0f",
               sae_trainer_name(trainer->kind), sae_trainer_class(trainer->kind),
               (double)trainer->steps, trainer->lr, (double)trainer->seed, (double)trainer->layer);
        if (trainer->lm_name) {
            printf(", \"lm_name\": ");
            put_json_string(stdout, trainer->lm_name);
        }
        if (trainer->submodule_name) {
            printf(", \"submodule_name\": ");
            put_json_string(stdout, trainer->submodule_name);
        }
        printf("}");
    }
    printf("}\n");
}

/* What lies in the folder, with sizes. */
static void list_files(const char *path) {
    static const char *const names[] = {
        "config.json", "cfg.json", "hyperparams.json", "ae.pt", "ae.safetensors",
        "sae_weights.safetensors", "sparsity.safetensors", "sae.safetensors", "params.npz",
        "params.safetensors", "checkpoints/final.safetensors", "sae_weights.pt",
        "checkpoints/final.pt", "model.safetensors", "model.pt", "cc_weights.pt", "autoencoder.pt",
        "activation_scaler.json"
    };
    struct stat about;
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (stat(joined(path, names[i]), &about) == 0)
            printf("%-18s %s, %.1f KiB\n", "file", names[i], (double)about.st_size / 1024);
}

int verb_info(int argc, char **argv) {
    common c;
    sae_dictionary *dict = NULL;
    sae_config *config = NULL;
    sae_tensor_file *file = NULL;
    const sae_trainer_desc *trainer = NULL;
    const char *path;
    struct stat about;
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = { { "json", FLAG, &c.json }, { "raw", FLAG, &c.raw },
                               { "dict-class", TEXT, &c.dict_class }, { "k", SIZE, &c.k },
                               { "input-scale", TEXT, &c.input_scale } };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE && c.words.count != 1) status = fail_usage("one folder or file is needed");
    if (status == DONE) status = start_program(&c);
    if (status != DONE) return status;
    path = c.words.items[0];
    if (is_layers(&c)) return info_layers(&c);
    if (is_large(path)) c.num_latents = 1024;
    if (stat(path, &about) == 0 && (about.st_mode & S_IFMT) != S_IFDIR
        && sae_tensor_file_open(tool.ctx, path, &file) != SAE_OK)
        return fail_library();
    if (file) { /* a bare file may hold a dictionary, or just tensors */
        sae_load_desc desc;
        status = fill_load(&c, &desc);
        if (status == DONE && sae_dictionary_load(tool.ctx, &desc, path, &dict) != SAE_OK) {
            if (!is_large(path) && sae_tensor_file_check(file, NULL) != SAE_OK)
                status = fail_library();
            else list_tensors(file, c.json);
            sae_tensor_file_close(file);
            return status;
        }
        sae_tensor_file_close(file);
    } else {
        status = load_dictionary(&c, false, &dict);
    }
    if (status != DONE) return status;
    tool.quiet = true; /* the folder opened; config.json may still hold keys that are not ours */
    if (sae_dictionary_origin(dict)->format == SAE_FORMAT_DICTIONARY_LEARNING
        && file_exists(joined(path, "config.json"))
        && sae_config_open(tool.ctx, joined(path, "config.json"), &config) == SAE_OK
        && sae_config_count(config) > 0)
        trainer = sae_config_get(config, 0);
    if (c.json) {
        json_info(dict, trainer);
    } else {
        text_info(dict, trainer);
        list_files(path);
    }
    if (config) sae_config_close(config);
    sae_dictionary_destroy(dict);
    return DONE;
}
