/* Proves: the readers end in success or in an error with a sentence, without asking for memory out
   of proportion, on every fixture, on everything the fuzzers ever found, and on a few hundred
   damaged copies of each kind of file: cut short, bits flipped. Built with sanitizers (CFLAGS) the
   same run shows reads out of bounds. Oracle: the checks of tests/fuzz/fuzz.h, which abort.
   usage: test_fuzz_corpus [FOLDER...]: runs the files of these folders, by their ending, too */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#define FUZZ_REPLAY
#include "fuzz/fuzz.h"
#include "fuzz/fuzz_zip.c"
#include "fuzz/fuzz_safetensors.c"
#include "fuzz/fuzz_npy.c"
#include "fuzz/fuzz_gguf.c"
#include "fuzz/fuzz_json.c"
#include "fuzz/fuzz_folder.c"

static const struct target {
    const char *name, *ending;
    void (*run)(const uint8_t *data, size_t size);
} targets[] = {
    { "zip", ".pt", fuzz_zip },
    { "zip", ".npz", fuzz_zip },
    { "safetensors", ".safetensors", fuzz_safetensors },
    { "npy", ".npy", fuzz_npy },
    { "gguf", ".gguf", fuzz_gguf },
    { "json", ".json", fuzz_json },
    { "folder", ".folder", fuzz_folder },
};
enum { TARGETS = sizeof targets / sizeof targets[0] };

static size_t inputs, runs;

/* The input from memory of exactly its size, so that a sanitizer sees the byte behind it. */
static void run_exact(const struct target *t, const char *data, size_t size) {
    uint8_t *copy = (uint8_t *)malloc(size ? size : 1);
    memcpy(copy, data, size);
    t->run(copy, size);
    free(copy);
    runs++;
}

/* Changes one bit or byte of data, or cuts it short; returns the size it then has. */
static size_t damage(char *data, size_t size, size_t i, check_rng *rng) {
    size_t at = (size_t)(check_bits(rng) % size);
    if (i % 4 == 0) return at;
    if (i % 4 == 3) at = at % 256 % size; /* headers are in front */
    data[at] = (char)(i % 8 == 1 ? 0xFF : data[at] ^ 1 << check_bits(rng) % 8);
    return size;
}

/* The input, and copies of it cut short and with one bit or byte changed. */
static void run_input(const struct target *t, const char *path, const char *data, size_t size,
                      size_t damaged) {
    check_rng rng = { size };
    char *copy = (char *)malloc(size + 1);
    fuzz_input = path;
    inputs++;
    run_exact(t, data, size);
    for (size_t i = 0; i < damaged && size; i++) {
        memcpy(copy, data, size);
        run_exact(t, copy, damage(copy, size, i, &rng));
    }
    free(copy);
}

static void run_file(const char *path, size_t damaged) {
    size_t size = 0;
    char *data;
    for (size_t i = 0; i < TARGETS; i++) {
        size_t n = strlen(path), e = strlen(targets[i].ending);
        if (n < e || strcmp(path + n - e, targets[i].ending)) continue;
        data = check_read(path, &size);
        if (data) run_input(&targets[i], path, data, size, damaged);
        free(data);
    }
}

/* A folder with one of the pairs of fuzz_folder.c, as that fuzzer takes it. */
static void run_folder(const char *folder, size_t damaged) {
    for (size_t i = 0; i < sizeof fuzz_folder_files / sizeof fuzz_folder_files[0]; i++) {
        const char *weights_path = check_path("%s/%s", folder, fuzz_folder_files[i][1]);
        size_t config_size = 0, size = 0, head;
        char *config, *weights = check_read(weights_path, &size), *input;
        if (!weights) continue;
        config = check_read(check_path("%s/%s", folder, fuzz_folder_files[i][0]), &config_size);
        input = (char *)malloc(config_size + size + 32);
        head = (size_t)snprintf(input, 32, "%c%zu\n", (int)('a' + i), config_size);
        if (config) memcpy(input + head, config, config_size);
        memcpy(input + head + config_size, weights, size);
        run_input(&targets[TARGETS - 1], weights_path, input, head + config_size + size, damaged);
        free(input);
        free(config);
        free(weights);
    }
}

static void walk(const char *folder, size_t damaged) {
    DIR *dir = opendir(folder);
    struct dirent *e;
    if (!dir) return;
    run_folder(folder, damaged);
    while ((e = readdir(dir)) != NULL) {
        char path[1024];
        struct stat s;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (e->d_name[0] == '.' || stat(path, &s) != 0) continue;
        if (S_ISDIR(s.st_mode)) walk(path, damaged);
        else run_file(path, damaged);
    }
    closedir(dir);
}

/* ---- cross-layer transcoders, of several files ----------------------------------------------- */

static struct { char name[1024]; char *data; size_t size; } parts[32];
static size_t num_parts;

/* The files under folder, all but the arrays that go with a fixture; copies of them under to. */
static void copy_parts(const char *folder, const char *to) {
    DIR *dir = opendir(folder);
    struct dirent *e;
    mkdir(to, 0777);
    while (dir && (e = readdir(dir)) != NULL) {
        char path[1024], copy[1024];
        struct stat s;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        snprintf(copy, sizeof copy, "%s/%s", to, e->d_name);
        if (e->d_name[0] == '.' || strstr(e->d_name, ".npy") || stat(path, &s) != 0) continue;
        if (S_ISDIR(s.st_mode)) copy_parts(path, copy);
        else if (num_parts < sizeof parts / sizeof parts[0]) {
            snprintf(parts[num_parts].name, sizeof parts[0].name, "%s", copy);
            parts[num_parts].data = check_read(path, &parts[num_parts].size);
            if (parts[num_parts].data) {
                fuzz_write(copy, (const uint8_t *)parts[num_parts].data, parts[num_parts].size);
                num_parts++;
            }
        }
    }
    if (dir) closedir(dir);
}

static void run_layers_once(const char *folder, size_t size) {
    sae_context *ctx = fuzz_context(16 * size, 1);
    sae_dictionary *dict = NULL;
    fuzz_folder_layers(ctx, folder);
    fuzz_limit = ((size_t)1 << 20) + 64 * 16 * size;
    fuzz_ok(ctx, sae_dictionary_load(ctx, NULL, folder, &dict));
    sae_dictionary_destroy(dict);
    sae_context_destroy(ctx);
    runs++;
}

/* Every file of the fixture damaged in turn, the others whole. */
static void run_layers(const char *fixture, size_t damaged) {
    const char *folder = check_path("%s/layers", check_temp());
    check_rng rng = { 1 };
    size_t all = 0;
    num_parts = 0;
    fuzz_input = fixture;
    copy_parts(fixture, folder);
    for (size_t i = 0; i < num_parts; i++) all += parts[i].size;
    run_layers_once(folder, all);
    for (size_t i = 0; i < num_parts; i++) {
        char *copy = (char *)malloc(parts[i].size + 1);
        for (size_t k = 0; k < damaged && parts[i].size; k++) {
            size_t size;
            memcpy(copy, parts[i].data, parts[i].size);
            size = damage(copy, parts[i].size, k, &rng);
            fuzz_write(parts[i].name, (const uint8_t *)copy, size);
            run_layers_once(folder, all);
        }
        fuzz_write(parts[i].name, (const uint8_t *)parts[i].data, parts[i].size);
        free(copy);
    }
    inputs += num_parts;
    while (num_parts) free(parts[--num_parts].data);
    check_remove(folder);
}

static void test_layers(void) {
    const char *folder = check_path("%s/tests/layers", check_root());
    DIR *dir = opendir(folder);
    struct dirent *e;
    CHECK(dir, "no %s", folder);
    while (dir && (e = readdir(dir)) != NULL)
        if (e->d_name[0] != '.') run_layers(check_path("%s/%s", folder, e->d_name), 48);
    if (dir) closedir(dir);
    check_remove(check_temp());
}

int main(int argc, char **argv) {
    char folder[1024];
    for (int i = 1; i < argc; i++) walk(argv[i], 0);
    for (size_t i = 0; i < TARGETS; i++) { /* names there are of no matter */
        snprintf(folder, sizeof folder, "%s/tests/fuzz/findings/%s", check_root(), targets[i].name);
        DIR *dir = opendir(folder);
        struct dirent *e;
        while (dir && (e = readdir(dir)) != NULL) {
            size_t size = 0;
            char path[2048], *data;
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            if (e->d_name[0] == '.' || !(data = check_read(path, &size))) continue;
            run_input(&targets[i], path, data, size, 0);
            free(data);
        }
        if (dir) closedir(dir);
    }
    snprintf(folder, sizeof folder, "%s/tests/fixtures", check_root());
    walk(folder, 64);
    CHECK(inputs >= 50, "only %zu inputs under %s", inputs, folder);
    snprintf(folder, sizeof folder, "%s/tests/formats/layouts", check_root());
    walk(folder, 24);
    snprintf(folder, sizeof folder, "%s/tests/layers", check_root());
    walk(folder, 24);
    test_layers();
    snprintf(folder, sizeof folder, "%s/fixtures", check_shared());
    if (check_exists(folder)) walk(folder, 12);
    else SKIP("%s is not there: only tests/fixtures were run", folder);
    printf("%zu inputs, %zu runs\n", inputs, runs);
    CHECK(runs > inputs, "no damaged copy was run");
    return check_end();
}
