/* sae: the language model a command line names, and the text it reads. */
#include "tool.h"

void language_close(language *l) {
    sae_contexts_free(&l->contexts);
    sae_tokenizer_close(l->tokenizer);
    sae_lm_close(l->model);
}

/* A model may come without a tokenizer, where nothing needs one. */
int open_model(const char *path, bool needs_tokenizer, language *l) {
    const int32_t *bos;
    size_t count = 0;
    if (sae_lm_open(tool.ctx, path, &l->model) != SAE_OK) return fail_library();
    if (sae_tokenizer_open(tool.ctx, path, &l->tokenizer) != SAE_OK) {
        l->tokenizer = NULL;
        if (needs_tokenizer) return fail_library();
    }
    bos = l->tokenizer ? sae_tokenizer_bos(l->tokenizer, &count) : NULL;
    l->bos = count ? bos[0] : sae_lm_config_of(l->model).bos_token;
    return DONE;
}

/* What stands in front of a text [result]: what the tokenizer puts there, else config.json's bos
   token, which room then holds. 0: there is nothing. */
size_t bos_tokens(const language *l, int32_t *room, const int32_t **out) {
    size_t count = 0;
    if (l->tokenizer) *out = sae_tokenizer_bos(l->tokenizer, &count);
    if (count || l->bos < 0) return count;
    *room = (int32_t)l->bos;
    *out = room;
    return 1;
}

/* What a file asks for and cannot have; --quiet does not hide it. */
void warn_no_bos(const char *model) {
    fail("warning: the dictionary was made with bos in front of each context (prepend_bos), and "
         "%s names no bos token: it goes without", model);
}

/* Ids of padding, at the end of a context, become -1: ids below 0 and, where config.json has a
   token of its own for it, that. */
static void mark_padding(language *l) {
    sae_lm_config info = sae_lm_config_of(l->model);
    size_t i;
    if (info.pad_token < 0 || info.pad_token == info.bos_token || info.pad_token == info.eos_token)
        return;
    for (i = l->contexts.contexts; i-- > 0;) {
        int32_t *ids = l->contexts.tokens + i * l->contexts.ctx;
        size_t n = l->contexts.ctx;
        while (n && (ids[n - 1] < 0 || ids[n - 1] == info.pad_token)) ids[--n] = -1;
    }
}

/* The command line decides; what it leaves open, the files of the dictionaries, which must
   agree. */
int choose_reading(const common *c, const sae_dictionary *const *dicts, const char *const *paths,
                   size_t num, reading *out) {
    const char *bos_asker = NULL;
    int bos = c->bos ? 1 : c->no_bos ? -1 : 0;
    size_t i;
    memset(out, 0, sizeof *out);
    if (c->bos && c->no_bos) return fail_usage("--bos or --no-bos, not both");
    out->ctx = (size_t)c->ctx;
    for (i = 0; i < num; i++) {
        const sae_origin *origin = sae_dictionary_origin(dicts[i]);
        size_t ctx = origin->context_size;
        if (ctx && c->ctx && ctx != c->ctx)
            snprintf(out->ctx_note, sizeof out->ctx_note,
                     "contexts of %zu tokens; %s was made with %zu", out->ctx, paths[i], ctx);
        if (ctx && out->ctx && !c->ctx && ctx != out->ctx)
            return fail("%s was made with contexts of %zu tokens, %s with %zu: --ctx N",
                        out->asker, out->ctx, paths[i], ctx);
        if (ctx && !out->ctx) {
            out->ctx = ctx;
            out->asker = paths[i];
        }
        if (!origin->prepend_bos || bos == origin->prepend_bos) continue;
        if (c->bos || c->no_bos)
            snprintf(out->bos_note, sizeof out->bos_note,
                     "contexts begin with%s bos; %s was made with%s", c->bos ? "" : "out",
                     paths[i], c->bos ? "out" : "");
        else if (bos)
            return fail("%s was made with%s bos in front of a context, %s with%s: --bos or "
                        "--no-bos", bos_asker, bos > 0 ? "" : "out", paths[i],
                        bos > 0 ? "out" : "");
        if (!bos) bos_asker = paths[i];
        if (!bos) bos = origin->prepend_bos;
    }
    out->bos = bos > 0;
    return DONE;
}

/* Of a .npy of contexts their length, of one row of ids shorter than a default context its own,
   with bos; 0: neither. */
static int own_length(const char *path, size_t num_bos, size_t *out) {
    sae_tensor_file *file = NULL;
    const sae_tensor *t;
    *out = 0;
    if (!ends_with(path, ".npy")) return DONE;
    if (sae_tensor_file_open(tool.ctx, path, &file) != SAE_OK) return fail_library();
    t = sae_tensor_file_get(file, 0);
    if (t && t->ndim == 2) *out = (size_t)t->shape[1];
    if (t && t->ndim == 1 && t->shape[0] && t->shape[0] < 128)
        *out = (size_t)t->shape[0] + num_bos;
    sae_tensor_file_close(file);
    return DONE;
}

/* The contexts of --tokens or --text. */
static int read_contexts(const common *c, const reading *how, language *l) {
    sae_contexts_desc desc;
    int32_t room;
    size_t own;
    int status;
    memset(&desc, 0, sizeof desc);
    desc.tokenizer = l->tokenizer;
    desc.files = c->tokens ? &c->tokens : c->text.items;
    desc.num_files = c->tokens ? 1 : c->text.count;
    desc.length = how->ctx;
    if (c->tokens && !ends_with(c->tokens, ".npy"))
        return fail("%s is no .npy: ids of tokens come in one", c->tokens);
    if (how->bos) desc.num_bos = bos_tokens(l, &room, &desc.bos);
    if (c->bos && !desc.num_bos) return fail("--bos: %s names no bos token", c->model);
    if (how->bos && !desc.num_bos) warn_no_bos(c->model);
    status = own_length(desc.files[0], desc.num_bos, &own);
    if (status != DONE) return status;
    if (own && !c->ctx) desc.length = own;
    if (sae_contexts_read(tool.ctx, &desc, &l->contexts) == SAE_OK) {
        l->begins_with_bos = desc.num_bos && l->contexts.tokens[0] == desc.bos[0];
        return DONE;
    }
    if (!how->asker) return fail_library();
    return fail("%s; %s asks for contexts of %zu tokens: --ctx N takes others",
                without_function(sae_error(tool.ctx)), how->asker, how->ctx);
}

int language_open(const common *c, language *l) {
    bool needs_tokenizer = false;
    size_t i;
    int status;
    if (!c->model) return fail_usage("--model is missing: a folder with config.json, "
                                     "model.safetensors, tokenizer.json");
    if (!c->tokens && !c->text.count) return fail_usage("--text is missing");
    for (i = 0; i < c->text.count; i++) needs_tokenizer |= !ends_with(c->text.items[i], ".npy");
    status = open_model(c->model, needs_tokenizer, l);
    if (status == DONE && c->remove_bos && l->bos < 0)
        status = fail("--remove-bos: %s names no bos token", c->model);
    return status;
}

int language_read(const common *c, const reading *how, language *l) {
    int status = read_contexts(c, how, l);
    if (status != DONE) return status;
    if (how->bos && l->bos >= 0 && !l->begins_with_bos) /* contexts of a .npy stay as they are */
        fail("warning: the contexts of %s do not begin with bos",
             c->tokens ? c->tokens : c->text.items[0]);
    if (how->ctx_note[0]) note("%s", how->ctx_note);
    if (how->bos_note[0]) note("%s", how->bos_note);
    if (!how->keeps_padding) mark_padding(l);
    l->text.tokens = l->contexts.tokens;
    l->text.contexts = l->contexts.contexts;
    l->text.ctx = l->contexts.ctx;
    return DONE;
}
