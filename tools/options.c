/* sae: the command line, driven by a table of each verb's options. */
#include "tool.h"

#include <ctype.h>

/* Hyperparameters that have an option of their own above the table. */
static bool has_own_option(const char *name) {
    static const char *const own[] = { "trainer_class", "steps", "seed", "init", "device" };
    size_t i;
    for (i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strcmp(name, own[i]) == 0) return true;
    return false;
}

/* Row i of the table of options that follows from the library's hyperparameters; false after the
   last. */
static bool hyperparameter_option(size_t i, sae_hyperparameter *h) {
    size_t row;
    for (row = 0; sae_hyperparameter_get(row, h); row++)
        if (!has_own_option(h->name) && i-- == 0) return true;
    return false;
}

/* A name as options have it: - for _. */
static char *dashed(const char *name) {
    char *copy = joined(name, ""), *at;
    copy[strlen(name)] = 0;
    for (at = copy; *at; at++)
        if (*at == '_') *at = '-';
    return copy;
}

/* A trainer's letter in the table: the first of its name that no earlier one has, small or capital;
   a sign where all are taken. No two are alike. */
static char trainer_letter(int kind) {
    char taken[SAE_NUM_TRAINERS + 2] = "";
    int k;
    for (k = 1; k <= kind; k++) {
        const char *name = sae_trainer_name((sae_trainer_kind)k);
        char letter = 0;
        for (; *name && !letter; name++) {
            if (!isalpha((unsigned char)*name)) continue;
            letter = (char)tolower((unsigned char)*name);
            if (strchr(taken, letter)) letter = (char)toupper((unsigned char)*name);
            if (strchr(taken, letter)) letter = 0;
        }
        if (!letter)
            for (letter = '0'; strchr(taken, letter); letter++) {}
        taken[k - 1] = letter;
    }
    return taken[kind - 1];
}

static double default_rate(int kind, size_t dict_size) {
    sae_trainer_desc desc;
    memset(&desc, 0, sizeof desc);
    desc.kind = (sae_trainer_kind)kind;
    desc.dict_size = dict_size;
    sae_trainer_defaults(&desc);
    return desc.lr;
}

/* The learning rates of all trainers: "sSp 0.001, g 5e-05, ...". */
static const char *rates_text(char out[200]) {
    size_t n = 0;
    int k, other;
    for (k = 1; k <= SAE_NUM_TRAINERS; k++) {
        double rate = default_rate(k, 16384);
        for (other = 1; default_rate(other, 16384) != rate; other++) {}
        if (other < k) continue; /* told with an earlier one */
        if (k > 1) n += (size_t)snprintf(out + n, 200 - n, ", ");
        for (; other <= SAE_NUM_TRAINERS; other++)
            if (default_rate(other, 16384) == rate)
                n += (size_t)snprintf(out + n, 200 - n, "%c", trainer_letter(other));
        n += (size_t)snprintf(out + n, 200 - n, " %g%s", rate,
                              default_rate(k, 65536) != rate ? " / sqrt(m / 16384)" : "");
    }
    return out;
}

/* The text from column `from` on, its words wrapped at 80. */
static void put_wrapped(const char *text, size_t from) {
    size_t at = from;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > from && at + 1 + n > 80) {
            printf("\n%*s", (int)from, "");
            at = from;
        }
        at += (size_t)printf("%s%.*s", at > from ? " " : "", (int)n, text);
        text += n;
        text += strspn(text, " ");
    }
    printf("\n");
}

void print_hyperparameters(void) {
    sae_hyperparameter h;
    char rates[200];
    size_t i;
    int k;
    printf("Hyperparameters under the reference's names (none switches a step count off);\n"
           "which trainers have them; and the default. The trainers are");
    for (k = 1; k <= SAE_NUM_TRAINERS; k++)
        printf("%s%s%c %s", k > 1 ? "," : "", k % 5 == 1 ? "\n  " : " ", trainer_letter(k),
               sae_trainer_name((sae_trainer_kind)k));
    printf("\n");
    for (i = 0; hyperparameter_option(i, &h); i++) {
        printf("  --%-26s ", dashed(h.name));
        for (k = 1; k <= SAE_NUM_TRAINERS; k++)
            putchar(h.trainers >> k & 1 ? trainer_letter(k) : '.');
        printf("  ");
        put_wrapped(strcmp(h.name, "lr") == 0 ? rates_text(rates) : h.initial,
                    33 + SAE_NUM_TRAINERS);
    }
}

/* The same but for - in place of _. */
static bool same_name(const char *given, const char *name) {
    while (*name && (*given == *name || (*given == '-' && *name == '_'))) given++, name++;
    return !*name && !*given;
}

bool is_ignored(const char *hyperparameter, const sae_trainer_desc *descs, size_t num) {
    sae_hyperparameter h;
    size_t row, i;
    for (row = 0; sae_hyperparameter_get(row, &h); row++) {
        if (!same_name(hyperparameter, h.name)) continue;
        for (i = 0; i < num; i++)
            if (h.trainers >> descs[i].kind & 1) return false;
        return true;
    }
    return false;
}

/* What other programs call our options. */
static const char *const other_names[][2] = {
    { "epochs", "steps" }, { "learning-rate", "lr" }, { "save-dir", "out" }, { "output", "out" },
    { "input", "data" }, { "num-steps", "steps" }, { "num-threads", "threads" }
};

void nearer(const char *given, const char *candidate, const char **best, size_t *least) {
    size_t d = sae_edit_distance(given, candidate), n = strlen(candidate);
    if (strncmp(given, candidate, n) == 0 && given[n] == '-') d = 1; /* lr-rate: lr */
    if (d < *least) {
        *least = d;
        *best = candidate;
    }
}

int unknown_option(const char *given, const option *options, size_t count) {
    size_t least = strlen(given) / 3 + 2, i, j;
    const char *best = NULL;
    sae_hyperparameter h;
    for (i = 0; i < count; i++) nearer(given, options[i].name, &best, &least);
    for (i = 0; strcmp(tool.verb, "train") == 0 && hyperparameter_option(i, &h); i++)
        nearer(given, dashed(h.name), &best, &least);
    for (i = 0; i < sizeof other_names / sizeof other_names[0]; i++)
        for (j = 0; j < count; j++) {
            bool ours = strcmp(options[j].name, other_names[i][1]) == 0
                        || (j == 0 && strcmp(tool.verb, "train") == 0);
            if (ours && strcmp(given, other_names[i][0]) == 0) best = other_names[i][1];
        }
    if (best) return fail_usage("unknown option --%s; did you mean --%s?", given, best);
    return fail_usage("unknown option --%s; sae %s --help lists them", given, tool.verb);
}

bool parse_count(const char *text, uint64_t *out) {
    char *end;
    double value = strtod(text, &end); /* takes 1e6 too */
    if (end == text || *end || !(value >= 0) || value > 9.0e15 || value != floor(value))
        return false;
    *out = (uint64_t)value;
    return true;
}

bool parse_counts(const char *text, uint64_t *out, size_t capacity, size_t *count) {
    char *copy = joined(text, ""), *part;
    copy[strlen(text)] = 0;
    *count = 0;
    for (part = strtok(copy, ","); part; part = strtok(NULL, ","))
        if (*count == capacity || !parse_count(part, &out[(*count)++])) return false;
    return *count > 0;
}

static void list_add(list *l, const char *item, size_t most) {
    if (!l->items) l->items = (const char **)keep_alloc(most, sizeof *l->items);
    l->items[l->count++] = item;
}

/* Reads argv after the verb. Words that belong to no option go to words. Options that the table
   does not have go to others as name, value pairs if that is given. DONE, or WRONG_USAGE. */
int parse_options(int argc, char **argv, const option *options, size_t count, list *words,
                  list *others) {
    int i;
    for (i = 2; i < argc; i++) {
        char *name = argv[i], *value = NULL;
        const option *o = NULL;
        size_t j;
        if (strncmp(name, "--", 2) != 0 || !name[2]) {
            if (name[0] == '-' && name[1]) return fail_usage("unknown option %s", name);
            list_add(words, name, (size_t)argc);
            continue;
        }
        name += 2;
        if ((value = strchr(name, '=')) != NULL) *value++ = 0;
        for (j = 0; j < count && !o; j++)
            if (strcmp(options[j].name, name) == 0) o = &options[j];
        if (o && o->kind == FLAG) {
            if (value) return fail_usage("--%s takes no value", name);
            *(bool *)o->value = true;
            continue;
        }
        if (!o && !others) return unknown_option(name, options, count);
        if (o && o->kind == LIST && !value) {
            list *l = (list *)o->value;
            size_t before = l->count;
            while (i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) {
                if (!argv[i + 1][0]) return fail_usage("--%s is empty", name);
                list_add(l, argv[++i], (size_t)argc);
            }
            if (l->count == before) return fail_usage("--%s needs a value", name);
            continue;
        }
        if (!value && i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) value = argv[++i];
        if (value && !value[0]) return fail_usage("--%s is empty", name);
        if (!o) {
            list_add(others, name, 2 * (size_t)argc);
            list_add(others, value, 2 * (size_t)argc);
            continue;
        }
        if (!value) return fail_usage("--%s needs a value", name);
        if (o->kind == ONCE && *(const char **)o->value)
            return fail_usage("--%s is given twice: %s, %s", name, *(const char **)o->value, value);
        if (o->kind == TEXT || o->kind == ONCE) *(const char **)o->value = value;
        if (o->kind == LIST || o->kind == EACH)
            list_add((list *)o->value, value, (size_t)argc);
        if ((o->kind == COUNT || o->kind == SIZE)
            && (!parse_count(value, (uint64_t *)o->value)
                || (o->kind == SIZE && *(uint64_t *)o->value == 0)))
            return fail_usage("--%s is %s, allowed is a whole number from %d", name, value,
                              o->kind == SIZE);
    }
    return DONE;
}

int parse_dtype(const char *text, sae_dtype *out) {
    static const char *const names[] = { "f32", "float32", "f16", "float16", "bf16", "bfloat16" };
    static const sae_dtype dtypes[] = { SAE_F32, SAE_F32, SAE_F16, SAE_F16, SAE_BF16, SAE_BF16 };
    size_t i;
    *out = SAE_F32;
    if (!text) return DONE;
    for (i = 0; i < 6; i++)
        if (strcmp(names[i], text) == 0) {
            *out = dtypes[i];
            return DONE;
        }
    return fail_usage("--dtype is %s, allowed are f32, f16, bf16", text);
}
