/* sae: where a dictionary sits in a language model; eval --model. */
#include "tool.h"

/* Names of places in other programs' words, where sae_lm_site_find has another for them; %zu is the
   layer. */
static const struct {
    const char *theirs, *ours;
} places[] = {
    { "resid_post_layer_%zu", "blocks.%zu.hook_resid_post" }, /* the reference's demo */
    { "resid_out_layer%zu", "blocks.%zu.hook_resid_post" },   /* its published dictionaries */
    { "mlp_out_layer%zu", "blocks.%zu.hook_mlp_out" },
    { "attn_out_layer%zu", "blocks.%zu.hook_attn_out" }
};

/* The place in the library's words; itself if it is none of these. Gemma Scope 2's end in ".output"
   or ".input", which says which. */
const char *place_name(const char *given, const char **io) {
    static const struct {
        const char *end, *io;
    } ends[] = { { ".output", "out" }, { ".input", "in" } };
    size_t i;
    for (i = 0; i < COUNT_OF(places); i++) {
        const char *mark = strstr(places[i].theirs, "%zu"), *digits;
        size_t stem = (size_t)(mark - places[i].theirs), n;
        char *name;
        if (strncmp(given, places[i].theirs, stem) != 0) continue;
        digits = given + stem;
        n = strspn(digits, "0123456789");
        if (n == 0 || n > 4 || strcmp(digits + n, mark + 3) != 0) continue;
        name = (char *)keep_alloc(64, 1);
        snprintf(name, 64, places[i].ours, (size_t)strtoul(digits, NULL, 10));
        if (!*io) *io = "out";
        return name;
    }
    for (i = 0; i < 2; i++)
        if (ends_with(given, ends[i].end)) {
            char *name = with_ending(given, "");
            name[strlen(given) - strlen(ends[i].end)] = 0;
            if (!*io) *io = ends[i].io;
            return name;
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

/* What a dictionary's files say of the rows it has, and what of it cannot be done. */
static int limit_rows(const char *path, const sae_dictionary *dict, const language *l,
                      position *at) {
    const sae_origin *origin = sae_dictionary_origin(dict);
    const char *options = origin->model_options;
    bool residual = sae_lm_site_is_residual(l->model, at->place.in);
    memcpy(at->place.positions, origin->positions, sizeof at->place.positions);
    if (origin->no_special && l->bos >= 0) {
        at->place.skips = true;
        at->place.skipped = (int32_t)l->bos;
    }
    if (strstr(options, "center_writing_weights"))
        at->place.centred = residual && !sae_lm_config_of(l->model).rms_norm;
    if (strstr(options, "fold_value_biases") && !residual && strstr(at->submodule, "hook_z"))
        return fail("%s was made of a model with fold_value_biases, whose %s is another", path,
                    at->submodule);
    return DONE;
}

/* From --submodule, --io and --head, else from what the dictionary's files say. */
int find_position(const common *c, const char *path, const sae_dictionary *dict,
                  const language *l, position *out) {
    const sae_origin *origin = sae_dictionary_origin(dict);
    sae_config *config = config_beside(path);
    const sae_trainer_desc *trainer = config ? sae_config_get(config, 0) : NULL;
    const char *name = c->submodule, *io = c->io, *gives_io = NULL;
    features_where where;
    memset(&where, 0, sizeof where);
    if (sae_dictionary_get_desc(dict)->layers > 1) {
        if (config) sae_config_close(config);
        return fail("%s is a crosscoder of %zu places: it has no one place in a model", path,
                    sae_dictionary_get_desc(dict)->layers);
    }
    if (!io) io = config_io(path);
    if (!name && trainer && trainer->submodule_name)
        name = with_ending(trainer->submodule_name, "");
    if (config) sae_config_close(config);
    if (!name && origin->hook[0]) name = origin->hook;
    if (!name) return fail("%s does not say where it belongs in the model: --submodule NAME",
                           path);
    if (!c->submodule && !c->io && origin->hook_out[0])
        where.gives = place_name(origin->hook_out, &gives_io);
    else if (!io && strstr(origin->class_name, "transcoder"))
        return fail("%s is a %s and does not say which rows it gives: --submodule NAME --io "
                    "in_and_out", path, origin->class_name);
    where.gives_input = gives_io && strcmp(gives_io, "in") == 0;
    out->gives = where.gives;
    out->submodule = where.submodule = place_name(name, &io);
    out->io = where.io = io ? io : "out";
    where.one_head = c->head != NO_HEAD || origin->one_head;
    where.head = c->head != NO_HEAD ? (size_t)c->head : origin->head;
    memset(&out->place, 0, sizeof out->place);
    if (features_place_find(tool.ctx, l->model, dict, &where, &out->place) != SAE_OK)
        return fail("%s: %s", path, without_function(sae_error(tool.ctx)));
    out->head = where.one_head ? (int64_t)where.head : -1;
    return limit_rows(path, dict, l, out);
}

/* "out", and what else tells its rows from those of the whole place. */
const char *rows_text(const position *at, char out[96]) {
    char slice[96];
    size_t n = (size_t)snprintf(out, 96, "%s", at->io);
    if (at->gives) n += (size_t)snprintf(out + n, 96 - n, ", gives %.50s", at->gives);
    if (at->head >= 0) n += (size_t)snprintf(out + n, 96 - n, ", head %.0f", (double)at->head);
    if (at->place.positions[2])
        n += (size_t)snprintf(out + n, 96 - n, ", positions %.40s",
                              slice_text(at->place.positions, slice));
    if (at->place.skips) n += (size_t)snprintf(out + n, 96 - n, ", without bos");
    if (at->place.centred) snprintf(out + n, 96 - n, ", centred");
    return out;
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
    reading how_read;
    language l;
    position at;
    features_judge_desc how;
    features_metrics m;
    uint64_t rows = 0;
    char text[96];
    int status;
    memset(&l, 0, sizeof l);
    memset(&how, 0, sizeof how);
    if (c->data.count || c->target.count)
        return fail_usage("--data, --target and --model do not go together: rows come from --text");
    status = choose_reading(c, &dict, &path, 1, &how_read);
    if (status == DONE) status = language_open(c, &l);
    if (status == DONE) status = find_position(c, path, dict, &l, &at);
    if (status == DONE) status = language_read(c, &how_read, &l);
    if (status == DONE) {
        how.batch_size = (size_t)c->batch;
        how.remove_bos = c->remove_bos;
        how.bos_token = l.bos;
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
        printf("\"n_rows\": %.0f, \"n_tokens\": %.0f, \"ctx\": %zu, \"submodule\": ", (double)rows,
               count_tokens(&l.text), l.text.ctx);
        put_json_string(stdout, at.submodule);
        printf(", \"rows\": \"%s\"}\n", rows_text(&at, text));
    } else if (status == DONE) {
        print_table(&path, &m, 1);
        printf("CE %.4f of the model, %.4f with the reconstruction at %s (%s), %.4f with zeros; "
               "%.0f tokens in contexts of %zu%s\n", m.losses.original, m.losses.reconstructed,
               at.submodule, rows_text(&at, text), m.losses.zero, count_tokens(&l.text),
               l.text.ctx, l.begins_with_bos ? " with bos" : "");
    }
    language_close(&l);
    return status;
}
