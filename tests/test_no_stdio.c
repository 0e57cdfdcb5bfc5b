/*  Proves: with SAE_NO_STDIO the header knows no files of the system, and dictionaries are loaded and
    saved through memory and through sae_io all the same.
    Oracle: the bytes of a fixture, which come back. Tolerance: none. */
#define SAE_NO_STDIO
#define SAE_IMPLEMENTATION
#include "sae.h"
#if defined(O_RDONLY) || defined(PROT_READ)
#error "the system's headers for files are there"
#endif
#include "check.h"

static const char *config = "{\"trainer\": {\"dict_class\": \"AutoEncoderTopK\", \"k\": 4}}";

/* One file, "ae.pt", beside config.json. */
typedef struct pack {
    char *data;
    size_t size;
} pack;

static sae_result pack_open(const char *path, bool write, void **file, void *user) {
    if (write) return SAE_ERR_UNSUPPORTED;
    if (!strcmp(path, "pack/ae.pt")) *file = user;
    else if (!strcmp(path, "pack/config.json")) *file = &config;
    else return SAE_ERR_NOT_FOUND;
    return SAE_OK;
}
static sae_result pack_size(void *file, uint64_t *size, void *user) {
    *size = file == user ? ((pack *)user)->size : strlen(config);
    return SAE_OK;
}
static sae_result pack_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    memcpy(out, (file == user ? ((pack *)user)->data : config) + offset, size);
    return SAE_OK;
}
static sae_result pack_close(void *file, void *user) {
    (void)file;
    (void)user;
    return SAE_OK;
}

static void check_saved(sae_context *ctx, const sae_dictionary *dict, const pack *p) {
    void *data = NULL;
    size_t size = 0;
    CHECK_OK(ctx, sae_dictionary_save_memory(dict, "ae.pt", &data, &size), return);
    CHECK(size == p->size && !memcmp(data, p->data, size), "other bytes");
    sae_context_free(ctx, data);
}

int main(void) {
    sae_context *ctx = check_context(1);
    sae_context_desc desc;
    sae_io io;
    sae_load_desc load;
    sae_dictionary *dict = NULL;
    pack p;
    memset(&load, 0, sizeof load);
    load.raw = true;
    p.data = check_read(check_path("%s/tests/fixtures/ours_top_k/ae.pt", check_root()), &p.size);
    CHECK(p.data != NULL, "no fixture");
    CHECK(sae_dictionary_load(ctx, NULL, "ae.pt", &dict) == SAE_ERR_UNSUPPORTED
              && strstr(sae_error(ctx), "SAE_NO_STDIO"), "%s", sae_error(ctx));
    CHECK(sae_dictionary_load_memory(ctx, &load, p.data, p.size, &dict) == SAE_ERR_UNSUPPORTED
              && strstr(sae_error(ctx), "no config.json says which"), "%s", sae_error(ctx));
    load.config = config;
    load.config_size = strlen(config);
    CHECK_OK(ctx, sae_dictionary_load_memory(ctx, &load, p.data, p.size, &dict), return check_end());
    check_saved(ctx, dict, &p);
    CHECK(sae_dictionary_save(dict, "ae.pt") == SAE_ERR_UNSUPPORTED, "a path to write");
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);

    memset(&desc, 0, sizeof desc);
    memset(&io, 0, sizeof io);
    desc.io = &io;
    io.open = pack_open;
    io.size = pack_size;
    io.read = pack_read;
    io.close = pack_close;
    io.user = &p;
    CHECK_OK(ctx, sae_context_create(&desc, &ctx), return check_end());
    load.config = NULL;
    CHECK_OK(ctx, sae_dictionary_load(ctx, &load, "pack", &dict), return check_end());
    check_saved(ctx, dict, &p);
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    free(p.data);
    return check_end();
}
