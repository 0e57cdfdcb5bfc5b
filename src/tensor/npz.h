#pragma once
#include "npy.h"
#include "zip.h"

/* ==== >>tensors: .npz ========================================================================= */

static sae_result saei_npz_read(sae_tensor_file *file, saei_zip *zip) {
    for (size_t i = 0; i < zip->count; i++) {
        saei_zip_entry *e = zip->entries + i;
        char quoted[SAEI_QUOTE], label[SAEI_QUOTE + 16];
        const char *name;
        if (!saei_ends_with(e->name, ".npy")) continue;
        SAEI_TRY(saei_zip_plain(file, e, false));
        name = saei_arena_text(&file->arena, e->name, strlen(e->name) - 4);
        if (!name) return saei_file_no_memory(file);
        snprintf(label, sizeof label, "array \"%s\": ", saei_quote(name, quoted));
        SAEI_TRY(saei_npy_read(file, name, label, e->data, e->size, e));
    }
    return SAE_OK;
}

static sae_result saei_npz_fill(saei_zip_writer *z, const saei_content *c) {
    saei_text name, header;
    sae_result result = SAE_OK;
    memset(&name, 0, sizeof name);
    name.ctx = z->out->ctx;
    header = name;
    for (size_t i = 0; i < c->count; i++) {
        name.size = header.size = 0;
        saei_text_add(&name, "%s.npy", c->tensors[i].name);
        saei_npy_write_header(&header, c->tensors + i);
        if (name.failed || header.failed) break;
        saei_zip_put(z, name.data, header.data, header.size, c->tensors[i].data,
                     saei_tensor_bytes(c->tensors + i));
    }
    if (name.failed || header.failed) result = saei_content_no_memory(z->out, c);
    saei_free(name.ctx, name.data);
    saei_free(header.ctx, header.data);
    return result;
}

static sae_result saei_npz_write(saei_writer *w, const saei_content *c) {
    return saei_zip_write(w, c, saei_npz_fill);
}
