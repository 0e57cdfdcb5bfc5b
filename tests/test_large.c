/*  Proves: of a dictionary far larger than what it may take of memory, some latents open with their
    numbers, and its tensors are listed, without reading the rest. A cross-layer transcoder of that
    size encodes and reconstructs: of its decoders the rows of the latents that fire are read.
    Oracle: the numbers written at these places of a 17 GB params.npz of Gemma Scope's layout, a file of
    holes laid out here by the zip specification (zip64 sizes and offsets, as numpy.savez writes them);
    the peak of the process's memory as the system tells it (Linux; elsewhere that part is skipped).
    The cross-layer transcoder: 17 GB in circuit-tracer's 256 files, rows of whole numbers in holes.
    Tolerance: none; at most 64 MiB, of the other its encoders (256 MiB) and 128 MiB. */
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

/* ---- a cross-layer transcoder of holes ------------------------------------------------------- */

enum { LAYERS = 128, WIDTH = 256, LATENTS = 4096, FIRING = 3 };
static const struct { size_t layer, latent; } firing[FIRING] = {
    { 0, 17 }, { 5, LATENTS - 1 }, { LAYERS - 1, 0 }
};

static unsigned short bf16(float v) { /* of what it can say */
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (unsigned short)(bits >> 16);
}
static float clt_enc(size_t k, size_t c) { return c == k ? 2 : c == 100 + k ? 1 : 0; }
static float clt_dec(size_t k, size_t to, size_t c) {
    return (float)((k * 3 + to * 5 + c) % 17) - 8;
}

static void clt_open_file(const char *folder, const char *kind, size_t i, const char *header,
                          uint64_t size) {
    char length[8];
    const size_t n = strlen(header);
    fd = open(check_path("%s/W_%s_%zu.safetensors", folder, kind, i), O_RDWR | O_CREAT, 0666);
    good = good && fd >= 0;
    le(length, n, 8);
    put(length, 8, 0);
    put(header, n, 8);
    good = good && ftruncate(fd, (off_t)(8 + n + size)) == 0;
}

static bool write_clt(const char *folder) {
    for (size_t i = 0; i < LAYERS && good; i++) {
        const uint64_t enc_size = 2 * (uint64_t)LATENTS * WIDTH, b_enc_end = enc_size + 2 * LATENTS;
        const uint64_t dec_size = enc_size * (LAYERS - i);
        const char *enc_header = check_path(
            "{\"W_enc_%zu\":{\"dtype\":\"BF16\",\"shape\":[%d,%d],\"data_offsets\":[0,%.0f]},"
            "\"b_enc_%zu\":{\"dtype\":\"BF16\",\"shape\":[%d],\"data_offsets\":[%.0f,%.0f]},"
            "\"b_dec_%zu\":{\"dtype\":\"BF16\",\"shape\":[%d],\"data_offsets\":[%.0f,%.0f]}}",
            i, LATENTS, WIDTH, (double)enc_size, i, LATENTS, (double)enc_size, (double)b_enc_end,
            i, WIDTH, (double)b_enc_end, (double)(b_enc_end + 2 * WIDTH));
        const char *dec_header = check_path(
            "{\"W_dec_%zu\":{\"dtype\":\"BF16\",\"shape\":[%d,%zu,%d],\"data_offsets\":[0,%.0f]}}",
            i, LATENTS, LAYERS - i, WIDTH, (double)dec_size);
        unsigned short row[WIDTH];
        clt_open_file(folder, "enc", i, enc_header, b_enc_end + 2 * WIDTH);
        for (size_t k = 0; k < FIRING; k++) {
            if (firing[k].layer != i) continue;
            for (size_t c = 0; c < WIDTH; c++) row[c] = bf16(clt_enc(k, c));
            put(row, sizeof row, 8 + strlen(enc_header) + 2 * WIDTH * firing[k].latent);
        }
        for (size_t c = 0; c < WIDTH; c++) row[c] = bf16((float)(i % 8));
        put(row, sizeof row, 8 + strlen(enc_header) + b_enc_end);
        close(fd);
        clt_open_file(folder, "dec", i, dec_header, dec_size);
        for (size_t k = 0; k < FIRING; k++) {
            if (firing[k].layer != i) continue;
            for (size_t to = i; to < LAYERS; to++) {
                for (size_t c = 0; c < WIDTH; c++) row[c] = bf16(clt_dec(k, to, c));
                put(row, sizeof row, 8 + strlen(dec_header)
                                         + 2 * WIDTH * (firing[k].latent * (LAYERS - i) + to - i));
            }
        }
        close(fd);
    }
    return good;
}

static void check_clt(sae_context *ctx, const sae_clt *clt) {
    enum { ROWS = 2 };
    const size_t d = (size_t)LAYERS * WIDTH, m = (size_t)LAYERS * LATENTS;
    float *x = (float *)calloc(ROWS * d, sizeof *x), *x_hat = (float *)calloc(ROWS * d, sizeof *x);
    float *f = (float *)calloc(ROWS * m, sizeof *f), code[FIRING];
    size_t fired = 0;
    for (size_t k = 0; k < FIRING; k++) { /* in the first row all fire, in the second none */
        x[firing[k].layer * WIDTH + k] = (float)(k + 1);
        x[firing[k].layer * WIDTH + 100 + k] = 1;
        x[d + firing[k].layer * WIDTH + k] = -1;
        code[k] = 2 * (float)(k + 1) + 1;
    }
    CHECK_OK(ctx, sae_clt_forward(clt, x, ROWS, x_hat, f), (void)0);
    for (size_t i = 0; i < ROWS * m; i++) fired += f[i] != 0;
    CHECK(fired == FIRING, "%zu fire", fired);
    for (size_t k = 0; k < FIRING; k++)
        CHECK(f[firing[k].layer * LATENTS + firing[k].latent] == code[k], "code %zu", k);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t to = 0; to < LAYERS; to++)
            for (size_t c = 0; c < WIDTH; c++) {
                float want = (float)(to % 8);
                for (size_t k = 0; k < FIRING && r == 0; k++)
                    if (firing[k].layer <= to) want += code[k] * clt_dec(k, to, c);
                CHECK(x_hat[r * d + to * WIDTH + c] == want, "row %zu, layer %zu, column %zu: %g",
                      r, to, c, (double)x_hat[r * d + to * WIDTH + c]);
            }
    free(x);
    free(x_hat);
    free(f);
}

static void test_clt(sae_context *ctx) {
    char folder[1024];
    sae_clt *clt = NULL;
    double before = peak();
    /* on a disk: what is read of a hole in memory becomes memory */
    snprintf(folder, sizeof folder, "%s/sae_large_XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR")
                                                                            : "/tmp");
    if (!mkdtemp(folder) || !write_clt(folder)) SKIP("no room for files of 17 GB of holes");
    else {
        CHECK_OK(ctx, sae_clt_open(ctx, NULL, folder, &clt), (void)0);
        if (clt) check_clt(ctx, clt);
        sae_clt_close(clt);
        if (before == 0) SKIP("the system does not tell the peak of memory");
        else CHECK(peak() - before < 384 << 20, "it took %.0f MiB", (peak() - before) / (1 << 20));
    }
    check_remove(folder);
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
    check_remove(check_temp());
    test_clt(ctx);
    sae_context_destroy(ctx);
    return check_end();
}
