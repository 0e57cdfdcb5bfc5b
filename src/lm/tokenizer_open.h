#pragma once
#include "decode.h"
#include "tokenizer_gguf.h"

/* ==== >>lm: tokenizer: open =================================================================== */

/* NAME in the folder that the tokenizer's file is in; free. NULL: no memory. */
static char *lmi_path_beside(const sae_tokenizer *t, const char *name) {
    size_t n = strlen(t->path), m = strlen(name);
    char *path = (char *)malloc(n + m + 2);
    if (!path) return NULL;
    while (n && t->path[n - 1] != '/') n--;
    memcpy(path, t->path, n);
    memcpy(path + n, name, m + 1);
    return path;
}

/* *root: of a file beside it, NULL where there is none. */
static sae_result lmi_json_beside(const sae_tokenizer *t, const char *name, sae_json **root) {
    char *path = lmi_path_beside(t, name);
    sae_result result = SAE_OK;
    *root = NULL;
    if (!path) return lmi_tokenizer_memory(t);
    if (lmi_is_file(path)) result = sae_json_open(t->ctx, path, root);
    free(path);
    return result;
}

/* Where the post-processor puts nothing in front: bos_token of tokenizer_config.json, null being
   none; where that says nothing about it, bos_token_id of config.json. */
static sae_result lmi_read_bos(sae_tokenizer *t) {
    sae_json *root;
    const sae_json *v;
    const char *text;
    int32_t id = -1;
    bool said;
    if (t->bos.count) return SAE_OK;
    LMI_TRY(lmi_json_beside(t, "tokenizer_config.json", &root));
    v = sae_json_get(root, "bos_token");
    said = v != NULL;
    text = sae_json_text(sae_json_kind_of(v) == SAE_JSON_OBJECT ? sae_json_get(v, "content") : v);
    if (text) id = sae_tokenizer_find(t, text, strlen(text));
    sae_json_close(root);
    if (!said) {
        LMI_TRY(lmi_json_beside(t, "config.json", &root));
        id = lmi_id_of(sae_json_get(root, "bos_token_id"));
        if (!sae_tokenizer_token(t, id, NULL)) id = -1;
        sae_json_close(root);
    }
    return id < 0 || lmi_tokens_add(&t->bos, id) ? SAE_OK : lmi_tokenizer_memory(t);
}

/* t->path is not there: what is? */
static sae_result lmi_no_tokenizer(const sae_tokenizer *t) {
    static const char *const others[] = { "tokenizer.model", "vocab.json", "merges.txt",
                                          "spiece.model", "vocab.txt" };
    char found[128] = "";
    for (size_t i = 0; i < LMI_COUNT(others); i++) {
        char *path = lmi_path_beside(t, others[i]);
        size_t n = strlen(found);
        if (path && lmi_is_file(path))
            snprintf(found + n, sizeof found - n, "%s%s", n ? ", " : "", others[i]);
        free(path);
    }
    return sae_context_fail(t->ctx, SAE_ERR_NOT_FOUND,
                            "sae_tokenizer_open: %s is not there%s%s%s", t->path,
                            found[0] ? "; beside it is " : "", found,
                            found[0] ? ", which is not read: transformers' "
                                       "AutoTokenizer.from_pretrained(FOLDER).save_pretrained("
                                       "FOLDER) makes tokenizer.json of it" : "");
}

SAE_API sae_result sae_tokenizer_open(sae_context *ctx, const char *path, sae_tokenizer **out) {
    sae_tokenizer *t;
    size_t n = path ? strlen(path) : 0;
    bool gguf;
    sae_result result;
    if (!ctx || !path || !out)
        return sae_context_fail(ctx, SAE_ERR_INVALID,
                                "sae_tokenizer_open: path and out may not be NULL");
    t = (sae_tokenizer *)calloc(1, sizeof *t);
    if (!t) return sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    t->ctx = ctx;
    gguf = lmi_names_gguf(path);
    t->path = gguf || (n > 5 && strcmp(path + n - 5, ".json") == 0)
                  ? lmi_join("", path) : lmi_join(path, "tokenizer.json");
    if (!t->path || !lmi_text_add(&t->arena, "", 0))
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tokenizer_open: no memory");
    else if (gguf) result = lmi_tokenizer_read_gguf(t);
    else if (!lmi_is_file(t->path)) result = lmi_no_tokenizer(t);
    else {
        result = lmi_tokenizer_read_json(t);
        if (result == SAE_OK) result = lmi_read_bos(t);
    }
    if (result == SAE_OK) *out = t;
    else sae_tokenizer_close(t);
    return result;
}

SAE_API void sae_tokenizer_close(sae_tokenizer *t) {
    if (!t) return;
    free(t->path);
    free(t->token);
    free(t->slot);
    free(t->merge);
    free(t->seam);
    free(t->cluster.code);
    free(t->cluster.sorted);
    free(t->heap);
    free(t->link);
    free(t->word);
    for (int i = 0; i < 2; i++) {
        free(t->added[i]);
        sae_text_free(&t->normal[i]);
    }
    sae_tokens_free(&t->bos);
    sae_tokens_free(&t->symbols);
    sae_tokens_free(&t->word_ids);
    sae_text_free(&t->arena);
    sae_text_free(&t->spaced);
    sae_text_free(&t->word_bytes);
    free(t);
}

SAE_API size_t sae_tokenizer_size(const sae_tokenizer *tokenizer) { return tokenizer->size; }

SAE_API void sae_tokens_free(sae_tokens *tokens) {
    free(tokens->id);
    memset(tokens, 0, sizeof *tokens);
}

SAE_API void sae_text_free(sae_text *text) {
    free(text->data);
    memset(text, 0, sizeof *text);
}
