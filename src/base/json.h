#pragma once
#include "io.h"

/* ==== >>json ================================================================================== */

struct sae_json {
    sae_json_kind type;
    const char *key;               /* inside an object, else NULL; UTF-8, NUL-terminated */
    const char *string;            /* STRING: UTF-8; NUMBER: its text */
    double number;                 /* NUMBER (NaN, Infinity too); BOOL: 0 or 1 */
    int64_t integer;               /* where is_integer */
    bool is_integer;
    size_t count;                  /* children of ARRAY, OBJECT */
    const struct sae_json *child; /* the first */
    const struct sae_json *next;  /* sibling */
};
/* The parser runs twice over the text: first nodes is NULL and it counts, then it fills a block
   of exactly that size: nodes | keys (room to sort the largest object's) | chars. */
typedef struct saei_json_parser {
    const sae_context *ctx;
    const char *name;
    const unsigned char *begin, *at, *end;
    sae_json *nodes;
    const void **keys;
    char *chars;
    size_t num_nodes, num_keys, num_chars;
    int depth;
} saei_json_parser;

enum { SAEI_JSON_DEPTH = 64, SAEI_JSON_NODES = 1 << 20 };

static sae_result saei_json_fail(const saei_json_parser *p, const char *what) {
    size_t line = 1, column = 1;
    for (const unsigned char *c = p->begin; c < p->at; c++) {
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    return saei_fail(p->ctx, SAE_ERR_FORMAT, "%s: JSON, line %zu, column %zu: %s", p->name, line,
                     column, what);
}

static void saei_json_space(saei_json_parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\r' || *p->at == '\t'))
        p->at++;
}

static bool saei_json_word(saei_json_parser *p, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(p->end - p->at) < n || memcmp(p->at, word, n) != 0) return false;
    p->at += n;
    return true;
}

static void saei_json_put(saei_json_parser *p, unsigned byte) {
    if (p->chars) p->chars[p->num_chars] = (char)(unsigned char)byte;
    p->num_chars++;
}

static bool saei_json_hex4(saei_json_parser *p, unsigned *out) {
    unsigned code = 0;
    if (p->end - p->at < 4) return false;
    for (int i = 0; i < 4; i++) {
        unsigned c = *p->at++;
        if (c >= '0' && c <= '9') code = code * 16 + (c - '0');
        else if (c >= 'a' && c <= 'f') code = code * 16 + (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') code = code * 16 + (c - 'A' + 10);
        else return false;
    }
    *out = code;
    return true;
}

/* What follows a backslash. */
static sae_result saei_json_escape(saei_json_parser *p) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    unsigned code, low;
    const char *simple = p->at < p->end && *p->at ? strchr(from, *p->at) : NULL;
    if (simple) {
        p->at++;
        saei_json_put(p, (unsigned char)to[simple - from]);
        return SAE_OK;
    }
    if (!saei_json_word(p, "u")) return saei_json_fail(p, "an unknown escape");
    if (!saei_json_hex4(p, &code)) return saei_json_fail(p, "\\u needs four hexadecimal digits");
    if (code == 0) return saei_json_fail(p, "\\u0000 is not supported");
    if (code >= 0xD800 && code < 0xE000) {
        if (code >= 0xDC00 || !saei_json_word(p, "\\u") || !saei_json_hex4(p, &low)
            || low < 0xDC00 || low > 0xDFFF)
            return saei_json_fail(p, "a lone surrogate");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
        saei_json_put(p, code);
    } else {
        if (code < 0x800) {
            saei_json_put(p, 0xC0 | code >> 6);
        } else {
            if (code < 0x10000) {
                saei_json_put(p, 0xE0 | code >> 12);
            } else {
                saei_json_put(p, 0xF0 | code >> 18);
                saei_json_put(p, 0x80 | (code >> 12 & 0x3F));
            }
            saei_json_put(p, 0x80 | (code >> 6 & 0x3F));
        }
        saei_json_put(p, 0x80 | (code & 0x3F));
    }
    return SAE_OK;
}

static sae_result saei_json_string(saei_json_parser *p, const char **out) {
    size_t start = p->num_chars;
    if (!saei_json_word(p, "\"")) return saei_json_fail(p, "a string in double quotes is expected");
    for (;;) {
        size_t length;
        if (p->at >= p->end) return saei_json_fail(p, "the text ends inside a string");
        if (saei_json_word(p, "\"")) break;
        if (saei_json_word(p, "\\")) {
            SAEI_TRY(saei_json_escape(p));
            continue;
        }
        if (*p->at < 0x20) return saei_json_fail(p, "a control character inside a string");
        length = saei_utf8(p->at, (size_t)(p->end - p->at));
        if (!length) return saei_json_fail(p, "a string that is not UTF-8");
        while (length-- > 0) saei_json_put(p, *p->at++);
    }
    saei_json_put(p, 0);
    *out = p->chars ? p->chars + start : "";
    return SAE_OK;
}

static bool saei_json_key_less(const void *a, const void *b) {
    return strcmp(((const sae_json *)a)->key, ((const sae_json *)b)->key) < 0;
}

static sae_result saei_json_unique(saei_json_parser *p, const sae_json *object) {
    char quoted[SAEI_QUOTE], text[SAEI_QUOTE + 32];
    size_t n = 0;
    for (const sae_json *c = object->child; c; c = c->next) p->keys[n++] = c;
    saei_sort(p->keys, n, saei_json_key_less);
    for (size_t i = 1; i < n; i++) {
        const char *key = ((const sae_json *)p->keys[i])->key;
        if (strcmp(((const sae_json *)p->keys[i - 1])->key, key) != 0) continue;
        snprintf(text, sizeof text, "the key \"%s\" twice", saei_quote(key, quoted));
        return saei_json_fail(p, text);
    }
    return SAE_OK;
}

static sae_result saei_json_value(saei_json_parser *p, sae_json *out);

/* From after the opening bracket up to and with the closing one. */
static sae_result saei_json_children(saei_json_parser *p, sae_json *out) {
    bool object = out->type == SAE_JSON_OBJECT;
    const char *close = object ? "}" : "]";
    sae_json *last = NULL, counted;
    memset(&counted, 0, sizeof counted);
    if (++p->depth > SAEI_JSON_DEPTH) return saei_json_fail(p, "nested deeper than 64");
    saei_json_space(p);
    if (!saei_json_word(p, close)) {
        for (;;) {
            sae_json *child = p->nodes ? p->nodes + p->num_nodes : &counted;
            if (++p->num_nodes > SAEI_JSON_NODES)
                return saei_json_fail(p, "more than 1048576 values");
            memset(child, 0, sizeof *child);
            if (object) {
                saei_json_space(p);
                SAEI_TRY(saei_json_string(p, &child->key));
                saei_json_space(p);
                if (!saei_json_word(p, ":")) return saei_json_fail(p, "':' is expected");
            }
            SAEI_TRY(saei_json_value(p, child));
            if (p->nodes) {
                if (last) last->next = child;
                else out->child = child;
                last = child;
            }
            out->count++;
            saei_json_space(p);
            if (saei_json_word(p, close)) break;
            if (!saei_json_word(p, ","))
                return saei_json_fail(p,
                                      object ? "',' or '}' is expected" : "',' or ']' is expected");
        }
    }
    p->depth--;
    if (object && out->count > p->num_keys) p->num_keys = out->count;
    return object && p->nodes ? saei_json_unique(p, out) : SAE_OK;
}

/* Fills *out, which is all zero but for its key. */
static sae_result saei_json_value(saei_json_parser *p, sae_json *out) {
    size_t length;
    saei_json_space(p);
    if (p->at >= p->end) return saei_json_fail(p, "the text ends where a value is expected");
    if (*p->at == '"') {
        out->type = SAE_JSON_STRING;
        return saei_json_string(p, &out->string);
    }
    if (*p->at == '{' || *p->at == '[') {
        out->type = *p->at++ == '{' ? SAE_JSON_OBJECT : SAE_JSON_ARRAY;
        return saei_json_children(p, out);
    }
    if (saei_json_word(p, "null")) {
        out->type = SAE_JSON_NULL;
        return SAE_OK;
    }
    if (saei_json_word(p, "true") || saei_json_word(p, "false")) {
        out->type = SAE_JSON_BOOL;
        out->number = p->at[-2] == 'u';
        return SAE_OK;
    }
    out->type = SAE_JSON_NUMBER;
    if (saei_json_word(p, "NaN")) out->number = NAN, out->string = "NaN";
    else if (saei_json_word(p, "Infinity")) out->number = HUGE_VAL, out->string = "Infinity";
    else if (saei_json_word(p, "-Infinity")) out->number = -HUGE_VAL, out->string = "-Infinity";
    if (out->string) return SAE_OK;
    length = saei_parse_number((const char *)p->at, (size_t)(p->end - p->at), &out->number,
                               &out->integer, &out->is_integer);
    if (!length) return saei_json_fail(p, "a value is expected");
    out->string = p->chars ? p->chars + p->num_chars : "";
    while (length-- > 0) saei_json_put(p, *p->at++);
    saei_json_put(p, 0);
    return SAE_OK;
}

static sae_result saei_json_pass(saei_json_parser *p, sae_json *root) {
    p->at = p->begin;
    p->depth = 0;
    p->num_nodes = 1;
    p->num_chars = 0;
    memset(root, 0, sizeof *root);
    SAEI_TRY(saei_json_value(p, root));
    saei_json_space(p);
    return p->at == p->end ? SAE_OK : saei_json_fail(p, "something after the value");
}

/* In front of the root: whose memory it is. */
enum { SAEI_JSON_FRONT = 16 };

/* Parses text [size] (need not end in NUL) into *root, all in one block, for sae_json_close. name
   is the file's, for messages. Limits: depth 64, 2^20 values (80 MB; a header of 130,000 tensors
   stays below), no duplicate keys, valid UTF-8, no lone surrogates, nothing but white space after
   it. Errors: SAE_ERR_FORMAT, SAE_ERR_OUT_OF_MEMORY. */
static sae_result saei_json_parse(const sae_context *ctx, const char *name, const char *text,
                                  size_t size, sae_json **root) {
    saei_json_parser p;
    sae_json counted;
    size_t bytes, keys, all;
    char *block;
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    p.name = name;
    p.begin = (const unsigned char *)text;
    p.end = p.begin + size;
    SAEI_TRY(saei_json_pass(&p, &counted));
    if (!saei_mul(p.num_nodes, sizeof(sae_json), &bytes)
        || !saei_mul(p.num_keys, sizeof(void *), &keys) || !saei_add(bytes, keys, &keys)
        || !saei_add(keys, p.num_chars, &all) || !saei_add(all, SAEI_JSON_FRONT, &all)
        || !(block = (char *)saei_alloc(ctx, all, 1)))
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: no memory for %zu JSON values", name,
                         p.num_nodes);
    memcpy(block, &ctx, sizeof ctx);
    block += SAEI_JSON_FRONT;
    p.nodes = (sae_json *)(void *)block;
    p.keys = (const void **)(void *)(block + bytes);
    p.chars = block + keys;
    if (saei_json_pass(&p, p.nodes) != SAE_OK) { /* the same key twice */
        sae_json_close(p.nodes);
        return SAE_ERR_FORMAT;
    }
    *root = p.nodes;
    return SAE_OK;
}

SAE_API void sae_json_close(sae_json *root) {
    const sae_context *ctx;
    if (!root) return;
    memcpy(&ctx, (char *)root - SAEI_JSON_FRONT, sizeof ctx);
    saei_free(ctx, (char *)root - SAEI_JSON_FRONT);
}

/* A whole file. who: the function named in messages. */
static sae_result saei_json_load(const sae_context *ctx, const char *who, const char *path,
                                 sae_json **root) {
    saei_map map;
    sae_result result;
    SAEI_TRY(saei_map_open(ctx, who, path, &map));
    result = saei_json_parse(ctx, path, (const char *)map.data, map.size, root);
    saei_map_close(ctx, &map);
    return result;
}

SAE_API sae_result sae_json_open(sae_context *ctx, const char *path, sae_json **out) {
    if (!ctx || !path || !out)
        return saei_fail(ctx, SAE_ERR_INVALID, "sae_json_open: path and out may not be NULL");
    return saei_json_load(ctx, "sae_json_open", path, out);
}

SAE_API sae_json_kind sae_json_kind_of(const sae_json *value) {
    return value ? value->type : SAE_JSON_NONE;
}

SAE_API const sae_json *sae_json_get(const sae_json *object, const char *key) {
    if (!object || !key || object->type != SAE_JSON_OBJECT) return NULL;
    for (const sae_json *c = object->child; c; c = c->next)
        if (strcmp(c->key, key) == 0) return c;
    return NULL;
}

SAE_API size_t sae_json_count(const sae_json *value) { return value ? value->count : 0; }

SAE_API const sae_json *sae_json_first(const sae_json *value) {
    return value && value->count ? value->child : NULL;
}

SAE_API const sae_json *sae_json_next(const sae_json *child) { return child ? child->next : NULL; }

SAE_API const char *sae_json_key(const sae_json *child) { return child ? child->key : NULL; }

SAE_API const char *sae_json_text(const sae_json *value) {
    return value && value->type == SAE_JSON_STRING ? value->string : NULL;
}

SAE_API double sae_json_number(const sae_json *value) {
    return value && (value->type == SAE_JSON_NUMBER || value->type == SAE_JSON_BOOL)
               ? value->number : 0;
}
