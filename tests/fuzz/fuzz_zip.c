/* Fuzzes the zip reader and what lies in a zip: the pickle of torch.save's files, the arrays
   of numpy.savez. Seeds: .pt and .npz files. A mutation nearly always breaks an entry's CRC-32, and
   the reader stops there, so the input is then tried again with the right ones. */
#include "fuzz.h"

static void fuzz_zip_repair(uint8_t *d, size_t n) {
    saei_crc_table table;
    uint32_t crc;
    saei_crc_tables(&table);
    for (size_t i = 0; i + 46 <= n; i++) {
        size_t size, at;
        if (saei_le32(d + i) != 0x02014b50) continue;
        size = saei_le32(d + i + 24);
        at = saei_le32(d + i + 42);
        if (at > n || n - at < 30) continue;
        at += 30 + saei_le16(d + at + 26) + saei_le16(d + at + 28);
        if (at > n || size > n - at) continue;
        crc = saei_crc(&table, 0, d + at, size);
        for (int k = 0; k < 4; k++) d[i + 16 + (size_t)k] = (uint8_t)(crc >> 8 * k);
    }
}

FUZZ(zip) {
    sae_context *ctx = fuzz_context(size, 0);
    uint8_t *copy;
    if (fuzz_tensors(ctx, "fuzz.pt", data, size) != SAE_OK && strstr(sae_error(ctx), "CRC-32")) {
        copy = (uint8_t *)malloc(size);
        memcpy(copy, data, size);
        fuzz_zip_repair(copy, size);
        fuzz_tensors(ctx, "fuzz.pt", copy, size);
        free(copy);
    }
    sae_context_destroy(ctx);
}
