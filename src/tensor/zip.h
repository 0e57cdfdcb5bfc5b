#pragma once
#include "write.h"

/* ==== >>tensors: zip archives ================================================================= */

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

/* Makes e->data the entry's plain bytes. The CRC-32 of small and of compressed entries is checked
   now, that of others when they are read (saei_zip_check). torch may leave it out as 0. */
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

/* ---- writing ---- */

/* Sizes and offsets from here on go into zip64 fields. */
#ifndef SAEI_ZIP64_LIMIT
#define SAEI_ZIP64_LIMIT 0xFFFFFFFFu
#endif

typedef struct saei_zip_writer {
    saei_writer *out;
    saei_text head, directory;
    uint64_t count;
    saei_crc_table crc;
} saei_zip_writer;

static uint32_t saei_zip_narrow(uint64_t value) {
    return value >= SAEI_ZIP64_LIMIT ? 0xFFFFFFFFu : (uint32_t)value;
}

/* What a local header and a directory entry share: from the version needed to the name's length. */
static void saei_zip_put_common(saei_text *t, const char *name, uint64_t size, uint32_t crc) {
    saei_put_le(t, 45, 2);          /* version needed: zip64 */
    saei_put_le(t, 0x0800, 2);      /* UTF-8 names */
    saei_put_le(t, 0, 2);           /* stored */
    saei_put_le(t, 0x00210000u, 4); /* midnight, 1 January 1980 */
    saei_put_le(t, crc, 4);
    saei_put_le(t, saei_zip_narrow(size), 4);
    saei_put_le(t, saei_zip_narrow(size), 4);
    saei_put_le(t, strlen(name), 2);
}

/* One stored entry of two pieces, on a multiple of 64 bytes by padding in the extra field "FB". */
static void saei_zip_put(saei_zip_writer *z, const char *name, const void *a, size_t a_size,
                         const void *b, size_t b_size) {
    saei_text *h = &z->head, *d = &z->directory;
    uint64_t offset = z->out->size, size = (uint64_t)a_size + b_size;
    size_t name_size = strlen(name), wide = size >= SAEI_ZIP64_LIMIT ? 20 : 0, far_size;
    size_t pad = (size_t)((64 - (offset + 34 + name_size + wide) % 64) % 64);
    uint32_t crc = saei_crc(&z->crc, saei_crc(&z->crc, 0, a, a_size), b, b_size);
    h->size = 0;
    saei_put_le(h, 0x04034b50, 4);
    saei_zip_put_common(h, name, size, crc);
    saei_put_le(h, wide + 4 + pad, 2);
    saei_text_put(h, name, name_size);
    if (wide) {
        saei_put_le(h, 1 | 16u << 16, 4);
        saei_put_le(h, size, 8);
        saei_put_le(h, size, 8);
    }
    saei_put_le(h, 0x4246, 2);
    saei_put_le(h, pad, 2);
    for (size_t i = 0; i < pad; i++) saei_text_put(h, "Z", 1);
    if (!h->failed) saei_writer_put(z->out, h->data, h->size);
    saei_writer_put(z->out, a, a_size);
    saei_writer_put(z->out, b, b_size);
    far_size = (wide ? 16u : 0u) + (offset >= SAEI_ZIP64_LIMIT ? 8u : 0u);
    saei_put_le(d, 0x02014b50, 4);
    saei_put_le(d, 45, 2);
    saei_zip_put_common(d, name, size, crc);
    saei_put_le(d, far_size ? far_size + 4 : 0, 2);
    saei_put_le(d, 0, 8); /* no comment, first disk, no attributes */
    saei_put_le(d, 0, 2);
    saei_put_le(d, saei_zip_narrow(offset), 4);
    saei_text_put(d, name, name_size);
    if (far_size) saei_put_le(d, 1 | (uint64_t)far_size << 16, 4);
    if (wide) {
        saei_put_le(d, size, 8);
        saei_put_le(d, size, 8);
    }
    if (offset >= SAEI_ZIP64_LIMIT) saei_put_le(d, offset, 8);
    z->count++;
}

/* The directory and the end records. */
static void saei_zip_end_write(saei_zip_writer *z) {
    saei_text *d = &z->directory;
    uint64_t at = z->out->size, size = d->size, end = at + size;
    if (z->count >= 0xFFFF || at >= SAEI_ZIP64_LIMIT || size >= SAEI_ZIP64_LIMIT) {
        saei_put_le(d, 0x06064b50, 4);
        saei_put_le(d, 44, 8);
        saei_put_le(d, 45 | 45u << 16, 4);
        saei_put_le(d, 0, 8);
        saei_put_le(d, z->count, 8);
        saei_put_le(d, z->count, 8);
        saei_put_le(d, size, 8);
        saei_put_le(d, at, 8);
        saei_put_le(d, 0x07064b50, 4);
        saei_put_le(d, 0, 4);
        saei_put_le(d, end, 8);
        saei_put_le(d, 1, 4);
    }
    saei_put_le(d, 0x06054b50, 4);
    saei_put_le(d, 0, 4);
    saei_put_le(d, z->count >= 0xFFFF ? 0xFFFF : z->count, 2);
    saei_put_le(d, z->count >= 0xFFFF ? 0xFFFF : z->count, 2);
    saei_put_le(d, saei_zip_narrow(size), 4);
    saei_put_le(d, saei_zip_narrow(at), 4);
    saei_put_le(d, 0, 2);
    if (!d->failed) saei_writer_put(z->out, d->data, d->size);
}

/* An archive into an open writer; fill puts the entries. */
static sae_result saei_zip_write(saei_writer *w, const saei_content *c,
                                 sae_result (*fill)(saei_zip_writer *z, const saei_content *c)) {
    saei_zip_writer *z = (saei_zip_writer *)saei_calloc(w->ctx, 1, sizeof *z);
    sae_result result;
    if (!z) return saei_content_no_memory(w, c);
    z->out = w;
    z->head.ctx = z->directory.ctx = w->ctx;
    saei_crc_tables(&z->crc);
    result = fill(z, c);
    if (result == SAE_OK) saei_zip_end_write(z);
    if (result == SAE_OK && (z->head.failed || z->directory.failed))
        result = saei_content_no_memory(w, c);
    saei_free(w->ctx, z->head.data);
    saei_free(w->ctx, z->directory.data);
    saei_free(w->ctx, z);
    return result;
}
