#pragma once
#include "../dict/forward.h"

/* ==== >>experiments =========================================================================== */

typedef struct saei_ghosts {
    saei_infer infer;
    const uint8_t *mask;
    float *out; /* [n,d] */
} saei_ghosts;

/* Rows through panels; latents ascend, so the sums are in the rows order. */
static void saei_ghost_rows(const saei_ghosts *g, const saei_room *room, size_t r0, size_t rows) {
    const saei_infer *q = &g->infer;
    const sae_dictionary *dict = q->dict;
    size_t d = dict->desc.activation_dim;
    memset(g->out + r0 * d, 0, rows * d * sizeof(float));
    for (size_t first = 0; first < q->count; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, q->count - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++)
            for (size_t j = 0; j < count; j++) {
                const float *row = dict->W_dec + (first + j) * dict->ld_out;
                float *out = g->out + (r0 + r) * d, p, e;
                if (!g->mask[first + j]) continue;
                p = room->product[r * SAEI_PANEL + j] + dict->b_enc[first + j];
                e = (float)saei_exp((double)p);
                for (size_t c = 0; c < d; c++) out[c] = fmaf(e, row[c], out[c]);
            }
    }
}

static SAEI_NOINLINE void saei_ghost_block(const saei_ghosts *g, size_t r0, size_t end) {
    saei_small_block small;
    saei_room room = saei_room_take(g->infer.dict->ctx, &small);
    for (size_t r = r0; r < end; r += room.rows)
        saei_ghost_rows(g, &room, r, saei_min(room.rows, end - r));
    saei_room_leave(&room);
}

static void saei_ghost_part(void *arg, size_t part) {
    const saei_ghosts *g = (const saei_ghosts *)arg;
    saei_ghost_block(g, part * SAEI_BLOCK_ROWS, saei_part_end(part, SAEI_BLOCK_ROWS, g->infer.n));
}

SAE_API sae_result sae_forward_ghost(const sae_dictionary *dict, const float *x, size_t n,
                                     const uint8_t *mask, float *x_ghost) {
    saei_ghosts g;
    sae_rows rows;
    memset(&g, 0, sizeof g);
    SAEI_TRY(saei_infer_check_rows(dict, "sae_forward_ghost", saei_rows_of(x, &rows),
                                   !mask ? "mask" : !x_ghost ? "x_ghost" : NULL, n,
                                   dict ? dict->desc.dict_size : 0, &g.infer.x));
    if (dict->desc.arch != SAE_ARCH_STANDARD || !saei_is_plain(&dict->desc))
        return saei_fail(dict->ctx, SAE_ERR_INVALID,
                         "sae_forward_ghost: the dictionary is %s%s, only "
                         "AutoEncoder has a ghost mode",
                         sae_arch_name(dict->desc.arch),
                         saei_is_plain(&dict->desc) ? "" : " with variations");
    g.infer.dict = dict;
    g.infer.n = n;
    g.infer.count = dict->desc.dict_size;
    g.mask = mask;
    g.out = x_ghost;
    saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_ghost_part, &g);
    return SAE_OK;
}

SAE_API void sae_output_features(const sae_dictionary *dict, size_t n, float *f) {
    if (!dict || !f || dict->desc.arch != SAE_ARCH_STANDARD_NEW || dict->code) return;
    for (size_t i = 0; i < dict->desc.dict_size; i++) {
        const float *row = dict->W_dec + i * dict->ld_out;
        float norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, row, row));
        for (size_t r = 0; r < n; r++) f[r * dict->desc.dict_size + i] *= norm;
    }
}
