/*  Proves: of a dictionary far larger than what it may take of memory, some latents open with their
    numbers, and its tensors are listed, without reading the rest.
    Oracle: the numbers written at these places of a 17 GB params.npz of Gemma Scope's layout, a file of
    holes laid out here by the zip specification (zip64 sizes and offsets, as numpy.savez writes them);
    the peak of the process's memory as the system tells it (Linux; elsewhere that part is skipped).
    Tolerance: none; at most 64 MiB. */
#define _FILE_OFFSET_BITS 64
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "inside.h"
#include <fcntl.h>

enum { D = 2048, M = 1 << 20, FIRST = 777001, COUNT = 5, HEADER = 128 };

static float enc(size_t i, size_t c) { return (float)((i * 7 + c * 3) % 33) / 16 - 1; }
static float dec(size_t i, size_t c) { return (float)((i * 5 + c) % 31) / 16 - 1; }

/* The peak of resident memory in bytes; 0: not told. */
static double peak(void) {
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kib) == 1) break;
    if (f) fclose(f);
    return 1024 * kib;
}

/* ---- a zip of holes -------------------------------------------------------------------------- */

static int fd;
static uint64_t end; /* of what is laid out so far */
static char directory[1024];
static size_t directory_size;
static bool good = true;

static void put(const void *data, size_t size, uint64_t at) {
    good = good && pwrite(fd, data, size, (off_t)at) == (ssize_t)size;
}
static size_t le(char *at, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) at[i] = (char)(unsigned char)(value >> 8 * i);
    return bytes;
}

/* CRC-32 bit by bit: few bytes have one. */
static uint32_t crc32(uint32_t crc, const void *data, size_t size) {
    const unsigned char *at = (const unsigned char *)data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* A .npy of float32 [rows] or [rows,cols]: all its data with the right CRC-32, or (NULL) a hole, with
   none; returns where its data lies. */
static uint64_t add(const char *name, size_t rows, size_t cols, const float *all) {
    char local[64], npy[HEADER + 1], *d = directory + directory_size;
    uint32_t crc = 0;
    uint64_t size = HEADER + 4 * (uint64_t)rows * (cols ? cols : 1), at = end;
    size_t n = strlen(name), k = 0;
    k += le(local, 0x04034b50, 4);
    k += le(local + k, 45, 2);
    memset(local + k, 0, 12), k += 12;    /* flags, method, time, date, CRC: that of the directory */
    k += le(local + k, 0xFFFFFFFFu, 4);
    k += le(local + k, 0xFFFFFFFFu, 4);
    k += le(local + k, n, 2);
    k += le(local + k, 20, 2);
    put(local, k, at);
    put(name, n, at + k);
    n += k;
    k = le(local, 1 | 16 << 16, 4);
    k += le(local + k, size, 8);
    k += le(local + k, size, 8);
    put(local, k, at + n);
    n += k;
    memset(npy, ' ', HEADER);
    memcpy(npy, "\x93NUMPY\x01", 8);
    le(npy + 8, HEADER - 10, 2);
    k = 10 + (size_t)snprintf(npy + 10, HEADER - 10,
                              "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu,", rows);
    if (cols) k += (size_t)snprintf(npy + k, HEADER - k, " %zu", cols);
    k += (size_t)snprintf(npy + k, HEADER - k, "), }");
    npy[k] = ' ';
    npy[HEADER - 1] = '\n';
    put(npy, HEADER, at + n);
    if (all) {
        crc = crc32(crc32(0, npy, HEADER), all, rows * sizeof *all);
        put(all, rows * sizeof *all, at + n + HEADER);
    }
    end = at + n + size;
    d += le(d, 0x02014b50, 4);
    d += le(d, 45 | 45 << 16, 4);
    memset(d, 0, 8), d += 8;
    d += le(d, crc, 4);
    d += le(d, 0xFFFFFFFFu, 4);
    d += le(d, 0xFFFFFFFFu, 4);
    d += le(d, strlen(name), 2);
    d += le(d, 28, 2);
    memset(d, 0, 10), d += 10;
    d += le(d, 0xFFFFFFFFu, 4);
    memcpy(d, name, strlen(name)), d += strlen(name);
    d += le(d, 1 | 24 << 16, 4);
    d += le(d, size, 8);
    d += le(d, size, 8);
    d += le(d, at, 8);
    directory_size = (size_t)(d - directory);
    return at + n + HEADER;
}

static void finish(size_t entries) {
    char tail[128];
    size_t k = 0;
    put(directory, directory_size, end);
    k += le(tail, 0x06064b50, 4);
    k += le(tail + k, 44, 8);
    k += le(tail + k, 45 | 45 << 16, 4);
    memset(tail + k, 0, 8), k += 8;
    k += le(tail + k, entries, 8);
    k += le(tail + k, entries, 8);
    k += le(tail + k, directory_size, 8);
    k += le(tail + k, end, 8);
    k += le(tail + k, 0x07064b50, 4);
    memset(tail + k, 0, 4), k += 4;
    k += le(tail + k, end + directory_size, 8);
    k += le(tail + k, 1, 4);
    k += le(tail + k, 0x06054b50, 4);
    memset(tail + k, 0, 4), k += 4;
    k += le(tail + k, 0xFFFFFFFFu, 4);
    k += le(tail + k, 0xFFFFFFFFu, 4);
    k += le(tail + k, 0xFFFFFFFFu, 4);
    memset(tail + k, 0, 2), k += 2;
    put(tail, k, end + directory_size);
}

static bool write_file(const char *path) {
    float row[D], some[COUNT], threshold[COUNT];
    uint64_t at;
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    if (fd < 0) return false;
    at = add("W_enc.npy", D, M, NULL);
    for (size_t c = 0; c < D; c++) {
        for (size_t i = 0; i < COUNT; i++) some[i] = enc(FIRST + i, c);
        put(some, sizeof some, at + 4 * ((uint64_t)c * M + FIRST));
    }
    at = add("W_dec.npy", M, D, NULL);
    for (size_t i = 0; i < COUNT; i++) {
        for (size_t c = 0; c < D; c++) row[c] = dec(FIRST + i, c);
        put(row, sizeof row, at + 4 * (uint64_t)D * (FIRST + i));
    }
    for (size_t i = 0; i < COUNT; i++) some[i] = (float)i - 2, threshold[i] = (float)i + 0.5f;
    put(some, sizeof some, add("b_enc.npy", M, 0, NULL) + 4 * FIRST);
    put(threshold, sizeof threshold, add("threshold.npy", M, 0, NULL) + 4 * FIRST);
    for (size_t c = 0; c < D; c++) row[c] = (float)c;
    add("b_dec.npy", D, 0, row);
    finish(5);
    return close(fd) == 0 && good;
}

int main(void) {
    sae_context *ctx = check_context(1);
    const char *path = check_path("%s/params.npz", check_temp());
    sae_load_desc some = { SAE_ARCH_DEFAULT, 0, false, false, FIRST, COUNT, NULL, 0, NULL, 0 };
    sae_dictionary *dict = NULL;
    sae_tensor_file *file = NULL;
    double before = peak();
    if (!ctx) return check_end();
    if (sizeof(size_t) < 8 || !write_file(path)) {
        SKIP("no room for a file of 17 GB of holes");
        check_remove(check_temp());
        return check_end();
    }
    CHECK_OK(ctx, sae_tensor_file_open(ctx, path, &file), (void)0);
    CHECK(sae_tensor_file_count(file) == 5, "%d tensors", (int)sae_tensor_file_count(file));
    CHECK(file && sae_tensor_file_find(file, "W_enc")->shape[1] == M, "another shape");
    sae_tensor_file_close(file);
    CHECK_OK(ctx, sae_dictionary_load(ctx, &some, path, &dict), (void)0);
    if (dict) {
        sae_dictionary_desc info = *sae_dictionary_get_desc(dict);
        sae_origin origin = *sae_dictionary_origin(dict);
        CHECK(info.arch == SAE_ARCH_JUMP_RELU && info.activation_dim == D
                  && info.dict_size == COUNT, "%d latents of %d", (int)info.dict_size,
              (int)info.activation_dim);
        CHECK(origin.dict_size == M && origin.first_latent == FIRST, "of %d",
              (int)origin.dict_size);
        for (size_t i = 0; i < COUNT; i++) {
            for (size_t c = 0; c < D; c++)
                CHECK(sae_dictionary_encoder_row(dict, i)[c] == enc(FIRST + i, c)
                          && sae_dictionary_decoder_row(dict, i)[c] == dec(FIRST + i, c),
                      "latent %d, column %d", (int)i, (int)c);
            CHECK(dict->b_enc[i] == (float)i - 2 && dict->aux0[i] == (float)i + 0.5f,
                  "biases of latent %d", (int)i);
        }
        for (size_t c = 0; c < D; c++) CHECK(dict->b_dec[c] == (float)c, "b_dec %d", (int)c);
    }
    sae_dictionary_destroy(dict);
    if (before == 0) SKIP("the system does not tell the peak of memory");
    else CHECK(peak() - before < 64 << 20, "it took %.0f MiB", (peak() - before) / (1 << 20));
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
