#pragma once
#include "decode.h"

/* ==== >>dictionary: forward =================================================================== */
/* Without f nothing of [n,m] is held. */

enum { SAEI_FORWARD_LISTS = 512 }; /* entries on the stack of a block that found no room */

/* The latents of a panel go into x_hat before the next panel is looked at, in ascending order;
   b_dec comes last, as in decode. */
static void saei_forward_rows(const saei_infer *q, const saei_room *room, size_t r0, size_t rows) {
    const sae_dictionary *dict = q->dict;
    size_t d = saei_output_dim(&dict->desc), ld = dict->ld_out;
    size_t active = saei_active_latents(dict);
    float value[SAEI_PANEL];
    uint32_t latent[SAEI_PANEL];
    memset(q->x_hat + r0 * d, 0, rows * d * sizeof(float));
    for (size_t first = 0; first < active; first += SAEI_PANEL) {
        size_t count = saei_min(SAEI_PANEL, active - first);
        saei_infer_product(q, room, r0, rows, first, count);
        for (size_t r = 0; r < rows; r++) {
            const float *product = room->product + r * SAEI_PANEL;
            float *out = q->x_hat + (r0 + r) * d;
            size_t held = 0;
            for (size_t j = 0; j < count; j++) {
                float f = saei_infer_value(dict, first + j, product[j], false);
                if (f == 0) continue;
                f = saei_ungate(dict, first + j, f);
                latent[held] = (uint32_t)(first + j);
                value[held++] = f;
            }
            saei_add_rows(dict->ctx->kernels, d, held, latent, value, dict->W_dec, ld, out);
        }
    }
    for (size_t r = r0; r < r0 + rows; r++)
        saei_decode_end(dict, 0, d, q->x_hat + r * d, q->x_hat + r * d);
}

/* x_hat of rows r0 on from their lists. */
static void saei_forward_lists(const saei_infer *q, size_t r0, size_t rows, sae_sparse *lists) {
    saei_decoding decoding;
    memset(&decoding, 0, sizeof decoding);
    decoding.dict = q->dict;
    decoding.code = lists;
    decoding.x_hat = q->x_hat + r0 * saei_output_dim(&q->dict->desc);
    for (size_t r = 0; r < rows; r++) saei_decode_row(&decoding, r);
}

/* TOP_K: as many rows at a time as their lists find room for. */
static void saei_forward_top_rows(const saei_infer *all, const saei_room *room, size_t r0,
                                  size_t rows, sae_sparse *lists) {
    saei_infer q = *all;
    q.x.data = saei_rows_at(&q.x, r0, 0);
    q.n = rows;
    q.sparse = lists;
    if (q.dict->desc.activation) saei_infer_varied_rows(&q, room, 0, rows);
    else saei_infer_top_rows(&q, room, 0, rows);
    saei_sparse_compact(lists, rows, q.share);
    saei_forward_lists(all, r0, rows, lists);
}

/* lists: with room for the k of one row at least. */
static void saei_forward_block(const saei_infer *q, const saei_room *room, size_t r0, size_t rows,
                               sae_sparse *lists) {
    bool top_k = q->dict->rule == SAE_RULE_TOP_K;
    size_t most = top_k ? saei_min(room->rows, lists->capacity / q->k) : room->rows;
    for (size_t r = 0, some; r < rows; r += some) {
        some = saei_min(most, rows - r);
        saei_infer_norms(q, r0 + r, some, room->norms);
        if (top_k) saei_forward_top_rows(q, room, r0 + r, some, lists);
        else saei_forward_rows(q, room, r0 + r, some);
    }
}

static SAEI_NOINLINE void saei_forward_small(const saei_infer *q, const saei_room *room, size_t r0,
                                             size_t rows) {
    uint32_t latent[SAEI_FORWARD_LISTS];
    float value[SAEI_FORWARD_LISTS];
    sae_sparse lists = { room->begin, latent, value, SAEI_FORWARD_LISTS };
    saei_forward_block(q, room, r0, rows, &lists);
}

static SAEI_NOINLINE void saei_forward_exact(const saei_infer *q, size_t r0, size_t rows) {
    saei_small_block small;
    saei_room room = saei_infer_room(q->dict, &small);
    sae_sparse lists = { room.begin, room.latent, room.value, room.entries };
    if (room.block) saei_forward_block(q, &room, r0, rows, &lists);
    else saei_forward_small(q, &room, r0, rows);
    saei_room_leave(&room);
}

static void saei_forward_part(void *arg, size_t part) {
    saei_infer *q = (saei_infer *)arg;
    size_t end = saei_part_end(part, SAEI_BLOCK_ROWS, q->n), rows;
    for (size_t r = part * SAEI_BLOCK_ROWS; r < end; r += rows) {
        saei_prepared_slot *slot;
        rows = saei_infer_block(q, end - r);
        slot = saei_prepared_rows(q, r, rows);
        if (slot) {
            sae_sparse lists;
            memset(&lists, 0, sizeof lists);
            lists.row_begin = slot->begin;
            lists.latent = slot->latent;
            lists.value = slot->pre;
            saei_forward_lists(q, r, rows, &lists);
            saei_prepared_leave(q->dict->prepared, slot, false);
        } else saei_forward_exact(q, r, rows);
    }
}

/* A block's latents go straight into x_hat, or into lists that it has room for. */
static bool saei_forward_in_blocks(const sae_dictionary *dict) {
    return dict->desc.arch != SAE_ARCH_MATCHING_PURSUIT && !dict->desc.layer_codes;
}

/* Batch top-k needs the latents of all rows at once; they are here already. */
static sae_result saei_forward_batch(const sae_dictionary *dict, const char *who,
                                     const sae_rows *x, size_t n, float *x_hat) {
    saei_decoding decoding;
    sae_code code;
    float *dense;
    SAEI_TRY(saei_batch_top_k(dict, who, x, n, &code, &dense));
    memset(&decoding, 0, sizeof decoding);
    decoding.dict = dict;
    decoding.lists = &code;
    decoding.x_hat = x_hat;
    saei_parallel(dict->ctx, n, saei_decode_row, &decoding);
    saei_batch_free(dict->ctx, &code, dense);
    return SAE_OK;
}

/* Lists in fresh memory, of some rows at a time: top-k of more latents than a block has room for,
   and what encodes in memory of its own anyway. */
static sae_result saei_forward_many(const sae_dictionary *dict, const char *who, const sae_rows *x,
                                    size_t n, float *x_hat) {
    const sae_context *ctx = dict->ctx;
    size_t chunk = saei_min(n, (size_t)SAEI_BLOCK_ROWS * (size_t)ctx->threads), all;
    sae_result result = SAE_OK;
    sae_sparse lists;
    memset(&lists, 0, sizeof lists);
    if (!saei_forward_in_blocks(dict)) chunk = saei_chunk(dict, n);
    all = sae_dictionary_capacity(dict, chunk);
    lists.capacity = all;
    lists.row_begin = (size_t *)saei_alloc(ctx, chunk + 1, sizeof(size_t));
    lists.latent = (uint32_t *)saei_alloc(ctx, all, sizeof(uint32_t));
    lists.value = (float *)saei_alloc(ctx, all, sizeof(float));
    if (!lists.row_begin || !lists.latent || !lists.value)
        result = saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu rows of %zu latents",
                           who, chunk, all / chunk);
    for (size_t r = 0; r < n && result == SAE_OK; r += chunk) {
        size_t rows = saei_min(chunk, n - r);
        sae_rows some = *x;
        some.data = saei_rows_at(x, r, 0);
        result = saei_encode_sparse(dict, who, &some, rows, &lists);
        if (result == SAE_OK)
            result = sae_decode_sparse(dict, &lists, rows,
                                       x_hat + r * saei_output_dim(&dict->desc));
    }
    saei_free(ctx, lists.row_begin);
    saei_free(ctx, lists.latent);
    saei_free(ctx, lists.value);
    return result;
}

static sae_result saei_forward(const sae_dictionary *dict, const char *who, const sae_rows *rows,
                               size_t n, float *x_hat, float *f) {
    saei_infer q;
    sae_rows x;
    SAEI_TRY(saei_infer_check_rows(dict, who, rows, x_hat ? NULL : "x_hat", n,
                                   dict ? saei_num_codes(&dict->desc) : 0, &x));
    if (!n) return SAE_OK;
    if (f) {
        SAEI_TRY(saei_encode(dict, who, &x, n, f));
        SAEI_TRY(sae_decode(dict, f, n, x_hat));
    } else if (dict->desc.arch == SAE_ARCH_IDENTITY) {
        saei_copy_rows(&x, n, dict->desc.activation_dim, x_hat);
    } else if (saei_is_batch_top_k(dict)) {
        SAEI_TRY(saei_forward_batch(dict, who, &x, n, x_hat));
    } else if (!saei_forward_in_blocks(dict)
               || (dict->rule == SAE_RULE_TOP_K && dict->desc.k > SAEI_FORWARD_LISTS)) {
        SAEI_TRY(saei_forward_many(dict, who, &x, n, x_hat));
    } else {
        memset(&q, 0, sizeof q);
        q.dict = dict;
        q.x = x;
        q.n = n;
        q.count = dict->desc.dict_size;
        q.x_hat = x_hat;
        q.k = q.share = dict->desc.k;
        saei_parallel(dict->ctx, saei_ceil_div(n, SAEI_BLOCK_ROWS), saei_forward_part, &q);
    }
    saei_finish(dict, &x, n, x_hat);
    return SAE_OK;
}

SAE_API sae_result sae_forward(const sae_dictionary *dict, const float *x, size_t n, float *x_hat,
                               float *f) {
    sae_rows rows;
    return saei_forward(dict, "sae_forward", saei_rows_of(x, &rows), n, x_hat, f);
}
SAE_API sae_result sae_forward_rows(const sae_dictionary *dict, const sae_rows *x, size_t n,
                                    float *x_hat, float *f) {
    return saei_forward(dict, "sae_forward_rows", x, n, x_hat, f);
}
