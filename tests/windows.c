/*  What tests/windows.sh runs: files of Windows, by paths of any script, mapped, replaced, refused. */
#define SAE_IMPLEMENTATION
#include "../sae.h"
#include <stdio.h>

static long passed, failed;
static void check(bool good, const char *what, const sae_context *ctx) {
    if (good) passed++;
    else failed++;
    if (!good) printf("%s: %s\n", what, sae_error(ctx));
}

static void files(sae_context *ctx, const char *folder) {
    static const float values[6] = { 0, 1, 2, 3, 4, 5 };
    sae_tensor t = { "w", SAE_F32, 2, { 2, 3 }, { 0 }, values };
    char path[512], other[512];
    sae_tensor_file *file = NULL;
    float out[6] = { 0 };
    saei_path_kind kind = SAEI_PATH_NONE;
    snprintf(path, sizeof path, "%s/w.npy", folder);
    snprintf(other, sizeof other, "%s/w.safetensors", folder);
    check(sae_tensor_file_write(ctx, path, &t, 1) == SAE_ERR_NOT_FOUND, "no folder", ctx);
    check(saei_make_folder(ctx, "test", folder) == SAE_OK, "make_folder", ctx);
    check(saei_make_folder(ctx, "test", folder) == SAE_OK, "make_folder again", ctx);
    check(sae_tensor_file_write(ctx, path, &t, 1) == SAE_OK, "write", ctx);
    check(sae_tensor_file_write(ctx, path, &t, 1) == SAE_OK, "replace", ctx);
    check(sae_tensor_file_write(ctx, other, &t, 1) == SAE_OK, "write another", ctx);
    check(sae_tensor_file_open(ctx, path, &file) == SAE_OK, "open", ctx);
    if (!file) return;
    check(file->map.file && !file->map.owned && ((saei_file *)file->map.file)->data, "mapped", ctx);
    sae_tensor_to_f32(sae_tensor_file_get(file, 0), out);
    check(!memcmp(out, values, sizeof out), "values", ctx);
    check(sae_tensor_file_write(ctx, path, &t, 1) == SAE_ERR_IO, "replace what is mapped", ctx);
    sae_tensor_file_close(file);
    check(sae_tensor_file_write(ctx, path, &t, 1) == SAE_OK, "replace after closing", ctx);
    check(sae_tensor_file_open(ctx, folder, &file) == SAE_ERR_IO
              && strstr(sae_error(ctx), "is a folder"), "a folder", ctx);
    check(saei_path_find(ctx, "test", folder, &kind) == SAE_OK && kind == SAEI_PATH_FOLDER, "kind",
          ctx);
    saei_remove(ctx, path);
    saei_remove(ctx, other);
    check(sae_tensor_file_open(ctx, path, &file) == SAE_ERR_NOT_FOUND, "removed", ctx);
}

static void read_in_pieces(sae_context *ctx) {
    void *file = NULL;
    char bytes[4] = "";
    check(ctx->io.open("in pieces.txt", true, &file, ctx->io.user) == SAE_OK
              && ctx->io.write(file, "0123456789", 10, ctx->io.user) == SAE_OK
              && ctx->io.sync(file, ctx->io.user) == SAE_OK
              && ctx->io.close(file, ctx->io.user) == SAE_OK, "write a text", ctx);
    check(ctx->io.open("in pieces.txt", false, &file, ctx->io.user) == SAE_OK
              && ctx->io.read(file, 6, bytes, 3, ctx->io.user) == SAE_OK
              && !memcmp(bytes, "678", 3) && ctx->io.read(file, 9, bytes, 3, ctx->io.user) != SAE_OK
              && ctx->io.close(file, ctx->io.user) == SAE_OK, "read a piece", ctx);
    saei_remove(ctx, "in pieces.txt");
}

static void two_writers(sae_context *ctx) {
    saei_writer first, second;
    check(saei_writer_open(ctx, "first", "two.txt", &first) == SAE_OK, "first", ctx);
    check(saei_writer_open(ctx, "second", "two.txt", &second) != SAE_OK, "second", ctx);
    saei_writer_put(&first, "one", 3);
    check(saei_writer_finish(&first) == SAE_OK, "finish", ctx);
    saei_remove(ctx, "two.txt");
}

static void trains(sae_context *ctx, const char *folder) {
    static float x[64 * 8];
    sae_trainer_desc trainer;
    sae_train_desc desc;
    sae_dictionary *dict = NULL;
    char path[512];
    for (int i = 0; i < 64 * 8; i++) x[i] = (float)(i % 7) - (float)(i % 5);
    memset(&trainer, 0, sizeof trainer);
    memset(&desc, 0, sizeof desc);
    trainer.kind = SAE_TRAINER_TOP_K;
    trainer.dict_size = 16;
    trainer.k = 3;
    desc.buffer.source.data = x;
    desc.buffer.source.rows = 64;
    desc.buffer.source.dim = 8;
    desc.buffer.batch_size = 8;
    desc.trainers = &trainer;
    desc.num_trainers = 1;
    desc.steps = 20;
    desc.backup_steps = 6;
    desc.save_dir = folder;
    check(sae_train(ctx, &desc) == SAE_OK, "train", ctx);
    snprintf(path, sizeof path, "%s\\trainer_0", folder);
    check(sae_dictionary_load(ctx, NULL, path, &dict) == SAE_OK, "load", ctx);
    sae_dictionary_destroy(dict);
}

int main(void) {
    sae_context *ctx = NULL;
    if (sae_context_create(NULL, &ctx) != SAE_OK) return 1;
    files(ctx, "plain/folder");
    files(ctx, "gr\xc3\xb6\xc3\x9f" "e/\xe6\x97\xa5\xe6\x9c\xac");
    check(saei_make_folder(ctx, "test", "\xff") != SAE_OK, "a path that is not UTF-8", ctx);
    read_in_pieces(ctx);
    two_writers(ctx);
    trains(ctx, "\xd1\x80\xd1\x83\xd0\xbd");
    sae_context_destroy(ctx);
    printf("%ld passed, %ld failed\n", passed, failed);
    return failed != 0;
}
