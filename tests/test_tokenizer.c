/*  Proves: tokenizers of every kind that sae_lm.h reads give the ids and bytes that the package
    tokenizers gives (tests/tokenizers, made by tests/make_tokenizer_fixtures.py); merging, cutting
    at seams, bytes fallen back to and unknown characters are those of a naive version, on random
    vocabularies and words; thousands of added tokens are found as by looking at each; where bos
    comes from; what is refused, in what words; damaged files are opened or refused, nothing worse.
    Oracle: tokenizers; naive versions below. Ids and bytes equal. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#define SAE_LM_IMPLEMENTATION
#include "sae_lm.h"
#include "check.h"

static sae_context *ctx;

static const char *folder_of(const char *name) {
    return check_path("%s/tests/tokenizers/%s", check_root(), name);
}

static bool same_ids(const sae_tokens *got, const int32_t *want, size_t count) {
    return got->count == count && (!count || !memcmp(got->id, want, count * sizeof *want));
}

/* ---- fixtures ---- */

/* [text, ids, text of the ids] */
static void test_case(sae_tokenizer *t, const sae_json *v) {
    const char *text = sae_json_text(sae_json_first(v));
    const sae_json *ids = sae_json_next(sae_json_first(v)), *id = sae_json_first(ids);
    const char *decoded = sae_json_text(sae_json_next(ids));
    sae_tokens want = { NULL, 0, 0 }, got = { NULL, 0, 0 };
    sae_text back = { NULL, 0, 0 };
    for (; id; id = sae_json_next(id)) lmi_tokens_add(&want, (int32_t)sae_json_number(id));
    for (int again = 0; again < 2; again++) { /* from the words remembered */
        got.count = 0;
        CHECK_OK(ctx, sae_tokenizer_encode(t, text, strlen(text), false, &got), break);
        CHECK(same_ids(&got, want.id, want.count), "\"%s\": %zu ids, wanted %zu, or other ones", text,
              got.count, want.count);
    }
    CHECK_OK(ctx, sae_tokenizer_decode(t, want.id, want.count, &back), (void)0);
    CHECK(back.size == strlen(decoded) && !memcmp(back.data, decoded, back.size),
          "\"%s\" decodes to \"%s\"", decoded, back.data);
    sae_tokens_free(&want);
    sae_tokens_free(&got);
    sae_text_free(&back);
}

static void test_fixture(const char *name) {
    sae_tokenizer *t = NULL;
    sae_json *cases = NULL;
    size_t count = 0;
    check_test = name;
    CHECK_OK(ctx, sae_tokenizer_open(ctx, folder_of(name), &t), return);
    CHECK_OK(ctx, sae_json_open(ctx, check_path("%s/cases.json", folder_of(name)), &cases), return);
    for (const sae_json *v = sae_json_first(cases); v; v = sae_json_next(v), count++) test_case(t, v);
    CHECK(count >= 20, "%zu cases", count);
    sae_json_close(cases);
    sae_tokenizer_close(t);
}

static void each_fixture(void (*fn)(const char *name)) {
    DIR *dir = opendir(folder_of(""));
    struct dirent *e;
    size_t count = 0;
    while (dir && (e = readdir(dir)) != NULL) {
        char name[256];
        if (e->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "%s", e->d_name);
        fn(name);
        count++;
    }
    if (dir) closedir(dir);
    CHECK(count >= 20, "%zu tokenizers in %s", count, folder_of(""));
}

/* ---- merging ---- */

enum { LETTERS = 9, PIECES = 80, MERGES = 160, WORD = 400 };
static const char *const letters[LETTERS] = { "a", "b", "c", "d", "e", "\xC3\xA9", "\xE2\x96\x81",
                                              "x", "\xE2\x82\xAC" }; /* x, euro: no tokens */
enum { KNOWN = 7, EURO_BYTES = 2 }; /* of the euro's three bytes two or all have tokens */

/* A vocabulary of random pieces, and merges in random order. */
typedef struct bpe {
    char piece[PIECES][64];
    size_t pieces;
    int left[MERGES], right[MERGES], made[MERGES];
    size_t merges;
    int unknown; /* -1: none */
    bool fuse, fallback;
} bpe;

static int piece_find(const bpe *b, const char *text) {
    for (size_t i = 0; i < b->pieces; i++)
        if (strcmp(b->piece[i], text) == 0) return (int)i;
    return -1;
}

static int piece_add(bpe *b, const char *text) {
    int at = piece_find(b, text);
    if (at >= 0 || b->pieces == PIECES) return at;
    snprintf(b->piece[b->pieces], sizeof b->piece[0], "%s", text);
    return (int)b->pieces++;
}

static void bpe_make(bpe *b, check_rng *rng, int round) {
    size_t first;
    memset(b, 0, sizeof *b);
    b->unknown = -1;
    b->fuse = check_bits(rng) % 2;
    b->fallback = round % 2;
    if (check_bits(rng) % 3) b->unknown = piece_add(b, "<unk>");
    if (b->fallback) {
        piece_add(b, "<0xE2>");
        piece_add(b, "<0x82>");
        if (check_bits(rng) % 2) piece_add(b, "<0xAC>");
    }
    first = round % 5 == 4 ? 0 : b->pieces; /* sometimes bytes and the unknown one merge, too */
    for (int i = 0; i < KNOWN; i++) piece_add(b, letters[i]);
    for (int tries = 0; tries < 4000 && b->merges < MERGES; tries++) {
        char text[160];
        int l = (int)(first + check_bits(rng) % (b->pieces - first));
        int r = (int)(first + check_bits(rng) % (b->pieces - first)), made;
        bool known = false;
        for (size_t i = 0; i < b->merges; i++) known |= b->left[i] == l && b->right[i] == r;
        snprintf(text, sizeof text, "%s%s", b->piece[l], b->piece[r]);
        if (known || strlen(text) > 24 || (made = piece_add(b, text)) < 0) continue;
        b->left[b->merges] = l;
        b->right[b->merges] = r;
        b->made[b->merges++] = made;
    }
    for (size_t i = b->merges; i > 1; i--) { /* in random order */
        size_t k = check_bits(rng) % i;
        int *all[3], keep;
        all[0] = b->left, all[1] = b->right, all[2] = b->made;
        for (int p = 0; p < 3; p++) {
            keep = all[p][k];
            all[p][k] = all[p][i - 1];
            all[p][i - 1] = keep;
        }
    }
}

static const char *bpe_write(const bpe *b) {
    static char text[65536];
    const char *path = check_path("%s/bpe.json", check_temp());
    size_t n = (size_t)snprintf(text, sizeof text, "{\"model\":{\"fuse_unk\":%s,\"byte_fallback\":%s,"
                                "\"unk_token\":%s,\"vocab\":{", b->fuse ? "true" : "false",
                                b->fallback ? "true" : "false", b->unknown < 0 ? "null" : "\"<unk>\"");
    for (size_t i = 0; i < b->pieces; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\":%zu", i ? "," : "", b->piece[i], i);
    n += (size_t)snprintf(text + n, sizeof text - n, "},\"merges\":[");
    for (size_t i = 0; i < b->merges; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, i % 2 ? "%s[\"%s\",\"%s\"]" : "%s\"%s %s\"",
                              i ? "," : "", b->piece[b->left[i]], b->piece[b->right[i]]);
    n += (size_t)snprintf(text + n, sizeof text - n, "]}}");
    check_write(path, text, n);
    return path;
}

/* Symbols of one letter after the other, then the best pair until there is none. */
static size_t bpe_naive(const bpe *b, const int *letter, size_t count, int32_t *id) {
    size_t n = 0;
    bool waiting = false; /* an unknown one */
    for (size_t i = 0; i < count; i++) {
        int one = piece_find(b, letters[letter[i]]);
        char name[8];
        bool all = b->fallback;
        for (const char *p = letters[letter[i]]; *p; p++) {
            snprintf(name, sizeof name, "<0x%02X>", (unsigned)(unsigned char)*p);
            all = all && piece_find(b, name) >= 0;
        }
        if (one < 0 && all) {
            for (const char *p = letters[letter[i]]; *p; p++) {
                snprintf(name, sizeof name, "<0x%02X>", (unsigned)(unsigned char)*p);
                id[n++] = piece_find(b, name);
            }
            continue;
        }
        if (waiting && (one >= 0 || !b->fuse)) id[n++] = b->unknown, waiting = false;
        if (one >= 0) id[n++] = one;
        else waiting = b->unknown >= 0;
    }
    if (waiting) id[n++] = b->unknown;
    for (;;) {
        size_t best = SIZE_MAX, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < b->merges && m < best; m++)
                if (b->left[m] == id[i] && b->right[m] == id[i + 1]) best = m, at = i;
        if (best == SIZE_MAX) return n;
        id[at] = b->made[best];
        memmove(id + at + 1, id + at + 2, (n - at - 2) * sizeof *id);
        n--;
    }
}

static void test_merging(void) {
    check_rng rng = { 5 };
    size_t cut = 0, tokens = 0;
    check_test = "merging";
    for (int round = 0; round < 60; round++) {
        bpe b;
        sae_tokenizer *t = NULL;
        bpe_make(&b, &rng, round);
        CHECK_OK(ctx, sae_tokenizer_open(ctx, bpe_write(&b), &t), return);
        for (int word = 0; word < 12; word++) {
            int letter[WORD];
            int32_t want[3 * WORD];
            sae_text text = { NULL, 0, 0 };
            sae_tokens got = { NULL, 0, 0 };
            size_t count = word < 6 ? 1 + check_bits(&rng) % 20 : 1 + check_bits(&rng) % WORD, n;
            for (size_t i = 0; i < count; i++) {
                letter[i] = (int)(check_bits(&rng) % (word % 2 ? LETTERS : KNOWN));
                lmi_text_add(&text, letters[letter[i]], strlen(letters[letter[i]]));
            }
            n = bpe_naive(&b, letter, count, want);
            CHECK_OK(ctx, sae_tokenizer_encode(t, text.data, text.size, false, &got), return);
            CHECK(same_ids(&got, want, n), "round %d, %zu letters: %zu ids, wanted %zu, or other ones",
                  round, count, got.count, n);
            if (t->seam && text.size > LMI_CACHE_BYTES)
                cut += lmi_seam_length(t, (const unsigned char *)text.data, text.size) < text.size;
            tokens += n;
            sae_tokens_free(&got);
            sae_text_free(&text);
        }
        sae_tokenizer_close(t);
    }
    CHECK(cut > 50 && tokens > 10000, "%zu long words have seams, %zu tokens", cut, tokens);
}

/* ---- added tokens ---- */

/* Some thousands, many of them the beginning of others. */
static void test_added(void) {
    enum { ADDED = 4000, ROUNDS = 300 };
    static char names[ADDED][16], json[1 << 20];
    const char *path = check_path("%s/added.json", check_temp());
    check_rng rng = { 6 };
    sae_tokenizer *t = NULL;
    size_t n = (size_t)snprintf(json, sizeof json, "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"<\":2},"
                                "\"merges\":[]},\"added_tokens\":["), found = 0;
    check_test = "added tokens";
    for (size_t i = 0; i < ADDED; i++) { /* of equal ones only the first is written */
        size_t k = 0, length = 2 + check_bits(&rng) % 9;
        for (names[i][k++] = '<'; k < length; k++) names[i][k] = "ab<"[check_bits(&rng) % 3];
        for (k = 0; k < i && strcmp(names[k], names[i]) != 0; k++) {}
        if (k < i) names[i][0] = 0;
        else n += (size_t)snprintf(json + n, sizeof json - n, "%s{\"id\":%zu,\"content\":\"%s\","
                                   "\"normalized\":false}", i ? "," : "", i + 3, names[i]);
    }
    n += (size_t)snprintf(json + n, sizeof json - n, "]}");
    check_write(path, json, n);
    CHECK_OK(ctx, sae_tokenizer_open(ctx, path, &t), return);
    for (int round = 0; round < ROUNDS; round++) {
        char text[100];
        int32_t want[100];
        size_t size = check_bits(&rng) % sizeof text, count = 0;
        sae_tokens got = { NULL, 0, 0 };
        for (size_t i = 0; i < size; i++) text[i] = "ab<"[check_bits(&rng) % 3];
        for (size_t at = 0; at < size;) {
            size_t best = 0, step = 1;
            for (size_t i = 0; i < ADDED; i++) {
                size_t length = strlen(names[i]);
                if (length && length <= size - at && length > step && !memcmp(names[i], text + at, length))
                    best = i + 3, step = length;
            }
            want[count++] = best ? (int32_t)best : text[at] == '<' ? 2 : text[at] - 'a';
            found += best > 0;
            at += step;
        }
        CHECK_OK(ctx, sae_tokenizer_encode(t, text, size, false, &got), return);
        CHECK(same_ids(&got, want, count), "round %d: %zu ids, wanted %zu, or other ones", round,
              got.count, count);
        sae_tokens_free(&got);
    }
    CHECK(found > ROUNDS, "%zu added tokens", found);
    CHECK(sae_tokenizer_find(t, names[0], strlen(names[0])) == 3, "the first one is not found");
    sae_tokenizer_close(t);
}

/* ---- bos ---- */

/* A folder with a fixture's tokenizer.json and these beside it; NULL: not there. */
static const char *folder_with(const char *name, const char *tokenizer_config, const char *config) {
    const char *folder = check_path("%s/tok", check_temp());
    size_t size = 0;
    char *data = check_read(check_path("%s/tokenizer.json", folder_of(name)), &size);
    check_remove(folder);
    mkdir(folder, 0777);
    check_write(check_path("%s/tokenizer.json", folder), data, size);
    if (tokenizer_config)
        check_write(check_path("%s/tokenizer_config.json", folder), tokenizer_config,
                    strlen(tokenizer_config));
    if (config) check_write(check_path("%s/config.json", folder), config, strlen(config));
    free(data);
    return folder;
}

static void test_bos(void) {
    static const struct {
        const char *name, *tokenizer_config, *config, *want; /* want: the token; NULL: none */
    } cases[] = {
        { "llama3", NULL, NULL, "<|begin|>" }, /* by the post-processor, whatever else is said */
        { "llama3", "{\"bos_token\":\"<|end|>\"}", "{\"bos_token_id\":0}", "<|begin|>" },
        { "gemma", NULL, NULL, "<bos>" },
        { "gpt2", NULL, NULL, NULL },
        { "gpt2", "{\"bos_token\":\"<|endoftext|>\"}", NULL, "<|endoftext|>" },
        { "gpt2", "{\"bos_token\":{\"content\":\"<|endoftext|>\"}}", NULL, "<|endoftext|>" },
        { "gpt2", "{\"bos_token\":null}", "{\"bos_token_id\":0}", NULL },
        { "gpt2", "{\"bos_token\":\"<nothing>\"}", "{\"bos_token_id\":0}", NULL },
        { "gpt2", "{\"model_max_length\":1024}", "{\"bos_token_id\":0}", "!" },
        { "gpt2", NULL, "{\"bos_token_id\":999999}", NULL },
        { "gpt2", NULL, "{\"bos_token_id\":null}", NULL },
    };
    check_test = "bos";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_tokenizer *t = NULL;
        sae_tokens ids = { NULL, 0, 0 };
        const int32_t *bos;
        size_t count = 9, size = 0;
        const char *token;
        CHECK_OK(ctx, sae_tokenizer_open(ctx, folder_with(cases[i].name, cases[i].tokenizer_config,
                                                          cases[i].config), &t), continue);
        bos = sae_tokenizer_bos(t, &count);
        CHECK(count == (cases[i].want != NULL), "case %zu: %zu tokens", i, count);
        token = count ? sae_tokenizer_token(t, bos[0], &size) : NULL;
        CHECK(!count || (size == strlen(cases[i].want) && !memcmp(token, cases[i].want, size)),
              "case %zu: %.*s, wanted %s", i, (int)size, token, cases[i].want);
        CHECK_OK(ctx, sae_tokenizer_encode(t, "", 0, true, &ids), (void)0);
        CHECK(same_ids(&ids, bos, count), "case %zu: %zu ids of no text", i, ids.count);
        sae_tokens_free(&ids);
        sae_tokenizer_close(t);
    }
    check_remove(check_path("%s/tok", check_temp()));
}

/* ---- what is asked of a token ---- */

static void test_tokens(void) {
    sae_tokenizer *t = NULL;
    sae_text text = { NULL, 0, 0 };
    size_t size = 0;
    int32_t the, newline, ids[2];
    const char *bytes;
    check_test = "tokens";
    CHECK_OK(ctx, sae_tokenizer_open(ctx, folder_of("llama"), &t), return);
    the = sae_tokenizer_find(t, " there", 6);
    bytes = sae_tokenizer_token(t, the, &size);
    CHECK(bytes && size == 6 && !memcmp(bytes, " there", 6), "\" there\" is %ld", (long)the);
    newline = sae_tokenizer_find(t, "\n", 1);
    bytes = sae_tokenizer_token(t, newline, &size);
    CHECK(bytes && size == 1 && bytes[0] == '\n', "a newline is %ld", (long)newline);
    bytes = sae_tokenizer_token(t, 3 + 0xE2, &size);
    CHECK(bytes && size == 1 && bytes[0] == '\xE2', "<0xE2> is %zu bytes", size);
    CHECK(sae_tokenizer_find(t, "<s>", 3) == 1, "<s> is not 1");
    ids[0] = ids[1] = the; /* a space comes off the front of what is decoded, not of a token */
    CHECK_OK(ctx, sae_tokenizer_decode(t, ids, 2, &text), (void)0);
    CHECK(text.size == 11 && !memcmp(text.data, "there there", 11), "decoded: %s", text.data);
    CHECK_OK(ctx, sae_tokenizer_decode(t, ids, 1, &text), (void)0); /* appended */
    CHECK(text.size == 16 && !memcmp(text.data, "there therethere", 16), "decoded: %s", text.data);
    sae_text_free(&text);
    sae_tokenizer_close(t);
}

/* ---- refusals ---- */

#define MODEL "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<0x41>\":3},\"merges\":[\"a b\"]}"

static void test_refusals(void) {
    static const struct {
        const char *json, *words[3];
    } cases[] = {
        { "{}", { "no object model" } },
        { "[1]", { "no object model" } },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0.5]]}}", { "Unigram", "BPE" } },
        { "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", { "WordPiece", "BPE" } },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}}}", { "WordLevel", "BPE" } },
        { "{\"model\":{\"vocab\":{\"a\":0}}}", { "merges is missing" } },
        { "{\"model\":{\"vocab\":{},\"merges\":[]}}", { "empty" } },
        { "{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", { "two tokens", "id 0" } },
        { "{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", { "twice" } },
        { "{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", { "-1", "whole numbers" } },
        { "{\"model\":{\"vocab\":{\"a\":0.5},\"merges\":[]}}", { "0.5", "whole numbers" } },
        { "{\"model\":{\"vocab\":{\"a\":1e9},\"merges\":[]}}", { "1e+09", "2097151" } },
        { "{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", { "whole numbers" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", { "merge 0", "\"b\"" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}", { "merge 0" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"aa\"]}}", { "merge 0" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", { "merge 0" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}}", { "merge 0" } },
        { "{\"model\":{\"vocab\":{\"a\":0,\"\":1},\"merges\":[\" a\"]}}", { "merge 0" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", { "unk_token u" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", { "dropout" } },
        { "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"w\"}}",
          { "end_of_word_suffix", "w" } },
        { "{" MODEL ",\"normalizer\":{\"type\":\"Lowercase\"}}", { "Lowercase", "NFC" } },
        { "{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},"
          "\"content\":\"\"}}", { " {2,}", "String" } },
        { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Whitespace\"}}", { "Whitespace", "ByteLevel" } },
        { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+|\\\\W\"},"
          "\"behavior\":\"Isolated\"}}", { "\\w+|\\W", "Llama 3" } },
        { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}\"},"
          "\"behavior\":\"Removed\"}}", { "Removed", "Isolated" } },
        { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},"
          "\"behavior\":\"Removed\"}}", { "Removed", "MergedWithPrevious" } },
        { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
          "\"Metaspace\",\"replacement\":\"_\"},{\"type\":\"ByteLevel\"}]}}", { "ByteLevel behind" } },
        { "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\","
          "\"prepend_scheme\":\"second\"}}", { "second", "first" } },
        { "{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", { "WordPiece", "Metaspace" } },
        { "{" MODEL ",\"decoder\":{\"type\":\"ByteLevel\"}}", { "ByteLevel" } },
        { "{" MODEL ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
          "{\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\" \"}]}}",
          { "Replace behind" } },
        { "{" MODEL ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}}",
          { "Strip" } },
        { "{" MODEL ",\"post_processor\":{\"type\":\"RobertaProcessing\"}}",
          { "RobertaProcessing", "TemplateProcessing" } },
        { "{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
          "\"SpecialToken\":{\"id\":\"s\"}}],\"special_tokens\":{\"s\":{\"ids\":[9]}}}}",
          { "post_processor", "9" } },
        { "{" MODEL ",\"added_tokens\":[{\"id\":7,\"content\":\"ab\"}]}", { "ab", "7", "another" } },
        { "{" MODEL ",\"added_tokens\":[{\"id\":2,\"content\":\"c\"}]}", { "2", "another token's" } },
        { "{" MODEL ",\"added_tokens\":[{\"id\":5,\"content\":\"c\"},{\"id\":5,\"content\":\"d\"}]}",
          { "d", "5", "another token's" } },
        { "{" MODEL ",\"added_tokens\":[{\"id\":5}]}", { "no text" } },
        { "{" MODEL ",\"added_tokens\":[{\"content\":\"c\"}]}", { "token c", "whole numbers" } },
    };
    const char *path = check_path("%s/bad.json", check_temp());
    check_test = "refusals";
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sae_tokenizer *t = NULL;
        sae_result result;
        check_write(path, cases[i].json, strlen(cases[i].json));
        result = sae_tokenizer_open(ctx, path, &t);
        CHECK(result != SAE_OK && !t, "%s is opened", cases[i].json);
        for (int w = 0; w < 3 && cases[i].words[w]; w++)
            CHECK(strstr(sae_error(ctx), cases[i].words[w]) && strstr(sae_error(ctx), "bad.json"),
                  "%s: no \"%s\" in: %s", cases[i].json, cases[i].words[w], sae_error(ctx));
        if (result == SAE_OK) sae_tokenizer_close(t);
    }
}

/* A folder without tokenizer.json: what is there is named, with advice. */
static void test_others(void) {
    const char *folder = check_path("%s/other", check_temp());
    sae_tokenizer *t = NULL;
    check_test = "no tokenizer.json";
    mkdir(folder, 0777);
    CHECK(sae_tokenizer_open(ctx, folder, &t) == SAE_ERR_NOT_FOUND
              && strstr(sae_error(ctx), "tokenizer.json is not there"), "%s", sae_error(ctx));
    check_write(check_path("%s/tokenizer.model", folder), "x", 1);
    CHECK(sae_tokenizer_open(ctx, folder, &t) == SAE_ERR_NOT_FOUND
              && strstr(sae_error(ctx), "beside it is tokenizer.model")
              && strstr(sae_error(ctx), "save_pretrained"), "%s", sae_error(ctx));
    CHECK(!t, "a tokenizer, too");
    check_remove(folder);
}

/* ---- damage ---- */

static void test_damage(const char *name) {
    const char *path = check_path("%s/damaged.json", check_temp());
    size_t size = 0, refused = 0;
    char *whole = check_read(check_path("%s/tokenizer.json", folder_of(name)), &size);
    check_rng rng = { 12 };
    enum { STEPS = 60 };
    check_test = name;
    for (int i = 0; i < STEPS; i++) {
        char *data = (char *)malloc(size);
        size_t at = (size_t)check_bits(&rng) % (i % 2 ? size : lmi_min(size, 1500));
        sae_tokenizer *t = NULL;
        sae_tokens ids = { NULL, 0, 0 };
        sae_result result;
        memcpy(data, whole, size);
        data[at] = "09-{}[]\",: x"[check_bits(&rng) % 12];
        check_write(path, data, i % 8 ? size : at);
        result = sae_tokenizer_open(ctx, path, &t);
        CHECK((result == SAE_OK) == (t != NULL), "a tokenizer, and %s", sae_result_name(result));
        refused += result != SAE_OK;
        if (t) CHECK_OK(ctx, sae_tokenizer_encode(t, data, size, true, &ids), (void)0);
        sae_tokens_free(&ids);
        sae_tokenizer_close(t);
        free(data);
    }
    CHECK(refused > STEPS / 4, "%zu of %d refused", refused, STEPS);
    free(whole);
}

int main(void) {
    ctx = check_context(1);
    each_fixture(test_fixture);
    test_merging();
    test_added();
    test_bos();
    test_tokens();
    test_refusals();
    test_others();
    each_fixture(test_damage);
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
