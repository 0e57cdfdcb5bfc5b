/*  Proves: what is loaded and saved does not depend on the way the bytes take. Every fixture becomes
    the same dictionary by its path, through sae_io (with and without map) and, where one file is
    enough, from memory at any alignment; what is saved has the same bytes in a file, through sae_io
    and in memory; a callback that fails, at whatever call, gives an error and leaves nothing open,
    nothing allocated and no half file.
    Oracle: the path. Tolerance: none. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

/* ---- files in memory: what sae_io asks for, and no folders ---------------------------------------- */

enum { MOST_FILES = 64 };
typedef struct io_file {
    char *path;
    char *data;
    size_t size;
} io_file;
typedef struct io_disk {
    io_file files[MOST_FILES];
    size_t count;
    bool from_system;  /* files it has not are those of the system */
    long calls, fail_at; /* that call fails; -1: none */
    long open;         /* handles */
    bool copied;       /* reads went past map */
} io_disk;

static io_file *disk_find(io_disk *disk, const char *path) {
    for (size_t i = 0; i < disk->count; i++)
        if (!strcmp(disk->files[i].path, path)) return &disk->files[i];
    return NULL;
}

static io_file *disk_add(io_disk *disk, const char *path, char *data, size_t size) {
    io_file *f = disk_find(disk, path);
    if (!f) {
        if (disk->count == MOST_FILES) return NULL;
        f = &disk->files[disk->count++];
        f->path = strdup(path);
    } else {
        free(f->data);
    }
    f->data = data;
    f->size = size;
    return f;
}

static void disk_drop(io_disk *disk, io_file *f) {
    free(f->path);
    free(f->data);
    *f = disk->files[--disk->count];
}

static void disk_clear(io_disk *disk) {
    while (disk->count) disk_drop(disk, disk->files);
}

static bool fails(io_disk *disk) { return disk->calls++ == disk->fail_at; }

/* A handle is the file's path: files move when others are dropped. */
static sae_result io_open(const char *path, bool write, void **file, void *user) {
    io_disk *disk = (io_disk *)user;
    struct stat st;
    size_t size = 0;
    if (fails(disk)) return SAE_ERR_IO;
    if (write) {
        if (!disk_add(disk, path, (char *)calloc(1, 1), 0)) return SAE_ERR_IO;
    } else if (!disk_find(disk, path)) {
        char *data = NULL;
        if (disk->from_system && !stat(path, &st) && S_ISREG(st.st_mode))
            data = check_read(path, &size);
        if (!data) return SAE_ERR_NOT_FOUND;
        if (!disk_add(disk, path, data, size)) return SAE_ERR_IO;
    }
    *file = strdup(path);
    disk->open++;
    return SAE_OK;
}
static sae_result io_size(void *file, uint64_t *size, void *user) {
    if (fails((io_disk *)user)) return SAE_ERR_IO;
    *size = disk_find((io_disk *)user, (const char *)file)->size;
    return SAE_OK;
}
static sae_result io_read(void *file, uint64_t offset, void *out, size_t size, void *user) {
    io_file *f = disk_find((io_disk *)user, (const char *)file);
    ((io_disk *)user)->copied = true;
    if (fails((io_disk *)user) || offset > f->size || size > f->size - offset) return SAE_ERR_IO;
    memcpy(out, f->data + offset, size);
    return SAE_OK;
}
static sae_result io_close(void *file, void *user) {
    io_disk *disk = (io_disk *)user;
    free(file);
    disk->open--;
    return fails(disk) ? SAE_ERR_IO : SAE_OK;
}
static sae_result io_map(void *file, const void **data, void *user) {
    if (fails((io_disk *)user)) return SAE_ERR_OUT_OF_MEMORY;
    *data = disk_find((io_disk *)user, (const char *)file)->data;
    return SAE_OK;
}
static sae_result io_write(void *file, const void *data, size_t size, void *user) {
    io_file *f = disk_find((io_disk *)user, (const char *)file);
    if (fails((io_disk *)user)) return SAE_ERR_IO;
    f->data = (char *)realloc(f->data, f->size + size + 1);
    memcpy(f->data + f->size, data, size);
    f->size += size;
    f->data[f->size] = 0;
    return SAE_OK;
}
static sae_result io_sync(void *file, void *user) {
    (void)file;
    return fails((io_disk *)user) ? SAE_ERR_IO : SAE_OK;
}
static sae_result io_rename(const char *from, const char *to, void *user) {
    io_disk *disk = (io_disk *)user;
    io_file *f = disk_find(disk, from);
    char *data = f ? f->data : NULL;
    if (fails(disk) || !f) return SAE_ERR_IO;
    f->data = NULL;
    disk_add(disk, to, data, f->size);
    disk_drop(disk, disk_find(disk, from));
    return SAE_OK;
}
static sae_result io_remove(const char *path, void *user) {
    io_disk *disk = (io_disk *)user;
    io_file *f = disk_find(disk, path);
    if (!f) return SAE_ERR_NOT_FOUND;
    disk_drop(disk, f); /* a remove that fails leaves a file: not what is tested */
    return SAE_OK;
}

static sae_context *io_context(io_disk *disk, bool map) {
    sae_context_desc desc;
    sae_context *ctx = NULL;
    sae_io io = { io_open, io_size, io_read, io_close, map ? io_map : NULL, io_write, io_sync,
                  io_rename, io_remove, NULL, NULL, disk };
    memset(disk, 0, sizeof *disk);
    disk->fail_at = -1;
    memset(&desc, 0, sizeof desc);
    desc.allocator.alloc = common_alloc;
    desc.allocator.free = common_free;
    desc.threads = 1;
    desc.io = &io;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context");
    return ctx;
}

/* ---- loading -------------------------------------------------------------------------------------- */

static sae_context *plain; /* with the system's files */

static bool same(const sae_dictionary *a, const sae_dictionary *b) {
    return !memcmp(&a->desc, &b->desc, sizeof a->desc) && a->num_params == b->num_params
           && !memcmp(a->params, b->params, a->num_params * sizeof(float))
           && !memcmp(&a->threshold, &b->threshold, sizeof a->threshold) && a->rule == b->rule
           && !memcmp(&a->origin, &b->origin, sizeof a->origin);
}

/* The one file and its config that a fixture's path leads to; NULL where there is no such format. */
static const saei_format *one_file(const char *path, const sae_dictionary *dict, const char **file,
                                   const char **config) {
    const saei_format *format = saei_formats;
    size_t folder, stem;
    struct stat st;
    while (format->format != dict->origin.format) format++;
    *file = path;
    if (!stat(path, &st) && S_ISDIR(st.st_mode))
        for (size_t i = 0; i < 4 && format->files[i]; i++) {
            *file = check_path("%s/%s", path, format->files[i]);
            if (check_exists(*file)) break;
        }
    folder = saei_folder_length(*file, strlen(*file));
    *config = format->config ? check_path("%.*s%s", (int)folder, *file, format->config) : NULL;
    stem = strlen(*file);
    while (stem > folder && (*file)[stem] != '.') stem--;
    if (format->config && *format->config == '*')
        *config = check_path("%.*s%s", (int)stem, *file, format->config + 1);
    if (strstr(*file, "/checkpoints/"))
        *config = check_path("%.*s%s", (int)(folder - 12), *file, format->config);
    if (*config && !check_exists(*config)) *config = NULL;
    return format;
}

static void memory_fixture(const char *path, const sae_dictionary *want) {
    const char *file, *config;
    size_t size = 0;
    char *data, *moved;
    sae_load_desc desc;
    one_file(path, want, &file, &config);
    memset(&desc, 0, sizeof desc);
    data = check_read(file, &size);
    CHECK(data != NULL, "cannot read %s", file);
    if (!data) return;
    desc.config = config ? check_read(config, &desc.config_size) : NULL;
    for (size_t shift = 0; shift < 4; shift++) { /* exactly as long as it is, for sanitizers */
        sae_dictionary *dict = NULL;
        moved = (char *)malloc(size + shift);
        memcpy(moved + shift, data, size);
        desc.name = file;
        CHECK_OK(plain, sae_dictionary_load_memory(plain, &desc, moved + shift, size, &dict), );
        free(moved); /* not needed afterwards */
        CHECK(dict && same(want, dict), "another dictionary from memory");
        sae_dictionary_destroy(dict);
    }
    free((void *)(uintptr_t)desc.config);
    free(data);
}

static size_t loaded;

static void load_fixture(const sae_json *about, const char *folder, const char *path) {
    sae_dictionary *want = NULL, *got = NULL;
    (void)folder;
    if (!strcmp(common_about_text(about, "expect"), "refuse")
        || sae_dictionary_load(plain, NULL, path, &want) != SAE_OK)
        return; /* a fixture of tensors, or one to be refused */
    loaded++;
    for (int map = 0; map < 2; map++) {
        io_disk disk;
        sae_context *ctx = io_context(&disk, map);
        disk.from_system = true;
        got = NULL;
        CHECK_OK(ctx, sae_dictionary_load(ctx, NULL, path, &got), );
        CHECK(got && same(want, got), "another dictionary through sae_io, map %d", map);
        CHECK(disk.copied == !map, "map %d", map);
        CHECK(disk.open == 0, "%ld files are open", disk.open);
        sae_dictionary_destroy(got);
        disk_clear(&disk);
        sae_context_destroy(ctx);
    }
    memory_fixture(path, want);
    sae_dictionary_destroy(want);
}

/* By the bytes alone, without a name: what the tensors tell. */
static void nameless(void) {
    const char *path = check_path("%s/tests/formats/hub/gemma_scope_npz_square/params.npz", check_root());
    size_t size = 0;
    char *data = check_read(path, &size);
    sae_dictionary *want = NULL, *got = NULL;
    sae_tensor_file *cut = NULL;
    check_test = "nameless";
    CHECK_OK(plain, sae_dictionary_load(plain, NULL, path, &want), goto end);
    CHECK_OK(plain, sae_dictionary_load_memory(plain, NULL, data, size, &got), goto end);
    CHECK(got->origin.format == SAE_FORMAT_GEMMA_SCOPE, "format %d", (int)got->origin.format);
    CHECK(!memcmp(want->params, got->params, want->num_params * sizeof(float)), "other weights");
    CHECK(sae_dictionary_load_memory(plain, NULL, data, size / 3, &got) != SAE_OK
              && strstr(sae_error(plain), "sae_dictionary_load_memory: ") == sae_error(plain),
          "%s", sae_error(plain));
    CHECK(sae_tensor_file_open_memory(plain, "{", 1, &cut) != SAE_OK
              && strstr(sae_error(plain), "sae_tensor_file_open_memory: ") == sae_error(plain),
          "%s", sae_error(plain));
    CHECK(sae_dictionary_load_memory(plain, NULL, data, size / 2, &got) == SAE_ERR_FORMAT
              && strstr(sae_error(plain), "memory: "), "%s", sae_error(plain));
    CHECK(sae_dictionary_load_memory(plain, NULL, NULL, 0, &got) == SAE_ERR_INVALID, "NULL");
    CHECK(sae_dictionary_load_memory(plain, NULL, data, 0, &got) == SAE_ERR_FORMAT, "nothing");
end:
    sae_dictionary_destroy(want);
    sae_dictionary_destroy(got);
    free(data);
    check_test = NULL;
}

/* ---- saving --------------------------------------------------------------------------------------- */

static void same_file(const io_disk *disk, const char *name, const char *folder) {
    size_t size = 0;
    char *want = check_read(check_path("%s/%s", folder, name), &size);
    const io_file *f = disk_find((io_disk *)(uintptr_t)disk, check_path("out/%s", name));
    CHECK(want && f && f->size == size && !memcmp(f->data, want, size), "other bytes of %s", name);
    free(want);
}

static sae_dictionary *example(sae_context *ctx, sae_trainer_kind kind) {
    sae_trainer_desc s = common_trainer(kind, 20, 72, 4, 20);
    sae_dictionary_desc dd = common_dictionary(&s);
    sae_dictionary *dict = NULL;
    CHECK_OK(ctx, sae_dictionary_create(ctx, &dd, &dict), return NULL);
    common_shake(dict, 3, 0, 0.1);
    dict->threshold = dict->threshold < 0 ? 0.25f : dict->threshold;
    return dict;
}

/* Each kind of file that is written, into `folder`. */
static sae_result save_all(sae_context *ctx, const char *folder) {
    static const uint16_t words[6] = { 1, 2, 3, 4, 5, 6 };
    const sae_steering steering = { 3, SAE_STEER_ADD, 2 };
    const sae_format formats[] = { SAE_FORMAT_DICTIONARY_LEARNING, SAE_FORMAT_SAE_LENS,
                                   SAE_FORMAT_SPARSIFY };
    sae_dictionary *dict = example(ctx, SAE_TRAINER_TOP_K);
    sae_tensor t = { "w", SAE_U16, 2, { 2, 3 }, { 0 }, words };
    sae_result result = dict ? SAE_OK : SAE_ERR_INVALID;
    if (result == SAE_OK) result = sae_dictionary_save(dict, check_path("%s/ae.pt", folder));
    if (result == SAE_OK) result = sae_dictionary_save(dict, check_path("%s/a.safetensors", folder));
    if (result == SAE_OK)
        result = sae_tensor_file_write(ctx, check_path("%s/w.npy", folder), &t, 1);
    if (result == SAE_OK)
        result = sae_tensor_file_write(ctx, check_path("%s/w.npz", folder), &t, 1);
    if (result == SAE_OK)
        result = sae_steer_export(dict, &steering, 1, 2, "llama", check_path("%s/v.gguf", folder));
    for (size_t i = 0; i < 3 && result == SAE_OK; i++) {
        sae_export_desc e;
        memset(&e, 0, sizeof e);
        e.format = formats[i];
        result = sae_dictionary_export(dict, &e,
                                       check_path("%s/%s", folder, sae_format_name(formats[i])));
    }
    sae_dictionary_destroy(dict);
    return result;
}

static const char *const saved[] = {
    "ae.pt", "a.safetensors", "w.npy", "w.npz", "v.gguf", "dictionary_learning/ae.pt",
    "dictionary_learning/config.json", "sae_lens/sae_weights.safetensors", "sae_lens/cfg.json",
    "sparsify/sae.safetensors", "sparsify/cfg.json" };
enum { SAVED = sizeof saved / sizeof *saved };

static void saves(void) {
    const char *folder = check_path("%s/saves", check_temp());
    io_disk disk;
    sae_context *ctx = io_context(&disk, false);
    check_test = "saves";
    mkdir(folder, 0777);
    CHECK_OK(plain, save_all(plain, folder), );
    CHECK_OK(ctx, save_all(ctx, "out"), );
    CHECK(disk.count == SAVED, "%d files, want %d", (int)disk.count, (int)SAVED);
    for (size_t i = 0; i < SAVED; i++) same_file(&disk, saved[i], folder);
    disk_clear(&disk);
    sae_context_destroy(ctx);
    check_remove(folder);
    check_test = NULL;
}

static void saves_memory(void) {
    static const char *const names[] = { "ae.pt", "ae.safetensors" };
    const char *folder = check_path("%s/memory", check_temp());
    check_test = "into memory";
    mkdir(folder, 0777);
    for (size_t i = 1; i <= COMMON_KINDS; i++) {
        sae_dictionary *dict = example(plain, (sae_trainer_kind)i), *back = NULL;
        sae_load_desc load;
        memset(&load, 0, sizeof load);
        load.raw = true;
        if (!dict) continue;
        if (dict->desc.layers) { /* made by hand, it has no class's state_dict */
            sae_dictionary_destroy(dict);
            continue;
        }
        load.arch = dict->desc.arch;
        for (size_t n = 0; n < 2; n++) {
            const char *path = check_path("%s/%s", folder, names[n]);
            size_t size = 0, want_size = 0;
            void *data = NULL;
            char *want;
            CHECK_OK(plain, sae_dictionary_save(dict, path), continue);
            CHECK_OK(plain, sae_dictionary_save_memory(dict, names[n], &data, &size), continue);
            want = check_read(path, &want_size);
            CHECK(want && size == want_size && !memcmp(data, want, size), "%s: other bytes", names[n]);
            CHECK_OK(plain, sae_dictionary_load_memory(plain, &load, data, size, &back), continue);
            CHECK(!memcmp(dict->params, back->params, dict->num_params * sizeof(float)),
                  "other weights");
            sae_dictionary_destroy(back);
            sae_context_free(plain, data);
            free(want);
        }
        sae_dictionary_destroy(dict);
    }
    check_remove(folder);
    check_test = NULL;
}

static void tensors_memory(void) {
    static const char *const names[] = { "t.npy", "t.npz", "t.safetensors", "t.pt" };
    static const float values[6] = { 0, 1, 2, 3, 4, 5 };
    const sae_tensor t = { "w", SAE_F32, 2, { 2, 3 }, { 0 }, values };
    check_test = "tensors in memory";
    for (size_t i = 0; i < 4; i++) {
        const char *path = check_path("%s/%s", check_temp(), names[i]);
        size_t size = 0, want_size = 0;
        void *data = NULL;
        char *want;
        float out[6] = { 0 };
        sae_tensor_file *file = NULL;
        CHECK_OK(plain, sae_tensor_file_write(plain, path, &t, 1), continue);
        CHECK_OK(plain, sae_tensor_file_write_memory(plain, names[i], &t, 1, &data, &size), continue);
        want = check_read(path, &want_size);
        CHECK(want && size == want_size && !memcmp(data, want, size), "%s: other bytes", names[i]);
        CHECK_OK(plain, sae_tensor_file_open_memory(plain, data, size, &file), continue);
        CHECK((const char *)sae_tensor_file_get(file, 0)->data > (const char *)data
                  && (const char *)sae_tensor_file_get(file, 0)->data < (const char *)data + size,
              "%s was copied", names[i]);
        sae_tensor_to_f32(sae_tensor_file_get(file, 0), out);
        CHECK(!memcmp(out, values, sizeof out), "other values");
        sae_tensor_file_close(file);
        sae_context_free(plain, data);
        free(want);
    }
    check_test = NULL;
}

/* ---- training ------------------------------------------------------------------------------------- */

static bool stop_at_5(void *user, const sae_progress *p) {
    (void)user;
    return p->step < 5;
}

/* Activations read, checkpoints, a backup, a resume, the finished run. */
static sae_result train(sae_context *ctx, const char *folder, const char *rows) {
    const char *files[1];
    const uint64_t save_steps[] = { 2 };
    sae_trainer_desc trainer = common_trainer(SAE_TRAINER_TOP_K, 8, 24, 16, 8);
    sae_train_desc desc;
    sae_result result;
    memset(&desc, 0, sizeof desc);
    files[0] = rows;
    desc.buffer.source.files = files;
    desc.buffer.source.num_files = 1;
    desc.buffer.batch_size = 16;
    desc.buffer.rows = 64;
    desc.trainers = &trainer;
    desc.num_trainers = 1;
    desc.steps = 8;
    desc.save_dir = folder;
    desc.save_steps = save_steps;
    desc.num_save_steps = 1;
    desc.backup_steps = 3;
    desc.progress = stop_at_5;
    result = sae_train(ctx, &desc);
    if (result != SAE_ERR_CANCELLED) return result == SAE_OK ? SAE_ERR_INVALID : result;
    desc.progress = NULL;
    desc.resume = true;
    return sae_train(ctx, &desc);
}

static const char *rows_file(void) {
    const char *path = check_path("%s/rows.npy", check_temp());
    static float x[256 * 8];
    sae_tensor t = { "", SAE_F32, 2, { 256, 8 }, { 0 }, x };
    check_activations(4, x, 256, 8);
    CHECK_OK(plain, sae_tensor_file_write(plain, path, &t, 1), );
    return path;
}

static void trains(void) {
    char folder[512], rows[512];
    static const char *const names[] = { "trainer_0/ae.pt", "trainer_0/ae.safetensors",
                                         "trainer_0/config.json", "trainer_0/checkpoints/ae_2.pt" };
    io_disk disk;
    sae_context *ctx = io_context(&disk, false);
    check_test = "trains";
    snprintf(folder, sizeof folder, "%s/trains", check_temp());
    snprintf(rows, sizeof rows, "%s", rows_file());
    disk.from_system = true;
    CHECK_OK(plain, train(plain, folder, rows), );
    CHECK_OK(ctx, train(ctx, "out", rows), );
    for (size_t i = 0; i < 4; i++) same_file(&disk, names[i], folder);
    CHECK(disk.count == 5, "%d files, want the four and the rows", (int)disk.count);
    CHECK(disk.open == 0, "%ld files are open", disk.open);
    disk_clear(&disk);
    sae_context_destroy(ctx);
    check_remove(folder);
    check_test = NULL;
}

/* ---- failures ------------------------------------------------------------------------------------- */

static sae_result load_once(sae_context *ctx, const char *path) {
    sae_dictionary *dict = NULL;
    sae_result result = sae_dictionary_load(ctx, NULL, path, &dict);
    CHECK((result == SAE_OK) == (dict != NULL), "%s with a dictionary", sae_result_name(result));
    sae_dictionary_destroy(dict);
    return result;
}
static sae_result save_once(sae_context *ctx, const char *path) {
    (void)path;
    return save_all(ctx, "out");
}
static sae_result train_once(sae_context *ctx, const char *path) { return train(ctx, "out", path); }

/* Call after call fails, until none is left to. lenient: closing what was read may fail unseen, and
   a config.json that cannot be read counts as none. */
static void every_call(const char *name, sae_result (*work)(sae_context *, const char *),
                       const char *path, bool map) {
    check_test = name;
    for (long at = 0, failed = 0; at < 2000; at++) {
        io_disk disk;
        long live = common_memory.live;
        sae_context *ctx = io_context(&disk, map);
        sae_result result;
        disk.from_system = true;
        disk.fail_at = at;
        result = work(ctx, path);
        if (result != SAE_OK) {
            failed++;
            CHECK(result == SAE_ERR_IO || result == SAE_ERR_OUT_OF_MEMORY, "call %ld gives %s", at,
                  sae_result_name(result));
            CHECK(strlen(sae_error(ctx)) > 10, "call %ld: no sentence", at);
        }
        CHECK(disk.open == 0, "call %ld: %ld files are open", at, disk.open);
        for (size_t i = 0; i < disk.count; i++)
            CHECK(!strstr(disk.files[i].path, ".tmp"), "call %ld leaves %s", at, disk.files[i].path);
        if (disk.calls <= at) { /* it never came to that call */
            CHECK(result == SAE_OK && failed > at / 2, "%ld of %ld calls fail", failed, at);
            at = 2000;
        }
        disk_clear(&disk);
        sae_context_destroy(ctx);
        CHECK(common_memory.live == live, "call %ld: %ld blocks are lost", at,
              common_memory.live - live);
    }
    check_test = NULL;
}

static void refused(void) {
    sae_context_desc desc;
    sae_io io;
    sae_context *ctx = NULL;
    io_disk disk;
    sae_dictionary *dict;
    check_test = "refused";
    memset(&desc, 0, sizeof desc);
    memset(&io, 0, sizeof io);
    desc.io = &io;
    io.open = io_open;
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID, "open alone");
    io.size = io_size;
    io.read = io_read;
    io.close = io_close;
    io.write = io_write;
    CHECK(sae_context_create(&desc, &ctx) == SAE_ERR_INVALID, "write without rename");
    io.write = NULL;
    io.user = &disk;
    memset(&disk, 0, sizeof disk);
    disk.fail_at = -1;
    CHECK_OK(ctx, sae_context_create(&desc, &ctx), return);
    dict = example(ctx, SAE_TRAINER_STANDARD);
    CHECK(sae_dictionary_save(dict, "ae.pt") == SAE_ERR_UNSUPPORTED
              && strstr(sae_error(ctx), "no write"), "%s", sae_error(ctx));
    CHECK(sae_dictionary_load(ctx, NULL, "nowhere", &dict) == SAE_ERR_NOT_FOUND, "found");
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    check_test = NULL;
}

int main(void) {
    char top_k[512], rows[512];
    snprintf(top_k, sizeof top_k, "%s/tests/fixtures/ours_top_k", check_root());
    plain = check_context(1);
    common_fixtures(plain, check_path("%s/tests/fixtures", check_root()), load_fixture);
    common_fixtures(plain, check_path("%s/tests/formats", check_root()), load_fixture);
    CHECK(loaded >= 37, "%d fixtures", (int)loaded);
    nameless();
    saves();
    saves_memory();
    tensors_memory();
    trains();
    snprintf(rows, sizeof rows, "%s", rows_file());
    every_call("load, call by call", load_once, top_k, false);
    every_call("load mapped, call by call", load_once, top_k, true);
    every_call("save, call by call", save_once, NULL, false);
    every_call("train, call by call", train_once, rows, false);
    refused();
    sae_context_destroy(plain);
    check_remove(check_temp());
    return check_end();
}
