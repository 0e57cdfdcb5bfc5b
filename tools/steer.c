/* sae: steer. */
#include "tool.h"

#include "page.h"

#if !defined(_WIN32)
#include <sys/ioctl.h>
#endif

enum { MOST_FIRED = 64 };

typedef struct steer_options {
    common c;
    sampling s;
    list features;
    const char *mode;
    uint64_t top; /* features shown of a token */
} steer_options;

/* What is done to the rows at the dictionary's place, pass after pass. */
typedef struct steered {
    const sae_dictionary *dict;
    const features_place *place;
    const sae_steering *list;
    size_t count, ctx;      /* ctx: of the contexts the dictionary was made with; 0: not known */
    const int32_t *tokens;  /* prompt, and what came so far */
    size_t at;              /* the position of the next pass's first row */
    float *rows, *before;   /* [capacity,d] those of the dictionary */
    size_t capacity;
    /* where it watches: for each token the strongest features */
    size_t top;
    uint32_t *latent; /* [tokens,top] */
    float *value;     /* 0: none */
} steered;

static int parse_mode(const char *text, sae_steer_mode *out) {
    static const char *const names[] = { "set", "add", "scale" };
    static const sae_steer_mode modes[] = { SAE_STEER_SET, SAE_STEER_ADD, SAE_STEER_SCALE };
    size_t i;
    *out = SAE_STEER_SET;
    for (i = 0; i < 3 && text; i++) {
        *out = modes[i];
        if (strcmp(text, names[i]) == 0) return DONE;
    }
    return text ? fail_usage("--mode is %s, allowed are set, add, scale", text) : DONE;
}

/* --feature I=VALUE. */
static int parse_features(const steer_options *o, size_t dict_size, sae_steering *out) {
    sae_steer_mode mode;
    size_t i;
    int status = parse_mode(o->mode, &mode);
    for (i = 0; i < o->features.count && status == DONE; i++) {
        const char *text = o->features.items[i], *equal = strchr(text, '=');
        size_t digits = strspn(text, "0123456789");
        uint64_t latent = UINT64_MAX;
        char *end = NULL, *name = with_ending(text, "");
        if (equal) name[equal - text] = 0;
        out[i].mode = mode;
        if (equal) out[i].value = strtof(equal + 1, &end);
        if (!equal || !digits || text + digits != equal || !parse_count(name, &latent)
            || end == equal + 1 || *end || !isfinite(out[i].value))
            return fail_usage("--feature is %s, allowed is a feature and a number: 17=4", text);
        if (dict_size && latent >= dict_size)
            return fail("--feature %s: the dictionary has the features 0 to %zu", name,
                        dict_size - 1);
        out[i].latent = (uint32_t)latent;
    }
    return status;
}

/* ==== >>steer: the rows ======================================================================= */

static bool has_row(const steered *s, size_t at) {
    size_t ctx = s->ctx > at ? s->ctx : at + 1;
    return features_place_has(s->place, s->tokens[at], at, ctx);
}

/* The columns of row r that the dictionary has. */
static float *columns(const steered *s, float *x, size_t r, size_t dim) {
    return x + r * dim + s->place->in_from;
}

static void make_room(steered *s, size_t rows, size_t d) {
    if (rows <= s->capacity) return;
    s->rows = (float *)keep_alloc(rows, d * sizeof(float));
    s->before = (float *)keep_alloc(rows, d * sizeof(float));
    s->capacity = rows;
}

/* The strongest features of a row into the lists of token `at`, the lower first among equals. */
static void keep_strongest(steered *s, const sae_sparse *code, size_t row, size_t at) {
    uint32_t *latent = s->latent + at * s->top;
    float *value = s->value + at * s->top;
    size_t i, to, n = 0;
    for (i = code->row_begin[row]; i < code->row_begin[row + 1]; i++) {
        float v = code->value[i];
        if (n == s->top && !(fabsf(v) > fabsf(value[n - 1]))) continue;
        if (n < s->top) n++;
        for (to = n - 1; to > 0 && fabsf(v) > fabsf(value[to - 1]); to--) {
            value[to] = value[to - 1];
            latent[to] = latent[to - 1];
        }
        value[to] = v;
        latent[to] = code->latent[i];
    }
}

/* Which features are there, in the rows as they are now. */
static sae_result watch(steered *s, size_t rows) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(s->dict);
    size_t begin[2], row = 0, r;
    sae_sparse code;
    sae_result result = SAE_OK;
    code.row_begin = begin;
    code.capacity = info.dict_size;
    code.latent = (uint32_t *)keep_alloc(info.dict_size, sizeof *code.latent);
    code.value = (float *)keep_alloc(info.dict_size, sizeof *code.value);
    for (r = 0; r < rows && result == SAE_OK; r++) {
        if (!has_row(s, s->at + r)) continue;
        result = sae_encode_sparse(s->dict, s->rows + row++ * info.activation_dim, 1, &code);
        if (result == SAE_OK) keep_strongest(s, &code, 0, s->at + r);
    }
    return result;
}

/* A hook: the rows that are the dictionary's are steered, all together. */
static sae_result steer_rows(void *user, float *x, size_t rows, size_t dim) {
    steered *s = (steered *)user;
    size_t d = sae_dictionary_get_desc(s->dict)->activation_dim, n = 0, r, j;
    sae_result result = SAE_OK;
    make_room(s, rows, d);
    for (r = 0; r < rows; r++) {
        double mean = 0;
        float *row = s->rows + n * d;
        if (!has_row(s, s->at + r)) continue;
        memcpy(row, columns(s, x, r, dim), d * sizeof *x);
        for (j = 0; j < d && s->place->centred; j++) mean += (double)row[j] / (double)d;
        for (j = 0; j < d && s->place->centred; j++) row[j] = (float)((double)row[j] - mean);
        n++;
    }
    memcpy(s->before, s->rows, n * d * sizeof *x);
    if (n) result = sae_steer(s->dict, s->rows, n, s->list, s->count);
    for (r = n = 0; r < rows && result == SAE_OK; r++) {
        float *row = columns(s, x, r, dim), *now = s->rows + n * d, *before = s->before + n * d;
        if (!has_row(s, s->at + r)) continue;
        for (j = 0; j < d; j++) row[j] = s->place->centred ? row[j] + (now[j] - before[j]) : now[j];
        n++;
    }
    if (result == SAE_OK && s->top) result = watch(s, rows);
    s->at += rows;
    return result;
}

/* ==== >>steer: the texts ====================================================================== */

typedef struct continuation {
    int32_t *tokens; /* the prompt, and what came; a token that ends the text is left out */
    size_t prompt, count;
    const int32_t *stops;
    size_t num_stops;
    char *text; /* of what came, [size] */
    size_t size;
} continuation;

static sae_result on_token(void *user, int32_t id) {
    continuation *to = (continuation *)user;
    size_t i;
    for (i = 0; i < to->num_stops; i++)
        if (to->stops[i] == id) return SAE_OK;
    to->tokens[to->count++] = id;
    return SAE_OK;
}

/* The text behind the prompt's. */
static int read_back(const language *l, continuation *to) {
    sae_text all = { NULL, 0, 0 }, prompt = { NULL, 0, 0 };
    int status = DONE;
    if (text_of_ids(l->tokenizer, to->tokens, to->prompt, &prompt) != SAE_OK
        || text_of_ids(l->tokenizer, to->tokens, to->count, &all) != SAE_OK)
        status = fail_library();
    if (status == DONE && all.size > prompt.size) {
        to->size = all.size - prompt.size;
        to->text = (char *)keep_alloc(to->size + 1, 1);
        memcpy(to->text, all.data + prompt.size, to->size);
    }
    sae_text_free(&prompt);
    sae_text_free(&all);
    return status;
}

/* The prompt goes on, with the hook or (NULL) without. */
static int go_on(const steer_options *o, const language *l, const sae_tokens *prompt,
                 const sae_lm_hook *hook, continuation *to) {
    sae_lm_generate_desc desc;
    sae_tokens out = { NULL, 0, 0 };
    int status = DONE;
    to->num_stops = stop_tokens(o->c.model, &o->s, l, &to->stops);
    to->tokens = (int32_t *)keep_alloc(prompt->count + (size_t)o->s.count, sizeof *to->tokens);
    memcpy(to->tokens, prompt->id, prompt->count * sizeof *to->tokens);
    to->prompt = to->count = prompt->count;
    fill_generate(&o->s, prompt, to->stops, to->num_stops, &desc);
    desc.token = on_token;
    desc.user = to;
    desc.hooks = hook;
    desc.num_hooks = hook ? 1 : 0;
    if (hook) ((steered *)hook->user)->tokens = to->tokens;
    if (sae_lm_generate(l->model, &desc, &out) != SAE_OK) status = fail_library();
    if (status == DONE) status = read_back(l, to);
    sae_tokens_free(&out);
    return status;
}

/* The steered text once more, whole: what fires on each of its tokens. */
static int watch_text(const steer_options *o, const language *l, const sae_lm_hook *hook,
                      const continuation *text) {
    steered *s = (steered *)hook->user;
    sae_lm_forward_desc desc;
    memset(&desc, 0, sizeof desc);
    s->at = 0;
    s->top = (size_t)o->top;
    s->latent = (uint32_t *)keep_alloc(text->count * s->top, sizeof *s->latent);
    s->value = (float *)keep_alloc(text->count * s->top, sizeof *s->value);
    desc.tokens = text->tokens;
    desc.contexts = 1;
    desc.ctx = text->count;
    desc.hooks = hook;
    desc.num_hooks = 1;
    return sae_lm_forward(l->model, &desc) == SAE_OK ? DONE : fail_library();
}

/* ==== >>steer: printing ======================================================================= */

/* The character at s, of n bytes left: its bytes, 1 for one that is no UTF-8; its columns. */
static size_t character(const char *text, size_t n, size_t *width, bool *good) {
    const unsigned char *s = (const unsigned char *)text;
    size_t size = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3
                : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0, i;
    uint32_t code = size == 1 ? s[0] : s[0] & (0xffu >> (size + 1));
    for (i = 1; i < size && i < n && (s[i] & 0xc0) == 0x80; i++) code = code << 6 | (s[i] & 0x3f);
    *good = size && i == size;
    *width = *good && (code - 0x1100u < 0x60 || code - 0x2e80u < 0x7650 || code - 0xac00u < 0x2ba4
                       || code - 0xf900u < 0x200 || code - 0xff00u < 0x61
                       || code - 0x1f300u < 0x800 || code - 0x20000u < 0x20000) ? 2 : 1;
    return *good ? size : 1;
}

/* A token in quotes, control characters escaped; returns its columns. */
static size_t put_token(FILE *out, const language *l, int32_t id) {
    size_t size = 0, columns = 2, width, n, i;
    const char *bytes = sae_tokenizer_token(l->tokenizer, id, &size);
    bool good;
    if (!bytes) return (size_t)fprintf(out, "[%d]", (int)id);
    fputc('"', out);
    for (i = 0; i < size; i += n, columns += width) {
        n = character(bytes + i, size - i, &width, &good);
        if (good && (unsigned char)bytes[i] >= 32 && bytes[i] != 127)
            fwrite(bytes + i, 1, n, out);
        else if (bytes[i] == '\n') width = (size_t)fprintf(out, "\\n");
        else width = (size_t)fprintf(out, "<0x%02X>", (unsigned char)bytes[i]);
    }
    fputc('"', out);
    return columns;
}

static void put_fired(const language *l, const steered *s, const continuation *text) {
    enum { WIDE = 20 };
    size_t i, k;
    for (i = 0; i < text->count; i++) {
        size_t n;
        fputs(i < text->prompt ? "  " : "+ ", stdout);
        for (n = put_token(stdout, l, text->tokens[i]); n < WIDE; n++) fputc(' ', stdout);
        for (k = 0; k < s->top && s->value[i * s->top + k] != 0; k++)
            printf("%s%u %.4g", k ? ", " : " ", (unsigned)s->latent[i * s->top + k],
                   (double)s->value[i * s->top + k]);
        if (!has_row(s, i)) printf(" -");
        fputc('\n', stdout);
    }
}

/* Bytes of text that fit a line of so many columns, cut behind a space where there is one; *skip:
   those that belong to no line. */
static size_t line_of(const char *text, size_t size, size_t columns, size_t *skip) {
    size_t at = 0, used = 0, space = 0, width, n;
    bool good;
    *skip = 0;
    for (; at < size; at += n, used += width) {
        n = character(text + at, size - at, &width, &good);
        if (text[at] == '\n') {
            *skip = 1;
            return at;
        }
        if (used + width > columns) break;
        if (text[at] == ' ') space = at + 1;
    }
    return at < size && space ? space : at;
}

/* One line of the text at *at; left: blanks up to `columns`. */
static void put_cell(const continuation *text, size_t *at, size_t columns, bool left) {
    const char *from = text->text + *at;
    size_t skip = 0, used = 0, i, width, n;
    size_t size = *at < text->size ? line_of(from, text->size - *at, columns, &skip) : 0;
    bool good;
    for (i = 0; i < size; i += n, used += width) {
        n = character(from + i, size - i, &width, &good);
        if (good && (unsigned char)from[i] >= 32 && from[i] != 127) fwrite(from + i, 1, n, stdout);
        else fputc(from[i] == '\t' ? ' ' : '?', stdout);
    }
    for (; used < columns && left; used++) fputc(' ', stdout);
    *at += size + skip;
}

static size_t terminal_columns(void) {
    const char *set = getenv("COLUMNS");
    uint64_t columns = 0;
    if (!isatty(fileno(stdout))) return 0;
#if !defined(_WIN32) && defined(TIOCGWINSZ)
    {
        struct winsize size;
        if (ioctl(fileno(stdout), TIOCGWINSZ, &size) == 0) columns = size.ws_col;
    }
#endif
    if (!columns && (!set || !parse_count(set, &columns) || columns > 10000)) columns = 80;
    return (size_t)columns;
}

/* Side by side where the terminal has 80 columns, else one below the other. */
static void put_texts(const continuation *plain, const continuation *with, const char *label) {
    size_t all = terminal_columns(), half = all > 3 ? (all - 3) / 2 : 0, left = 0, right = 0;
    if (all < 80) {
        printf("--- without\n");
        fwrite(plain->text ? plain->text : "", 1, plain->size, stdout);
        printf("\n--- %s\n", label);
        fwrite(with->text ? with->text : "", 1, with->size, stdout);
        printf("\n");
        return;
    }
    printf("%-*s | %s\n", (int)half, "without", label);
    while (left < plain->size || right < with->size) {
        put_cell(plain, &left, half, true);
        fputs(" | ", stdout);
        put_cell(with, &right, half, false);
        fputc('\n', stdout);
    }
}

/* "with 17=4, 250=0". */
static const char *label_of(const steer_options *o) {
    size_t size = 16, i;
    char *text;
    for (i = 0; i < o->features.count; i++) size += strlen(o->features.items[i]) + 2;
    text = (char *)keep_alloc(size + 8, 1);
    strcpy(text, "with ");
    if (o->mode && strcmp(o->mode, "set") != 0) sprintf(text, "with %.5s ", o->mode);
    for (i = 0; i < o->features.count; i++)
        sprintf(text + strlen(text), "%s%s", i ? ", " : "", o->features.items[i]);
    return text;
}

static void put_json(const language *l, const steered *s, const continuation *plain,
                     const continuation *with) {
    size_t i, k;
    printf("{\"without\": ");
    page_put_string(stdout, plain->text ? plain->text : "", plain->size);
    printf(", \"with\": ");
    page_put_string(stdout, with->text ? with->text : "", with->size);
    printf(", \"tokens\": [");
    for (i = 0; i < with->count; i++) {
        size_t size = 0;
        const char *bytes = sae_tokenizer_token(l->tokenizer, with->tokens[i], &size);
        printf("%s{\"id\": %d, \"text\": ", i ? ", " : "", (int)with->tokens[i]);
        page_put_string(stdout, bytes ? bytes : "", bytes ? size : 0);
        printf(", \"prompt\": %s, \"features\": [", i < with->prompt ? "true" : "false");
        for (k = 0; k < s->top && s->value[i * s->top + k] != 0; k++)
            printf("%s[%u, %.6g]", k ? ", " : "", (unsigned)s->latent[i * s->top + k],
                   (double)s->value[i * s->top + k]);
        printf("]}");
    }
    printf("]}\n");
}

/* ==== >>steer: the verb ======================================================================= */

static int steer(steer_options *o, const language *l, const sae_dictionary *dict,
                 const position *at, const sae_steering *changes) {
    sae_tokens prompt = { NULL, 0, 0 };
    continuation plain, with;
    sae_lm_hook hook;
    steered s;
    bool wants_bos = !o->c.no_bos && sae_dictionary_origin(dict)->prepend_bos > 0;
    bool bos = o->c.bos || (wants_bos && l->bos >= 0);
    int status;
    memset(&s, 0, sizeof s);
    memset(&plain, 0, sizeof plain);
    memset(&with, 0, sizeof with);
    memset(&hook, 0, sizeof hook);
    s.dict = dict;
    s.place = &at->place;
    s.list = changes;
    s.count = o->features.count;
    s.ctx = sae_dictionary_origin(dict)->context_size;
    hook.site = at->place.in;
    hook.call = steer_rows;
    hook.user = &s;
    if (wants_bos && !bos) warn_no_bos(o->c.model);
    status = read_prompt(o->c.model, &o->s, bos, l, &prompt);
    if (status == DONE) status = go_on(o, l, &prompt, NULL, &plain);
    if (status == DONE) status = go_on(o, l, &prompt, &hook, &with);
    if (status == DONE) status = watch_text(o, l, &hook, &with);
    if (status != DONE) return status;
    if (o->c.json) {
        put_json(l, &s, &plain, &with);
        return DONE;
    }
    put_texts(&plain, &with, label_of(o));
    printf("--- what fires in the steered text, at %s: feature and value, %zu at most\n",
           at->submodule, s.top);
    put_fired(l, &s, &with);
    return DONE;
}

/* A transcoder has no rows that it could be taken out of. */
static int check_steerable(const char *path, const sae_dictionary *dict, const position *at) {
    sae_lm_site in = at->place.in, out = at->place.out;
    bool apart = in.module != out.module || in.layer != out.layer || in.input != out.input;
    if (!apart && !sae_dictionary_get_desc(dict)->skip) return DONE;
    return fail("%s is a transcoder: it reads rows of one place and gives those of another, so "
                "that there is none where its features could be changed", path);
}

static int check_steer(steer_options *o) {
    common *c = &o->c;
    if (!c->words.count)
        return fail_usage("which model, and which dictionary? sae steer M DIR --feature I=VALUE");
    if (c->words.count == 1)
        return fail_usage("which dictionary? A folder or file comes behind the model");
    if (c->words.count > 2) return fail_usage("%s belongs to no option", c->words.items[2]);
    if (!o->features.count) return fail_usage("--feature is missing, for example 17=4");
    if (o->features.count > SAE_MAX_STEERINGS)
        return fail_usage("--feature is given %zu times, allowed are %d", o->features.count,
                          SAE_MAX_STEERINGS);
    if (c->bos && c->no_bos) return fail_usage("--bos or --no-bos, not both");
    if (!o->top) o->top = 5;
    if (o->top > MOST_FIRED)
        return fail_usage("--top is %.0f, allowed is 1..%d", (double)o->top, (int)MOST_FIRED);
    c->model = c->words.items[0];
    c->words.items++;
    c->words.count = 1;
    return check_sampling(&o->s);
}

int verb_steer(int argc, char **argv) {
    steer_options o;
    language l;
    position at;
    sae_dictionary *dict = NULL;
    sae_steering *changes = NULL;
    int status;
    memset(&o, 0, sizeof o);
    memset(&l, 0, sizeof l);
    o.c.head = NO_HEAD;
    const option options[] = {
        { "feature", EACH, &o.features }, { "mode", ONCE, &o.mode }, { "top", SIZE, &o.top },
        { "prompt", ONCE, &o.s.prompt }, { "prompt-tokens", ONCE, &o.s.prompt_tokens },
        { "count", SIZE, &o.s.count }, { "temperature", ONCE, &o.s.temperature_text },
        { "top-p", ONCE, &o.s.top_p_text }, { "seed", COUNT, &o.s.seed },
        { "ignore-eos", FLAG, &o.s.ignore_eos }, { "bos", FLAG, &o.c.bos },
        { "no-bos", FLAG, &o.c.no_bos }, { "submodule", ONCE, &o.c.submodule },
        { "io", TEXT, &o.c.io }, { "head", COUNT, &o.c.head }, { "json", FLAG, &o.c.json },
        { "raw", FLAG, &o.c.raw }, { "dict-class", TEXT, &o.c.dict_class }, { "k", SIZE, &o.c.k },
        { "use-top-k", FLAG, &o.c.use_top_k }, { "use-threshold", FLAG, &o.c.use_threshold },
        { "threads", COUNT, &o.c.threads }, { "device", TEXT, &o.c.device },
        { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &o.c.words, NULL);
    if (status == DONE) status = check_steer(&o);
    if (status != DONE) return status;
    changes = (sae_steering *)keep_alloc(o.features.count, sizeof *changes);
    status = parse_features(&o, 0, changes); /* wrong usage shows before any file is opened */
    if (status == DONE) status = start_program(&o.c);
    if (status == DONE) status = load_dictionary(&o.c, false, &dict);
    if (status == DONE)
        status = parse_features(&o, sae_dictionary_get_desc(dict)->dict_size, changes);
    if (status == DONE) status = open_model(o.c.model, true, &l);
    if (status == DONE) status = find_position(&o.c, o.c.words.items[0], dict, &l, &at);
    if (status == DONE) status = check_steerable(o.c.words.items[0], dict, &at);
    if (status == DONE) status = steer(&o, &l, dict, &at, changes);
    sae_dictionary_destroy(dict);
    language_close(&l);
    return status;
}
