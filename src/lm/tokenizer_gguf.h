#pragma once
#include "tokenizer_json.h"

/* ==== >>lm: tokenizer: .gguf ================================================================== */
/* tokenizer.ggml.model "gpt2": BPE of bytes with a list of merges; "llama": as SentencePiece, any
   two neighbours that make a token may merge, the token of the highest score first. What the file
   does not say is taken as the tokenizers of these names have it: patterns, NFC, ignore_merges. */

/* By the number of a token's type; others are as normal ones. */
enum {
    LMI_GGUF_UNKNOWN = 2, LMI_GGUF_CONTROL, LMI_GGUF_USER_DEFINED, LMI_GGUF_UNUSED, LMI_GGUF_BYTE
};

typedef struct lmi_gguf_pre {
    const char *name; /* tokenizer.ggml.pre */
    unsigned char part[LMI_PARTS];
    bool nfc, ignore_merges;
} lmi_gguf_pre;
#define LMI_GPT2 { 1, LMI_WORDS_SPACE, 0, LMI_OTHERS_BARE, 0, 1 }
#define LMI_LLAMA3 { 2, LMI_WORDS_HEAD, 3, LMI_OTHERS_LINES, 1, 1 }
#define LMI_QWEN2 { 2, LMI_WORDS_HEAD, 1, LMI_OTHERS_LINES, 1, 1 }
#define LMI_GPT4O { 0, LMI_WORDS_CASED_ENDING, 3, LMI_OTHERS_SLASH, 1, 1 }
static const lmi_gguf_pre lmi_gguf_pres[] = {
    { "gpt-2", LMI_GPT2, false, false },
    { "olmo", LMI_GPT2, true, false }, /* GPT-NeoX, Pythia */
    { "mpt", LMI_GPT2, true, false },
    { "llama-bpe", LMI_LLAMA3, false, true },
    { "llama3", LMI_LLAMA3, false, true },
    { "llama-v3", LMI_LLAMA3, false, true },
    { "qwen2", LMI_QWEN2, true, false },
    { "deepseek-r1-qwen", LMI_QWEN2, true, false },
    { "qwen35", { 2, LMI_WORDS_MARKS, 1, LMI_OTHERS_LINES, 1, 1 }, true, false },
    { "gpt-4o", LMI_GPT4O, false, false },
    { "llama4", LMI_GPT4O, false, false },
    { "tekken", { 0, LMI_WORDS_CASED, 1, LMI_OTHERS_SLASH, 1, 1 }, false, true }
};
#undef LMI_GPT2
#undef LMI_LLAMA3
#undef LMI_QWEN2
#undef LMI_GPT4O

/* Files of before there were names, by what architecture they are of. */
static const char *const lmi_gguf_older[][2] = {
    { "gptneox", "olmo" }, { "llama", "llama-bpe" }, { "qwen2", "qwen2" }, { "qwen3", "qwen2" },
    { "qwen3moe", "qwen2" }
};

static sae_result lmi_gguf_pattern(lmi_tokenizer_file *r) {
    const char *name = lmi_text_of(r->root, "tokenizer.ggml.pre");
    const char *arch = lmi_text_of(r->root, "general.architecture");
    char known[256] = "";
    size_t n = 0;
    if (!name[0] || strcmp(name, "default") == 0) {
        name = "gpt-2";
        for (size_t i = 0; i < LMI_COUNT(lmi_gguf_older); i++)
            if (strcmp(arch, lmi_gguf_older[i][0]) == 0) name = lmi_gguf_older[i][1];
    }
    for (size_t i = 0; i < LMI_COUNT(lmi_gguf_pres); i++) {
        const lmi_gguf_pre *pre = &lmi_gguf_pres[i];
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", pre->name);
        if (strcmp(name, pre->name) != 0) continue;
        memcpy(r->t->splitter.part, pre->part, sizeof pre->part);
        r->t->splitter.cut = LMI_CUT_PATTERN;
        r->t->ignore_merges = pre->ignore_merges;
        if (pre->nfc) r->t->step[r->t->num_steps++].kind = LMI_NFC;
        return SAE_OK;
    }
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "tokenizer.ggml.pre is %.60s, supported are %s",
                      name, known);
}

/* Spaces are U+2581, one more in front unless add_space_prefix is false. */
static sae_result lmi_gguf_spaces(lmi_tokenizer_file *r) {
    static const char mark[] = "\xE2\x96\x81";
    const sae_json *prefix = sae_json_get(r->root, "tokenizer.ggml.add_space_prefix");
    sae_tokenizer *t = r->t;
    lmi_normal_step *step;
    if (!prefix || sae_json_number(prefix) != 0) {
        step = &t->step[t->num_steps++];
        step->kind = LMI_PREPEND;
        LMI_TRY(lmi_span_of(r, mark, &step->to));
        LMI_TRY(lmi_span_of(r, " ", &t->strip_text));
        t->strip_start = 1;
    }
    step = &t->step[t->num_steps++];
    step->kind = LMI_REPLACE;
    LMI_TRY(lmi_span_of(r, " ", &step->from));
    LMI_TRY(lmi_span_of(r, mark, &step->to));
    step = &r->decode[r->num_decode++];
    step->kind = LMI_REPLACE;
    LMI_TRY(lmi_span_of(r, mark, &step->from));
    LMI_TRY(lmi_span_of(r, " ", &step->to));
    r->decode_bytes = true;
    t->byte_fallback = t->fuse_unknown = true;
    return SAE_OK;
}

/* A list of the metadata with an entry for each token. */
static sae_result lmi_gguf_list_of(const lmi_tokenizer_file *r, const char *key,
                                   const sae_json **out) {
    const sae_json *v = sae_json_get(r->root, key);
    if (sae_json_kind_of(v) != SAE_JSON_ARRAY || sae_json_count(v) < r->t->size)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "%s has %zu entries, there are %zu tokens", key,
                          sae_json_kind_of(v) == SAE_JSON_ARRAY ? sae_json_count(v) : 0,
                          r->t->size);
    *out = sae_json_first(v);
    return SAE_OK;
}

/* One token. What is special, or user-defined, is found in plain text. */
static sae_result lmi_gguf_token(lmi_tokenizer_file *r, int32_t id, int type, const char *text,
                                 size_t size) {
    sae_tokenizer *t = r->t;
    bool found = type >= LMI_GGUF_UNKNOWN && type <= LMI_GGUF_USER_DEFINED && size;
    bool plain = size && !found && type != LMI_GGUF_UNUSED, good = true;
    const char *decoded;
    size_t length;
    r->piece.size = 0;
    if (plain) good = lmi_piece_add(r, text, size, &r->piece, &plain);
    else good = lmi_text_add(&r->piece, text, size);
    good = good && lmi_decoded(r, r->piece.data, r->piece.size, &decoded, &length)
           && lmi_token_set(t, id, r->piece.data, r->piece.size, decoded, length, plain);
    if (good && found) {
        lmi_added *a = &t->added[0][t->num_added[0]++];
        a->id = id;
        good = lmi_span_add(t, text, size, &a->span);
    }
    return good ? SAE_OK : lmi_tokenizer_memory(t);
}

/* All tokens; type [size] is filled. */
static sae_result lmi_gguf_vocab(lmi_tokenizer_file *r, unsigned char *type) {
    sae_tokenizer *t = r->t;
    const sae_json *v = sae_json_first(r->vocab), *k = NULL;
    if (sae_json_get(r->root, "tokenizer.ggml.token_type"))
        LMI_TRY(lmi_gguf_list_of(r, "tokenizer.ggml.token_type", &k));
    for (size_t i = 0; i < t->size; i++, v = sae_json_next(v), k = k ? sae_json_next(k) : NULL) {
        double number = sae_json_number(k);
        if (!sae_json_text(v))
            return lmi_refuse(t, SAE_ERR_FORMAT, "tokenizer.ggml.tokens[%zu] is no text", i);
        type[i] = number > 0 && number <= LMI_GGUF_BYTE ? (unsigned char)number : 0;
        LMI_TRY(lmi_gguf_token(r, (int32_t)i, type[i], sae_json_text(v), sae_json_count(v)));
    }
    return SAE_OK;
}

/* -- merges by scores -- */

typedef struct lmi_gguf_score {
    double score;
    int32_t id;
} lmi_gguf_score;

static int lmi_gguf_sooner(const void *a, const void *b) {
    const lmi_gguf_score *x = (const lmi_gguf_score *)a, *y = (const lmi_gguf_score *)b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* A token's two parts that may merge into it, split in front of byte `at`; false: one is none. */
static bool lmi_gguf_parts(const sae_tokenizer *t, const unsigned char *type, int32_t id, size_t at,
                           int32_t part[2]) {
    lmi_span piece = t->token[id].piece;
    const char *s = lmi_span_data(t, piece);
    if (((unsigned char)s[at] & 0xC0) == 0x80) return false;
    part[0] = lmi_piece_find(t, s, at);
    if (part[0] < 0 || type[part[0]] == LMI_GGUF_BYTE) return false;
    part[1] = lmi_piece_find(t, s + at, piece.size - at);
    return part[1] >= 0 && type[part[1]] != LMI_GGUF_BYTE;
}

/* Tokens of equal scores have equal ranks: the leftmost of them merges first. */
static sae_result lmi_gguf_merges(lmi_tokenizer_file *r, const unsigned char *type,
                                  lmi_gguf_score *order) {
    sae_tokenizer *t = r->t;
    const sae_json *v;
    size_t tokens = 0, pairs = 0;
    int32_t part[2];
    LMI_TRY(lmi_gguf_list_of(r, "tokenizer.ggml.scores", &v));
    for (size_t i = 0; i < t->size; i++, v = sae_json_next(v)) {
        double score = sae_json_number(v);
        if (!t->token[i].plain || type[i] == LMI_GGUF_BYTE) continue;
        if (sae_json_kind_of(v) != SAE_JSON_NUMBER || !(fabs(score) < 1e300))
            return lmi_refuse(t, SAE_ERR_FORMAT, "tokenizer.ggml.scores[%zu] is %g, allowed are "
                              "finite numbers", i, score);
        order[tokens].score = score;
        order[tokens++].id = (int32_t)i;
    }
    if (tokens) qsort(order, tokens, sizeof *order, lmi_gguf_sooner);
    for (int pass = 0; pass < 2; pass++) {
        int32_t rank = 0;
        for (size_t i = 0; i < tokens; i++) {
            int32_t id = order[i].id;
            rank += i && order[i].score != order[i - 1].score;
            for (size_t at = 1; at < t->token[id].piece.size; at++) {
                if (!lmi_gguf_parts(t, type, id, at, part)) continue;
                if (pass) lmi_merge_set(t, part[0], part[1], id, rank);
                else pairs++;
            }
        }
        if (!pass && !lmi_merges_room(t, pairs)) return lmi_tokenizer_memory(t);
    }
    return SAE_OK;
}

/* -- the file -- */

/* An id of the metadata, `otherwise` where it has none. */
static sae_result lmi_gguf_id(const lmi_tokenizer_file *r, const char *key, int32_t otherwise,
                              int32_t *out) {
    const sae_json *v = sae_json_get(r->root, key);
    *out = v ? lmi_id_of(v) : (size_t)otherwise < r->t->size ? otherwise : -1;
    if (!v || (*out >= 0 && (size_t)*out < r->t->size)) return SAE_OK;
    return lmi_refuse(r->t, SAE_ERR_FORMAT, "%s is %g, allowed are the ids from 0 to %zu", key,
                      sae_json_number(v), r->t->size - 1);
}

static sae_result lmi_gguf_read(lmi_tokenizer_file *r, bool scores) {
    sae_tokenizer *t = r->t;
    unsigned char *type;
    lmi_gguf_score *order;
    int32_t bos;
    sae_result result;
    t->unknown = -1;
    if (scores) LMI_TRY(lmi_gguf_spaces(r));
    else LMI_TRY(lmi_gguf_pattern(r));
    if (scores) LMI_TRY(lmi_gguf_id(r, "tokenizer.ggml.unknown_token_id", 0, &t->unknown));
    LMI_TRY(lmi_gguf_id(r, "tokenizer.ggml.bos_token_id", scores ? 1 : -1, &bos));
    if (bos >= 0 && !lmi_tokens_add(&t->bos, bos)) return lmi_tokenizer_memory(t);
    t->added[0] = (lmi_added *)calloc(t->size, sizeof(lmi_added));
    type = (unsigned char *)malloc(t->size);
    order = (lmi_gguf_score *)calloc(scores ? t->size : 1, sizeof *order);
    if (!t->added[0] || !type || !order) result = lmi_tokenizer_memory(t);
    else result = lmi_gguf_vocab(r, type);
    if (result == SAE_OK)
        result = scores ? lmi_gguf_merges(r, type, order) : lmi_read_merges(r);
    free(type);
    free(order);
    if (result != SAE_OK) return result;
    return lmi_tokenizer_finish(t) ? SAE_OK : lmi_tokenizer_memory(t);
}

/* What kind there is, and how much of it. */
static sae_result lmi_gguf_kind(lmi_tokenizer_file *r) {
    const char *model = lmi_text_of(r->root, "tokenizer.ggml.model");
    bool scores = strcmp(model, "llama") == 0;
    size_t size = sae_json_count(r->vocab);
    r->t->bytes = strcmp(model, "gpt2") == 0;
    if (!model[0] || strcmp(model, "no_vocab") == 0 || strcmp(model, "none") == 0)
        return lmi_refuse(r->t, SAE_ERR_NOT_FOUND, "there is no tokenizer in it");
    if (!scores && !r->t->bytes)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "tokenizer.ggml.model is %.60s, supported are gpt2 and llama", model);
    if (sae_json_kind_of(r->vocab) != SAE_JSON_ARRAY || !size || size > LMI_MAX_ID)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "tokenizer.ggml.tokens has %zu entries, allowed "
                          "are 1 to %d", sae_json_kind_of(r->vocab) == SAE_JSON_ARRAY ? size : 0,
                          LMI_MAX_ID);
    if (r->t->bytes && sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return lmi_refuse(r->t, SAE_ERR_FORMAT, "tokenizer.ggml.merges is missing");
    if (!lmi_tokenizer_room(r->t, size, size, r->t->bytes ? sae_json_count(r->merges) : 0))
        return lmi_tokenizer_memory(r->t);
    return lmi_gguf_read(r, scores);
}

/* Fills t from the file t->path. */
static sae_result lmi_tokenizer_read_gguf(sae_tokenizer *t) {
    sae_tensor_file *file;
    lmi_tokenizer_file r;
    sae_result result;
    memset(&r, 0, sizeof r);
    LMI_TRY(sae_tensor_file_open(t->ctx, t->path, &file));
    r.t = t;
    r.root = sae_tensor_file_metadata(file);
    r.vocab = sae_json_get(r.root, "tokenizer.ggml.tokens");
    r.merges = sae_json_get(r.root, "tokenizer.ggml.merges");
    for (uint32_t c = 0; c < 512; c++) r.alphabet[c] = (int16_t)lmi_alphabet(c);
    result = lmi_gguf_kind(&r);
    sae_text_free(&r.piece);
    sae_text_free(&r.text[0]);
    sae_text_free(&r.text[1]);
    sae_tensor_file_close(file);
    return result;
}
