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

/* The input, and copies of it cut short and with one bit or byte changed. */
static void run_input(const struct target *t, const char *path, const char *data, size_t size,
                      size_t damaged) {
    check_rng rng = { size };
    char *copy = (char *)malloc(size + 1);
    fuzz_input = path;
    inputs++;
    run_exact(t, data, size);
    for (size_t i = 0; i < damaged && size; i++) {
        size_t at = (size_t)(check_bits(&rng) % size);
        memcpy(copy, data, size);
        if (i % 4 == 0) run_exact(t, copy, at);
        else {
            if (i % 4 == 3) at = at % 256 % size; /* headers are in front */
            copy[at] = (char)(i % 8 == 1 ? 0xFF : copy[at] ^ 1 << check_bits(&rng) % 8);
            run_exact(t, copy, size);
        }
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
    snprintf(folder, sizeof folder, "%s/fixtures", check_shared());
    if (check_exists(folder)) walk(folder, 12);
    else SKIP("%s is not there: only tests/fixtures were run", folder);
    printf("%zu inputs, %zu runs\n", inputs, runs);
    CHECK(runs > inputs, "no damaged copy was run");
    return check_end();
}
