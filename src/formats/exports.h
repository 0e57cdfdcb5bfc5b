#pragma once
#include "formats.h"

/* ==== >>files: export ========================================================================= */

static const saei_format *saei_format_written(sae_format format, char allowed[SAEI_NAMES]) {
    size_t at = 0;
    allowed[0] = 0;
    for (size_t r = 0; r < SAEI_NUM_READERS; r++) {
        if (!saei_formats[r].write) continue;
        if (saei_formats[r].format == format) return &saei_formats[r];
        at += (size_t)snprintf(allowed + at, SAEI_NAMES - at, "%s%d (%s)", at ? ", " : "",
                               (int)saei_formats[r].format,
                               sae_format_name(saei_formats[r].format));
    }
    return NULL;
}

SAE_API sae_result sae_dictionary_export(const sae_dictionary *dict, const sae_export_desc *desc,
                                         const char *folder) {
    char allowed[SAEI_NAMES];
    const saei_format *format;
    saei_export e;
    sae_result result;
    if (!dict || !desc || !folder)
        return saei_fail(dict ? dict->ctx : NULL, SAE_ERR_INVALID,
                         "sae_dictionary_export: dict, desc or folder is NULL");
    format = saei_format_written(desc->format, allowed);
    if (!format)
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_dictionary_export: format is %d, allowed are %s", (int)desc->format,
                         allowed);
    memset(&e, 0, sizeof e);
    e.ctx = dict->ctx;
    e.desc = desc;
    e.folder = folder;
    e.origin = desc->origin ? *desc->origin : dict->origin;
    SAEI_TRY(saei_dictionary_copy(dict, "sae_dictionary_export", &e.dict));
    SAEI_NOTE(&e, SAE_LOG_INFO, "%s -> %s", sae_arch_name(dict->desc.arch),
              sae_format_name(desc->format));
    result = format->fit(&e);
    if (result == SAE_OK && !saei_all_finite(e.dict->params, e.dict->num_params))
        result = saei_fail(e.ctx, SAE_ERR_NOT_FINITE,
                           "sae_dictionary_export: a parameter is NaN or "
                           "infinite, or becomes so when others are moved into it");
    if (result == SAE_OK) result = saei_make_folder(e.ctx, "sae_dictionary_export", folder);
    if (result == SAE_OK) result = format->write(&e);
    sae_dictionary_destroy(e.dict);
    return result;
}
