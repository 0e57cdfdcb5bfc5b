/* sae: a dictionary named on the command line, and the rows it is for. */
#include "tool.h"

int fill_source(const common *c, sae_source_desc *source) {
    source->files = c->data.items;
    source->num_files = c->data.count;
    source->target_files = c->target.items;
    source->num_target_files = c->target.count;
    source->tensor = c->tensor;
    source->dim = (size_t)c->dim;
    return parse_dtype(c->dtype, &source->dtype);
}

/* A top-k class under its threshold, which stands at -1. trainer may be NULL: not known. */
void warn_threshold(const sae_trainer_desc *trainer) {
    char when[64] = "";
    uint64_t start = trainer ? trainer->threshold_start_step : SAE_NONE;
    if (trainer && start != SAE_NONE)
        snprintf(when, sizeof when, " (training ended before threshold_start_step %.0f)",
                 (double)(start ? start : 1000));
    warning("threshold was never set%s: everything positive passes; --use-top-k chooses k", when);
}

int parse_arch(const char *text, sae_arch *out) {
    char all[300] = "";
    size_t n = 0;
    int i;
    for (i = 1; i <= SAE_NUM_ARCHS; i++) {
        const char *name = sae_arch_name((sae_arch)i);
        if (strcmp(text, name) == 0) {
            *out = (sae_arch)i;
            return DONE;
        }
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i > 1 ? ", " : "", name);
    }
    return fail_usage("--dict-class is %s, allowed are %s", text, all);
}

/* The config.json beside a dictionary of ours or the reference's; NULL if there is none. Keys that
   are not ours are no matter here. */
sae_config *config_beside(const char *path) {
    const char *file = joined(is_folder(path) ? path : folder_of(path), "config.json");
    sae_config *config = NULL;
    bool quiet = tool.quiet;
    tool.quiet = true;
    if (!file_exists(file) || sae_config_open(tool.ctx, file, &config) != SAE_OK) config = NULL;
    tool.quiet = quiet;
    if (config && sae_config_count(config)) return config;
    if (config) sae_config_close(config);
    return NULL;
}

/* What a dictionary that opened leaves to be said about its class and its threshold. */
static void warn_about(const common *c, const sae_dictionary *dict) {
    bool ours = sae_dictionary_origin(dict)->format == SAE_FORMAT_DICTIONARY_LEARNING;
    sae_config *config = ours ? config_beside(c->words.items[0]) : NULL;
    const sae_trainer_desc *trainer = config ? sae_config_get(config, 0) : NULL;
    bool runs = strcmp(tool.verb, "eval") == 0 || strcmp(tool.verb, "encode") == 0
                || strcmp(tool.verb, "reconstruct") == 0;
    if (c->dict_class && trainer && trainer->arch
        && strcmp(sae_arch_name(trainer->arch), c->dict_class) != 0)
        warning("config.json says %s, --dict-class %s goes before it", sae_arch_name(trainer->arch),
                c->dict_class);
    if (runs && sae_dictionary_rule(dict) == SAE_RULE_THRESHOLD
        && sae_dictionary_threshold(dict) < 0)
        warn_threshold(trainer);
    if (config) sae_config_close(config);
}

/* A folder of a sweep is none of its dictionaries. */
static int check_sweep(const char *path) {
    char all[200] = "", name[32];
    size_t n = 0, i;
    if (!is_folder(joined(path, "trainer_0")) || file_exists(joined(path, "config.json")))
        return DONE;
    for (i = 0; n < 150; i++) {
        snprintf(name, sizeof name, "trainer_%zu", i);
        if (!is_folder(joined(path, name))) break;
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", name);
    }
    return fail("%s holds %s: name one", path, all);
}

/* Where the weights of a folder are; the path itself if it is a file. */
const char *weights_file(const char *path) {
    static const char *const names[] = {
        "ae.pt", "ae.safetensors", "sae_weights.safetensors", "sae.safetensors", "params.npz",
        "params.safetensors", "checkpoints/final.safetensors", "sae_weights.pt",
        "checkpoints/final.pt", "model.safetensors", "model.pt", "cc_weights.pt", "autoencoder.pt"
    };
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (file_exists(joined(path, names[i]))) return joined(path, names[i]);
    return path;
}

/* More than one would wait for, or have memory for, to look at one thing in it. */
bool is_large(const char *path) {
    struct stat about;
    return stat(weights_file(path), &about) == 0 && about.st_size > (1 << 30);
}

/* How the command line says to load. */
int fill_load(const common *c, sae_load_desc *desc) {
    char *end;
    memset(desc, 0, sizeof *desc);
    desc->k = (size_t)c->k;
    desc->raw = c->raw;
    desc->first_latent = c->first_latent;
    desc->num_latents = c->num_latents;
    if (c->input_scale) {
        desc->input_scale = strtod(c->input_scale, &end);
        if (end == c->input_scale || *end || !(desc->input_scale > 0)
            || !isfinite(desc->input_scale))
            return fail_usage("--input-scale is %s, allowed is a number above 0", c->input_scale);
    }
    return c->dict_class ? parse_arch(c->dict_class, &desc->arch) : DONE;
}

/* The dictionary named first on the command line, under the rule asked for. */
int load_dictionary(const common *c, bool raw_decoder_norms, sae_dictionary **dict) {
    sae_load_desc desc;
    int status = DONE;
    sae_result result;
    size_t k;
    if (c->words.count == 0) return fail_usage("which dictionary? A folder or file comes first");
    if (c->words.count > 1) return fail_usage("%s belongs to no option", c->words.items[1]);
    if (c->use_top_k && c->use_threshold)
        return fail_usage("--use-top-k or --use-threshold, not both");
    status = fill_load(c, &desc);
    if (status != DONE) return status;
    desc.raw_decoder_norms = raw_decoder_norms;
    if (check_sweep(c->words.items[0]) != DONE) return FAILED;
    result = sae_dictionary_load(tool.ctx, &desc, c->words.items[0], dict);
    if (result == SAE_ERR_UNSUPPORTED && c->num_latents) { /* a class that needs them all */
        desc.first_latent = desc.num_latents = 0;
        result = sae_dictionary_load(tool.ctx, &desc, c->words.items[0], dict);
    }
    if (result != SAE_OK) return fail_library();
    k = sae_dictionary_origin(*dict)->k;
    if (c->k && k && k != c->k)
        status = fail("%s has k %zu, --k says %.0f", c->words.items[0], k, (double)c->k);
    else if ((c->use_top_k || c->use_threshold)
             && sae_dictionary_set_rule(*dict, c->use_top_k ? SAE_RULE_TOP_K : SAE_RULE_THRESHOLD)
                != SAE_OK)
        status = fail_library();
    if (status == DONE) {
        warn_about(c, *dict);
    } else {
        sae_dictionary_destroy(*dict);
        *dict = NULL;
    }
    return status;
}

/* Opens --data, rows as wide as the dictionary named first takes them. */
int open_rows_of(const common *c, size_t width, reader *rows) {
    int status;
    if (!c->data.count) return fail_usage("--data is missing");
    rows->want = width;
    status = reader_create(rows, &c->data, c);
    if (status != DONE) return status;
    if (rows->width != width)
        return fail("%s has rows of %zu, the dictionary %s takes %zu", c->data.items[0],
                    rows->width, c->words.items[0], width);
    return DONE;
}

/* Opens --data for dict, which is prepared where there are rows enough to gain by it. */
int open_rows(const common *c, sae_dictionary *dict, reader *rows) {
    int status = open_rows_of(c, sae_dictionary_get_desc(dict)->activation_dim, rows);
    if (status != DONE) return status;
    if (c->target.count) { /* checked here; only eval compares with it */
        reader target;
        memset(&target, 0, sizeof target);
        status = reader_create(&target, &c->target, c);
        reader_close(&target);
        if (status != DONE) return status;
        if (target.rows != rows->rows)
            return fail("%s has %.0f rows, %s has %.0f", c->target.items[0], (double)target.rows,
                        c->data.items[0], (double)rows->rows);
    }
    if (rows->rows >= 64 && sae_dictionary_prepare(dict) != SAE_OK) return fail_library();
    return DONE;
}

enum { BLOCK_BYTES = 64 << 20 }; /* of latents held at once */

/* Rows of a block: as --batch says where the rows of a batch choose together, else what fits. */
static size_t rows_of_block(const common *c, bool together, size_t bytes_a_row) {
    size_t batch = c->batch ? (size_t)c->batch : 2048, fits = (size_t)BLOCK_BYTES / bytes_a_row;
    if (together || batch <= fits) return batch;
    return fits ? fits : 1;
}

size_t block_rows(const common *c, const sae_dictionary *dict, size_t bytes_a_row) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
    return rows_of_block(c, sae_dictionary_rule(dict) == SAE_RULE_TOP_K
                                && (info.arch == SAE_ARCH_BATCH_TOP_K
                                    || info.arch == SAE_ARCH_MATRYOSHKA), bytes_a_row);
}

size_t subject_block(const common *c, const subject *s, size_t bytes_a_row) {
    if (s->dict) return block_rows(c, s->dict, bytes_a_row);
    return rows_of_block(c, sae_clt_get_desc(s->clt)->arch == SAE_ARCH_BATCH_TOP_K, bytes_a_row);
}

/* What the first word names. */
int open_subject(const common *c, bool raw_decoder_norms, subject *s) {
    int status;
    memset(s, 0, sizeof *s);
    if (is_layers(c)) {
        const sae_clt_desc *desc;
        status = open_layers(c, &s->clt);
        if (status != DONE) return status;
        desc = sae_clt_get_desc(s->clt);
        s->in = s->out = desc->layers * desc->activation_dim;
        s->codes = desc->layers * desc->dict_size;
        return DONE;
    }
    status = load_dictionary(c, raw_decoder_norms, &s->dict);
    if (status != DONE) return status;
    s->in = sae_dictionary_get_desc(s->dict)->activation_dim;
    s->out = sae_dictionary_get_desc(s->dict)->output_dim;
    s->codes = sae_dictionary_num_latents(s->dict);
    return DONE;
}

void close_subject(subject *s) {
    sae_dictionary_destroy(s->dict);
    sae_clt_close(s->clt);
}
