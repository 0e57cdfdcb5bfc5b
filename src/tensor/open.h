#pragma once
#include "safetensors.h"
#include "torch.h"

/* ==== >>tensors: opening a file =============================================================== */

static sae_result saei_zip_read(sae_tensor_file *file) {
    saei_zip zip;
    char top[SAEI_QUOTE];
    SAEI_TRY(saei_zip_open(file, &zip));
    if (saei_torch_top(&zip, top)) return saei_torch_read(file, &zip, top);
    for (size_t i = 0; i < zip.count; i++)
        if (saei_ends_with(zip.entries[i].name, ".npy")) return saei_npz_read(file, &zip);
    return saei_damaged(file, "a zip archive without data.pkl (torch.save) and without .npy "
                              "(numpy.savez)");
}

static bool saei_looks_zip(const unsigned char *d, size_t n) {
    return n >= 4 && (saei_le32(d) == 0x04034b50 || saei_le32(d) == 0x06054b50);
}

static bool saei_looks_npy(const unsigned char *d, size_t n) {
    return n >= 6 && memcmp(d, "\x93NUMPY", 6) == 0;
}

/* Stricter than reading one is, so that no raw values pass for it. */
static bool saei_looks_safetensors(const unsigned char *d, size_t n) {
    return n >= 10 && saei_le64(d) >= 2 && saei_le64(d) <= SAEI_SAFETENSORS_HEADER
           && saei_le64(d) <= n - 8 && d[8] == '{' && memchr("\"} \t\r\n", d[9], 6) != NULL;
}

/* The kind is told by the content. */
static sae_result saei_tensor_file_read(sae_tensor_file *file) {
    static const unsigned char legacy[] = { 0x80, 2, 0x8a, 10, 'l', 0xfc, 0x9c, 'F', 0xf9 };
    const unsigned char *d = file->map.data;
    size_t n = file->map.size;
    if (n == 0) return saei_damaged(file, "the file is empty");
    if (saei_looks_zip(d, n)) return saei_zip_read(file);
    if (saei_looks_npy(d, n)) return saei_npy_read(file, "", "", d, n, NULL);
    if (n > 8 && d[8] == '{' && saei_le64(d) <= SAEI_SAFETENSORS_HEADER)
        return saei_safetensors_read(file);
    if (n >= 11 && memcmp(d, "version htt", 11) == 0)
        return saei_damaged(file, "a Git LFS pointer: the file itself was not downloaded (git lfs "
                                  "pull)");
    if (saei_ends_with(file->path, ".safetensors")) return saei_safetensors_read(file);
    if (n >= sizeof legacy && memcmp(d, legacy, sizeof legacy) == 0)
        return saei_unsupported(file, "torch.save's format from before torch 1.6; re-save it with "
                                      "torch >= 1.6");
    if (n >= 2 && d[0] == 0x80 && d[1] >= 2 && d[1] <= 5)
        return saei_unsupported(file, "a bare pickle, which is not run; re-save it with torch.save "
                                      "(torch >= 1.6) or as .safetensors");
    return saei_damaged(file, "not a file of a known kind: .npy, .npz, .safetensors, .pt (torch >= "
                              "1.6)");
}

SAE_API void sae_tensor_file_close(sae_tensor_file *file) {
    if (!file) return;
    saei_free(file->ctx, file->header);
    saei_arena_free(&file->arena);
    saei_map_close(file->ctx, &file->map);
    saei_free(file->ctx, file);
}

/* The file whose bytes are in *map, which is the file's from here on (with handle NULL they stay
   the caller's and must outlive it). path is for messages, and tells the kind where the bytes do
   not. */
static sae_result saei_tensor_file_open_map(sae_context *ctx, const char *path, saei_map *map,
                                            sae_tensor_file **out) {
    sae_tensor_file *file = (sae_tensor_file *)saei_calloc(ctx, 1, sizeof *file);
    sae_result result;
    if (!file) {
        saei_map_close(ctx, map);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tensor_file_open: no memory for %s",
                         path);
    }
    file->ctx = ctx;
    file->who = "sae_tensor_file_open";
    file->path = path;
    file->arena.ctx = ctx;
    file->map = *map;
    saei_crc_tables(&file->crc);
    result = saei_tensor_file_read(file);
    if (result == SAE_OK)
        result = saei_file_index(file, file->tensors, file->count, sizeof *file->tensors, "tensor",
                                 &file->by_name);
    if (result == SAE_OK)
        result = saei_file_index(file, file->scalars, file->num_scalars, sizeof *file->scalars,
                                 "value", &file->scalars_by_name);
    file->path = saei_arena_text(&file->arena, path, strlen(path));
    if (result == SAE_OK && !file->path)
        result =
            saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "sae_tensor_file_open: no memory for %s", path);
    if (result != SAE_OK) {
        sae_tensor_file_close(file);
        return result;
    }
    *out = file;
    return SAE_OK;
}

SAE_API sae_result sae_tensor_file_open(sae_context *ctx, const char *path, sae_tensor_file **out) {
    saei_map map;
    if (!ctx) return SAE_ERR_INVALID;
    if (!path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_open: path or out is NULL");
    SAEI_TRY(saei_map_open(ctx, "sae_tensor_file_open", path, &map));
    return saei_tensor_file_open_map(ctx, path, &map, out);
}

SAE_API size_t sae_tensor_file_count(const sae_tensor_file *file) { return file ? file->count : 0; }

SAE_API const sae_tensor *sae_tensor_file_get(const sae_tensor_file *file, size_t index) {
    return file && index < file->count ? &file->tensors[index].tensor : NULL;
}

SAE_API const sae_tensor *sae_tensor_file_find(const sae_tensor_file *file, const char *name) {
    if (!file || !name) return NULL;
    return (const sae_tensor *)saei_name_find(file->by_name, file->count, name);
}

SAE_API sae_result sae_tensor_file_check(sae_tensor_file *file, const sae_tensor *tensor) {
    if (!file) return SAE_ERR_INVALID;
    for (size_t i = 0; i < file->count; i++) {
        saei_file_tensor *t = file->tensors + i;
        if (tensor && tensor != &t->tensor) continue;
        file->who = "sae_tensor_file_check";
        if (t->entry) SAEI_TRY(saei_zip_check(file, t->entry));
        if (tensor) return SAE_OK;
    }
    if (!tensor) return SAE_OK;
    return saei_fail(file->ctx, SAE_ERR_INVALID,
                     "sae_tensor_file_check: tensor is not of this file");
}

/* The text of a value of a .pt that is not a tensor, by its dotted name, as Python prints it: "50",
   "0.5", "True", "None", "TopK". NULL if there is none. */
static const char *saei_tensor_file_scalar(const sae_tensor_file *file, const char *name) {
    const saei_scalar *s =
        (const saei_scalar *)saei_name_find(file->scalars_by_name, file->num_scalars, name);
    return s ? s->text : NULL;
}

/* __metadata__ of an open .safetensors; NULL if it has none or no such key. */
static const char *saei_tensor_file_metadata(const sae_tensor_file *file, const char *key) {
    const sae_json *value = sae_json_get(file->metadata, key);
    return value ? value->string : NULL;
}
