/* Fuzzes the reader of .npy, and of .npz: with the first byte 'z' the rest is laid as the one array
   of a stored zip whose CRC-32 is right. Seeds: .npy files, plain and with a 'z' in front. */
#include "fuzz.h"

static uint8_t *fuzz_npy_put(uint8_t *at, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++) *at++ = (uint8_t)(value >> 8 * i);
    return at;
}

/* The 26 bytes that a local header and a directory entry share, from "version needed" on. */
static uint8_t *fuzz_npy_entry(uint8_t *at, uint32_t crc, size_t size) {
    at = fuzz_npy_put(at, 20, 2);
    memset(at, 0, 8); /* flags, method, time, date */
    at = fuzz_npy_put(at + 8, crc, 4);
    at = fuzz_npy_put(at, (uint32_t)size, 4);
    at = fuzz_npy_put(at, (uint32_t)size, 4);
    at = fuzz_npy_put(at, 5, 2); /* of the name */
    return fuzz_npy_put(at, 0, 2);
}

FUZZ(npy) {
    sae_context *ctx = fuzz_context(size, 0);
    fuzz_tensors(ctx, "fuzz.npy", data, size);
    if (size > 1 && data[0] == 'z') {
        size_t n = size - 1;
        uint8_t *zip = (uint8_t *)malloc(n + 35 + 51 + 22), *at = fuzz_npy_put(zip, 0x04034b50, 4);
        saei_crc_table table;
    uint32_t crc;
        saei_crc_tables(&table);
        crc = saei_crc(&table, 0, data + 1, n);
        at = fuzz_npy_entry(at, crc, n);
        memcpy(at, "a.npy", 5);
        memcpy(at + 5, data + 1, n);
        at = fuzz_npy_put(at + 5 + n, 0x02014b50, 4);
        at = fuzz_npy_put(at, 20, 2);
        at = fuzz_npy_entry(at, crc, n);
        memset(at, 0, 14); /* comment, disk, attributes, offset */
        memcpy(at + 14, "a.npy", 5);
        at = fuzz_npy_put(at + 19, 0x06054b50, 4);
        at = fuzz_npy_put(at, 0, 4);
        at = fuzz_npy_put(at, 0x00010001, 4);
        at = fuzz_npy_put(at, 51, 4);
        at = fuzz_npy_put(at, (uint32_t)(35 + n), 4);
        at = fuzz_npy_put(at, 0, 2);
        if (fuzz_tensors(ctx, "fuzz.npz", zip, (size_t)(at - zip)) != SAE_OK) /* the zip is good */
            FUZZ_REQUIRE(strstr(sae_error(ctx), "array \"a\"") || strstr(sae_error(ctx), ".npy"));
        free(zip);
    }
    sae_context_destroy(ctx);
}
