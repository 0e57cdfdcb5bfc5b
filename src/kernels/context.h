#pragma once
#include "../base/files.h"
#include "isa.h"

/* ==== >>context =============================================================================== */
/* There is no context yet to keep the sentence. */
static sae_result saei_context_refuse(const sae_context_desc *d, sae_result result,
                                      const char *format, ...) SAE_PRINTF(3, 4);
static sae_result saei_context_refuse(const sae_context_desc *d, sae_result result,
                                      const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (d->logger.log) d->logger.log(SAE_LOG_ERROR, result, text, d->logger.user);
    return result;
}

enum { SAEI_MAX_THREADS = 1024 };

/* -- working memory of inference -- */

enum {
    SAEI_BLOCK_ROWS = 128, SAEI_BLOCK_DEPTH = 64, /* a panel is packed once for 128 rows */
    SAEI_BLOCK_LISTS = 4096,
    SAEI_LINEAR_ROWS = 256, SAEI_LINEAR_DEPTH = 512, /* of a linear layer's products */
    SAEI_SMALL_ROWS = 16, SAEI_SMALL_DEPTH = 8,
    SAEI_LEAST_BLOCKS = 4
};

/* input_norm of a row: x = (raw x - shift) / divisor, and x_hat scale + shift undoes it. */
typedef struct saei_norm {
    float shift, divisor, scale;
} saei_norm;

/* What a block of rows needs; linear layers use all of product, panel and value. A context has one
   for each thread; a call takes one that is free for the time of a block. */
struct saei_block {
    float product[SAEI_LINEAR_ROWS * SAEI_PANEL], panel[SAEI_LINEAR_DEPTH * SAEI_PANEL];
    float centred[SAEI_TILE_ROWS * SAEI_BLOCK_DEPTH];
    saei_norm norms[SAEI_BLOCK_ROWS];
    size_t found[SAEI_BLOCK_ROWS], begin[SAEI_BLOCK_ROWS + 1];
    uint32_t latent[SAEI_BLOCK_LISTS];
    float value[SAEI_BLOCK_LISTS];
    int taken;
};

/* One that is free, NULL: none is. */
static saei_block *saei_block_take(const sae_context *ctx) {
    for (size_t i = 0; i < ctx->num_blocks; i++)
        if (saei_try_lock(&ctx->blocks[i].taken)) return &ctx->blocks[i];
    return NULL;
}

static void saei_block_leave(saei_block *block) {
    if (block) saei_unlock(&block->taken);
}

/* The same for the stack of a call that finds none free: fewer rows at a time, the same bits. */
typedef struct saei_small_block {
    float product[SAEI_SMALL_ROWS * SAEI_PANEL], panel[SAEI_SMALL_DEPTH * SAEI_PANEL];
    float centred[SAEI_TILE_ROWS * SAEI_SMALL_DEPTH];
    saei_norm norms[SAEI_SMALL_ROWS];
    size_t found[SAEI_SMALL_ROWS], begin[SAEI_SMALL_ROWS + 1];
} saei_small_block;

/* One of the two. */
typedef struct saei_room {
    size_t rows, depth;   /* of a block; of a packed panel */
    float *product;       /* [rows][48] */
    float *panel;         /* [depth][48], or depth 48 floats of a row */
    float *centred;       /* [8][depth] */
    saei_norm *norms;     /* [rows] */
    size_t *found;        /* [rows] */
    size_t *begin;        /* [rows + 1] */
    size_t entries;       /* of lists; on the stack: 0 */
    uint32_t *latent;
    float *value;
    saei_block *block;    /* NULL: on the stack */
} saei_room;

static saei_room saei_room_take(const sae_context *ctx, saei_small_block *small) {
    saei_room room = { SAEI_SMALL_ROWS, SAEI_SMALL_DEPTH, small->product, small->panel,
                       small->centred,  small->norms,     small->found,   small->begin,
                       0,               NULL,             NULL,           NULL };
    saei_block *b = saei_block_take(ctx);
    if (b) {
        saei_room large = { SAEI_BLOCK_ROWS,  SAEI_BLOCK_DEPTH, b->product, b->panel, b->centred,
                            b->norms,         b->found,         b->begin,
                            SAEI_BLOCK_LISTS, b->latent,        b->value,   b };
        return large;
    }
    return room;
}

static void saei_room_leave(saei_room *room) { saei_block_leave(room->block); }

/* What reads is there, and of what writes all or nothing. */
static bool saei_io_whole(const sae_io *io) {
    return io->open && io->size && io->read && io->close && !io->write == !io->rename
           && !io->write == !io->remove;
}

SAE_API sae_result sae_context_create(const sae_context_desc *desc, sae_context **out) {
    sae_context_desc zero, *d = &zero;
    const saei_kernels *kernels;
    const sae_io *io;
    sae_context *ctx;
    if (desc) zero = *desc;
    else memset(&zero, 0, sizeof zero);
    io = d->io;
    if (!out) return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: out is NULL");
    if (!d->allocator.alloc != !d->allocator.free)
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: allocator.%s is NULL, "
                                   "allowed are both alloc and free or none",
                                   d->allocator.alloc ? "free" : "alloc");
    if (d->threads < (d->pool.run ? 1 : 0) || d->threads > SAEI_MAX_THREADS)
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: threads is %d, allowed "
                                   "are %s to %d", d->threads,
                                   d->pool.run ? "with a pool the number of its workers, 1"
                                               : "0 (all)", SAEI_MAX_THREADS);
    if (!d->allocator.alloc) {
        d->allocator.alloc = saei_default_alloc;
        d->allocator.free = saei_default_free;
    }
    if (io && !saei_io_whole(io))
        return saei_context_refuse(d, SAE_ERR_INVALID, "sae_context_create: io has some callbacks "
                                   "of a kind, allowed are all of open, size, read, close, and "
                                   "with them all of write, rename, remove or none");
    kernels = saei_kernels_select(d->instruction_set);
    if (!kernels)
        return saei_context_refuse(d, SAE_ERR_INVALID,
                                   "sae_context_create: instruction_set is %.32s, "
                                   "which this CPU lacks, allowed are NULL, portable, and what it "
                                   "has of avx2, avx512, avx512vnni, neon", d->instruction_set);
    ctx = (sae_context *)d->allocator.alloc(sizeof *ctx, d->allocator.user);
    if (!ctx)
        return saei_context_refuse(d, SAE_ERR_OUT_OF_MEMORY,
                                   "sae_context_create: no memory for a context");
    memset(ctx, 0, sizeof *ctx);
    ctx->allocator = d->allocator;
    ctx->logger = d->logger;
    if (io) ctx->io = *io;
    else saei_files_use(ctx);
    ctx->pool = d->pool;
    ctx->threads = d->pool.run ? d->threads : 1;
#if defined(_OPENMP)
    if (!d->pool.run) ctx->threads = d->threads ? d->threads : omp_get_max_threads();
    if (ctx->threads > SAEI_MAX_THREADS) ctx->threads = SAEI_MAX_THREADS;
#endif
    ctx->backend = d->backend;
    ctx->backend_desc = d->backend_desc;
    ctx->kernels = kernels;
    ctx->num_blocks = saei_max((size_t)ctx->threads, SAEI_LEAST_BLOCKS);
    ctx->blocks = (saei_block *)saei_alloc(ctx, ctx->num_blocks, sizeof *ctx->blocks);
    if (!ctx->blocks) {
        sae_context_destroy(ctx);
        return saei_context_refuse(d, SAE_ERR_OUT_OF_MEMORY,
                                   "sae_context_create: no memory for a context");
    }
    for (size_t i = 0; i < ctx->num_blocks; i++) ctx->blocks[i].taken = 0;
    *out = ctx;
    return SAE_OK;
}

SAE_API void sae_context_destroy(sae_context *ctx) {
    if (!ctx) return;
    saei_free(ctx, ctx->blocks);
    ctx->allocator.free(ctx, ctx->allocator.user);
}
