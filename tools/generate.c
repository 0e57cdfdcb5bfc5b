/* sae: generate; and what steer shares with it: the prompt, the sampling, where a text ends. */
#include "tool.h"

enum { MOST_STOPS = 32 };

static int parse_real(const char *name, const char *text, double least, double most, double *out) {
    char *end;
    double value;
    if (!text) return DONE;
    value = strtod(text, &end);
    if (end != text && !*end && value >= least && value <= most) {
        *out = value;
        return DONE;
    }
    if (most > 1) return fail_usage("--%s is %s, allowed is a number from %g", name, text, least);
    return fail_usage("--%s is %s, allowed is a number above 0, at most %g", name, text, most);
}

int check_sampling(sampling *s) {
    int status = parse_real("temperature", s->temperature_text, 0, 1e6, &s->temperature);
    if (status == DONE) status = parse_real("top-p", s->top_p_text, 1e-9, 1, &s->top_p);
    if (status != DONE) return status;
    if (s->top_p_text && !(s->temperature > 0))
        return fail_usage("--top-p chooses among what --temperature X lets in: give it too");
    if (s->prompt && s->prompt_tokens)
        return fail_usage("--prompt or --prompt-tokens, not both");
    if (!s->count) s->count = 64;
    return DONE;
}

/* The prompt: bos, where it is asked for or all there is, and the ids of the text or the file. Kept
   by keep_alloc(). */
static int keep_prompt(const char *model, bool bos, const language *l, const int32_t *ids,
                       size_t count, sae_tokens *out) {
    const int32_t *first = NULL;
    int32_t room;
    size_t num_bos = bos ? bos_tokens(l, &room, &first) : 0, i;
    if (bos && !num_bos) return fail("--bos: %s names no bos token", model);
    if (!num_bos && !count) return fail("the prompt has no tokens");
    for (i = 0; i < count; i++)
        if (ids[i] < 0)
            return fail("token %zu of the prompt is %d, allowed are ids from 0", i, (int)ids[i]);
    out->id = (int32_t *)keep_alloc(num_bos + count, sizeof *out->id);
    out->count = num_bos + count;
    if (num_bos) memcpy(out->id, first, num_bos * sizeof *ids);
    if (count) memcpy(out->id + num_bos, ids, count * sizeof *ids);
    return DONE;
}

int read_prompt(const char *model, const sampling *s, bool bos, const language *l,
                sae_tokens *out) {
    sae_tokens ids = { NULL, 0, 0 };
    sae_contexts file = { NULL, 0, 0, 0 };
    sae_contexts_desc desc;
    int status = DONE;
    memset(&desc, 0, sizeof desc);
    desc.files = &s->prompt_tokens;
    desc.num_files = desc.length = 1;
    if (s->prompt_tokens && !ends_with(s->prompt_tokens, ".npy"))
        return fail("%s is no .npy: ids of tokens come in one", s->prompt_tokens);
    if (!s->prompt && !s->prompt_tokens && l->bos < 0)
        return fail_usage("--prompt is missing, and %s names no bos token to begin with", model);
    if (s->prompt_tokens && sae_contexts_read(tool.ctx, &desc, &file) != SAE_OK)
        return fail_library();
    if (s->prompt
        && sae_tokenizer_encode(l->tokenizer, s->prompt, strlen(s->prompt), false, &ids) != SAE_OK)
        status = fail_library();
    if (status == DONE)
        status = keep_prompt(model, bos || (!s->prompt && !s->prompt_tokens), l,
                             s->prompt ? ids.id : file.tokens,
                             s->prompt ? ids.count : file.contexts, out);
    sae_tokens_free(&ids);
    sae_contexts_free(&file);
    return status;
}

static void add_stop(int32_t *stops, size_t *num, double id) {
    size_t i;
    if (!(id >= 0 && id < 2147483647.0) || *num == MOST_STOPS) return;
    for (i = 0; i < *num; i++)
        if (stops[i] == (int32_t)id) return;
    stops[(*num)++] = (int32_t)id;
}

/* eos_token_id of a file beside the model: one, or a list. */
static void add_stops(const char *path, int32_t *stops, size_t *num) {
    sae_json *root = NULL;
    const sae_json *eos, *each;
    if (!file_exists(path) || sae_json_open(tool.ctx, path, &root) != SAE_OK) return;
    eos = sae_json_get(root, "eos_token_id");
    if (!eos) eos = sae_json_get(sae_json_get(root, "text_config"), "eos_token_id");
    if (sae_json_kind_of(eos) == SAE_JSON_NUMBER) add_stop(stops, num, sae_json_number(eos));
    for (each = sae_json_first(eos); each; each = sae_json_next(each))
        if (sae_json_kind_of(each) == SAE_JSON_NUMBER)
            add_stop(stops, num, sae_json_number(each));
    sae_json_close(root);
}

/* The tokens that end a text, of config.json and generation_config.json. */
size_t stop_tokens(const char *model, const sampling *s, const language *l, const int32_t **out) {
    int32_t *stops = (int32_t *)keep_alloc(MOST_STOPS, sizeof *stops);
    size_t num = 0;
    *out = stops;
    if (s->ignore_eos) return 0;
    add_stop(stops, &num, (double)sae_lm_config_of(l->model).eos_token);
    if (!is_folder(model)) return num;
    add_stops(joined(model, "config.json"), stops, &num);
    add_stops(joined(model, "generation_config.json"), stops, &num);
    return num;
}

void fill_generate(const sampling *s, const sae_tokens *prompt, const int32_t *stops,
                   size_t num_stops, sae_lm_generate_desc *out) {
    memset(out, 0, sizeof *out);
    out->prompt = prompt->id;
    out->num_prompt = prompt->count;
    out->count = (size_t)s->count;
    out->temperature = s->temperature;
    out->top_p = s->top_p;
    out->seed = s->seed;
    out->stop = stops;
    out->num_stop = num_stops;
}

/* Appends the text of the ids; a model may have more of them than its tokenizer. */
sae_result text_of_ids(const sae_tokenizer *tokenizer, const int32_t *ids, size_t count,
                       sae_text *out) {
    int32_t *known = (int32_t *)malloc((count + 1) * sizeof *known);
    size_t n = 0, size, i;
    sae_result result;
    if (!known) return sae_context_fail(tool.ctx, SAE_ERR_OUT_OF_MEMORY, "no memory");
    for (i = 0; i < count; i++)
        if (sae_tokenizer_token(tokenizer, ids[i], &size)) known[n++] = ids[i];
    result = sae_tokenizer_decode(tokenizer, known, n, out);
    free(known);
    return result;
}

/* ==== >>generate: printing ==================================================================== */

/* What may yet become another character once more tokens are there: the first bytes of one, or
   U+FFFD, which decoders put for bytes that are none. */
static size_t unsure_end(const char *text, size_t size) {
    size_t n = size, back;
    while (n >= 3 && memcmp(text + n - 3, "\xef\xbf\xbd", 3) == 0) n -= 3;
    for (back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)text[n - back];
        size_t needs = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        if ((c & 0xc0) == 0x80) continue;
        if (needs > back) n -= back;
        break;
    }
    return n;
}

typedef struct printer {
    const sae_tokenizer *tokenizer; /* NULL: ids are printed */
    int32_t *ids;                   /* of the prompt, and of what came */
    size_t count, printed;          /* printed: bytes of their text, the prompt's among them */
    const int32_t *stops;
    size_t num_stops;
} printer;

static sae_result text_of(const printer *p, sae_text *out) {
    return text_of_ids(p->tokenizer, p->ids, p->count, out);
}

/* Prints what the text has more, as far as it is sure; all: whatever it is. */
static sae_result print_more(printer *p, bool all) {
    sae_text text = { NULL, 0, 0 };
    sae_result result = text_of(p, &text);
    size_t end = all ? text.size : unsure_end(text.data, text.size);
    if (result == SAE_OK && end > p->printed) {
        fwrite(text.data + p->printed, 1, end - p->printed, stdout);
        fflush(stdout);
        p->printed = end;
    }
    sae_text_free(&text);
    return result;
}

/* A token that ends the text is not shown. */
static sae_result on_token(void *user, int32_t id) {
    printer *p = (printer *)user;
    size_t i;
    for (i = 0; i < p->num_stops; i++)
        if (p->stops[i] == id) return SAE_OK;
    p->ids[p->count++] = id;
    if (p->tokenizer) return print_more(p, false);
    printf("%s%d", p->printed++ ? " " : "", (int)id);
    return SAE_OK;
}

static int generate(const common *c, const sampling *s, const language *l,
                    const sae_tokens *prompt) {
    sae_lm_generate_desc desc;
    sae_tokens out = { NULL, 0, 0 };
    sae_text text = { NULL, 0, 0 };
    printer p;
    int status = DONE;
    memset(&p, 0, sizeof p);
    p.tokenizer = l->tokenizer;
    p.ids = (int32_t *)keep_alloc(prompt->count + (size_t)s->count, sizeof *p.ids);
    p.count = prompt->count;
    memcpy(p.ids, prompt->id, prompt->count * sizeof *p.ids);
    p.num_stops = stop_tokens(c->model, s, l, &p.stops);
    if (p.tokenizer && text_of(&p, &text) != SAE_OK) return fail_library();
    p.printed = text.size;
    sae_text_free(&text);
    fill_generate(s, prompt, p.stops, p.num_stops, &desc);
    desc.token = on_token;
    desc.user = &p;
    if (sae_lm_generate(l->model, &desc, &out) != SAE_OK) status = fail_library();
    if (p.tokenizer && status == DONE && print_more(&p, true) != SAE_OK) status = fail_library();
    printf("\n");
    if (status == DONE && c->out) status = write_ids(c->out, out.id, out.count, 0);
    sae_tokens_free(&out);
    return status;
}

int verb_generate(int argc, char **argv) {
    common c;
    sampling s;
    language l;
    sae_tokens prompt = { NULL, 0, 0 };
    int status;
    memset(&c, 0, sizeof c);
    memset(&s, 0, sizeof s);
    memset(&l, 0, sizeof l);
    const option options[] = {
        { "prompt", ONCE, &s.prompt }, { "prompt-tokens", ONCE, &s.prompt_tokens },
        { "count", SIZE, &s.count }, { "temperature", ONCE, &s.temperature_text },
        { "top-p", ONCE, &s.top_p_text }, { "seed", COUNT, &s.seed },
        { "ignore-eos", FLAG, &s.ignore_eos }, { "bos", FLAG, &c.bos }, { "out", TEXT, &c.out },
        { "threads", COUNT, &c.threads }, { "device", TEXT, &c.device },
        { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE && !c.words.count)
        status = fail_usage("which model? A folder with config.json, model.safetensors, "
                            "tokenizer.json comes first");
    if (status == DONE && c.words.count > 1)
        status = fail_usage("%s belongs to no option", c.words.items[1]);
    if (status == DONE) status = check_sampling(&s);
    if (status == DONE && c.out) status = need_folder("out", c.out);
    if (status == DONE && c.out && s.prompt_tokens && same_file(c.out, s.prompt_tokens))
        status = fail("--out is %s, which is read: it would be lost", c.out);
    if (status == DONE) status = start_program(&c);
    if (status != DONE) return status;
    c.model = c.words.items[0];
    status = open_model(c.model, s.prompt != NULL, &l);
    if (status == DONE) status = read_prompt(c.model, &s, c.bos, &l, &prompt);
    if (status == DONE) status = generate(&c, &s, &l, &prompt);
    language_close(&l);
    return status;
}
