#pragma once
#include "normalize.h"
#include "split.h"

/* ==== >>lm: tokenizer: tokenizer.json ========================================================= */

typedef struct lmi_tokenizer_file {
    sae_tokenizer *t;
    const sae_json *root, *model, *vocab, *merges, *added;
    int16_t alphabet[512];   /* GPT-2's: the byte of a character */
    lmi_normal_step decode[LMI_MAX_STEPS]; /* LMI_REPLACE alone: from a piece to its text */
    size_t num_decode;
    bool decode_bytes;       /* "<0x41>" is a byte */
    int decoders;            /* the last kind seen, in the order they may come in */
    sae_text piece, text[2]; /* of the token at hand */
} lmi_tokenizer_file;

static bool lmi_is_true(const sae_json *object, const char *key) {
    return sae_json_number(sae_json_get(object, key)) != 0;
}

static bool lmi_is_null(const sae_json *v) {
    return sae_json_kind_of(v) == SAE_JSON_NONE || sae_json_kind_of(v) == SAE_JSON_NULL;
}

static const char *lmi_text_of(const sae_json *object, const char *key) {
    const char *text = sae_json_text(sae_json_get(object, key));
    return text ? text : "";
}

static const char *lmi_type(const sae_json *v) {
    const char *type = lmi_text_of(v, "type");
    return type[0] ? type : "no text";
}

/* fn for v, or for the parts of v where it is a Sequence; list: where they are. */
static sae_result lmi_each_part(lmi_tokenizer_file *r, const sae_json *v, const char *list,
                           sae_result (*fn)(lmi_tokenizer_file *r, const sae_json *v)) {
    const sae_json *part;
    if (lmi_is_null(v)) return SAE_OK;
    if (strcmp(lmi_type(v), "Sequence") != 0) return fn(r, v);
    for (part = sae_json_first(sae_json_get(v, list)); part; part = sae_json_next(part))
        LMI_TRY(fn(r, part));
    return SAE_OK;
}

static sae_result lmi_span_of(lmi_tokenizer_file *r, const char *text, lmi_span *out) {
    return lmi_span_add(r->t, text, strlen(text), out) ? SAE_OK : lmi_tokenizer_memory(r->t);
}

/* -- normalizer, pre_tokenizer, decoder, post_processor -- */

/* {"pattern": {"String": from}, "content": to} */
static sae_result lmi_read_replace(lmi_tokenizer_file *r, const char *of, const sae_json *v,
                                   lmi_normal_step *out) {
    const sae_json *pattern = sae_json_get(v, "pattern");
    const char *from = sae_json_text(sae_json_get(pattern, "String"));
    const char *to = sae_json_text(sae_json_get(v, "content"));
    if (!from || !from[0] || !to)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the %s replaces the pattern %.60s, supported is a String", of,
                          lmi_text_of(pattern, "Regex"));
    out->kind = LMI_REPLACE;
    LMI_TRY(lmi_span_of(r, from, &out->from));
    return lmi_span_of(r, to, &out->to);
}

static sae_result lmi_normalizer(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_normal_step *step = &r->t->step[r->t->num_steps];
    const char *type = lmi_type(v);
    if (r->t->num_steps == LMI_MAX_STEPS)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED, "the normalizer has more than %d steps",
                          LMI_MAX_STEPS);
    if (strcmp(type, "NFC") == 0) step->kind = LMI_NFC;
    else if (strcmp(type, "Prepend") == 0) {
        step->kind = LMI_PREPEND;
        LMI_TRY(lmi_span_of(r, lmi_text_of(v, "prepend"), &step->to));
    } else if (strcmp(type, "Replace") == 0) {
        LMI_TRY(lmi_read_replace(r, "normalizer", v, step));
    } else {
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the normalizer is %s, supported are NFC, Replace, Prepend, none and "
                          "Sequences of them",
                          type);
    }
    r->t->num_steps++;
    return SAE_OK;
}

/* An Isolated Split by a pattern leaves no text out and joins nothing; a Removed and inverted one
   neither, as the patterns match every character. */
static sae_result lmi_pre_split(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_splitter *p = &r->t->splitter;
    const sae_json *pattern = sae_json_get(v, "pattern");
    const char *regex = sae_json_text(sae_json_get(pattern, "Regex"));
    const char *string = sae_json_text(sae_json_get(pattern, "String"));
    const char *behavior = lmi_text_of(v, "behavior");
    bool invert = lmi_is_true(v, "invert");
    if (regex) {
        if (strcmp(behavior, "Isolated") != 0 && !(strcmp(behavior, "Removed") == 0 && invert))
            return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                              "the pre_tokenizer's Split is %s, supported with a pattern is "
                              "Isolated",
                              behavior);
        if (lmi_pattern_read(regex, p)) return SAE_OK;
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer's pattern is %.300s, supported are those of GPT-2, "
                          "Llama 3, Qwen 2 and 3, GPT-4o",
                          regex);
    }
    if (!string || !string[0] || strcmp(behavior, "MergedWithPrevious") != 0 || invert)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer's Split is %s, supported with a String is "
                          "MergedWithPrevious",
                          behavior);
    p->cut = LMI_CUT_BEHIND;
    return lmi_span_of(r, string, &p->mark);
}

static sae_result lmi_byte_level(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_splitter *p = &r->t->splitter;
    const sae_json *regex = sae_json_get(v, "use_regex");
    bool own = !regex || sae_json_number(regex) != 0, prefix = lmi_is_true(v, "add_prefix_space");
    if (p->cut && (own || prefix || p->cut != LMI_CUT_PATTERN))
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the pre_tokenizer has a ByteLevel behind another, supported is that "
                          "with use_regex and add_prefix_space false behind a Split by a pattern");
    r->t->bytes = true;
    if (own) lmi_pattern_read(lmi_pattern_gpt2, p);
    p->prefix = prefix ? LMI_PREFIX_ALWAYS : LMI_PREFIX_NEVER;
    return lmi_span_of(r, " ", &p->prefix_text);
}

static sae_result lmi_metaspace(lmi_tokenizer_file *r, const sae_json *v) {
    lmi_splitter *p = &r->t->splitter;
    const sae_json *scheme = sae_json_get(v, "prepend_scheme"), *split = sae_json_get(v, "split");
    const sae_json *add = sae_json_get(v, "add_prefix_space");
    const char *text = scheme ? lmi_text_of(v, "prepend_scheme") : "always";
    const char *mark = lmi_text_of(v, "replacement");
    if (!lmi_is_null(add) && sae_json_number(add) == 0) text = "never";
    p->prefix = strcmp(text, "always") == 0 ? LMI_PREFIX_ALWAYS
              : strcmp(text, "first") == 0 ? LMI_PREFIX_FIRST : LMI_PREFIX_NEVER;
    if ((p->prefix == LMI_PREFIX_NEVER && strcmp(text, "never") != 0) || !mark[0])
        return lmi_refuse(r->t, SAE_ERR_FORMAT,
                          "Metaspace has the prepend_scheme %s and the replacement \"%s\", allowed "
                          "are always, first and never, and a character",
                          text, mark);
    LMI_TRY(lmi_span_of(r, " ", &p->blank));
    LMI_TRY(lmi_span_of(r, mark, &p->space));
    p->prefix_text = p->mark = p->space;
    if (lmi_is_null(split) || sae_json_number(split) != 0) p->cut = LMI_CUT_BEFORE;
    return SAE_OK;
}

static sae_result lmi_pre_tokenizer(lmi_tokenizer_file *r, const sae_json *v) {
    const char *type = lmi_type(v);
    bool behind = r->t->bytes || r->t->splitter.cut || r->t->splitter.space.size;
    if (strcmp(type, "ByteLevel") == 0 && !r->t->bytes && !r->t->splitter.space.size)
        return lmi_byte_level(r, v);
    if (strcmp(type, "Split") == 0 && !behind) return lmi_pre_split(r, v);
    if (strcmp(type, "Metaspace") == 0 && !behind) return lmi_metaspace(r, v);
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                      "the pre_tokenizer is %s%s, supported are ByteLevel, a Split, both, "
                      "Metaspace or none",
                      type, behind ? " behind another" : "");
}

/* Replace and Metaspace change a token alone; then ByteFallback, Fuse, and Strip of the whole. */
static sae_result lmi_decoder(lmi_tokenizer_file *r, const sae_json *v) {
    static const char *const kinds[] = { "ByteLevel",    "Replace", "Metaspace",
                                         "ByteFallback", "Fuse",    "Strip" };
    sae_tokenizer *t = r->t;
    lmi_normal_step *step = &r->decode[r->num_decode];
    const char *type = lmi_type(v);
    int kind = 0;
    double start = sae_json_number(sae_json_get(v, "start"));
    double stop = sae_json_number(sae_json_get(v, "stop"));
    while (kind < 6 && strcmp(kinds[kind], type) != 0) kind++;
    if (kind == 6 || t->bytes != (kind == 0) || kind < r->decoders
        || (kind == 2 && r->decoders) || (kind == 5 && r->decoders != 4)
        || r->num_decode == LMI_MAX_STEPS)
        return lmi_refuse(t, SAE_ERR_UNSUPPORTED,
                          "the decoder is %s%s, supported are ByteLevel with a ByteLevel "
                          "pre_tokenizer, else Replace or Metaspace, ByteFallback, Fuse and Strip "
                          "in this order",
                          type, r->decoders ? " behind another" : "");
    r->decoders = kind;
    if (kind == 1) {
        LMI_TRY(lmi_read_replace(r, "decoder", v, step));
        r->num_decode++;
    } else if (kind == 2) {
        step->kind = LMI_REPLACE;
        LMI_TRY(lmi_span_of(r, lmi_text_of(v, "replacement"), &step->from));
        LMI_TRY(lmi_span_of(r, " ", &step->to));
        if (!step->from.size)
            return lmi_refuse(t, SAE_ERR_FORMAT, "the decoder Metaspace has no replacement");
        if (strcmp(lmi_text_of(v, "prepend_scheme"), "never") != 0) t->first_drops = step->from;
        r->num_decode++;
    } else if (kind == 3) {
        r->decode_bytes = true;
    } else if (kind == 5) {
        LMI_TRY(lmi_span_of(r, lmi_text_of(v, "content"), &t->strip_text));
        if (!t->strip_text.size || !(start >= 0 && start < 1e6) || !(stop >= 0 && stop < 1e6))
            return lmi_refuse(t, SAE_ERR_FORMAT, "the decoder Strip takes %g and %g times \"%s\" "
                              "off, allowed are counts from 0 and a character", start, stop,
                              lmi_text_of(v, "content"));
        t->strip_start = (size_t)start;
        t->strip_stop = (size_t)stop;
    }
    return SAE_OK;
}

/* The tokens in front of the text are bos; those behind it nobody asks for. */
static sae_result lmi_template(lmi_tokenizer_file *r, const sae_json *v) {
    const sae_json *specials = sae_json_get(v, "special_tokens"), *piece, *id;
    if (r->t->bos.count)
        return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                          "the post_processor has two templates, supported is one");
    for (piece = sae_json_first(sae_json_get(v, "single")); piece; piece = sae_json_next(piece)) {
        const sae_json *special = sae_json_get(piece, "SpecialToken");
        const char *name = sae_json_text(sae_json_get(special, "id"));
        if (!special) break;
        id = name ? sae_json_first(sae_json_get(sae_json_get(specials, name), "ids")) : NULL;
        for (; id; id = sae_json_next(id)) {
            double number = sae_json_kind_of(id) == SAE_JSON_NUMBER ? sae_json_number(id) : -1;
            if (!(number >= 0 && number < LMI_MAX_ID && number == floor(number))) number = -1;
            if (!lmi_tokens_add(&r->t->bos, (int32_t)number)) /* -1 is refused by lmi_read_rest */
                return lmi_tokenizer_memory(r->t);
        }
    }
    return SAE_OK;
}

static sae_result lmi_post_processor(lmi_tokenizer_file *r, const sae_json *v) {
    if (strcmp(lmi_type(v), "TemplateProcessing") == 0) return lmi_template(r, v);
    if (strcmp(lmi_type(v), "ByteLevel") == 0) return SAE_OK; /* changes no ids */
    return lmi_refuse(r->t, SAE_ERR_UNSUPPORTED,
                      "the post_processor is %s, supported are ByteLevel, TemplateProcessing or "
                      "none",
                      lmi_type(v));
}

/* What of the model there is no room for here. */
static sae_result lmi_read_kind(lmi_tokenizer_file *r) {
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const sae_json *type = sae_json_get(r->model, "type");
    sae_tokenizer *t = r->t;
    if (sae_json_kind_of(r->root) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->model) != SAE_JSON_OBJECT)
        return lmi_refuse(t, SAE_ERR_FORMAT, "there is no object model in it");
    if (type && strcmp(lmi_type(r->model), "BPE") != 0)
        return lmi_refuse(t, SAE_ERR_UNSUPPORTED, "the model is %s, supported is BPE",
                          lmi_type(r->model));
    for (size_t i = 0; i < 2; i++) {
        const char *text = lmi_text_of(r->model, affixes[i]);
        if (text[0])
            return lmi_refuse(t, SAE_ERR_UNSUPPORTED, "%s is %s, supported is none", affixes[i],
                              text);
    }
    if (sae_json_number(sae_json_get(r->model, "dropout")) > 0)
        return lmi_refuse(t, SAE_ERR_UNSUPPORTED, "dropout is %g, supported is none",
                          sae_json_number(sae_json_get(r->model, "dropout")));
    if (sae_json_kind_of(r->vocab) != SAE_JSON_OBJECT
        || sae_json_kind_of(r->merges) != SAE_JSON_ARRAY)
        return lmi_refuse(t, SAE_ERR_FORMAT, "model.vocab or model.merges is missing");
    t->ignore_merges = lmi_is_true(r->model, "ignore_merges");
    t->fuse_unknown = lmi_is_true(r->model, "fuse_unk");
    LMI_TRY(lmi_each_part(r, sae_json_get(r->root, "normalizer"), "normalizers", lmi_normalizer));
    LMI_TRY(lmi_each_part(r, sae_json_get(r->root, "pre_tokenizer"), "pretokenizers",
                     lmi_pre_tokenizer));
    LMI_TRY(lmi_each_part(r, sae_json_get(r->root, "decoder"), "decoders", lmi_decoder));
    t->byte_fallback = !t->bytes && lmi_is_true(r->model, "byte_fallback");
    return lmi_each_part(r, sae_json_get(r->root, "post_processor"), "processors",
                         lmi_post_processor);
}

/* -- vocabulary, merges, added tokens -- */

/* The byte that a character of GPT-2's alphabet stands for: printable ones for themselves, the
   others in their order from U+0100 on; -1: none. */
static int lmi_alphabet(uint32_t c) {
    int n = 0;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = b - 33 < 94 || b - 161 < 12 || b - 174 < 82;
        if (printable ? b == c : 256u + (uint32_t)n == c) return (int)b;
        n += !printable;
    }
    return -1;
}

/* Appends the piece that a text of the file is, in bytes where it is in their alphabet. *plain
   false: it is not. false: no memory. */
static bool lmi_piece_add(const lmi_tokenizer_file *r, const char *text, size_t size, sae_text *out,
                          bool *plain) {
    size_t before = out->size, step;
    *plain = size > 0;
    if (!r->t->bytes) return lmi_text_add(out, text, size);
    for (size_t at = 0; at < size && *plain; at += step) {
        uint32_t c = lmi_code((const unsigned char *)text + at, size - at, &step);
        char byte = c < 512 ? (char)(unsigned char)r->alphabet[c] : 0;
        *plain = c < 512 && r->alphabet[c] >= 0;
        if (*plain && !lmi_text_add(out, &byte, 1)) return false;
    }
    if (*plain) return true;
    out->size = before;
    return lmi_text_add(out, text, size);
}

/* The token's text into *text, *size: what the decoder makes of its piece. */
static bool lmi_decoded(lmi_tokenizer_file *r, const char *piece, size_t n, const char **text,
                        size_t *size) {
    static const char digits[] = "0123456789ABCDEF0123456789abcdef";
    *text = piece;
    *size = n;
    for (size_t i = 0; i < r->num_decode; i++) {
        sae_text *out = &r->text[i % 2];
        out->size = 0;
        if (!lmi_replace(r->t, r->decode[i].from, r->decode[i].to, *text, *size, out)) return false;
        *text = out->data;
        *size = out->size;
    }
    if (r->decode_bytes && *size == 6 && memcmp(*text, "<0x", 3) == 0 && (*text)[5] == '>') {
        const char *high = strchr(digits, (*text)[3]), *low = strchr(digits, (*text)[4]);
        char byte;
        if (!high || !low || !*high || !*low) return true;
        byte = (char)(unsigned char)((high - digits) % 16 * 16 + (low - digits) % 16);
        r->text[0].size = 0;
        if (!lmi_text_add(&r->text[0], &byte, 1)) return false;
        *text = r->text[0].data;
        *size = 1;
    }
    return true;
}

/* The id of v, from 0 to LMI_MAX_ID - 1; -1: none. */
static int32_t lmi_id_of(const sae_json *v) {
    double number = sae_json_kind_of(v) == SAE_JSON_NUMBER ? sae_json_number(v) : -1;
    return number >= 0 && number < LMI_MAX_ID && number == floor(number) ? (int32_t)number : -1;
}

/* The largest id. */
static sae_result lmi_read_sizes(lmi_tokenizer_file *r) {
    size_t size = 0;
    for (int pass = 0; pass < 2; pass++) {
        const sae_json *v = sae_json_first(pass ? r->added : r->vocab);
        for (; v; v = sae_json_next(v)) {
            const sae_json *id = pass ? sae_json_get(v, "id") : v;
            const char *text = pass ? sae_json_text(sae_json_get(v, "content")) : sae_json_key(v);
            if (!text || lmi_id_of(id) < 0)
                return lmi_refuse(r->t, SAE_ERR_FORMAT,
                                  "the token %.60s has the id %g, allowed are whole numbers from 0 "
                                  "to %d",
                                  text ? text : "(no text)", sae_json_number(id), LMI_MAX_ID - 1);
            size = lmi_max(size, (size_t)lmi_id_of(id) + 1);
        }
    }
    if (!size) return lmi_refuse(r->t, SAE_ERR_FORMAT, "the vocabulary is empty");
    return lmi_tokenizer_room(r->t, size, sae_json_count(r->vocab), sae_json_count(r->merges))
               ? SAE_OK : lmi_tokenizer_memory(r->t);
}

static sae_result lmi_read_vocab(lmi_tokenizer_file *r) {
    sae_tokenizer *t = r->t;
    for (const sae_json *v = sae_json_first(r->vocab); v; v = sae_json_next(v)) {
        int32_t id = lmi_id_of(v);
        const char *text;
        size_t size;
        bool plain;
        if (t->token[id].there)
            return lmi_refuse(t, SAE_ERR_FORMAT, "two tokens have the id %ld, %.60s is the second",
                              (long)id, sae_json_key(v));
        r->piece.size = 0;
        if (!lmi_piece_add(r, sae_json_key(v), strlen(sae_json_key(v)), &r->piece, &plain)
            || !lmi_decoded(r, r->piece.data, r->piece.size, &text, &size)
            || !lmi_token_set(t, id, r->piece.data, r->piece.size, text, size, plain))
            return lmi_tokenizer_memory(t);
    }
    return SAE_OK;
}

/* "l r" or ["l", "r"]: its two texts and sizes; false: something else. */
static bool lmi_merge_parts(const sae_json *v, const char **part, size_t *size) {
    const char *whole = sae_json_text(v), *space = whole ? strchr(whole, ' ') : NULL;
    if (space) {
        part[0] = whole;
        part[1] = space + 1;
        size[0] = (size_t)(space - whole);
        size[1] = strlen(part[1]);
        return !strchr(part[1], ' ');
    }
    if (sae_json_kind_of(v) != SAE_JSON_ARRAY || sae_json_count(v) != 2) return false;
    part[0] = sae_json_text(sae_json_first(v));
    part[1] = sae_json_text(sae_json_next(sae_json_first(v)));
    for (int i = 0; i < 2 && part[i]; i++) size[i] = strlen(part[i]);
    return part[0] && part[1];
}

/* The ids of left, right and made; -1: one is no token. false: no memory. */
static bool lmi_merge_ids(lmi_tokenizer_file *r, const char **part, const size_t *size,
                          int32_t *id) {
    bool left = false, right = false;
    size_t middle;
    r->piece.size = 0;
    if (!lmi_piece_add(r, part[0], size[0], &r->piece, &left)) return false;
    middle = r->piece.size;
    if (!lmi_piece_add(r, part[1], size[1], &r->piece, &right)) return false;
    if (!left || !right) return true;
    id[0] = lmi_piece_find(r->t, r->piece.data, middle);
    id[1] = lmi_piece_find(r->t, r->piece.data + middle, r->piece.size - middle);
    id[2] = lmi_piece_find(r->t, r->piece.data, r->piece.size);
    return true;
}

static sae_result lmi_read_merges(lmi_tokenizer_file *r) {
    int32_t rank = 0;
    for (const sae_json *v = sae_json_first(r->merges); v; v = sae_json_next(v), rank++) {
        const char *part[2] = { NULL, NULL };
        size_t size[2] = { 0, 0 };
        int32_t id[3] = { -1, -1, -1 };
        if (lmi_merge_parts(v, part, size) && !lmi_merge_ids(r, part, size, id))
            return lmi_tokenizer_memory(r->t);
        if (id[0] < 0 || id[1] < 0 || id[2] < 0)
            return lmi_refuse(r->t, SAE_ERR_FORMAT,
                              "merge %ld, \"%.40s\" and \"%.40s\", is not of tokens of the "
                              "vocabulary",
                              (long)rank, part[0] ? part[0] : "", part[1] ? part[1] : "");
        lmi_merge_set(r->t, id[0], id[1], id[2], rank);
    }
    return SAE_OK;
}

/* Its id is the vocabulary's, where it is in there, and no other token's. */
static sae_result lmi_added_check(lmi_tokenizer_file *r, int32_t id, const char *content,
                                  int32_t known) {
    const lmi_token *token = &r->t->token[id];
    bool other = known < 0 && token->there
                 && !lmi_span_is(r->t, token->piece, content, strlen(content));
    if (!other && (known < 0 || known == id)) return SAE_OK;
    return lmi_refuse(r->t, SAE_ERR_FORMAT, "the added token %.60s has the id %ld, %s", content,
                      (long)id, other ? "which is another token's"
                                      : "in the vocabulary it has another");
}

/* One added token; content is not empty. Special or not, it is found in plain text. */
static sae_result lmi_read_added_token(lmi_tokenizer_file *r, const sae_json *v,
                                       const char *content) {
    sae_tokenizer *t = r->t;
    int kind = lmi_is_true(v, "normalized");
    lmi_added *a = &t->added[kind][t->num_added[kind]];
    const unsigned char *match = (const unsigned char *)content;
    size_t size = strlen(content), text_size;
    const char *text;
    int32_t known;
    bool plain, good;
    a->id = lmi_id_of(sae_json_get(v, "id"));
    a->lstrip = lmi_is_true(v, "lstrip");
    a->rstrip = lmi_is_true(v, "rstrip");
    a->single_word = lmi_is_true(v, "single_word");
    r->piece.size = 0;
    if (!lmi_piece_add(r, content, size, &r->piece, &plain)) return lmi_tokenizer_memory(t);
    known = plain ? lmi_piece_find(t, r->piece.data, r->piece.size) : -1;
    LMI_TRY(lmi_added_check(r, a->id, content, known));
    if (kind && !lmi_normalize(t, &match, &size)) return lmi_tokenizer_memory(t);
    if (!size) return SAE_OK; /* it matches nothing */
    good = lmi_span_add(t, match, size, &a->span)
           && lmi_decoded(r, (const char *)match, size, &text, &text_size)
           && (known < 0 ? lmi_token_set(t, a->id, content, strlen(content), text, text_size, false)
                         : lmi_span_add(t, text, text_size, &t->token[known].text));
    t->num_added[kind] += good;
    return good ? SAE_OK : lmi_tokenizer_memory(t);
}

static sae_result lmi_read_added(lmi_tokenizer_file *r) {
    size_t count = sae_json_count(r->added);
    for (int kind = 0; kind < 2; kind++) {
        r->t->added[kind] = (lmi_added *)calloc(count + 1, sizeof(lmi_added));
        if (!r->t->added[kind]) return lmi_tokenizer_memory(r->t);
    }
    for (const sae_json *v = sae_json_first(r->added); v; v = sae_json_next(v)) {
        const char *content = sae_json_text(sae_json_get(v, "content"));
        if (content[0]) LMI_TRY(lmi_read_added_token(r, v, content));
    }
    return SAE_OK;
}

/* Ids that files give outside the vocabulary. */
static sae_result lmi_read_rest(lmi_tokenizer_file *r) {
    sae_tokenizer *t = r->t;
    const char *unknown = sae_json_text(sae_json_get(r->model, "unk_token"));
    t->unknown = -1;
    if (unknown) {
        t->unknown = lmi_id_of(sae_json_get(r->vocab, unknown));
        if (t->unknown < 0)
            return lmi_refuse(t, SAE_ERR_FORMAT, "unk_token %.60s is not in the vocabulary",
                              unknown);
    }
    for (size_t i = 0; i < t->bos.count; i++)
        if (!sae_tokenizer_token(t, t->bos.id[i], NULL))
            return lmi_refuse(t, SAE_ERR_FORMAT, "the post_processor adds the id %ld, which is no "
                              "token's", (long)t->bos.id[i]);
    return lmi_tokenizer_finish(t) ? SAE_OK : lmi_tokenizer_memory(t);
}

/* Fills t from the file t->path. */
static sae_result lmi_tokenizer_read_json(sae_tokenizer *t) {
    lmi_tokenizer_file r;
    sae_json *root;
    sae_result result;
    memset(&r, 0, sizeof r);
    LMI_TRY(sae_json_open(t->ctx, t->path, &root));
    r.t = t;
    r.root = root;
    r.model = sae_json_get(root, "model");
    r.vocab = sae_json_get(r.model, "vocab");
    r.merges = sae_json_get(r.model, "merges");
    r.added = sae_json_get(root, "added_tokens");
    for (uint32_t c = 0; c < 512; c++) r.alphabet[c] = (int16_t)lmi_alphabet(c);
    result = lmi_read_kind(&r);
    if (result == SAE_OK) result = lmi_read_sizes(&r);
    if (result == SAE_OK) result = lmi_read_vocab(&r);
    if (result == SAE_OK) result = lmi_read_merges(&r);
    if (result == SAE_OK) result = lmi_read_added(&r);
    if (result == SAE_OK) result = lmi_read_rest(&r);
    sae_text_free(&r.piece);
    sae_text_free(&r.text[0]);
    sae_text_free(&r.text[1]);
    sae_json_close(root);
    return result;
}
