#pragma once
#include "../tensor/file.h"
#include "step.h"

/* ==== >>trainer: state for a resume =========================================================== */

typedef struct saei_state_item {
    const char *name;
    sae_dtype dtype;
    void *device;
    size_t count;
} saei_state_item;

enum { SAEI_STATE_ITEMS = 6 };

static void saei_state_items(const sae_trainer *t, saei_state_item items[SAEI_STATE_ITEMS]) {
    const char *names[SAEI_STATE_ITEMS] = { "params", "first", "second",
                                            "since",  "queue", "threshold" };
    void *devices[SAEI_STATE_ITEMS];
    devices[0] = t->param.all;
    devices[1] = t->first.all;
    devices[2] = t->second.all;
    devices[3] = t->since;
    devices[4] = t->queue;
    devices[5] = t->threshold;
    for (size_t i = 0; i < SAEI_STATE_ITEMS; i++) {
        items[i].name = names[i];
        items[i].device = devices[i];
        items[i].dtype = i == 3 ? SAE_U64 : i == 4 ? SAE_F64 : SAE_F32;
        items[i].count = i < 3 ? t->view.num_params : i == 3 ? t->desc.dict_size
                         : i == 4 ? 2 * t->desc.sparsity_queue_length : 1;
    }
}

/* Everything a resume needs but the desc, as tensors named prefix + name; their memory belongs to
   the trainer and is valid until its next call. At most SAEI_STATE_TENSORS. */
enum { SAEI_STATE_TENSORS = 16 };
static sae_result saei_trainer_state_get(sae_trainer *t, const char *who, sae_tensor *out,
                                         size_t *count) {
    saei_state_item items[SAEI_STATE_ITEMS];
    size_t used = 0;
    SAEI_TRY(saei_trainer_check(t, true));
    saei_catch_up(t, NULL);
    saei_state_items(t, items);
    for (size_t i = 0; i <= SAEI_STATE_ITEMS; i++) {
        bool numbers = i == SAEI_STATE_ITEMS;
        sae_tensor *tensor = &out[used];
        if (!numbers && !items[i].device) continue; /* no first moment */
        memset(tensor, 0, sizeof *tensor);
        tensor->name = numbers ? "numbers" : items[i].name;
        tensor->dtype = numbers ? SAE_F64 : items[i].dtype;
        tensor->ndim = 1;
        tensor->shape[0] = numbers ? sizeof t->now / sizeof(double) : items[i].count;
        tensor->stride[0] = 1;
        tensor->data = numbers ? (const void *)&t->now : items[i].device;
        used++;
        if (numbers || t->ops->host_memory) continue;
        if (!t->host[i + 1])
            t->host[i + 1] = saei_alloc(t->ctx, items[i].count, sae_dtype_size(items[i].dtype));
        if (!t->host[i + 1])
            return saei_fail(t->ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for a backup", who);
        t->ops->download(&t->w, t->host[i + 1], items[i].device,
                         items[i].count * sae_dtype_size(items[i].dtype));
        tensor->data = t->host[i + 1];
    }
    *count = used;
    return t->ops->status(&t->w);
}

/* Whether the numbers of a backup can be those of a run of t: what is cast to an integer or bounds
   a list must be one. */
static bool saei_numbers_fit(const sae_trainer *t, const saei_trainer_numbers *now) {
    const double most = 9007199254740992.0; /* 2^53 */
    const double whole[] = { now->step, now->rows_seen, now->k, now->p_updates, now->queue_size };
    bool top_k = saei_has_trait(t, SAEI_TOP_K);
    size_t most_k = saei_has_trait(t, SAEI_EACH_ROW) ? t->code.stride : t->desc.dict_size;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (!(whole[i] >= 0 && whole[i] <= most) || whole[i] != floor(whole[i])) return false;
    if (now->step > (double)t->desc.steps || now->p_updates > now->step) return false;
    if (top_k && (now->k < 1 || now->k > (double)most_k)) return false;
    return fabs(now->p) <= FLT_MAX && fabs(now->next_p) <= FLT_MAX
           && fabs(now->sparsity_coeff) <= DBL_MAX;
}

static sae_result saei_trainer_state_set(sae_trainer *t, const char *who,
                                         const sae_tensor_file *file, const char *prefix) {
    saei_trainer_numbers now;
    saei_state_item items[SAEI_STATE_ITEMS];
    saei_catch_up(t, NULL); /* no row waits for what is replaced */
    saei_state_items(t, items);
    for (int pass = 0; pass < 2; pass++) /* look at everything before touching anything */
        for (size_t i = 0; i <= SAEI_STATE_ITEMS; i++) {
            bool numbers = i == SAEI_STATE_ITEMS;
            sae_dtype dtype = numbers ? SAE_F64 : items[i].dtype;
            size_t count = numbers ? sizeof t->now / sizeof(double) : items[i].count;
            const sae_tensor *tensor;
            char name[256];
            if (!numbers && !items[i].device) continue;
            snprintf(name, sizeof name, "%s%s", prefix, numbers ? "numbers" : items[i].name);
            tensor = sae_tensor_file_find(file, name);
            if (!tensor || tensor->dtype != dtype || tensor->ndim != 1 || tensor->shape[0] != count)
                return saei_fail(t->ctx, SAE_ERR_FORMAT,
                                 "%s: the backup lacks %s [%zu] of %s", who, name, count,
                                 sae_dtype_name(dtype));
            if (numbers) {
                memcpy(&now, tensor->data, sizeof now);
                if (!saei_numbers_fit(t, &now))
                    return saei_fail(t->ctx, SAE_ERR_FORMAT, "%s: %s in the backup holds "
                                     "numbers that no run has", who, name);
            }
            if (!pass) continue;
            if (numbers) t->now = now;
            else
                t->ops->upload(&t->w, items[i].device, tensor->data, count * sae_dtype_size(dtype));
        }
    return t->ops->status(&t->w);
}
