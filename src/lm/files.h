#pragma once
#include "config.h"

/* ==== >>lm: weights: files ==================================================================== */

typedef struct lmi_mlp {
    sae_linear *gate, *up, *down; /* gate NULL: none */
} lmi_mlp;

typedef struct lmi_norm {
    float *weight, *bias; /* [n]; bias NULL: RMSNorm. weight NULL: no norm here */
} lmi_norm;

typedef struct lmi_layer {
    lmi_norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, q_norm, k_norm;
    sae_linear *qkv;         /* NULL: q, k, v */
    sae_linear *q, *k, *v, *o;
    lmi_mlp *mlp;            /* [1], or the experts */
    sae_linear *router;      /* NULL: one MLP */
} lmi_layer;

enum { LMI_MAX_SHARDS = 1024 };

struct sae_lm {
    sae_context *ctx;
    const lmi_kernels *kernels;
    lmi_shape shape;
    char *folder;
    sae_tensor_file *file[LMI_MAX_SHARDS];
    char *file_name[LMI_MAX_SHARDS];
    size_t num_files;
    char prefix[64];            /* in front of the tensors' names, in place of the naming's base */
    const sae_tensor *embed;    /* read row by row from the file */
    const sae_tensor *position; /* likewise; NULL: rotary */
    lmi_layer *layer;
    lmi_norm norm;
    float *ones;                /* [2 d]: d ones, d zeros: a norm without weights */
    sae_linear *unembed;
    float *memory;              /* of a forward pass */
    size_t memory_floats;
    float *angles[2];           /* [angle_rows][cosines, sines][pairs] of each rotary kind */
    size_t angle_rows;
};

static sae_result lmi_no_memory(const sae_lm *m) {
    return sae_context_fail(m->ctx, SAE_ERR_OUT_OF_MEMORY, "sae_lm_open: no memory for %s",
                            m->folder);
}

/* Opens folder/name, once. why: the tensor that is said to be in there, or NULL. */
static sae_result lmi_file_open(sae_lm *m, const char *name, const char *why) {
    char *path;
    sae_result result;
    for (size_t i = 0; i < m->num_files; i++)
        if (strcmp(m->file_name[i], name) == 0) return SAE_OK;
    if (strchr(name, '/') || strchr(name, '\\') || !name[0])
        return sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                "sae_lm_open: model.safetensors.index.json names "
                                "the file %s, allowed are names in the folder",
                                name);
    if (m->num_files == LMI_MAX_SHARDS)
        return sae_context_fail(m->ctx, SAE_ERR_UNSUPPORTED,
                                "sae_lm_open: %s has more than %d shards", m->folder,
                                (int)LMI_MAX_SHARDS);
    path = lmi_join(m->folder, name);
    m->file_name[m->num_files] = (char *)malloc(strlen(name) + 1);
    if (!path || !m->file_name[m->num_files]) {
        free(path);
        free(m->file_name[m->num_files]);
        return lmi_no_memory(m);
    }
    strcpy(m->file_name[m->num_files], name);
    if (why && !lmi_is_file(path))
        result = sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                                  "sae_lm_open: the shard %s is missing; "
                                  "model.safetensors.index.json has %s in it",
                                  path, why);
    else result = sae_tensor_file_open(m->ctx, path, &m->file[m->num_files]);
    free(path);
    if (result == SAE_OK) m->num_files++;
    else free(m->file_name[m->num_files]);
    return result;
}

static sae_result lmi_shards_open(sae_lm *m, const char *path) {
    sae_json *root;
    const sae_json *map, *entry;
    sae_result result = SAE_OK;
    LMI_TRY(sae_json_open(m->ctx, path, &root));
    map = sae_json_get(root, "weight_map");
    if (sae_json_kind_of(map) != SAE_JSON_OBJECT)
        result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                  "sae_lm_open: %s: weight_map is missing", path);
    for (entry = sae_json_first(map); entry && result == SAE_OK; entry = sae_json_next(entry)) {
        const char *name = sae_json_text(entry);
        if (!name)
            result = sae_context_fail(m->ctx, SAE_ERR_FORMAT,
                                      "sae_lm_open: %s: the file of %s is no text", path,
                                      sae_json_key(entry));
        else result = lmi_file_open(m, name, sae_json_key(entry));
    }
    sae_json_close(root);
    return result;
}

/* One file, else shards, else what PyTorch wrote before there was the other. */
static sae_result lmi_files_open(sae_lm *m) {
    static const char *const single[] = { "model.safetensors", "pytorch_model.bin" };
    char *path;
    bool there;
    for (size_t i = 0; i < 2; i++) {
        sae_result result;
        path = lmi_join(m->folder, single[i]);
        if (!path) return lmi_no_memory(m);
        there = lmi_is_file(path);
        free(path);
        if (there) return lmi_file_open(m, single[i], NULL);
        if (i) break;
        path = lmi_join(m->folder, "model.safetensors.index.json");
        if (!path) return lmi_no_memory(m);
        there = lmi_is_file(path);
        result = there ? lmi_shards_open(m, path) : SAE_OK;
        free(path);
        if (there) return result;
    }
    return sae_context_fail(m->ctx, SAE_ERR_NOT_FOUND,
                            "sae_lm_open: %s holds no model.safetensors and no "
                            "model.safetensors.index.json",
                            m->folder);
}

