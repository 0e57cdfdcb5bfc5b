/*  Proves: sae_json_open reads JSON of any shape and of the size of published tokenizers, in memory
    in proportion to it; a key twice is found in objects of any size and whatever the keys are; what
    is no JSON is refused with its place.
    Oracle: the values the text was written from. Tolerance: none. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"

static sae_context *ctx;
static size_t in_use, peak;

static void *counted_alloc(size_t size, void *user) {
    size_t *memory = (size_t *)malloc(size + 16);
    (void)user;
    *memory = size;
    in_use += size;
    if (in_use > peak) peak = in_use;
    return memory + 2;
}

static void counted_free(void *memory, void *user) {
    (void)user;
    in_use -= ((size_t *)memory)[-2];
    free((size_t *)memory - 2);
}

/* Text that grows. */
static char *text;
static size_t used, room;
static void add(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void add(const char *format, ...) {
    va_list args;
    if (room - used < 256) text = (char *)realloc(text, room = 2 * room + 65536);
    va_start(args, format);
    used += (size_t)vsnprintf(text + used, room - used, format, args);
    va_end(args);
}

static sae_result open_text(sae_json **root) {
    const char *path = check_path("%s/x.json", check_temp());
    *root = NULL;
    CHECK(check_write(path, text ? text : "", used), "cannot write %s", path);
    used = 0;
    return sae_json_open(ctx, path, root);
}

static void values(void) {
    sae_json *root;
    const sae_json *v;
    add(" {\"null\": null, \"t\" : true,\"f\":false, \"n\": -12.5e1, \"big\": 9007199254740993,\n"
        "\"s\": \"a\\u00e9\\n\\ud83d\\ude00\xc3\xa9\\\"\", \"empty\": \"\", \"list\": [1, [], {}, [2,3], \"x\"],\n"
        "\"o\": {\"a\": {\"b\": [[[7]]]}, \"c\": NaN}, \"last\": -Infinity} \n");
    CHECK_OK(ctx, open_text(&root), return);
    CHECK(sae_json_kind_of(root) == SAE_JSON_OBJECT && sae_json_count(root) == 10, "%zu",
          sae_json_count(root));
    CHECK(sae_json_kind_of(sae_json_get(root, "null")) == SAE_JSON_NULL, "null");
    CHECK(sae_json_number(sae_json_get(root, "t")) == 1, "true");
    CHECK(sae_json_kind_of(sae_json_get(root, "f")) == SAE_JSON_BOOL
              && sae_json_number(sae_json_get(root, "f")) == 0, "false");
    CHECK(sae_json_number(sae_json_get(root, "n")) == -125, "a number");
    CHECK(sae_json_number(sae_json_get(root, "big")) == 9007199254740992.0, "2^53 + 1");
    v = sae_json_get(root, "s");
    CHECK(!strcmp(sae_json_text(v), "a\xc3\xa9\n\xf0\x9f\x98\x80\xc3\xa9\"") && sae_json_count(v) == 11
              && !sae_json_first(v), "a text: %s, %zu bytes", sae_json_text(v), sae_json_count(v));
    CHECK(sae_json_count(sae_json_get(root, "empty")) == 0, "an empty text");
    v = sae_json_get(root, "list");
    CHECK(sae_json_count(v) == 5 && !sae_json_text(v) && !sae_json_get(v, "x"), "a list");
    v = sae_json_first(v);
    CHECK(sae_json_number(v) == 1 && !sae_json_key(v), "its first");
    v = sae_json_next(v);
    CHECK(sae_json_kind_of(v) == SAE_JSON_ARRAY && !sae_json_first(v), "[]");
    v = sae_json_next(v);
    CHECK(sae_json_kind_of(v) == SAE_JSON_OBJECT && !sae_json_first(v), "{}");
    v = sae_json_next(v);
    CHECK(sae_json_number(sae_json_next(sae_json_first(v))) == 3, "[2,3]");
    v = sae_json_next(v);
    CHECK(!strcmp(sae_json_text(v), "x") && !sae_json_next(v), "its last");
    v = sae_json_first(sae_json_get(sae_json_get(sae_json_get(root, "o"), "a"), "b"));
    CHECK(sae_json_number(sae_json_first(sae_json_first(v))) == 7, "[[[7]]]");
    CHECK(isnan(sae_json_number(sae_json_get(sae_json_get(root, "o"), "c"))), "NaN");
    CHECK(!strcmp(sae_json_key(sae_json_next(sae_json_get(root, "o"))), "last"), "the last key");
    CHECK(!sae_json_get(root, "none") && !sae_json_next(NULL) && !sae_json_first(NULL)
              && sae_json_kind_of(NULL) == SAE_JSON_NONE && !sae_json_count(NULL), "what is not there");
    sae_json_close(root);
}

static void refused(const char *what, const char *says) {
    sae_json *root;
    add("%s", what);
    CHECK(open_text(&root) == SAE_ERR_FORMAT && !root && strstr(sae_error(ctx), says), "%s: %s", what,
          sae_error(ctx));
}

static void refusals(void) {
    static const char *const faults[][2] = {
        { "", "ends" }, { "{\"a\": 1,\n \"a\": 2}", "line 2, column 9: the key \"a\" twice" },
        { "[1, 2", "']'" }, { "[1 2]", "column 4" }, { "[1,]", "value" }, { "{\"a\" 1}", "':'" },
        { "{\"a\": 1,}", "double quotes" }, { "{a: 1}", "double quotes" }, { "\"ab", "ends inside" },
        { "\"a\nb\"", "control" }, { "\"\\x\"", "escape" }, { "\"\\u12g4\"", "four" },
        { "\"\\u0000\"", "\\u0000" }, { "\"\\ud800\"", "surrogate" }, { "\"\xff\"", "UTF-8" },
        { "\"\xed\xa0\x80\"", "UTF-8" }, { "1 2", "after" }, { "01", "value" }, { "1.", "value" },
        { "+1", "value" }, { "tru", "value" }, { "{\"a\":{\"b\":1,\"c\":2,\"b\":3}}", "\"b\" twice" },
        { "[{\"\":1,\"\":2}]", "twice" }
    };
    sae_json *root;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) refused(faults[i][0], faults[i][1]);
    for (int depth = 64; depth <= 65; depth++) {
        for (int i = 0; i < depth; i++) add("[");
        for (int i = 0; i < depth; i++) add("]");
        CHECK(open_text(&root) == (depth == 64 ? SAE_OK : SAE_ERR_FORMAT), "depth %d: %s", depth,
              sae_error(ctx));
        sae_json_close(root);
    }
}

/* n keys whose slots in the reader's table are one and the same. */
static void crowded(size_t n, bool twice) {
    sae_json *root;
    size_t found = 0;
    add("{");
    for (uint64_t i = 0; found < n; i++) {
        uint64_t hash = 0xcbf29ce484222325u;
        char key[24];
        snprintf(key, sizeof key, "%llu", (unsigned long long)i);
        for (const char *k = key; *k; k++) hash = (hash ^ (unsigned char)*k) * 0x100000001b3u;
        hash ^= hash >> 32;
        if (hash & 4095) continue;
        if (found == 17 && twice) add(",\"last\":0");
        if (++found == n && twice) snprintf(key, sizeof key, "last");
        add("%s\"%s\": %zu", found > 1 ? "," : "", key, found);
    }
    add("}");
    if (twice) CHECK(open_text(&root) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "\"last\" twice"),
                     "%s", sae_error(ctx));
    else CHECK_OK(ctx, open_text(&root), return);
    CHECK(sae_json_count(root) == (twice ? 0 : n), "%zu keys", sae_json_count(root));
    sae_json_close(root);
}

/* The vocabulary and merges of a large tokenizer. */
static void tokenizer(bool twice) {
    enum { TOKENS = 262144, MERGES = 514906 };
    const size_t nodes = 1 + 2 + TOKENS + 3 * MERGES;
    sae_json *root;
    const sae_json *v, *m;
    size_t before = in_use, i = 0, size;
    add("{\"vocab\": {\n");
    for (; i < TOKENS; i++)
        add("\"token%zu\": %zu%s\n", twice && i == TOKENS - 1 ? (size_t)7 : i, i,
            i + 1 < TOKENS ? "," : "},");
    add("\"merges\": [\n");
    for (i = 0; i < MERGES; i++) add("[\"a%zu\", \"b%zu\"]%s\n", i, i, i + 1 < MERGES ? "," : "]}");
    peak = 0;
    size = used;
    if (twice) {
        CHECK(open_text(&root) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "\"token7\" twice"), "%s",
              sae_error(ctx));
        return;
    }
    CHECK_OK(ctx, open_text(&root), return);
    CHECK(in_use - before < nodes * (16 + 3 * sizeof(void *)) + size, "%zu bytes for %zu values",
          in_use - before, nodes);
    CHECK(peak - before < nodes * (16 + 3 * sizeof(void *)) + size + 32 * TOKENS + 4096,
          "%zu bytes at the most", peak - before);
    v = sae_json_get(root, "vocab");
    m = sae_json_get(root, "merges");
    CHECK(sae_json_count(v) == TOKENS && sae_json_count(m) == MERGES, "other counts");
    for (i = 0, v = sae_json_first(v); v && sae_json_number(v) == (double)i; i++)
        v = sae_json_next(v);
    CHECK(i == TOKENS && !v, "token %zu", i);
    for (i = 0, m = sae_json_first(m); m; i++, m = sae_json_next(m)) {
        char want[32];
        snprintf(want, sizeof want, "b%zu", i);
        if (strcmp(sae_json_text(sae_json_next(sae_json_first(m))), want)) break;
    }
    CHECK(i == MERGES, "merge %zu", i);
    sae_json_close(root);
}

static void too_many(void) {
    const size_t n = (size_t)1 << 24;
    sae_json *root;
    for (size_t i = 0; i < n; i++) {
        if (room - used < 256) add("%s", "");
        memcpy(text + used, i ? ",0" : "[0", 2);
        used += 2;
    }
    add("]");
    peak = 0;
    CHECK(open_text(&root) == SAE_ERR_FORMAT && strstr(sae_error(ctx), "16777216 values"), "%s",
          sae_error(ctx));
    CHECK(peak < in_use + 65536, "%zu bytes for a file that is refused", peak);
}

int main(void) {
    sae_context_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.allocator.alloc = counted_alloc;
    desc.allocator.free = counted_free;
    desc.threads = 1;
    CHECK(sae_context_create(&desc, &ctx) == SAE_OK, "no context");
    values();
    refusals();
    crowded(1500, false);
    crowded(1500, true);
    tokenizer(false);
    tokenizer(true);
    too_many();
    sae_context_destroy(ctx);
    CHECK(in_use == 0, "%zu bytes are not given back", in_use);
    free(text);
    check_remove(check_temp());
    return check_end();
}
