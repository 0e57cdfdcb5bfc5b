#pragma once
#include "../dict/params.h"
#include "../formats/dictionary_learning.h"
#include "check.h"
#include "crosscoder_start.h"

/* ==== >>trainer: create ======================================================================= */

static void *saei_device(sae_trainer *t, size_t count, size_t size) {
    return saei_blocks_take(&t->w, &t->blocks, count, size);
}

static bool saei_params_make(sae_trainer *t, saei_params *p) {
    sae_dictionary shape = t->view;
    p->all = (float *)saei_device(t, t->view.num_params, sizeof(float));
    if (!p->all || t->blocks.plan) return p->all != NULL;
    saei_dictionary_place(&shape, p->all);
    p->W_enc = shape.W_enc;
    p->W_dec = shape.W_dec;
    p->b_enc = shape.b_enc;
    p->aux0 = shape.aux0;
    p->aux1 = shape.aux1;
    p->b_dec = shape.b_dec;
    p->thresholds = shape.thresholds;
    p->mean = shape.mean;
    p->scale = shape.scale;
    p->W_skip = shape.W_skip;
    return true;
}

static bool saei_code_make(sae_trainer *t, size_t stride, size_t extras, bool separate,
                           sae_code *code) {
    size_t entries;
    bool ok;
    code->stride = stride;
    if (!saei_mul(t->desc.batch_size, stride, &entries)
        || !saei_add(entries, SAEI_LIST_PADDING, &entries))
        return false;
    code->count = (uint32_t *)saei_device(t, t->desc.batch_size, sizeof(uint32_t));
    code->latent = (uint32_t *)saei_device(t, entries, sizeof(uint32_t));
    code->pre = code->value = (float *)saei_device(t, entries, sizeof(float));
    if (separate) code->value = (float *)saei_device(t, entries, sizeof(float));
    code->grad = (float *)saei_device(t, entries, sizeof(float));
    ok = code->count && code->latent && code->pre && code->value && code->grad;
    if (extras == 3) {
        code->gate = (float *)saei_device(t, entries, sizeof(float));
        ok = ok && code->gate;
    }
    for (size_t i = 0; i < extras; i++) {
        code->extra[i] = (float *)saei_device(t, entries, sizeof(float));
        ok = ok && code->extra[i];
    }
    /* these lists may be long; a backend with code_sums reads them as bitmaps */
    if (code == &t->code && !saei_has_trait(t, SAEI_TOP_K) && t->ops->code_sums) {
        size_t words;
        ok = ok && saei_mul(t->desc.batch_size, saei_ceil_div(t->desc.dict_size, 64), &words);
        code->active_bits = ok ? (uint64_t *)saei_device(t, words, sizeof(uint64_t)) : NULL;
        ok = ok && code->active_bits;
    }
    return ok;
}

static bool saei_index_make(sae_trainer *t, size_t stride, size_t values) {
    size_t m = t->desc.dict_size;
    bool ok = saei_mul(t->desc.batch_size, stride, &t->index.capacity);
    t->index.dict_size = m;
    t->index.begin = (size_t *)saei_device(t, m + 1, sizeof(size_t));
    ok = ok && t->index.begin;
    t->index.row = ok ? (uint32_t *)saei_device(t, t->index.capacity, sizeof(uint32_t)) : NULL;
    ok = ok && t->index.row;
    for (size_t i = 0; ok && i < values; i++) {
        t->index.value[i] = (float *)saei_device(t, t->index.capacity, sizeof(float));
        ok = t->index.value[i] != NULL;
    }
    return ok;
}

/* Everything a step will need. */
static bool saei_trainer_memory(sae_trainer *t) {
    const sae_trainer_desc *h = &t->desc;
    size_t m = saei_align16(h->dict_size), rows, outs, scratch, stride, apart, aux = 0;
    bool gated = h->arch == SAE_ARCH_GATED, jump = h->arch == SAE_ARCH_JUMP_RELU, ok;
    bool ghost = h->ghost_threshold != SAE_NONE, each_row = saei_has_trait(t, SAEI_EACH_ROW);
    if (!saei_mul(h->batch_size, t->view.ld, &rows)
        || !saei_mul(h->batch_size, t->view.ld_out, &outs))
        return false;
    stride = h->dict_size;
    if (each_row) {
        stride = saei_steps_of(h->k_anneal_steps) ? saei_max(h->k, h->activation_dim) : h->k;
        if (saei_has_trait(t, SAEI_SPARSIFY) && saei_steps_of(h->k_decay_steps))
            stride = saei_max(h->k, saei_min(h->dict_size, 10 * h->activation_dim));
        stride = saei_min(stride, h->dict_size);
    }
    if (saei_has_trait(t, SAEI_AUXK) && saei_number_of(h->auxk_alpha) > 0)
        aux = saei_min(h->top_k_aux, h->dict_size);
    if (ghost) aux = h->dict_size;
    t->w.shape.k = each_row ? saei_max(stride, aux) : aux;
    t->out = t->w;
    t->out.shape.d = t->desc.output_dim;
    t->out.shape.ld = t->view.ld_out;
    scratch = t->ops->scratch_bytes(&t->w, &t->w.shape);
    if (t->view.ld_out != t->view.ld)
        scratch = saei_max(scratch, t->ops->scratch_bytes(&t->out, &t->out.shape));
    if (scratch == SIZE_MAX) return false;
    t->w.scratch = t->out.scratch = saei_device(t, scratch, 1);
    ok = t->w.scratch && saei_params_make(t, &t->param) && saei_params_make(t, &t->grad)
         && saei_params_make(t, &t->second);
    if (ok && t->adam.beta1 > 0) ok = saei_params_make(t, &t->first);
    t->x = (float *)saei_device(t, rows, sizeof(float));
    t->target = (float *)saei_device(t, outs, sizeof(float));
    t->e = (float *)saei_device(t, outs, sizeof(float));
    t->r = (float *)saei_device(t, outs, sizeof(float));
    t->fit = t->view.desc.skip ? (float *)saei_device(t, outs, sizeof(float)) : t->x;
    t->xc = saei_subtracts(&t->view.desc) ? (float *)saei_device(t, rows, sizeof(float)) : t->x;
    t->since = (uint64_t *)saei_device(t, m, sizeof(uint64_t));
    t->list = (uint32_t *)saei_device(t, m, sizeof(uint32_t));
    t->list_count = (uint32_t *)saei_device(t, 2, sizeof(uint32_t));
    t->norms = (float *)saei_device(t, m, sizeof(float));
    t->weight = (float *)saei_device(t, m, sizeof(float));
    t->sums = (float *)saei_device(t, m, sizeof(float));
    t->threshold = (float *)saei_device(t, 2, sizeof(float));
    t->scalars = (double *)saei_device(t, SAEI_S_COUNT, sizeof(double));
    t->queue = (double *)saei_device(t, 2 * h->sparsity_queue_length, sizeof(double));
    if (t->ops->catch_up && t->ops->adam_rows
        && saei_has_trait(t, SAEI_CONSTRAINED | SAEI_UNIT)) {
        t->lazy.applied = (uint64_t *)saei_device(t, m, sizeof(uint64_t));
        t->lazy.last_active = (uint64_t *)saei_device(t, m, sizeof(uint64_t));
        t->lazy.num_deferred = (uint32_t *)saei_device(t, 1, sizeof(uint32_t));
        ok = ok && t->lazy.applied && t->lazy.last_active && t->lazy.num_deferred;
    }
    ok = ok && t->x && t->target && t->e && t->r && t->fit && t->xc && t->since && t->list
         && t->list_count && t->norms && t->weight && t->sums && t->threshold && t->scalars
         && t->queue;
    if (ok && saei_has_trait(t, SAEI_NESTED)) {
        size_t all;
        t->groups = saei_mul(outs, h->num_groups, &all)
                        ? (float *)saei_device(t, all, sizeof(float))
                        : NULL;
        ok = t->groups != NULL;
    }
    if (ok && saei_has_trait(t, SAEI_LAYERS) && saei_has_trait(t, SAEI_TOP_K)) {
        size_t all;
        t->weighed = saei_mul(h->dict_size, t->view.ld, &all)
                         ? (float *)saei_device(t, all, sizeof(float)) : NULL;
        t->weighed_bias = (float *)saei_device(t, m, sizeof(float));
        ok = t->weighed && t->weighed_bias;
    }
    if (!ok) return false;
    t->bad = t->list_count + 1;
    t->warm = t->threshold + 1;
    /* Lists of any length: long rows share no set of a cache. Those of a k hold just as many. */
    apart = each_row || stride < 1024 ? stride : saei_align16(stride) | 16;
    ok = saei_code_make(t, apart, gated ? 3 : jump ? 1 : 0, gated || jump, &t->code);
    if (ok && aux) ok = saei_code_make(t, aux, 0, ghost, &t->aux);
    return ok && saei_index_make(t, saei_max(stride, aux),
                                 t->ops->code_sums ? 2 : gated ? 5 : jump ? 3 : 2);
}

SAE_API void sae_trainer_destroy(sae_trainer *t) {
    if (!t) return;
    saei_blocks_close(&t->w, &t->blocks);
    for (size_t i = 0; i < sizeof t->host / sizeof *t->host; i++) saei_free(t->ctx, t->host[i]);
    saei_free(t->ctx, t->desc.lm_name);
    saei_free(t->ctx, t->desc.submodule_name);
    saei_free(t->ctx, t->desc.wandb_name);
    saei_free(t->ctx, t->desc.init);
    saei_free(t->ctx, t);
}

static void saei_trainer_dictionary_desc(const sae_trainer_desc *h, sae_dictionary_desc *out) {
    unsigned traits = saei_scheme_of(h->kind)->traits;
    size_t sum = 0;
    memset(out, 0, sizeof *out);
    out->arch = h->arch;
    out->activation_dim = h->activation_dim;
    out->dict_size = h->dict_size;
    out->seed = h->seed;
    if (traits & SAEI_LAYERS) saei_crosscoder_desc(h, out);
    else {
        if (h->output_dim != h->activation_dim) out->output_dim = h->output_dim;
        out->skip = h->skip_connection > 0;
        out->subtract_b_dec = h->arch == SAE_ARCH_JUMP_RELU && h->apply_b_dec_to_input > 0;
        out->no_b_dec_subtraction = h->apply_b_dec_to_input < 0 && saei_subtracts(out);
    }
    if (!(traits & SAEI_TOP_K)) return;
    out->k = h->k;
    if (!(traits & SAEI_NESTED)) return;
    out->num_groups = h->num_groups;
    for (size_t g = 0; g < h->num_groups && g < SAE_MAX_GROUPS; g++) {
        double size = h->group_fractions[g] * (double)h->dict_size;
        if (g + 1 == h->num_groups)
            out->group_sizes[g] = h->dict_size > sum ? h->dict_size - sum : 0;
        else out->group_sizes[g] = size > 0 ? (size_t)size : 0;
        sum += out->group_sizes[g];
    }
}

/* Whether init's tensors are those of the trainer's dictionary. In a state_dict a transcoder's
   looks the same whether b_dec is subtracted or not. */
static bool saei_is_start(const sae_dictionary *from, const sae_dictionary_desc *want) {
    sae_dictionary_desc desc = from->desc;
    bool file = from->origin.format == SAE_FORMAT_DICTIONARY_LEARNING;
    if (desc.arch != want->arch || desc.skip != want->skip || !saei_is_state_dict(&desc))
        return false;
    return file || (desc.no_b_dec_subtraction == want->no_b_dec_subtraction
                    && desc.subtract_b_dec == want->subtract_b_dec);
}

/* Where a transcoder starts: rows of W_enc and of W_dec random unit vectors, biases 0; sparsify's:
   W_enc uniform in +- 1 / sqrt(d), all else 0. */
static void saei_transcoder_begin(sae_dictionary *dict, unsigned traits) {
    const sae_dictionary_desc *h = &dict->desc;
    saei_random random = saei_random_of(h->seed, SAEI_STREAM_INIT_ENCODER);
    memset(dict->b_enc, 0, h->dict_size * sizeof *dict->b_enc);
    for (size_t i = 0; (traits & SAEI_SPARSIFY) && i < h->dict_size; i++) {
        float *enc = dict->W_enc + i * dict->ld;
        double width = 1 / sqrt((double)h->activation_dim);
        memset(dict->W_dec + i * dict->ld_out, 0, dict->ld_out * sizeof(float));
        for (size_t c = 0; c < h->activation_dim; c++)
            enc[c] = (float)(width * (2 * saei_random_uniform(
                                              &random, (uint64_t)i * h->activation_dim + c) - 1));
    }
    if (traits & SAEI_SPARSIFY) return;
    for (size_t i = 0; i < h->dict_size; i++) {
        float *enc = dict->W_enc + i * dict->ld, *dec = dict->W_dec + i * dict->ld_out, norm;
        for (size_t c = 0; c < h->activation_dim; c++)
            enc[c] = (float)saei_random_normal(&random, (uint64_t)i * h->activation_dim + c);
        norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld, enc, enc));
        if (norm > 0) dict->ctx->kernels->divide(dict->ld, enc, norm, enc);
        norm = (float)sqrt(dict->ctx->kernels->dot(dict->ld_out, dec, dec));
        if (norm > 0) dict->ctx->kernels->divide(dict->ld_out, dec, norm, dec);
    }
}

/* The parameters that are handed out: signum's are an average. */
static float *saei_trained(const sae_trainer *t) {
    return t->desc.optimizer == SAE_OPTIMIZER_SIGNUM ? t->second.all : t->param.all;
}

/* The start: init's tensors, or the class's own. */
static sae_result saei_trainer_start(sae_trainer *t) {
    const sae_dictionary_desc *want = &t->view.desc;
    const sae_trainer_desc *h = &t->desc;
    sae_dictionary *from = NULL;
    const double none = -1; /* auxk: no dead latents so far */
    if (saei_has_trait(t, SAEI_LAYERS)) SAEI_TRY(saei_crosscoder_start(t, &from));
    else if (t->desc.init) {
        sae_load_desc load;
        memset(&load, 0, sizeof load);
        load.arch = want->arch;
        load.k = want->k;
        load.raw = true;
        SAEI_TRY(sae_dictionary_load(t->ctx, &load, t->desc.init, &from));
        if (!saei_is_start(from, want)) {
            sae_result result = saei_fail(t->ctx, SAE_ERR_MISMATCH,
                                          "sae_trainer_create: init is %s, "
                                          "which holds %s%s; the trainer has %s",
                                          t->desc.init, sae_arch_name(from->desc.arch),
                                          from->desc.arch == want->arch ? " with variations" : "",
                                          sae_arch_name(want->arch));
            sae_dictionary_destroy(from);
            return result;
        }
        if (from->desc.activation_dim != want->activation_dim
            || from->desc.output_dim != want->output_dim
            || from->desc.dict_size != want->dict_size || from->desc.num_groups != want->num_groups
            || memcmp(from->desc.group_sizes, want->group_sizes, sizeof want->group_sizes)) {
            char has[64] = "", wants[96] = "";
            if (want->num_groups) {
                snprintf(has, sizeof has, " in %zu groups", from->desc.num_groups);
                snprintf(wants, sizeof wants, " in %zu (or groups of other sizes)",
                         want->num_groups);
            }
            sae_result result = saei_fail(
                t->ctx, SAE_ERR_MISMATCH, "sae_trainer_create: %s holds %zu latents of %zu "
                "dimensions%s, the trainer has %zu of %zu%s", t->desc.init, from->desc.dict_size,
                from->desc.activation_dim, has, want->dict_size, want->activation_dim, wants);
            if (from->desc.output_dim != want->output_dim)
                result = saei_fail(
                    t->ctx, SAE_ERR_MISMATCH, "sae_trainer_create: %s gives rows of %zu, "
                    "output_dim is %zu", t->desc.init, from->desc.output_dim, want->output_dim);
            sae_dictionary_destroy(from);
            return result;
        }
    } else {
        SAEI_TRY(sae_dictionary_create(t->ctx, want, &from));
        if (!saei_is_plain(want) || want->subtract_b_dec)
            saei_transcoder_begin(from, t->scheme->traits);
    }
    t->ops->upload(&t->w, t->param.all, from->params, from->num_params * sizeof(float));
    if (h->optimizer == SAE_OPTIMIZER_SIGNUM)
        t->ops->upload(&t->w, t->second.all, from->params, from->num_params * sizeof(float));
    t->ops->upload(&t->w, t->threshold, &from->threshold, sizeof(float));
    t->ops->upload(&t->w, t->scalars + SAEI_S_PRE_NORM, &none, sizeof none);
    t->view.threshold = from->threshold;
    sae_dictionary_destroy(from);
    return SAE_OK;
}

/* The desc's texts become the trainer's own. */
static bool saei_trainer_texts(sae_trainer *t) {
    sae_trainer_desc *h = &t->desc;
    const char **texts[4];
    bool ok = true;
    texts[0] = &h->lm_name;
    texts[1] = &h->submodule_name;
    texts[2] = &h->wandb_name;
    texts[3] = &h->init;
    for (size_t i = 0; i < 4; i++) {
        const char *text = *texts[i];
        if (!text) continue;
        *texts[i] = t->blocks.plan ? NULL : saei_strdup(t->ctx, text);
        ok = ok && saei_blocks_host(&t->blocks, strlen(text) + 1)
             && (t->blocks.plan || *texts[i]);
    }
    return ok;
}

/* All that is not memory. h is checked. */
static void saei_trainer_init(sae_trainer *t, sae_context *ctx, const sae_trainer_desc *h,
                              const sae_dictionary_desc *shape) {
    t->ctx = ctx;
    t->ops = saei_backend_of(ctx);
    t->scheme = saei_scheme_of(h->kind);
    t->desc = *h;
    t->w.ctx = ctx;
    t->w.shape.batch = h->batch_size;
    t->w.shape.d = h->activation_dim;
    t->w.shape.ld = saei_align16(h->activation_dim);
    t->w.shape.dict_size = h->dict_size;
    t->view.ctx = ctx;
    t->view.desc = *shape;
    t->view.desc.output_dim = saei_output_dim(shape);
    t->view.desc.layers = saei_layers(shape);
    t->view.ld = t->w.shape.ld;
    t->view.ld_out = saei_align16(h->output_dim);
    t->view.num_params = saei_param_count(shape);
    t->view.rule = saei_has_trait(t, SAEI_EACH_ROW) ? SAE_RULE_TOP_K
                   : saei_has_trait(t, SAEI_TOP_K)  ? SAE_RULE_THRESHOLD
                                                    : SAE_RULE_DEFAULT;
    t->view.active_groups = shape->num_groups;
    t->view.borrowed = true;
    t->view.origin.layer = -1;
    t->view.origin.dict_size = t->view.desc.dict_size;
    t->view.origin.k = t->view.desc.k;
    t->schedule.steps = h->steps;
    t->schedule.warmup_steps = saei_steps_of(h->warmup_steps);
    t->schedule.decay_start = saei_steps_of(h->decay_start);
    t->schedule.resample_steps = saei_steps_of(h->resample_steps);
    t->schedule.sparsity_warmup_steps = saei_steps_of(h->sparsity_warmup_steps);
    t->adam.beta1 = t->scheme->beta1;
    t->adam.beta2 = 0.999;
    t->adam.eps = 1e-8;
    t->now.k = saei_has_trait(t, SAEI_SPARSIFY) ? saei_sparsify_k(h, 0) : (double)h->k;
    t->now.p = h->p_start;
    t->now.next_p = -1;
    t->now.sparsity_coeff = saei_number_of(h->initial_sparsity_penalty);
}

/* A host copy of the parameters, where the backend's memory is its own. */
static bool saei_trainer_host_copy(sae_trainer *t) {
    size_t bytes;
    if (t->ops->host_memory) return true;
    if (!saei_mul(t->view.num_params, sizeof(float), &bytes)
        || !saei_blocks_host(&t->blocks, bytes))
        return false;
    if (!t->blocks.plan) t->host[0] = saei_calloc(t->ctx, bytes, 1);
    return t->blocks.plan || t->host[0];
}

/* A trainer with its memory, or the plan of one, which can only be destroyed. */
static sae_result saei_trainer_make(sae_context *ctx, const char *who, const sae_trainer_desc *desc,
                                    bool plan, sae_trainer **out) {
    sae_trainer_desc h = *desc;
    sae_dictionary_desc shape;
    sae_trainer *t;
    sae_result result;
    bool texts;
    sae_trainer_defaults(&h);
    SAEI_TRY(saei_desc_check(ctx, who, &h));
    saei_trainer_dictionary_desc(&h, &shape);
    SAEI_TRY(saei_dictionary_check(ctx, who, &shape));
    SAEI_TRY(saei_crosscoder_backend(ctx, who, h.kind));
    if ((shape.skip || shape.output_dim || h.kind == SAE_TRAINER_SPARSIFY)
        && !saei_backend_of(ctx)->skip)
        return saei_fail(ctx, SAE_ERR_UNSUPPORTED, "%s: output_dim is %zu, activation_dim %zu, "
                         "skip_connection %s, kind %s: the backend \"%s\" has no operation "
                         "skip, so it trains transcoders whose output is as wide as the input, "
                         "without a skip connection and not sparsify's; the CPU trains all", who,
                         h.output_dim, h.activation_dim, shape.skip ? "true" : "false",
                         sae_trainer_name(h.kind), saei_backend_of(ctx)->name);
    t = (sae_trainer *)saei_calloc(ctx, 1, sizeof *t);
    if (!t) return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for a trainer", who);
    saei_trainer_init(t, ctx, &h, &shape);
    t->blocks.plan = plan;
    texts = saei_trainer_texts(t) && saei_blocks_host(&t->blocks, sizeof *t);
    result = saei_blocks_open(&t->w, who, &t->blocks);
    if (result == SAE_OK
        && (!texts || t->view.num_params == SIZE_MAX || !saei_trainer_memory(t)
            || !saei_trainer_host_copy(t)))
        result = saei_blocks_fail(&t->w, who, "to train");
    if (result == SAE_OK) *out = t;
    else sae_trainer_destroy(t);
    return result;
}

SAE_API sae_result sae_trainer_create(sae_context *ctx, const sae_trainer_desc *desc,
                                      sae_trainer **out) {
    sae_trainer *t = NULL;
    sae_result result;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_create: %s is NULL",
                         desc ? "out" : "desc");
    SAEI_TRY(saei_trainer_make(ctx, "sae_trainer_create", desc, false, &t));
    result = saei_trainer_start(t);
    saei_dictionary_place(&t->view, t->ops->host_memory ? saei_trained(t) : (float *)t->host[0]);
    if (result == SAE_OK) result = t->ops->status(&t->w);
    if (result == SAE_OK) *out = t;
    else sae_trainer_destroy(t);
    return result;
}

SAE_API sae_result sae_trainer_memory(sae_context *ctx, const sae_trainer_desc *desc,
                                      sae_memory *out) {
    sae_trainer *t = NULL;
    if (!ctx) return SAE_ERR_INVALID;
    if (!desc || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_trainer_memory: %s is NULL",
                         desc ? "out" : "desc");
    SAEI_TRY(saei_trainer_make(ctx, "sae_trainer_memory", desc, true, &t));
    *out = t->blocks.memory;
    sae_trainer_destroy(t);
    return SAE_OK;
}
