/* sae: the command line, driven by a table of each verb's options. */
#include "tool.h"

/* The trainers by their letters in the table below, in the order of sae_trainer_kind. */
static const char trainer_letters[] = "sSgGptbmj";
#define ALL trainer_letters
#define TOP_KS "tbm"

/* The hyperparameters of sae_trainer_desc_set: which trainers have them, and the default. */
static const struct {
    const char *name, *trainers, *value;
} hyperparameters[] = {
    { "dict-size", ALL, "required" }, { "activation-dim", ALL, "from --data" },
    { "batch-size", ALL, "2048; as --batch" }, { "dict-class", ALL, "as the trainer" },
    { "lr", ALL, "sSp 1e-3, g 5e-5, G 3e-4, j 7e-5, tbm 2e-4 / sqrt(m / 16384)" },
    { "warmup-steps", ALL, "1000; steps / 10 in runs of at most 1000 steps" },
    { "decay-start", ALL, "none" },
    { "sparsity-warmup-steps", "sSgGpj", "2000; steps / 5 in runs of at most 2000 steps" },
    { "l1-penalty", "sSg", "0.1" }, { "resample-steps", "sGp", "none" },
    { "sparsity-function", "sGp", "s L1, p Lp, G Lp^p" }, { "k", TOP_KS, "required" },
    { "k-anneal-steps", TOP_KS, "none" }, { "auxk-alpha", TOP_KS, "1/32" },
    { "top-k-aux", TOP_KS, "activation_dim / 2" },
    { "dead-feature-threshold", "tbmj", "10000000 rows" },
    { "threshold-beta", TOP_KS, "0.999" }, { "threshold-start-step", TOP_KS, "1000" },
    { "group-fractions", "m", "required, for example 0.25,0.75" },
    { "group-weights", "m", "all the same" }, { "bandwidth", "j", "0.001" },
    { "sparsity-penalty", "j", "1" }, { "target-l0", "j", "20" },
    { "initial-sparsity-penalty", "Gp", "0.1" }, { "anneal-start", "Gp", "15000" },
    { "anneal-end", "Gp", "steps" }, { "p-start", "Gp", "1" },
    { "p-end", "Gp", "0 (with Lp it must be above)" },
    { "n-sparsity-updates", "Gp", "10, or continuous" }, { "sparsity-queue-length", "Gp", "10" },
    { "reconstruction-loss", "s", "of e^2" }, { "ghost-threshold", "s", "none" },
    { "lm-name", ALL, "for config.json" }, { "submodule-name", ALL, "for config.json" },
    { "wandb-name", ALL, "for config.json" }, { "layer", ALL, "for config.json" }
};
enum { NUM_HYPERPARAMETERS = sizeof hyperparameters / sizeof hyperparameters[0] };

void print_hyperparameters(void) {
    size_t i, n;
    for (i = 0; i < NUM_HYPERPARAMETERS; i++) {
        printf("  --%-26s ", hyperparameters[i].name);
        for (n = 0; trainer_letters[n]; n++)
            putchar(strchr(hyperparameters[i].trainers, trainer_letters[n]) ? trainer_letters[n]
                                                                            : '.');
        printf("  %s\n", hyperparameters[i].value);
    }
}

/* The same but for - in place of _. */
static bool same_name(const char *given, const char *name) {
    while (*name && (*given == *name || (*given == '_' && *name == '-'))) given++, name++;
    return !*name && !*given;
}

bool is_ignored(const char *hyperparameter, const sae_trainer_desc *descs, size_t num) {
    size_t h, i;
    for (h = 0; h < NUM_HYPERPARAMETERS; h++) {
        if (!same_name(hyperparameter, hyperparameters[h].name)) continue;
        for (i = 0; i < num; i++)
            if (strchr(hyperparameters[h].trainers, trainer_letters[descs[i].kind - 1]))
                return false;
        return true;
    }
    return false;
}

/* What other programs call our options. */
static const char *const other_names[][2] = {
    { "epochs", "steps" }, { "learning-rate", "lr" }, { "save-dir", "out" }, { "output", "out" },
    { "input", "data" }, { "num-steps", "steps" }, { "num-threads", "threads" }
};

/* Edit distance (insert, delete, replace, swap neighbours). */
static size_t edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[3][64], i, j;
    if (n > 63 || m > 63) return 64;
    for (j = 0; j <= m; j++) row[0][j] = j;
    for (i = 1; i <= n; i++) {
        size_t *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (j = 1; j <= m; j++) {
            size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]
                && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

void nearer(const char *given, const char *candidate, const char **best, size_t *least) {
    size_t d = edit_distance(given, candidate), n = strlen(candidate);
    if (strncmp(given, candidate, n) == 0 && given[n] == '-') d = 1; /* lr-rate: lr */
    if (d < *least) {
        *least = d;
        *best = candidate;
    }
}

int unknown_option(const char *given, const option *options, size_t count) {
    size_t least = strlen(given) / 3 + 2, i, j;
    const char *best = NULL;
    for (i = 0; i < count; i++) nearer(given, options[i].name, &best, &least);
    if (strcmp(tool.verb, "train") == 0)
        for (i = 0; i < NUM_HYPERPARAMETERS; i++)
            nearer(given, hyperparameters[i].name, &best, &least);
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
        if (o->kind == LIST) list_add((list *)o->value, value, (size_t)argc);
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
