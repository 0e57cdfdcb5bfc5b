#pragma once
#include "npy.h"
#include "safetensors.h"
#ifndef SAE_NO_FORMATS
#include "gguf.h"
#include "npz.h"
#include "torch.h"
#endif

/* ==== >>tensors: every container ============================================================== */

/* What a message says of a file that this build leaves to others. */
#define SAEI_OTHER_BUILD "this build, with SAE_NO_FORMATS, opens .safetensors of the reference's " \
                         "layout: make one by `sae convert`, or build without SAE_NO_FORMATS"

#ifndef SAE_NO_FORMATS
static sae_result saei_zip_file(sae_tensor_file *file) {
    saei_zip zip;
    char top[SAEI_QUOTE];
    SAEI_TRY(saei_zip_open(file, &zip));
    file->ending = ".pt";
    if (saei_torch_top(&zip, top)) return saei_torch_read(file, &zip, top);
    file->ending = ".npz";
    for (size_t i = 0; i < zip.count; i++)
        if (saei_ends_with(zip.entries[i].name, ".npy")) return saei_npz_read(file, &zip);
    return saei_damaged(file, "a zip archive without data.pkl (torch.save) and without .npy "
                              "(numpy.savez)");
}
#endif

/* The containers: known by their content when they are read, by the ending of the name when they
   are written. */
typedef struct saei_container {
    const char *ending;
    bool nameless; /* holds one tensor, without a name */
    bool (*probe)(const unsigned char *data, size_t size);
    sae_result (*read)(sae_tensor_file *file);
    sae_result (*write)(saei_writer *w, const saei_content *content); /* NULL: it is only read */
} saei_container;

static const saei_container saei_containers[] = {
    { ".npy", true, saei_looks_npy, saei_npy_file, saei_npy_write },
#ifndef SAE_NO_FORMATS
    { ".npz", false, saei_looks_zip, saei_zip_file, saei_npz_write },
    { ".pt", false, saei_looks_zip, saei_zip_file, saei_torch_write },
    { ".pth", false, saei_looks_zip, saei_zip_file, saei_torch_write },
    { ".gguf", false, saei_looks_gguf, saei_gguf_read, NULL },
#endif
    { ".safetensors", false, saei_probe_safetensors, saei_safetensors_read,
      saei_safetensors_write }
};
enum { SAEI_NUM_CONTAINERS = sizeof saei_containers / sizeof saei_containers[0] };

static sae_result saei_tensor_file_read(sae_tensor_file *file) {
    static const unsigned char legacy[] = { 0x80, 2, 0x8a, 10, 'l', 0xfc, 0x9c, 'F', 0xf9 };
    const unsigned char *d = file->map.data;
    size_t n = file->map.size;
    if (n == 0) return saei_damaged(file, "the file is empty");
    for (size_t i = 0; i < SAEI_NUM_CONTAINERS; i++)
        if (saei_containers[i].probe(d, n)) {
            file->ending = saei_containers[i].ending;
            return saei_containers[i].read(file);
        }
    if (n >= 11 && memcmp(d, "version htt", 11) == 0)
        return saei_damaged(file, "a Git LFS pointer: the file itself was not downloaded (git lfs "
                                  "pull)");
    if (saei_ends_with(file->path, ".safetensors")) return saei_safetensors_read(file);
#ifdef SAE_NO_FORMATS
    if (saei_looks_zip(d, n) || saei_looks_gguf(d, n) || (n >= 2 && d[0] == 0x80))
        return saei_unsupported(file, "a file of PyTorch, NumPy or llama.cpp; " SAEI_OTHER_BUILD);
#endif
    if (n >= sizeof legacy && memcmp(d, legacy, sizeof legacy) == 0)
        return saei_unsupported(file, "torch.save's format from before torch 1.6; re-save it with "
                                      "torch >= 1.6");
    if (n >= 2 && d[0] == 0x80 && d[1] >= 2 && d[1] <= 5)
        return saei_unsupported(file, "a bare pickle, which is not run; re-save it with torch.save "
                                      "(torch >= 1.6) or as .safetensors");
    return saei_damaged(file, "not a file of a known kind: .npy, .npz, .safetensors, .gguf, .pt "
                              "(torch >= 1.6)");
}

SAE_API void sae_tensor_file_close(sae_tensor_file *file) {
    if (!file) return;
    sae_json_close(file->header);
    saei_arena_free(&file->arena);
    saei_map_close(file->ctx, &file->map);
    saei_free(file->ctx, file);
}

/* The file whose bytes are in *map, which is the file's from here on; bytes of the caller's must
   outlive it. path is for messages, and says the kind where the bytes do not. */
static sae_result saei_tensor_file_open_map(sae_context *ctx, const char *who, const char *path,
                                            saei_map *map, sae_tensor_file **out) {
    sae_tensor_file *file = (sae_tensor_file *)saei_calloc(ctx, 1, sizeof *file);
    sae_result result;
    if (!file) {
        saei_map_close(ctx, map);
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %s", who, path);
    }
    file->ctx = ctx;
    file->who = who;
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
        result = saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %s", who, path);
    if (result != SAE_OK) {
        sae_tensor_file_close(file);
        return result;
    }
    *out = file;
    return SAE_OK;
}

/* who: the function that the user called. */
static sae_result saei_tensor_file_open_path(sae_context *ctx, const char *who, const char *path,
                                             sae_tensor_file **out) {
    saei_map map;
    SAEI_TRY(saei_map_open(ctx, who, path, &map));
    return saei_tensor_file_open_map(ctx, who, path, &map, out);
}

SAE_API sae_result sae_tensor_file_open(sae_context *ctx, const char *path, sae_tensor_file **out) {
    if (!ctx) return SAE_ERR_INVALID;
    if (!path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_open: path or out is NULL");
    return saei_tensor_file_open_path(ctx, "sae_tensor_file_open", path, out);
}

SAE_API sae_result sae_tensor_file_open_memory(sae_context *ctx, const void *data, size_t size,
                                               sae_tensor_file **out) {
    saei_map map;
    if (!ctx) return SAE_ERR_INVALID;
    if (!data || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_open_memory: data or out is NULL");
    memset(&map, 0, sizeof map);
    map.data = (const unsigned char *)data;
    map.size = size;
    return saei_tensor_file_open_map(ctx, "sae_tensor_file_open_memory", "memory", &map, out);
}

SAE_API size_t sae_tensor_file_count(const sae_tensor_file *file) { return file ? file->count : 0; }

SAE_API const sae_tensor *sae_tensor_file_get(const sae_tensor_file *file, size_t index) {
    return file && index < file->count ? &file->tensors[index].tensor : NULL;
}

SAE_API const sae_tensor *sae_tensor_file_find(const sae_tensor_file *file, const char *name) {
    if (!file || !name) return NULL;
    return (const sae_tensor *)saei_name_find(file->by_name, file->count, name);
}

SAE_API const sae_json *sae_tensor_file_metadata(const sae_tensor_file *file) {
    return file ? file->metadata : NULL;
}

SAE_API sae_result sae_tensor_file_check(sae_tensor_file *file, const sae_tensor *tensor) {
    if (!file) return SAE_ERR_INVALID;
    for (size_t i = 0; i < file->count; i++) {
        saei_file_tensor *t = file->tensors + i;
        char quoted[SAEI_QUOTE];
        if (tensor && tensor != &t->tensor) continue;
        file->who = "sae_tensor_file_check";
        if (tensor && !sae_dtype_size(tensor->dtype))
            return saei_unsupported(file, "tensor \"%s\" is of %s, a type that cannot be read",
                                    saei_quote(t->tensor.name, quoted),
                                    sae_dtype_name(t->tensor.dtype));
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

/* ---- writing ---- */

static const saei_container *saei_container_of(const char *name) {
    for (size_t i = 0; i < SAEI_NUM_CONTAINERS; i++)
        if (saei_containers[i].write && saei_ends_with(name, saei_containers[i].ending))
            return &saei_containers[i];
    return NULL;
}

/* Into the file c->name, or into memory (not NULL); the name says the kind. */
static sae_result saei_content_write(const sae_context *ctx, const saei_content *c,
                                     saei_text *memory) {
    const char *who = "sae_tensor_file_write";
    const saei_container *kind = saei_container_of(c->name);
    saei_content content = *c;
    sae_tensor single;
    saei_writer w;
    sae_result result;
    size_t bytes = 4096;
    if (!kind)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "%s: %s ends in none of .npy, .npz, .safetensors, .pt", who, c->name);
    if (kind->nameless && c->count != 1)
        return saei_fail(ctx, SAE_ERR_INVALID, "%s: %s: count is %zu, a %s holds 1 tensor", who,
                         c->name, c->count, kind->ending);
    if (kind->nameless && c->tensors) {
        single = c->tensors[0];
        single.name = "";
        content.tensors = &single;
    }
    SAEI_TRY(saei_write_check(ctx, c->name, content.tensors, c->count));
    if (memory) {
        for (size_t i = 0; i < c->count; i++)
            bytes += saei_tensor_bytes(content.tensors + i) + 2 * strlen(content.tensors[i].name)
                     + 512;
        saei_text_reserve(memory, bytes); /* about what it takes: it need not grow by doubling */
        saei_writer_open_memory(ctx, who, memory, &w);
    } else SAEI_TRY(saei_writer_open(ctx, who, c->name, &w));
    result = kind->write(&w, &content);
    if (result == SAE_OK) return saei_writer_finish(&w);
    saei_writer_abandon(&w);
    return result;
}

/* The same into fresh memory, for sae_context_free. */
static sae_result saei_content_memory(const sae_context *ctx, const saei_content *c, void **data,
                                      size_t *size) {
    saei_text memory;
    sae_result result;
    memset(&memory, 0, sizeof memory);
    memory.ctx = ctx;
    result = saei_content_write(ctx, c, &memory);
    if (result == SAE_OK) {
        *data = memory.data;
        *size = memory.size;
    } else {
        saei_free(ctx, memory.data);
    }
    return result;
}

SAE_API sae_result sae_tensor_file_write(sae_context *ctx, const char *path,
                                         const sae_tensor *tensors, size_t count) {
    saei_content content = { path, tensors, count, NULL, NULL, 0 };
    if (!ctx) return SAE_ERR_INVALID;
    if (!path) return saei_fail(ctx, SAE_ERR_INVALID, "sae_tensor_file_write: path is NULL");
    return saei_content_write(ctx, &content, NULL);
}

SAE_API sae_result sae_tensor_file_write_memory(sae_context *ctx, const char *name,
                                                const sae_tensor *tensors, size_t count,
                                                void **data, size_t *size) {
    saei_content content = { name, tensors, count, NULL, NULL, 0 };
    if (!ctx) return SAE_ERR_INVALID;
    if (!name || !data || !size)
        return saei_fail(ctx, SAE_ERR_INVALID,
                         "sae_tensor_file_write_memory: name, data or size is NULL");
    return saei_content_memory(ctx, &content, data, size);
}

SAE_API void sae_context_free(sae_context *ctx, void *memory) {
    if (ctx) saei_free(ctx, memory);
}
