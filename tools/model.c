/* sae: a language model and where a dictionary sits in it; eval --model. */
#include "tool.h"

void language_close(language *l) {
    sae_contexts_free(&l->contexts);
    sae_tokenizer_close(l->tokenizer);
    sae_lm_close(l->model);
}

/* Rows of padding are ids below 0 and, where config.json has a token of its own for it, that. */
void mark_padding(const sae_lm *model, sae_contexts *contexts) {
    sae_lm_config info = sae_lm_config_of(model);
    size_t i;
    if (info.pad_token < 0 || info.pad_token == info.bos_token || info.pad_token == info.eos_token)
        return;
    for (i = contexts->contexts; i-- > 0;) { /* at the end of a context alone */
        int32_t *ids = contexts->tokens + i * contexts->ctx;
        size_t n = contexts->ctx;
        while (n && (ids[n - 1] < 0 || ids[n - 1] == info.pad_token)) ids[--n] = -1;
    }
}

int language_open(const common *c, language *l) {
    sae_contexts_desc read;
    if (!c->model) return fail_usage("--model is missing: a folder with config.json, "
                                     "model.safetensors, tokenizer.json");
    if (!c->text.count) return fail_usage("--text is missing");
    if (sae_lm_open(tool.ctx, c->model, &l->model) != SAE_OK
        || sae_tokenizer_open(tool.ctx, c->model, &l->tokenizer) != SAE_OK)
        return fail_library();
    memset(&read, 0, sizeof read);
    read.tokenizer = l->tokenizer;
    read.files = c->text.items;
    read.num_files = c->text.count;
    read.length = (size_t)c->ctx;
    if (sae_contexts_read(tool.ctx, &read, &l->contexts) != SAE_OK) return fail_library();
    mark_padding(l->model, &l->contexts);
    l->text.tokens = l->contexts.tokens;
    l->text.contexts = l->contexts.contexts;
    l->text.ctx = l->contexts.ctx;
    return DONE;
}

/* Names of places in other programs' words; %zu is the layer. */
static const struct {
    const char *theirs, *ours, *io;
} places[] = {
    { "resid_post_layer_%zu", "blocks.%zu.hook_resid_post", "out" }, /* the reference's demo */
    { "resid_out_layer%zu", "blocks.%zu.hook_resid_post", "out" }, /* its published dictionaries */
    { "mlp_out_layer%zu", "blocks.%zu.hook_mlp_out", "out" },
    { "attn_out_layer%zu", "blocks.%zu.hook_attn_out", "out" }
};

/* The submodule in our words, given in others'; itself if it is none of these. */
static const char *place_name(const char *given, const char **io) {
    size_t i, layer = 0;
    for (i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *mark = strstr(places[i].theirs, "%zu"), *digits;
        size_t stem = (size_t)(mark - places[i].theirs), n;
        if (strncmp(given, places[i].theirs, stem) != 0) continue;
        digits = given + stem;
        n = strspn(digits, "0123456789");
        if (n == 0 || n > 4 || strcmp(digits + n, mark + 3) != 0) continue;
        layer = (size_t)strtoul(digits, NULL, 10);
        if (!*io) *io = places[i].io;
        mark = (const char *)keep_alloc(64, 1);
        snprintf((char *)mark, 64, places[i].ours, layer);
        return mark;
    }
    return given;
}

/* config.json's "buffer": {"io": ...}; NULL if it has none. Kept by keep_alloc(). */
static const char *config_io(const char *path) {
    const char *file = joined(is_folder(path) ? path : folder_of(path), "config.json");
    const char *io = NULL;
    sae_json *root = NULL;
    if (!file_exists(file) || sae_json_open(tool.ctx, file, &root) != SAE_OK) return NULL;
    io = sae_json_text(sae_json_get(sae_json_get(root, "buffer"), "io"));
    if (io) io = with_ending(io, "");
    sae_json_close(root);
    return io;
}

/* From --submodule and --io, else from what the dictionary's files say. */
int find_position(const common *c, const char *path, const sae_dictionary *dict,
                  const language *l, position *out) {
    sae_origin origin = *sae_dictionary_origin(dict);
    sae_config *config = config_beside(path);
    const sae_trainer_desc *trainer = config ? sae_config_get(config, 0) : NULL;
    const char *name = c->submodule, *io = c->io;
    if (!io) io = config_io(path);
    if (!name && trainer && trainer->submodule_name)
        name = with_ending(trainer->submodule_name, "");
    if (config) sae_config_close(config);
    if (!name && origin.hook[0]) name = with_ending(origin.hook, "");
    if (!name) return fail("%s does not say where it belongs in the model: --submodule NAME",
                           path);
    out->submodule = place_name(name, &io);
    out->io = io ? io : "out";
    if (features_place_find(tool.ctx, l->model, dict, out->submodule, out->io, &out->place)
        == SAE_OK)
        return DONE;
    return fail("%s: %s", path, without_function(sae_error(tool.ctx)));
}

/* ==== >>model: eval =========================================================================== */

/* The columns of the reference's README. */
void print_table(const char *const *names, const features_metrics *m, size_t num) {
    size_t i, wide = 0;
    for (i = 0; i < num; i++)
        if (strlen(names[i]) > wide) wide = strlen(names[i]);
    printf("%-*s  Variance explained      L1      L0  %% alive  CE diff  %% CE recovered\n",
           (int)wide, "");
    for (i = 0; i < num; i++)
        printf("%-*s  %17.1f%% %7.2f %7.2f  %6.1f%%  %7.4f  %13.1f%%\n", (int)wide, names[i],
               100 * m[i].rows.frac_variance_explained, m[i].rows.l1_loss, m[i].rows.l0,
               100 * m[i].rows.frac_alive, m[i].losses.reconstructed - m[i].losses.original,
               100 * m[i].losses.frac_recovered);
}

static void print_json_metric(const char *name, double value) {
    if (isfinite(value)) printf("\"%s\": %.9g, ", name, value);
    else printf("\"%s\": null, ", name);
}

static double count_tokens(const features_text *text) {
    double count = 0;
    size_t i;
    for (i = 0; i < text->contexts * text->ctx; i++) count += text->tokens[i] >= 0;
    return count;
}

int evaluate_in_model(const common *c, const sae_dictionary *dict) {
    const char *path = c->words.items[0];
    language l;
    position at;
    features_judge_desc how;
    features_metrics m;
    uint64_t rows = 0;
    int status;
    memset(&l, 0, sizeof l);
    memset(&how, 0, sizeof how);
    if (c->data.count || c->target.count)
        return fail_usage("--data, --target and --model do not go together: rows come from --text");
    status = language_open(c, &l);
    if (status == DONE) status = find_position(c, path, dict, &l, &at);
    if (status == DONE) {
        how.batch_size = (size_t)c->batch;
        how.remove_bos = c->remove_bos;
        how.bos_token = sae_lm_config_of(l.model).bos_token;
        if (features_judge(tool.ctx, l.model, &l.text, at.place, &dict, 1, &how, NULL, &m, &rows)
            != SAE_OK)
            status = fail_library();
    }
    if (status == DONE && c->json) {
        printf("{");
#define SAE_X(name) print_json_metric(#name, m.rows.name);
        SAE_METRICS(SAE_X)
#undef SAE_X
        print_json_metric("loss_original", m.losses.original);
        print_json_metric("loss_reconstructed", m.losses.reconstructed);
        print_json_metric("loss_zero", m.losses.zero);
        print_json_metric("frac_recovered", m.losses.frac_recovered);
        printf("\"n_rows\": %.0f, \"n_tokens\": %.0f}\n", (double)rows,
               count_tokens(&l.text));
    } else if (status == DONE) {
        print_table(&path, &m, 1);
        printf("CE %.4f of the model, %.4f with the reconstruction at %s (%s), %.4f with zeros; "
               "%.0f tokens in contexts of %zu\n", m.losses.original, m.losses.reconstructed,
               at.submodule, at.io, m.losses.zero, count_tokens(&l.text), l.text.ctx);
    }
    language_close(&l);
    return status;
}
