#pragma once
#include "io.h"

/* ==== >>json ================================================================================== */

/* Nodes stand in the order of the text: the first child of an array or object is the node behind
   it. */
struct sae_json {
    sae_json_kind type;
    bool is_integer;    /* NUMBER: it is whole, and number has it exactly (up to 2^53) */
    uint32_t next;      /* the sibling is so many nodes further; 0: there is none */
    uint32_t count;     /* children of ARRAY, OBJECT; bytes of STRING */
    const char *key;    /* inside an object, else NULL; NUL-terminated */
    const char *string; /* STRING; NUMBER: its text, if it came from one; else NULL */
    double number;      /* NUMBER (NaN, Infinity too); BOOL: 0 or 1 */
};

enum { SAEI_JSON_DEPTH = 64, SAEI_JSON_NODES = 1 << 24 };

/* A tree is built in two passes over what it is made of: first nodes is NULL and it counts, then it
   fills a block of exactly that size: nodes | chars. */
typedef struct saei_json_tree {
    sae_json *nodes;
    char *chars;
    size_t num_nodes, num_chars;
    sae_json counted; /* while it counts, every node */
} saei_json_tree;

static const int64_t saei_json_most = (int64_t)1 << 53;

/* A fresh node, the sibling that follows last (NULL: none does); NULL: there are too many. */
static sae_json *saei_json_node(saei_json_tree *t, sae_json *last) {
    sae_json *node = t->nodes ? t->nodes + t->num_nodes : &t->counted;
    if (t->num_nodes == SAEI_JSON_NODES) return NULL;
    if (t->nodes && last) last->next = (uint32_t)(node - last);
    memset(node, 0, sizeof *node);
    t->num_nodes++;
    return node;
}

static void saei_json_put(saei_json_tree *t, const void *text, size_t size) {
    if (t->chars && size) memcpy(t->chars + t->num_chars, text, size);
    t->num_chars += size;
}

/* What was put since start, as a text. */
static const char *saei_json_put_end(saei_json_tree *t, size_t start) {
    saei_json_put(t, "", 1);
    return t->chars ? t->chars + start : "";
}

/* In front of the root: whose memory it is. */
enum { SAEI_JSON_FRONT = 16 };

/* From counting to filling. */
static sae_result saei_json_make(const sae_context *ctx, const char *who, const char *name,
                                 saei_json_tree *t) {
    size_t bytes, all;
    char *block = NULL;
    if (saei_mul(t->num_nodes, sizeof(sae_json), &bytes) && saei_add(bytes, t->num_chars, &all)
        && saei_add(all, SAEI_JSON_FRONT, &all))
        block = (char *)saei_alloc(ctx, all, 1);
    if (!block)
        return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: %s: no memory for %zu values", who, name,
                         t->num_nodes);
    memcpy(block, &ctx, sizeof ctx);
    t->nodes = (sae_json *)(void *)(block + SAEI_JSON_FRONT);
    t->chars = block + SAEI_JSON_FRONT + bytes;
    t->num_nodes = t->num_chars = 0;
    return SAE_OK;
}

/* ---- keys ---- */

/* Room to see that no object has a key twice: for the largest. */
typedef struct saei_json_keys {
    uint64_t *slots; /* of which a power of two, four times the keys or less */
    size_t most;     /* keys of the largest object so far */
} saei_json_keys;

static sae_result saei_json_keys_make(const sae_context *ctx, const char *who, const char *name,
                                      saei_json_keys *keys) {
    keys->slots = (uint64_t *)saei_alloc(ctx, 4 * keys->most + 8, sizeof *keys->slots);
    if (keys->slots) return SAE_OK;
    return saei_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "%s: %s: no memory for an object of %zu "
                     "keys", who, name, keys->most);
}

static bool saei_json_key_less(const void *a, const void *b) {
    return strcmp(((const sae_json *)a)->key, ((const sae_json *)b)->key) < 0;
}

/* The same by sorting, which no choice of keys makes slow. */
static const char *saei_json_sorted_twice(const sae_json *object, saei_json_keys *keys) {
    const void **sorted = (const void **)(void *)keys->slots;
    size_t n = 0;
    for (const sae_json *c = sae_json_first(object); c; c = sae_json_next(c)) sorted[n++] = c;
    saei_sort(sorted, n, saei_json_key_less);
    for (size_t i = 1; i < n; i++) {
        const char *key = ((const sae_json *)sorted[i])->key;
        if (strcmp(((const sae_json *)sorted[i - 1])->key, key) == 0) return key;
    }
    return NULL;
}

/* A key that the object has twice, or NULL. A slot holds 32 bits of a key's hash above the distance
   of its node from the object. */
static const char *saei_json_twice(const sae_json *object, saei_json_keys *keys) {
    size_t size = 8, steps = 0;
    while (size < 2 * (size_t)object->count) size *= 2;
    memset(keys->slots, 0, size * sizeof *keys->slots);
    for (const sae_json *c = sae_json_first(object); c; c = sae_json_next(c)) {
        uint64_t hash = 0xcbf29ce484222325u, slot;
        size_t at;
        for (const char *k = c->key; *k; k++) hash = (hash ^ (unsigned char)*k) * 0x100000001b3u;
        hash ^= hash >> 32;
        for (at = (size_t)hash & (size - 1); (slot = keys->slots[at]) != 0;
             at = (at + 1) & (size - 1)) {
            if (slot >> 32 == (hash & 0xFFFFFFFFu)
                && strcmp((object + (slot & 0xFFFFFFFFu))->key, c->key) == 0)
                return c->key;
            if (++steps > 16 * size) return saei_json_sorted_twice(object, keys);
        }
        keys->slots[at] = hash << 32 | (uint64_t)(c - object);
    }
    return NULL;
}

/* ---- from text ---- */

typedef struct saei_json_parser {
    const sae_context *ctx;
    const char *who, *name; /* for messages */
    const unsigned char *begin, *at, *end;
    saei_json_tree tree;
    saei_json_keys keys;
    int depth;
} saei_json_parser;

static sae_result saei_json_fail(const saei_json_parser *p, const char *what) {
    size_t line = 1, column = 1;
    for (const unsigned char *c = p->begin; c < p->at; c++) {
        column = *c == '\n' ? 1 : column + 1;
        line += *c == '\n';
    }
    return saei_fail(p->ctx, SAE_ERR_FORMAT, "%s: %s: JSON, line %zu, column %zu: %s", p->who,
                     p->name, line, column, what);
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
    unsigned char text[4];
    size_t n = 0;
    const char *simple = p->at < p->end && *p->at ? strchr(from, *p->at) : NULL;
    if (simple) {
        p->at++;
        saei_json_put(&p->tree, to + (simple - from), 1);
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
        text[n++] = (unsigned char)code;
    } else {
        if (code < 0x800) {
            text[n++] = (unsigned char)(0xC0 | code >> 6);
        } else {
            if (code < 0x10000) {
                text[n++] = (unsigned char)(0xE0 | code >> 12);
            } else {
                text[n++] = (unsigned char)(0xF0 | code >> 18);
                text[n++] = (unsigned char)(0x80 | (code >> 12 & 0x3F));
            }
            text[n++] = (unsigned char)(0x80 | (code >> 6 & 0x3F));
        }
        text[n++] = (unsigned char)(0x80 | (code & 0x3F));
    }
    saei_json_put(&p->tree, text, n);
    return SAE_OK;
}

/* *size: bytes of the text. */
static sae_result saei_json_string(saei_json_parser *p, const char **out, size_t *size) {
    const size_t start = p->tree.num_chars;
    if (!saei_json_word(p, "\"")) return saei_json_fail(p, "a string in double quotes is expected");
    for (;;) {
        const unsigned char *from = p->at;
        size_t length = 1;
        while (p->at < p->end && *p->at != '"' && *p->at != '\\' && *p->at >= 0x20 && length) {
            length = *p->at < 0x80 ? 1 : saei_utf8(p->at, (size_t)(p->end - p->at));
            p->at += length;
        }
        saei_json_put(&p->tree, from, (size_t)(p->at - from));
        if (!length) return saei_json_fail(p, "a string that is not UTF-8");
        if (p->at >= p->end) return saei_json_fail(p, "the text ends inside a string");
        if (*p->at < 0x20) return saei_json_fail(p, "a control character inside a string");
        if (*p->at++ == '"') break;
        SAEI_TRY(saei_json_escape(p));
    }
    *size = p->tree.num_chars - start;
    *out = saei_json_put_end(&p->tree, start);
    return SAE_OK;
}

static sae_result saei_json_value(saei_json_parser *p, sae_json *out);

static sae_result saei_json_child(saei_json_parser *p, sae_json *child, bool object) {
    size_t size;
    if (!child) return saei_json_fail(p, "more than 16777216 values");
    if (object) {
        saei_json_space(p);
        SAEI_TRY(saei_json_string(p, &child->key, &size));
        saei_json_space(p);
        if (!saei_json_word(p, ":")) return saei_json_fail(p, "':' is expected");
    }
    return saei_json_value(p, child);
}

/* From after the opening bracket up to and with the closing one. */
static sae_result saei_json_children(saei_json_parser *p, sae_json *out, bool object) {
    const char *close = object ? "}" : "]", *twice = NULL;
    char quoted[SAEI_QUOTE], text[SAEI_QUOTE + 32];
    sae_json *last = NULL;
    uint32_t count = 0;
    if (++p->depth > SAEI_JSON_DEPTH) return saei_json_fail(p, "nested deeper than 64");
    saei_json_space(p);
    while (count > 0 || !saei_json_word(p, close)) {
        last = saei_json_node(&p->tree, last);
        SAEI_TRY(saei_json_child(p, last, object));
        count++;
        saei_json_space(p);
        if (saei_json_word(p, close)) break;
        if (!saei_json_word(p, ","))
            return saei_json_fail(p, object ? "',' or '}' is expected" : "',' or ']' is expected");
    }
    p->depth--;
    out->type = object ? SAE_JSON_OBJECT : SAE_JSON_ARRAY;
    out->count = count;
    if (object && count > p->keys.most) p->keys.most = count;
    if (object && p->tree.nodes) twice = saei_json_twice(out, &p->keys);
    if (!twice) return SAE_OK;
    snprintf(text, sizeof text, "the key \"%s\" twice", saei_quote(twice, quoted));
    return saei_json_fail(p, text);
}

static sae_result saei_json_digits(saei_json_parser *p, sae_json *out) {
    const char *text = (const char *)p->at;
    const size_t start = p->tree.num_chars;
    size_t length;
    int64_t integer;
    out->type = SAE_JSON_NUMBER;
    if (saei_json_word(p, "NaN")) out->number = NAN, out->string = "NaN";
    else if (saei_json_word(p, "Infinity")) out->number = HUGE_VAL, out->string = "Infinity";
    else if (saei_json_word(p, "-Infinity")) out->number = -HUGE_VAL, out->string = "-Infinity";
    if (out->string) return SAE_OK;
    length = saei_parse_number(text, (size_t)(p->end - p->at), &out->number, &integer,
                               &out->is_integer);
    if (!length) return saei_json_fail(p, "a value is expected");
    if (integer > saei_json_most || integer < -saei_json_most) out->is_integer = false;
    p->at += length;
    saei_json_put(&p->tree, text, length);
    out->string = saei_json_put_end(&p->tree, start);
    return SAE_OK;
}

/* Fills *out, which is all zero but for its key and next. */
static sae_result saei_json_value(saei_json_parser *p, sae_json *out) {
    size_t size = 0;
    saei_json_space(p);
    if (p->at >= p->end) return saei_json_fail(p, "the text ends where a value is expected");
    if (saei_json_word(p, "{")) return saei_json_children(p, out, true);
    if (saei_json_word(p, "[")) return saei_json_children(p, out, false);
    if (*p->at == '"') {
        out->type = SAE_JSON_STRING;
        SAEI_TRY(saei_json_string(p, &out->string, &size));
        if (size > UINT32_MAX) return saei_json_fail(p, "a string of 4 GB");
        out->count = (uint32_t)size;
        return SAE_OK;
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
    return saei_json_digits(p, out);
}

static sae_result saei_json_pass(saei_json_parser *p) {
    p->at = p->begin;
    p->depth = 0;
    SAEI_TRY(saei_json_value(p, saei_json_node(&p->tree, NULL)));
    saei_json_space(p);
    return p->at == p->end ? SAE_OK : saei_json_fail(p, "something after the value");
}

/* Parses text [size] (need not end in NUL) into *root, all in one block, for sae_json_close. who,
   the function, and name, the file, are for messages. Limits: depth 64, 2^24 values of 40 bytes, no
   duplicate keys, valid UTF-8, no lone surrogates, nothing but white space after it. Errors:
   SAE_ERR_FORMAT, SAE_ERR_OUT_OF_MEMORY. */
static sae_result saei_json_parse(const sae_context *ctx, const char *who, const char *name,
                                  const char *text, size_t size, sae_json **root) {
    saei_json_parser p;
    sae_result result;
    memset(&p, 0, sizeof p);
    p.ctx = ctx;
    p.who = who;
    p.name = name;
    p.begin = (const unsigned char *)text;
    p.end = p.begin + size;
    SAEI_TRY(saei_json_pass(&p));
    SAEI_TRY(saei_json_keys_make(ctx, who, name, &p.keys));
    result = saei_json_make(ctx, who, name, &p.tree);
    if (result == SAE_OK) result = saei_json_pass(&p); /* the same key twice */
    saei_free(ctx, p.keys.slots);
    if (result == SAE_OK) *root = p.tree.nodes;
    else sae_json_close(p.tree.nodes);
    return result;
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
    result = saei_json_parse(ctx, who, path, (const char *)map.data, map.size, root);
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
    for (const sae_json *c = sae_json_first(object); c; c = sae_json_next(c))
        if (strcmp(c->key, key) == 0) return c;
    return NULL;
}

SAE_API size_t sae_json_count(const sae_json *value) { return value ? value->count : 0; }

SAE_API const sae_json *sae_json_first(const sae_json *value) {
    return value && value->count && value->type != SAE_JSON_STRING ? value + 1 : NULL;
}

SAE_API const sae_json *sae_json_next(const sae_json *child) {
    return child && child->next ? child + child->next : NULL;
}

SAE_API const char *sae_json_key(const sae_json *child) { return child ? child->key : NULL; }

SAE_API const char *sae_json_text(const sae_json *value) {
    return value && value->type == SAE_JSON_STRING ? value->string : NULL;
}

SAE_API double sae_json_number(const sae_json *value) {
    return value && (value->type == SAE_JSON_NUMBER || value->type == SAE_JSON_BOOL)
               ? value->number : 0;
}
