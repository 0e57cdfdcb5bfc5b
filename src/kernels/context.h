#pragma once
#include "../base/files.h"
#include "isa.h"

/* ==== >>context =============================================================================== */
/* There is no context yet to keep the sentence. */
static sae_result saei_context_refuse(const sae_context_desc *d, sae_result result,
                                      const char *text) {
    if (d->logger.log) d->logger.log(SAE_LOG_ERROR, text, d->logger.user);
    return result;
}

enum { SAEI_MAX_THREADS = 1024 };

SAE_API sae_result sae_context_create(const sae_context_desc *desc, sae_context **out) {
    sae_context_desc zero, *d = &zero;
    const saei_kernels *kernels;
    sae_context *ctx;
    if (desc) zero = *desc;
    else memset(&zero, 0, sizeof zero);
    if (!out) return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: out is NULL");
    if (!d->allocator.alloc != !d->allocator.free)
        return saei_context_refuse(d, SAE_ERR_INVALID,
                                   "sae_context_create: allocator has one of alloc "
                                   "and free, allowed are both or none");
    if (d->threads < 0 || d->threads > SAEI_MAX_THREADS)
        return saei_context_refuse(d, SAE_ERR_INVALID,
                                   "sae_context_create: threads is out of range, "
                                   "allowed are 0 (all) to 1024");
    if (!d->allocator.alloc) {
        d->allocator.alloc = saei_default_alloc;
        d->allocator.free = saei_default_free;
    }
    if (!d->io.open != !d->io.size || !d->io.open != !d->io.read || !d->io.open != !d->io.close
        || !d->io.write != !d->io.rename || !d->io.write != !d->io.remove
        || (!d->io.open && d->io.write))
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: io has some callbacks "
                                   "of a kind, allowed are all of open, size, read, close or none, "
                                   "and with them all of write, rename, remove or none");
    kernels = saei_kernels_select(d->instruction_set);
    if (!kernels)
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: this CPU has no such "
                                   "instruction_set, allowed are NULL, portable, and what it has "
                                   "of avx2, avx512, avx512vnni, neon");
    ctx = (sae_context *)d->allocator.alloc(sizeof *ctx, d->allocator.user);
    if (!ctx)
        return saei_context_refuse(d, SAE_ERR_OUT_OF_MEMORY,
                                   "sae_context_create: no memory for a context");
    memset(ctx, 0, sizeof *ctx);
    ctx->allocator = d->allocator;
    ctx->logger = d->logger;
    ctx->io = d->io;
    if (!d->io.open) saei_files_use(ctx);
#if defined(_OPENMP)
    ctx->threads = d->threads ? d->threads : omp_get_max_threads();
    if (ctx->threads > SAEI_MAX_THREADS) ctx->threads = SAEI_MAX_THREADS;
#else
    ctx->threads = 1;
#endif
    ctx->backend = d->backend;
    ctx->backend_desc = d->backend_desc;
    ctx->kernels = kernels;
    *out = ctx;
    return SAE_OK;
}

SAE_API void sae_context_destroy(sae_context *ctx) {
    if (ctx) ctx->allocator.free(ctx, ctx->allocator.user);
}
