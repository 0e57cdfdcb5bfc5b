#pragma once
#include "npy.h"

/* ==== >>tensors: reading zip ================================================================== */

/*  Read from the back: end record (PK\5\6), before it perhaps the zip64 locator and end record,
    then the central directory they point to, an entry of which points to a local header. */

typedef struct saei_zip {
    saei_zip_entry *entries;
    size_t count;
    const void **by_name;
} saei_zip;

/* The central directory: where, how long, how many entries. */
static sae_result saei_zip_end(const sae_tensor_file *file, size_t *at, size_t *size,
                               uint64_t *count) {
    const unsigned char *d = file->map.data, *end, *wide;
    size_t n = file->map.size, i;
    uint64_t offset, length, wide_at;
    if (n < 22) return saei_damaged(file, "a zip archive cut short");
    for (i = n - 22;; i--) {
        if (saei_le32(d + i) == 0x06054b50 && i + 22 + saei_le16(d + i + 20) == n) break;
        if (i == 0 || n - i >= 22 + 65535)
            return saei_damaged(file, "the zip archive has no end record: the file is cut short or "
                                      "damaged");
    }
    end = d + i;
    *count = saei_le16(end + 10);
    length = saei_le32(end + 12);
    offset = saei_le32(end + 16);
    if (i >= 20 && saei_le32(end - 20) == 0x07064b50) {
        wide_at = saei_le64(end - 12);
        if (i < 76 || wide_at > i - 76 || saei_le32(d + wide_at) != 0x06064b50)
            return saei_damaged(file, "the zip64 locator does not point to an end record");
        wide = d + wide_at;
        if ((*count != 0xFFFF && *count != saei_le64(wide + 32))
            || (length != 0xFFFFFFFFu && length != saei_le64(wide + 40))
            || (offset != 0xFFFFFFFFu && offset != saei_le64(wide + 48)))
            return saei_damaged(file, "the two end records of the zip archive disagree");
        *count = saei_le64(wide + 32);
        length = saei_le64(wide + 40);
        offset = saei_le64(wide + 48);
        i = (size_t)wide_at;
    }
    if (offset > i || length > i - offset || *count > length / 46)
        return saei_damaged(file, "the zip archive's directory lies outside the file");
    *at = (size_t)offset;
    *size = (size_t)length;
    return SAE_OK;
}

/* The zip64 extra field holds, in this order, those of size, packed and offset that are all ones in
   the directory entry. */
static bool saei_zip_wide(const unsigned char *extra, size_t left, uint64_t *size, uint64_t *packed,
                          uint64_t *offset) {
    uint64_t *fields[3];
    size_t n = 0, length, used = 0;
    if (*size == 0xFFFFFFFFu) fields[n++] = size;
    if (*packed == 0xFFFFFFFFu) fields[n++] = packed;
    if (*offset == 0xFFFFFFFFu) fields[n++] = offset;
    for (; n > 0 && left >= 4; extra += 4 + length, left -= 4 + length) {
        length = saei_le16(extra + 2);
        if (length > left - 4) return false;
        if (saei_le16(extra) != 1) continue;
        for (; used < n && 8 * used + 8 <= length; used++)
            *fields[used] = saei_le64(extra + 4 + 8 * used);
        return used == n;
    }
    return n == 0;
}

static sae_result saei_zip_local(const sae_tensor_file *file, saei_zip_entry *e, uint64_t offset,
                                 uint64_t packed, uint64_t size, size_t limit) {
    const unsigned char *d = file->map.data;
    size_t name_length = strlen(e->name), skip;
    if (limit < 30 || offset > limit - 30 || saei_le32(d + offset) != 0x04034b50)
        return saei_zip_damaged(file, e, "has no local header");
    skip = 30 + saei_le16(d + offset + 26) + saei_le16(d + offset + 28);
    if (skip > limit - offset || packed > limit - offset - skip)
        return saei_zip_damaged(file, e, "lies outside the file");
    if (saei_le16(d + offset + 26) != name_length
        || memcmp(d + offset + 30, e->name, name_length) != 0)
        return saei_zip_damaged(file, e, "has another name in its local header");
    if ((e->method == 0 && packed != size) || size > SIZE_MAX / 2)
        return saei_zip_damaged(file, e, "has two sizes");
    e->data = d + offset + skip;
    e->packed = (size_t)packed;
    e->size = (size_t)size;
    return SAE_OK;
}

static sae_result saei_zip_open(sae_tensor_file *file, saei_zip *zip) {
    size_t at = 0, left = 0, n = 0;
    uint64_t count = 0;
    memset(zip, 0, sizeof *zip);
    SAEI_TRY(saei_zip_end(file, &at, &left, &count));
    zip->entries = (saei_zip_entry *)saei_arena_alloc(&file->arena, (size_t)count + 1,
                                                      sizeof *zip->entries);
    if (!zip->entries) return saei_file_no_memory(file);
    for (; n < count; n++) {
        const unsigned char *d = file->map.data + at;
        saei_zip_entry *e = zip->entries + n;
        size_t name_length, extra_length, whole;
        uint64_t size, packed, offset;
        if (left < 46 || saei_le32(d) != 0x02014b50)
            return saei_damaged(file, "the zip archive's directory is damaged");
        name_length = saei_le16(d + 28);
        extra_length = saei_le16(d + 30);
        whole = 46 + name_length + extra_length + saei_le16(d + 32);
        packed = saei_le32(d + 20);
        size = saei_le32(d + 24);
        offset = saei_le32(d + 42);
        if (whole > left || !saei_is_text(d + 46, name_length)
            || !saei_zip_wide(d + 46 + name_length, extra_length, &size, &packed, &offset))
            return saei_damaged(file, "the zip archive's directory is damaged");
        memset(e, 0, sizeof *e);
        e->name = saei_arena_text(&file->arena, d + 46, name_length);
        if (!e->name) return saei_file_no_memory(file);
        e->method = saei_le16(d + 10);
        e->crc = saei_le32(d + 16);
        if (saei_le16(d + 8) & 1) return saei_unsupported(file, "the zip archive is encrypted");
        SAEI_TRY(saei_zip_local(file, e, offset, packed, size, at));
        at += whole;
        left -= whole;
    }
    zip->count = n;
    return saei_file_index(file, zip->entries, n, sizeof *zip->entries, "zip entry", &zip->by_name);
}

#if defined(SAE_ZLIB)
#include <zlib.h>
static void *saei_zlib_alloc(void *ctx, unsigned items, unsigned size) {
    return saei_alloc((const sae_context *)ctx, items, size);
}
static void saei_zlib_free(void *ctx, void *memory) { saei_free((const sae_context *)ctx, memory); }

static bool saei_inflate(const sae_context *ctx, const saei_zip_entry *e, unsigned char *out) {
    z_stream z;
    size_t in_left = e->packed, out_left = e->size;
    int status = Z_OK;
    unsigned char spare;
    memset(&z, 0, sizeof z);
    z.zalloc = saei_zlib_alloc;
    z.zfree = saei_zlib_free;
    z.opaque = (void *)(uintptr_t)ctx;
    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return false;
    z.next_in = (unsigned char *)(uintptr_t)e->data;
    z.next_out = out ? out : &spare;
    while (status == Z_OK) {
        uInt in = (uInt)saei_min(in_left, 1u << 30), room = (uInt)saei_min(out_left, 1u << 30);
        z.avail_in = in;
        z.avail_out = room;
        status = inflate(&z, Z_NO_FLUSH);
        in_left -= in - z.avail_in;
        out_left -= room - z.avail_out;
        if (status == Z_OK && z.avail_in == in && z.avail_out == room) break;
    }
    inflateEnd(&z);
    return status == Z_STREAM_END && in_left == 0 && out_left == 0;
}
#endif

/* Makes e->data the entry's plain bytes. Their CRC-32 is looked at now where they are few or had to
   be unpacked, else once they are read: saei_zip_check. torch may leave it out as 0. */
enum { SAEI_CRC_AT_ONCE = 4096 };
static sae_result saei_zip_plain(sae_tensor_file *file, saei_zip_entry *e, bool zero_is_none) {
    char quoted[SAEI_QUOTE];
    bool unpacked = false;
    if (e->checked) return SAE_OK;
    saei_quote(e->name, quoted);
#if defined(SAE_ZLIB)
    if (e->method == 8) {
        unsigned char *plain;
        if (e->size / 1032 > e->packed)
            return saei_zip_damaged(file, e, "promises too much");
        plain = (unsigned char *)saei_arena_alloc(&file->arena, e->size + 1, 1);
        if (!plain) return saei_file_no_memory(file);
        if (!saei_inflate(file->ctx, e, plain))
            return saei_zip_damaged(file, e, "does not unpack");
        e->data = plain;
        e->method = 0;
        unpacked = true;
    }
#endif
    if (e->method == 8)
        return saei_unsupported(file,
                                "zip entry \"%s\" is compressed (DEFLATE), which needs a build "
                                "with SAE_ZLIB; or store it plain (numpy.savez, torch.save)",
                                quoted);
    if (e->method != 0)
        return saei_unsupported(file,
                                "zip entry \"%s\" is compressed by method %u, known is 0 (stored)",
                                quoted, e->method);
    e->checked = zero_is_none && e->crc == 0;
    return unpacked || e->size <= SAEI_CRC_AT_ONCE ? saei_zip_check(file, e) : SAE_OK;
}

static sae_result saei_npz_read(sae_tensor_file *file, saei_zip *zip) {
    for (size_t i = 0; i < zip->count; i++) {
        saei_zip_entry *e = zip->entries + i;
        char quoted[SAEI_QUOTE], label[SAEI_QUOTE + 16];
        const char *name;
        if (!saei_ends_with(e->name, ".npy")) continue;
        SAEI_TRY(saei_zip_plain(file, e, false));
        name = saei_arena_text(&file->arena, e->name, strlen(e->name) - 4);
        if (!name) return saei_file_no_memory(file);
        snprintf(label, sizeof label, "array \"%s\": ", saei_quote(name, quoted));
        SAEI_TRY(saei_npy_read(file, name, label, e->data, e->size, e));
    }
    return SAE_OK;
}
