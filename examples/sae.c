/*  sae - the command-line tool: train, judge and run sparse autoencoders.

    A thin user of sae.h, and the one file of the program with SAE_IMPLEMENTATION.
    Build: make build/sae, or
        make build/page_html.h && cc -O2 -fopenmp -I. -Ibuild examples/sae.c -lm -o sae

    Exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130 interrupted.

    CONTENTS
        >>text      messages, memory, JSON strings, clock
        >>options   the table-driven command line
        >>data      rows of activations in blocks, .npy written in blocks
        >>train     train
        >>use       eval, encode, reconstruct, steer-export
        >>model     with a language model: eval, features
        >>read      tokenize, detokenize, logits, activations; a text's rows to train on
        >>look      info, tensors
        >>convert   convert
        >>main      help and the verbs
*/
#define SAE_IMPLEMENTATION
#include "sae.h"
#define NEOX_IMPLEMENTATION
#include "neox.h"
#define FEATURES_IMPLEMENTATION
#include "sae_features.h"
#define PAGE_IMPLEMENTATION
#include "page.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#if defined(_WIN32)
#include <direct.h>
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#define make_one_folder(path) _mkdir(path)
#define seek_end(file) _fseeki64(file, 0, SEEK_END)
#define tell(file) ((int64_t)_ftelli64(file))
#else
#include <unistd.h>
#define make_one_folder(path) mkdir(path, 0777)
#define seek_end(file) fseeko(file, 0, SEEK_END)
#define tell(file) ((int64_t)ftello(file))
#endif

enum { DONE = 0, FAILED = 1, WRONG_USAGE = 2, INTERRUPTED = 130 };
enum { BLOCK_BYTES = 64 << 20 }; /* of latents held at once by encode and reconstruct */

/* ==== >>text ================================================================================== */

typedef struct program {
    const char *verb;
    sae_context *ctx;
    bool quiet;
    char notes[4000]; /* what the library said it mapped */
    void **kept; /* every block of take(), freed at the end */
    size_t num_kept;
} program;

static program sae; /* the tool is one program; the library has no such thing */

/* One line on stderr, whatever the text holds. */
static void say_line(const char *format, va_list args) {
    char line[900];
    size_t i;
    vsnprintf(line, sizeof line, format, args);
    for (i = 0; line[i]; i++)
        if ((unsigned char)line[i] < 32 || line[i] == 127) line[i] = '?';
    fprintf(stderr, "sae%s%s: %s\n", sae.verb[0] ? " " : "", sae.verb, line);
}

static int failed(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
    return FAILED;
}

static int wrong(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
    return WRONG_USAGE;
}

/* One line that stops nothing; --quiet takes it away. */
static void warn(const char *format, ...) {
    char line[800];
    va_list args;
    if (sae.quiet) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    failed("warning: %s", line);
}

/* A library message without the function's name: of "sae_train: steps is 0", "steps is 0". */
static const char *without_function(const char *message) {
    size_t n = strspn(message, "abcdefghijklmnopqrstuvwxyz0123456789_");
    bool ours = strncmp(message, "sae_", 4) == 0 || strncmp(message, "neox_", 5) == 0;
    return ours && strncmp(message + n, ": ", 2) == 0 ? message + n + 2 : message;
}

static int failed_library(void) {
    return failed("%s", without_function(sae_error(sae.ctx)));
}

/* Zeroed memory that lives until the program ends. */
static void *take(size_t count, size_t size) {
    void **more = (void **)realloc(sae.kept, (sae.num_kept + 1) * sizeof *more);
    void *memory = more ? calloc(count ? count : 1, size ? size : 1) : NULL;
    if (more) sae.kept = more;
    if (!memory) {
        failed("no memory for %zu times %zu bytes", count, size);
        exit(FAILED);
    }
    sae.kept[sae.num_kept++] = memory;
    return memory;
}

static char *joined(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = (char *)take(size, 1);
    const char *slash = folder[0] && folder[strlen(folder) - 1] != '/' ? "/" : "";
    snprintf(path, size, "%s%s%s", folder, slash, name);
    return path;
}

/* "PATH" + ending, kept by take(). */
static char *with_ending(const char *path, const char *ending) {
    size_t size = strlen(path) + strlen(ending) + 1;
    char *name = (char *)take(size, 1);
    snprintf(name, size, "%s%s", path, ending);
    return name;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), e = strlen(end);
    return n >= e && strcmp(text + n - e, end) == 0;
}

/* Bytes of the UTF-8 character at s; 0 if it is none. */
static size_t utf8_length(const unsigned char *s) {
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3
             : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0, i;
    for (i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return n;
}

static void put_json_string(FILE *out, const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    fputc('"', out);
    while (*s) {
        size_t n = utf8_length(s);
        if (n == 0) {
            fprintf(out, "\\ufffd");
            n = 1;
        } else if (*s < 32 || *s == 127) {
            fprintf(out, "\\u%04x", *s);
        } else {
            if (*s == '"' || *s == '\\') fputc('\\', out);
            fwrite(s, 1, n, out);
        }
        s += n;
    }
    fputc('"', out);
}

static double now_seconds(void) {
#if defined(CLOCK_MONOTONIC)
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    return (double)time(NULL);
#endif
}

static bool file_exists(const char *path) {
    struct stat about;
    return stat(path, &about) == 0;
}

static bool is_folder(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && (about.st_mode & S_IFMT) == S_IFDIR;
}

/* The same file or folder, under whatever names. Windows has no st_ino: the names must do. */
static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    if (strcmp(a, b) == 0) return true;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino && x.st_ino == y.st_ino
           && x.st_dev == y.st_dev;
}

/* The folder in which path lies, kept by take(). */
static const char *folder_of(const char *path) {
    char *folder = with_ending(path, "");
    size_t n = strlen(folder);
    while (n && folder[n - 1] != '/') n--;
    if (!n) return ".";
    folder[n] = 0;
    return folder;
}

static int need_folder(const char *name, const char *path) {
    if (is_folder(folder_of(path))) return DONE;
    return failed("--%s is %s: there is no such folder", name, path);
}

static bool make_folders(const char *path) {
    char *copy = joined(path, "");
    size_t i;
    for (i = 1; copy[i]; i++)
        if (copy[i] == '/') {
            copy[i] = 0;
            make_one_folder(copy);
            copy[i] = '/';
        }
    return is_folder(path);
}

static void on_library_message(sae_log_level level, const char *message, void *user) {
    (void)user;
    if (level == SAE_LOG_WARNING) warn("%s", without_function(message));
    if (!sae.quiet && level == SAE_LOG_INFO && strcmp(sae.verb, "convert") == 0) {
        const char *text = without_function(message); /* shown once all is well */
        size_t n = strlen(sae.notes);
        snprintf(sae.notes + n, sizeof sae.notes - n, "%s\n", text);
    }
}

/* ==== >>options =============================================================================== */

typedef enum option_kind { FLAG, TEXT, ONCE, COUNT, SIZE, LIST } option_kind; /* SIZE: from 1 */

typedef struct list {
    const char **items;
    size_t count;
} list;

typedef struct option {
    const char *name; /* without -- */
    option_kind kind;
    void *value; /* bool, const char * (TEXT, ONCE), uint64_t (COUNT, SIZE), list */
} option;

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

/* What other programs call our options. */
static const char *const other_names[][2] = {
    { "epochs", "steps" }, { "learning-rate", "lr" }, { "save-dir", "out" }, { "output", "out" },
    { "input", "data" }, { "num-steps", "steps" }, { "num-threads", "threads" }
};

/* Edit distance (insert, delete, replace, swap neighbours). */
static size_t distance(const char *a, const char *b) {
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

static void nearer(const char *given, const char *candidate, const char **best, size_t *least) {
    size_t d = distance(given, candidate), n = strlen(candidate);
    if (strncmp(given, candidate, n) == 0 && given[n] == '-') d = 1; /* lr-rate: lr */
    if (d < *least) {
        *least = d;
        *best = candidate;
    }
}

static int unknown_option(const char *given, const option *options, size_t count) {
    size_t least = strlen(given) / 3 + 2, i, j;
    const char *best = NULL;
    for (i = 0; i < count; i++) nearer(given, options[i].name, &best, &least);
    if (strcmp(sae.verb, "train") == 0)
        for (i = 0; i < NUM_HYPERPARAMETERS; i++)
            nearer(given, hyperparameters[i].name, &best, &least);
    for (i = 0; i < sizeof other_names / sizeof other_names[0]; i++)
        for (j = 0; j < count; j++) {
            bool ours = strcmp(options[j].name, other_names[i][1]) == 0
                        || (j == 0 && strcmp(sae.verb, "train") == 0);
            if (ours && strcmp(given, other_names[i][0]) == 0) best = other_names[i][1];
        }
    if (best) return wrong("unknown option --%s; did you mean --%s?", given, best);
    return wrong("unknown option --%s; sae %s --help lists them", given, sae.verb);
}

static bool parse_count(const char *text, uint64_t *out) {
    char *end;
    double value = strtod(text, &end); /* takes 1e6 too */
    if (end == text || *end || !(value >= 0) || value > 9.0e15 || value != floor(value))
        return false;
    *out = (uint64_t)value;
    return true;
}

static bool parse_counts(const char *text, uint64_t *out, size_t capacity, size_t *count) {
    char *copy = joined(text, ""), *part;
    copy[strlen(text)] = 0;
    *count = 0;
    for (part = strtok(copy, ","); part; part = strtok(NULL, ","))
        if (*count == capacity || !parse_count(part, &out[(*count)++])) return false;
    return *count > 0;
}

static void list_add(list *l, const char *item, size_t most) {
    if (!l->items) l->items = (const char **)take(most, sizeof *l->items);
    l->items[l->count++] = item;
}

/* Reads argv after the verb. Words that belong to no option go to words. Options that the table
   does not have go to others as name, value pairs if that is given. DONE, or WRONG_USAGE. */
static int parse(int argc, char **argv, const option *options, size_t count, list *words,
                 list *others) {
    int i;
    for (i = 2; i < argc; i++) {
        char *name = argv[i], *value = NULL;
        const option *o = NULL;
        size_t j;
        if (strncmp(name, "--", 2) != 0 || !name[2]) {
            if (name[0] == '-' && name[1]) return wrong("unknown option %s", name);
            list_add(words, name, (size_t)argc);
            continue;
        }
        name += 2;
        if ((value = strchr(name, '=')) != NULL) *value++ = 0;
        for (j = 0; j < count && !o; j++)
            if (strcmp(options[j].name, name) == 0) o = &options[j];
        if (o && o->kind == FLAG) {
            if (value) return wrong("--%s takes no value", name);
            *(bool *)o->value = true;
            continue;
        }
        if (!o && !others) return unknown_option(name, options, count);
        if (o && o->kind == LIST && !value) {
            list *l = (list *)o->value;
            size_t before = l->count;
            while (i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) {
                if (!argv[i + 1][0]) return wrong("--%s is empty", name);
                list_add(l, argv[++i], (size_t)argc);
            }
            if (l->count == before) return wrong("--%s needs a value", name);
            continue;
        }
        if (!value && i + 1 < argc && strncmp(argv[i + 1], "--", 2) != 0) value = argv[++i];
        if (value && !value[0]) return wrong("--%s is empty", name);
        if (!o) {
            list_add(others, name, 2 * (size_t)argc);
            list_add(others, value, 2 * (size_t)argc);
            continue;
        }
        if (!value) return wrong("--%s needs a value", name);
        if (o->kind == ONCE && *(const char **)o->value)
            return wrong("--%s is given twice: %s, %s", name, *(const char **)o->value, value);
        if (o->kind == TEXT || o->kind == ONCE) *(const char **)o->value = value;
        if (o->kind == LIST) list_add((list *)o->value, value, (size_t)argc);
        if ((o->kind == COUNT || o->kind == SIZE)
            && (!parse_count(value, (uint64_t *)o->value)
                || (o->kind == SIZE && *(uint64_t *)o->value == 0)))
            return wrong("--%s is %s, allowed is a whole number from %d", name, value,
                         o->kind == SIZE);
    }
    return DONE;
}

/* Options that several verbs share. */
typedef struct common {
    list words, data, target;
    const char *dtype, *tensor, *device, *out, *dict_class, *module, *tokens;
    uint64_t dim, threads, batch, batches, k, ctx, splits;
    size_t first_latent, num_latents; /* of a large dictionary only these; 0: all */
    bool json, raw, use_top_k, use_threshold, dense, delphi;
    list text; /* with a language model */
    const char *model, *submodule, *io;
    bool remove_bos;
} common;

static int start(const common *c) {
    sae_context_desc desc = { 0 };
    if (c->device && strcmp(c->device, "cuda") == 0) {
#ifdef SAE_CUDA
        desc.backend = sae_cuda_backend();
#else
        return failed("--device cuda: this program was built for the CPU alone; `make cuda` builds "
                      "build/sae-cuda");
#endif
    } else if (c->device && strcmp(c->device, "cpu") != 0)
        return wrong("--device is %s, allowed are cpu, cuda", c->device);
    if (c->threads > 4096)
        return wrong("--threads is %.0f, allowed is 0..4096", (double)c->threads);
    desc.threads = (int)c->threads;
    desc.logger.log = on_library_message;
    if (sae_context_create(&desc, &sae.ctx) != SAE_OK) return failed("no memory to start with");
    return DONE;
}

static int parse_dtype(const char *text, sae_dtype *out) {
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
    return wrong("--dtype is %s, allowed are f32, f16, bf16", text);
}

/* ==== >>data: reading ========================================================================= */

/* Rows of one or several files as float32, NaN and infinity included. */
typedef struct reader {
    const list *files;
    const char *tensor;
    size_t raw_dim, width;
    sae_dtype raw_dtype;
    uint64_t rows; /* of all files */
    size_t next;   /* file to open next */
    sae_tensor_file *open;
    sae_tensor all;     /* of the open file: [rows,width] */
    FILE *raw;          /* or this */
    uint64_t at, count; /* rows of the open file: read, there */
    unsigned char *bytes;
    size_t capacity;
    uint64_t num_bad, bad_row; /* rows with NaN or infinity; the first of them, in bad_file */
    const char *bad_file;
} reader;

static void reader_close(reader *r) {
    sae_tensor_file_close(r->open);
    if (r->raw) fclose(r->raw);
    r->open = NULL;
    r->raw = NULL;
}

/* "[2,3,4]" */
static void shape_text(const sae_tensor *t, char out[200]) {
    size_t n = 0, i;
    out[0] = 0;
    for (i = 0; i < t->ndim && n < 170; i++)
        n += (size_t)snprintf(out + n, 200 - n, "%s%.0f", i ? "," : "[", (double)t->shape[i]);
    snprintf(out + n, 200 - n, t->ndim ? "]" : "[]");
}

static int reader_open_tensor(reader *r, const char *path, size_t *width) {
    size_t i, found = 0;
    const sae_tensor *t = NULL;
    if (sae_tensor_file_open(sae.ctx, path, &r->open) != SAE_OK) return failed_library();
    if (r->tensor && ends_with(path, ".safetensors")) {
        t = sae_tensor_file_find(r->open, r->tensor);
        if (!t) return failed("%s has no tensor %s", path, r->tensor);
    }
    for (i = 0; !t && i < sae_tensor_file_count(r->open); i++) {
        const sae_tensor *candidate = sae_tensor_file_get(r->open, i);
        if (candidate->ndim == 2 && ++found == 1) r->all = *candidate;
    }
    if (!t && found > 1)
        return failed("%s holds %zu tensors with two dimensions; --tensor NAME says which", path,
                      found);
    if (!t && found == 0) {
        if (sae_tensor_file_count(r->open) != 1)
            return failed("%s holds no tensor [rows,dim]", path);
        t = sae_tensor_file_get(r->open, 0);
    }
    if (t) r->all = *t;
    if (sae_tensor_file_check(r->open, NULL) != SAE_OK) return failed_library();
    if (r->all.ndim != 2) {
        char shape[200];
        shape_text(&r->all, shape);
        return failed("%s: %s is %s, it must be [rows,dim]", path,
                      r->all.name[0] ? r->all.name : "its array", shape);
    }
    r->count = r->all.shape[0];
    *width = (size_t)r->all.shape[1];
    return DONE;
}

static int reader_open_raw(reader *r, const char *path, size_t *width) {
    size_t row = r->raw_dim * sae_dtype_size(r->raw_dtype);
    int64_t size;
    r->raw = fopen(path, "rb");
    if (!r->raw) return failed("%s: cannot be opened", path);
    if (seek_end(r->raw) != 0 || (size = tell(r->raw)) < 0) return failed("%s: has no size", path);
    rewind(r->raw);
    if ((uint64_t)size % row != 0)
        return failed("%s: %.0f bytes are no multiple of a row's %zu", path, (double)size, row);
    r->count = (uint64_t)size / row;
    *width = r->raw_dim;
    return DONE;
}

/* What can be rows at all, said before anything is read. */
static int check_rows_file(const char *path, size_t raw_dim) {
    static const char *const boxes[] = { ".pt", ".pth", ".npz" };
    size_t i;
    if (is_folder(path)) return failed("%s is a folder", path);
    for (i = 0; i < 3; i++)
        if (ends_with(path, boxes[i]))
            return failed("%s is a %s: sae tensors %s --out DIR makes .npy files of it", path,
                          boxes[i], path);
    if (raw_dim || ends_with(path, ".npy") || ends_with(path, ".safetensors")) return DONE;
    if (!file_exists(path)) return failed("%s: there is no such file", path);
    return failed("%s is none of .npy, .safetensors: raw values need --dim and --dtype", path);
}

static int reader_open_next(reader *r) {
    const char *path = r->files->items[r->next++];
    size_t width = 0;
    int status = check_rows_file(path, r->raw_dim);
    reader_close(r);
    if (status != DONE) return status;
    if (ends_with(path, ".npy") || ends_with(path, ".safetensors"))
        status = reader_open_tensor(r, path, &width);
    else
        status = reader_open_raw(r, path, &width);
    if (status != DONE) return status;
    if (r->width && width != r->width)
        return failed("%s: rows are %zu wide, those of %s are %zu wide", path, width,
                      r->files->items[0], r->width);
    r->width = width;
    r->at = 0;
    return DONE;
}

/* Opens each file once, to know width and rows, and then the first. */
static int reader_create(reader *r, const list *files, const common *c) {
    int status = parse_dtype(c->dtype, &r->raw_dtype);
    if (status != DONE) return status;
    r->files = files;
    r->tensor = c->tensor;
    r->raw_dim = (size_t)c->dim;
    while (r->next < files->count) {
        status = reader_open_next(r);
        if (status != DONE) return status;
        r->rows += r->count;
    }
    r->next = 0;
    return reader_open_next(r);
}

/* Counts the rows with NaN or infinity among n that start at row first of the open file. */
static void reader_count_bad(reader *r, const float *x, size_t n, uint64_t first) {
    size_t i, j;
    for (i = 0; i < n; i++) {
        float sum = 0; /* of all times 0: NaN where one is not finite */
        for (j = 0; j < r->width; j++) sum += x[i * r->width + j] * 0.0f;
        if (sum == 0) continue;
        if (r->num_bad++) continue;
        r->bad_row = first + i;
        r->bad_file = r->files->items[r->next - 1];
    }
}

/* Their other rows are given all the same, so this is no failure; --quiet does not hide it. */
static void reader_tell_bad(const reader *r) {
    if (r->num_bad)
        failed("warning: %.0f row%s with NaN or infinity, first row %.0f of %s: %s latents mean "
               "nothing", (double)r->num_bad, r->num_bad == 1 ? "" : "s", (double)r->bad_row,
               r->bad_file, r->num_bad == 1 ? "its" : "their");
}

/* Up to max rows into x [max,width]; *n 0 at the end. */
static int reader_next(reader *r, float *x, size_t max, size_t *n) {
    size_t element = sae_dtype_size(r->raw ? r->raw_dtype : r->all.dtype);
    *n = 0;
    while (*n < max) {
        size_t part = max - *n;
        sae_tensor rows = r->all;
        if (r->at == r->count) {
            int status;
            if (r->next == r->files->count) return DONE;
            status = reader_open_next(r);
            if (status != DONE) return status;
            element = sae_dtype_size(r->raw ? r->raw_dtype : r->all.dtype);
            continue;
        }
        if (part > r->count - r->at) part = (size_t)(r->count - r->at);
        if (r->raw) {
            size_t bytes = part * r->width * element;
            if (bytes > r->capacity) r->bytes = (unsigned char *)take(r->capacity = bytes, 1);
            if (fread(r->bytes, 1, bytes, r->raw) != bytes)
                return failed("%s: reading failed", r->files->items[r->next - 1]);
            memset(&rows, 0, sizeof rows);
            rows.name = "";
            rows.dtype = r->raw_dtype;
            rows.ndim = 2;
            rows.shape[1] = r->width;
            rows.stride[0] = (int64_t)r->width;
            rows.stride[1] = 1;
            rows.data = r->bytes;
        } else {
            rows.data = (const unsigned char *)rows.data +
                        (int64_t)r->at * rows.stride[0] * (int64_t)element;
        }
        rows.shape[0] = part;
        sae_tensor_to_f32(&rows, x + *n * r->width);
        reader_count_bad(r, x + *n * r->width, part, r->at);
        *n += part;
        r->at += part;
    }
    return DONE;
}

/* Opens and closes every file of --data and --target, so that what is wrong shows before work. */
static int check_rows(const common *c) {
    const list *lists[2];
    int i, status = DONE;
    lists[0] = &c->data;
    lists[1] = &c->target;
    for (i = 0; i < 2 && status == DONE; i++) {
        reader r;
        memset(&r, 0, sizeof r);
        if (lists[i]->count) status = reader_create(&r, lists[i], c);
        reader_close(&r);
    }
    return status;
}

/* A file that is there, of a kind that dictionaries consist of. */
static bool is_weights(const char *path) {
    static const char *const ends[] = { ".pt", ".safetensors", ".npz", ".json", ".bin" };
    struct stat about;
    size_t i;
    for (i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends_with(path, ends[i])) return stat(path, &about) == 0;
    return false;
}

/* Writing over what is being read is refused: a file, or one of a folder's. */
static int keep_apart(const char *what, const char *out, const common *c) {
    const list *lists[4];
    size_t i, j;
    lists[0] = &c->data;
    lists[1] = &c->target;
    lists[2] = &c->words;
    lists[3] = &c->text;
    for (i = 0; i < 4; i++)
        for (j = 0; j < lists[i]->count; j++) {
            const char *in = lists[i]->items[j];
            bool part = is_weights(out) && is_folder(in) && same_file(folder_of(out), in);
            if (same_file(out, in) || part)
                return failed("%s is %s, which is read: it would be lost", what, out);
        }
    return DONE;
}

/* ==== >>data: writing ========================================================================= */

/* A .npy that grows by rows: written beside as PATH.tmp, renamed when it is whole. */
typedef struct npy_writer {
    FILE *file;
    const char *path, *temporary, *descr;
    uint64_t rows;
    size_t width; /* 0: one dimension */
    size_t group; /* rows of one element of a first dimension of three; 0: none */
} npy_writer;

/* Brought to the disk. */
static bool synced(FILE *file) {
#if defined(_WIN32)
    return fflush(file) == 0 && _commit(_fileno(file)) == 0;
#else
    return fflush(file) == 0 && fsync(fileno(file)) == 0;
#endif
}

static bool npy_put_header(npy_writer *w) {
    char text[128], shape[80];
    size_t n;
    if (w->group)
        snprintf(shape, sizeof shape, "(%.0f, %zu, %zu)", (double)(w->rows / w->group), w->group,
                 w->width);
    else if (w->width)
        snprintf(shape, sizeof shape, "(%.0f, %.0f)", (double)w->rows, (double)w->width);
    else snprintf(shape, sizeof shape, "(%.0f,)", (double)w->rows);
    memset(text, ' ', sizeof text);
    memcpy(text, "\x93NUMPY\x01\x00\x76\x00", 10); /* 118 bytes follow */
    n = (size_t)snprintf(text + 10, sizeof text - 10,
                         "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", w->descr, shape);
    text[10 + n] = ' ';
    text[127] = '\n';
    return fwrite(text, 1, sizeof text, w->file) == sizeof text;
}

static int npy_create(npy_writer *w, const char *path, const char *ending, const char *descr,
                      size_t width) {
    w->path = path;
    w->temporary = with_ending(path, ending);
    w->descr = descr;
    w->width = width;
    w->rows = 0;
    w->file = fopen(w->temporary, "wb");
    if (!w->file || !npy_put_header(w)) return failed("%s: cannot be written", path);
    return DONE;
}

static int npy_put(npy_writer *w, const void *data, size_t element, size_t rows) {
    size_t count = rows * (w->width ? w->width : 1);
    if (fwrite(data, element, count, w->file) != count)
        return failed("%s: writing failed (is the disk full?)", w->path);
    w->rows += rows;
    return DONE;
}

static void npy_abandon(npy_writer *w) {
    if (!w->file) return;
    fclose(w->file);
    remove(w->temporary);
    w->file = NULL;
}

/* The header again with the rows there are; keep: under the temporary's name. */
static int npy_finish(npy_writer *w, bool keep) {
    bool good = fseek(w->file, 0, SEEK_SET) == 0 && npy_put_header(w) && synced(w->file);
    if (fclose(w->file) != 0) good = false;
    w->file = NULL;
#if defined(_WIN32)
    if (good && !keep) remove(w->path);
#endif
    if (good && !keep && rename(w->temporary, w->path) != 0) good = false;
    if (good) return DONE;
    remove(w->temporary);
    return failed("%s: writing failed (is the disk full?)", w->path);
}

/* ==== >>train ================================================================================= */

/* Rows of a language model that reads --text, >>read. */
typedef struct text_rows text_rows;
static int text_rows_open(const common *c, text_rows **rows, sae_source_desc *source);
static void text_rows_close(text_rows *rows);
static size_t text_rows_layer(const text_rows *rows);

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    interrupted = 1;
    signal(number, SIG_DFL); /* a second one ends it at once */
}

static const struct {
    const char *name;
    size_t offset;
} log_fields[] = {
    { "loss", offsetof(sae_stats, loss) },
    { "l2_loss", offsetof(sae_stats, l2_loss) },
    { "sparsity_loss", offsetof(sae_stats, sparsity_loss) },
    { "aux_loss", offsetof(sae_stats, aux_loss) },
    { "auxk_loss", offsetof(sae_stats, auxk_loss) },
    { "pre_norm_auxk_loss", offsetof(sae_stats, pre_norm_auxk_loss) },
    { "dead_features", offsetof(sae_stats, dead_features) },
    { "effective_l0", offsetof(sae_stats, effective_l0) },
    { "l0", offsetof(sae_stats, l0) },
    { "frac_variance_explained", offsetof(sae_stats, frac_variance_explained) },
    { "threshold", offsetof(sae_stats, threshold) },
    { "p", offsetof(sae_stats, p) },
    { "next_p", offsetof(sae_stats, next_p) },
    { "sparsity_coeff", offsetof(sae_stats, sparsity_coeff) },
    { "ghosts", offsetof(sae_stats, ghosts) },
    { "lr", offsetof(sae_stats, lr) },
    { "grad_norm", offsetof(sae_stats, grad_norm) }
};

typedef struct training {
    const char *log_path;
    FILE *log, *early; /* early: lines before the first step of this run is known */
    bool resume, terminal, log_failed, drawn;
    size_t num_trainers;
    sae_stats *last; /* of each trainer */
    double shown, rate;
    uint64_t shown_rows, step, steps;
} training;

static double stat_value(const sae_stats *s, size_t field) {
    double value;
    memcpy(&value, (const char *)s + log_fields[field].offset, sizeof value);
    return value;
}

static void put_log_line(FILE *out, const sae_stats *s, size_t trainer, size_t num_trainers) {
    size_t i;
    fprintf(out, "{\"step\": %.0f", (double)s->step);
    if (num_trainers > 1) fprintf(out, ", \"trainer\": %zu", trainer);
    for (i = 0; i < sizeof log_fields / sizeof log_fields[0]; i++) {
        double value = stat_value(s, i);
        if (isfinite(value)) fprintf(out, ", \"%s\": %.9g", log_fields[i].name, value);
    }
    fprintf(out, "}\n");
}

/* Opens the log; after a resume it keeps the whole lines of the steps before first_step. */
static bool open_log(training *t, uint64_t first_step) {
    char *temporary = with_ending(t->log_path, ".tmp"), line[4096];
    FILE *old = t->resume ? fopen(t->log_path, "rb") : NULL;
    size_t n;
    t->log = fopen(temporary, "wb");
    while (old && t->log && fgets(line, (int)sizeof line, old)) {
        const char *at = strstr(line, "\"step\": ");
        bool whole = line[0] == '{' && line[strlen(line) - 1] == '\n';
        if (whole && at && strtod(at + 8, NULL) < (double)first_step) fputs(line, t->log);
    }
    if (old) fclose(old);
    if (t->log && t->early) {
        rewind(t->early);
        while ((n = fread(line, 1, sizeof line, t->early)) > 0) fwrite(line, 1, n, t->log);
    }
    if (t->early) fclose(t->early);
    t->early = NULL;
    if (!t->log || fflush(t->log) != 0) return false;
#if defined(_WIN32)
    remove(t->log_path);
#endif
    if (rename(temporary, t->log_path) == 0) return true;
    remove(temporary);
    return false;
}

static void on_log(void *user, size_t trainer, const sae_stats *stats) {
    training *t = (training *)user;
    if (trainer < t->num_trainers) t->last[trainer] = *stats;
    if (t->log_path) {
        if (!t->log && !t->early) t->early = tmpfile();
        if (t->log || t->early)
            put_log_line(t->log ? t->log : t->early, stats, trainer, t->num_trainers);
        if (t->log && fflush(t->log) != 0) t->log_failed = true;
    } else if (!sae.quiet) {
        if (t->drawn) fprintf(stderr, "\r\x1b[K");
        t->drawn = false;
        printf("step %.0f", (double)stats->step);
        if (t->num_trainers > 1) printf(" trainer %zu", trainer);
        printf(" loss %.6g l0 %.1f variance explained %.4f lr %.3g\n", stats->loss, stats->l0,
               stats->frac_variance_explained, stats->lr);
        fflush(stdout);
    }
}

static void time_text(double seconds, char *out, size_t size) {
    unsigned long s = seconds > 0 && seconds < 1e8 ? (unsigned long)seconds : 0;
    if (s >= 3600) snprintf(out, size, "%lu:%02lu:%02lu", s / 3600, s / 60 % 60, s % 60);
    else snprintf(out, size, "%lu:%02lu", s / 60, s % 60);
}

static void show_progress(training *t, const sae_progress *p, double now) {
    char bar[21], left[32], rate[32], more[32] = "";
    sae_stats s;
    double done = p->steps ? (double)p->step / (double)p->steps : 1, recent;
    double steps_left = (double)(p->steps - p->step), row_rate;
    size_t i;
    memset(&s, 0, sizeof s);
    if (sae_trainer_stats(p->trainers[0], &s) != SAE_OK) return;
    if (now - t->shown >= 0.1 || t->rate == 0) {
        recent = (double)(p->rows - t->shown_rows) / (now - t->shown + 1e-9);
        t->rate = t->rate > 0 ? 0.7 * t->rate + 0.3 * recent : recent;
    }
    row_rate = (double)p->rows / (double)(p->step - p->start_step ? p->step - p->start_step : 1);
    for (i = 0; i < 20; i++) bar[i] = (double)i < done * 20 ? '#' : '-';
    bar[20] = 0;
    time_text(steps_left * row_rate / (t->rate > 0 ? t->rate : 1), left, sizeof left);
    if (t->rate >= 1e4) snprintf(rate, sizeof rate, "%.1fk", t->rate / 1e3);
    else snprintf(rate, sizeof rate, "%.0f", t->rate);
    if (p->num_trainers > 1) snprintf(more, sizeof more, " (1 of %zu)", p->num_trainers);
    if (t->terminal)
        fprintf(stderr,
                "\r[%s] %3.0f%% step %.0f/%.0f  %s tok/s  loss %.4g  L0 %.1f%s  %s left\x1b[K", bar,
                100 * done, (double)p->step, (double)p->steps, rate, s.loss, s.l0, more, left);
    else
        fprintf(stderr, "step %.0f/%.0f  %s tok/s  loss %.4g  L0 %.1f%s  %s left\n",
                (double)p->step, (double)p->steps, rate, s.loss, s.l0, more, left);
    fflush(stderr);
    t->drawn = t->terminal;
    t->shown = now;
    t->shown_rows = p->rows;
}

static bool on_progress(void *user, const sae_progress *p) {
    training *t = (training *)user;
    double now;
    size_t i;
    t->step = p->step;
    t->steps = p->steps;
    if (t->log_path && !t->log && !open_log(t, p->start_step)) t->log_failed = true;
    if (p->step == p->steps)
        for (i = 0; i < p->num_trainers && i < t->num_trainers; i++)
            sae_trainer_stats(p->trainers[i], &t->last[i]);
    if (interrupted || t->log_failed) return false;
    if (sae.quiet) return true;
    now = now_seconds();
    if (p->step == p->start_step + 1) { /* the first step's set-up is not its speed */
        t->shown = now;
        t->shown_rows = p->rows;
    }
    if (t->terminal ? now - t->shown >= 0.2 || p->step == p->steps : now - t->shown >= 10)
        show_progress(t, p, now);
    return true;
}

typedef struct train_options {
    common c;
    list config, others;
    const char *trainer, *init, *order, *log, *save_steps, *norm_multiple, *seed;
    uint64_t steps, buffer_rows, log_steps, backup_steps, heads;
    bool normalize_activations, resume;
} train_options;

static int set_hyperparameter(sae_trainer_desc *desc, const char *name, const char *value,
                              const option *options, size_t count) {
    sae_result result = sae_trainer_desc_set(sae.ctx, desc, name, value ? value : "");
    if (result == SAE_ERR_NOT_FOUND) return unknown_option(name, options, count);
    if (!value) return wrong("--%s needs a value", name);
    if (result == SAE_ERR_INVALID)
        return wrong("--%s: %s", name, without_function(sae_error(sae.ctx)));
    return result == SAE_OK ? DONE : failed_library();
}

/* What no trainer can do without; who: the trainer's name. */
static int check_needs(const train_options *o, const sae_trainer_desc *desc) {
    const char *who = sae_trainer_name(desc->kind);
    bool chooses = desc->kind == SAE_TRAINER_TOP_K || desc->kind == SAE_TRAINER_BATCH_TOP_K
                   || desc->kind == SAE_TRAINER_MATRYOSHKA;
    if (!desc->kind && o->config.count)
        return wrong("--trainer is missing, and %s has no trainer_class", o->config.items[0]);
    if (!desc->kind) return wrong("--trainer is missing");
    if (!desc->dict_size) return wrong("--dict-size is missing");
    if (chooses && !desc->k) return wrong("--k is missing: latents of a row, of %s", who);
    if (desc->kind == SAE_TRAINER_MATRYOSHKA && !desc->num_groups)
        return wrong("--group-fractions is missing, for example 0.25,0.75");
    return DONE;
}

/* A warning for each hyperparameter of the command line that none of the trainers has. */
static void warn_ignored(const train_options *o, const sae_trainer_desc *descs, size_t num) {
    size_t i, j, h;
    for (j = 0; j < o->others.count; j += 2)
        for (h = 0; h < NUM_HYPERPARAMETERS; h++) {
            const char *name = hyperparameters[h].name, *given = o->others.items[j];
            bool used = false;
            for (i = 0; name[i] && (given[i] == name[i] || (given[i] == '_' && name[i] == '-'));)
                i++;
            if (name[i] || given[i]) continue;
            for (i = 0; i < num; i++)
                if (strchr(hyperparameters[h].trainers, trainer_letters[descs[i].kind - 1]))
                    used = true;
            if (!used)
                warn("%s has no %s: ignored", num == 1 ? sae_trainer_name(descs[0].kind)
                                                       : "none of the trainers", given);
        }
}

/* The trainers of all --config files, with the command line laid over each. */
static int collect_trainers(const train_options *o, const option *options, size_t count,
                            sae_config **configs, sae_trainer_desc **out, size_t *num) {
    sae_trainer_desc *descs, scratch;
    size_t total = 0, i, j;
    memset(&scratch, 0, sizeof scratch);
    for (j = 0; j < o->others.count; j += 2) { /* wrong usage shows before any file is opened */
        int status = set_hyperparameter(&scratch, o->others.items[j], o->others.items[j + 1],
                                        options, count);
        if (status != DONE) return status;
    }
    for (i = 0; i < o->config.count; i++) {
        if (sae_config_open(sae.ctx, o->config.items[i], &configs[i]) != SAE_OK)
            return failed_library();
        total += sae_config_count(configs[i]);
    }
    if (o->config.count && !total) return failed("%s holds no trainer", o->config.items[0]);
    descs = (sae_trainer_desc *)take(total ? total : 1, sizeof *descs);
    *num = 0;
    for (i = 0; i < o->config.count; i++)
        for (j = 0; j < sae_config_count(configs[i]); j++)
            descs[(*num)++] = *sae_config_get(configs[i], j);
    if (!total) *num = 1;
    for (i = 0; i < *num; i++) {
        if (o->trainer && !sae_trainer_from_name(o->trainer, &descs[i].kind)) {
            size_t k, least = strlen(o->trainer) / 2 + 2;
            const char *best = NULL;
            for (k = 1; k <= 9; k++)
                nearer(o->trainer, sae_trainer_name((sae_trainer_kind)k), &best, &least);
            return best ? wrong("--trainer %s is unknown; did you mean %s?", o->trainer, best)
                        : wrong("--trainer %s is unknown; sae train --help lists them", o->trainer);
        }
        for (j = 0; j < o->others.count; j += 2)
            sae_trainer_desc_set(sae.ctx, &descs[i], o->others.items[j], o->others.items[j + 1]);
        if (o->seed) {
            int status = set_hyperparameter(&descs[i], "seed", o->seed, options, count);
            if (status != DONE) return status;
        }
        if (o->init) descs[i].init = o->init;
        {
            int status = check_needs(o, &descs[i]);
            if (status != DONE) return status;
        }
    }
    warn_ignored(o, descs, *num);
    *out = descs;
    return DONE;
}

/* steps and batch size: from the command line, else from the configs, which must agree. */
static int agree_on_sizes(const train_options *o, sae_trainer_desc *descs, size_t num,
                          sae_train_desc *train) {
    size_t i;
    train->steps = o->steps;
    train->buffer.batch_size = (size_t)o->c.batch;
    for (i = 0; i < num; i++) {
        if (!o->steps && descs[i].steps && train->steps && descs[i].steps != train->steps)
            return wrong("the configs name different steps, --steps must say how many");
        if (!o->c.batch && descs[i].batch_size && train->buffer.batch_size
            && descs[i].batch_size != train->buffer.batch_size)
            return wrong("the configs name different batch sizes, --batch must say which");
        if (!o->steps && descs[i].steps) train->steps = descs[i].steps;
        if (!o->c.batch && descs[i].batch_size) train->buffer.batch_size = descs[i].batch_size;
    }
    if (!train->steps) return wrong("--steps is missing");
    for (i = 0; i < num; i++) {
        descs[i].steps = 0; /* sae_train fills both in */
        descs[i].batch_size = 0;
    }
    return DONE;
}

static int fill_source(const common *c, sae_source_desc *source) {
    source->files = c->data.items;
    source->num_files = c->data.count;
    source->target_files = c->target.items;
    source->num_target_files = c->target.count;
    source->tensor = c->tensor;
    source->dim = (size_t)c->dim;
    return parse_dtype(c->dtype, &source->dtype);
}

/* A top-k class under its threshold, which stands at -1. trainer may be NULL: not known. */
static void warn_threshold(const sae_trainer_desc *trainer) {
    char when[64] = "";
    uint64_t start = trainer ? trainer->threshold_start_step : SAE_NONE;
    if (trainer && start != SAE_NONE)
        snprintf(when, sizeof when, " (training ended before threshold_start_step %.0f)",
                 (double)(start ? start : 1000));
    warn("threshold was never set%s: everything positive passes; --use-top-k chooses k", when);
}

/* Says what of an earlier run in out is replaced, and what stays of it. */
static void warn_replaced(const sae_train_desc *desc) {
    size_t i;
    for (i = 0; !desc->resume && i < desc->num_trainers; i++) {
        char name[32] = "";
        const char *folder, *stays = "";
        if (!desc->flat) snprintf(name, sizeof name, "trainer_%zu", i);
        folder = desc->flat ? desc->save_dir : joined(desc->save_dir, name);
        if (!file_exists(joined(folder, "ae.pt"))) continue;
        if (is_folder(joined(folder, "checkpoints")))
            stays = "; what is in checkpoints/ stays and is of the earlier run, but for the steps "
                    "saved anew";
        warn("%s holds a finished run: its config.json, ae.pt, ae.safetensors will be replaced%s",
             folder, stays);
    }
}

static int run_training(const train_options *o, sae_train_desc *desc) {
    training t;
    sae_result result;
    size_t i;
    memset(&t, 0, sizeof t);
    t.log_path = o->log;
    t.resume = o->resume;
    t.num_trainers = desc->num_trainers;
    t.terminal = isatty(fileno(stderr)) != 0;
    t.last = (sae_stats *)take(desc->num_trainers, sizeof *t.last);
    desc->log = on_log;
    desc->progress = on_progress;
    desc->user = &t;
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    result = sae_train(sae.ctx, desc);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    if (t.drawn) fprintf(stderr, "\n");
    if (result == SAE_OK && t.log_path && !t.log && !open_log(&t, o->resume ? desc->steps : 0))
        t.log_failed = true; /* nothing was left to do */
    if (t.early) fclose(t.early);
    if (t.log && fclose(t.log) != 0) t.log_failed = true;
    if (t.log_failed) return failed("%s: writing failed", t.log_path);
    if (result == SAE_ERR_CANCELLED) {
        failed("stopped after step %.0f of %.0f; the same command with --resume goes on from there",
               (double)t.step, (double)t.steps);
        return INTERRUPTED;
    }
    if (result != SAE_OK) return failed_library();
    for (i = 0; t.step && i < desc->num_trainers; i++)
        if (t.last[i].threshold < 0 && desc->trainers[i].kind != SAE_TRAINER_TOP_K)
            warn_threshold(&desc->trainers[i]);
    if (sae.quiet) return DONE;
    if (!t.step) printf("%s: finished before, nothing left to do\n", desc->save_dir);
    for (i = 0; t.step && i < desc->num_trainers; i++) {
        char name[32] = "";
        if (!desc->flat) snprintf(name, sizeof name, "trainer_%zu", i);
        printf("%s: %s, loss %.5g, L0 %.1f, variance explained %.4f\n",
               desc->flat ? desc->save_dir : joined(desc->save_dir, name),
               sae_trainer_name(desc->trainers[i].kind), t.last[i].loss, t.last[i].l0,
               t.last[i].frac_variance_explained);
    }
    return DONE;
}

static int verb_train(int argc, char **argv) {
    train_options o;
    sae_train_desc desc;
    sae_trainer_desc *trainers = NULL;
    sae_config **configs;
    uint64_t *save_steps;
    text_rows *read = NULL;
    size_t num = 0, i;
    int status;
    memset(&o, 0, sizeof o);
    memset(&desc, 0, sizeof desc);
    const option options[] = {
        { "data", LIST, &o.c.data }, { "target", LIST, &o.c.target },
        { "trainer", ONCE, &o.trainer }, { "config", LIST, &o.config },
        { "init", TEXT, &o.init }, { "out", TEXT, &o.c.out }, { "order", TEXT, &o.order },
        { "batch", SIZE, &o.c.batch }, { "steps", SIZE, &o.steps },
        { "buffer-rows", SIZE, &o.buffer_rows }, { "heads", SIZE, &o.heads },
        { "max-activation-norm-multiple", TEXT, &o.norm_multiple },
        { "normalize-activations", FLAG, &o.normalize_activations },
        { "log", TEXT, &o.log }, { "log-steps", SIZE, &o.log_steps },
        { "save-steps", TEXT, &o.save_steps }, { "backup-steps", COUNT, &o.backup_steps },
        { "resume", FLAG, &o.resume }, { "dim", SIZE, &o.c.dim }, { "dtype", TEXT, &o.c.dtype },
        { "tensor", TEXT, &o.c.tensor }, { "threads", COUNT, &o.c.threads },
        { "device", TEXT, &o.c.device }, { "seed", TEXT, &o.seed }, { "quiet", FLAG, &sae.quiet },
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text },
        { "submodule", TEXT, &o.c.submodule }, { "io", TEXT, &o.c.io }, { "ctx", SIZE, &o.c.ctx },
        { "remove-bos", FLAG, &o.c.remove_bos }
    };
    const size_t count = sizeof options / sizeof options[0];
    status = parse(argc, argv, options, count, &o.c.words, &o.others);
    if (status == DONE) status = start(&o.c);
    if (status != DONE) return status;
    if (o.c.words.count) return wrong("%s belongs to no option", o.c.words.items[0]);
    configs = (sae_config **)take(o.config.count, sizeof *configs);
    save_steps = (uint64_t *)take(4096, sizeof *save_steps);
    status = collect_trainers(&o, options, count, configs, &trainers, &num);
    if (status == DONE && !o.c.text.count && (o.c.model || o.c.submodule || o.c.io))
        status = wrong("--text is missing: what the model shall read");
    if (status == DONE && !o.c.data.count && !o.c.text.count)
        status = wrong("--data is missing (or --model, --text and --submodule)");
    if (status == DONE && o.c.text.count && (o.c.data.count || o.c.target.count))
        status = wrong("--text and --data do not go together: rows come from one of them");
    if (status == DONE && !o.c.out) status = wrong("--out is missing");
    if (status == DONE && o.order && strcmp(o.order, "shuffle") && strcmp(o.order, "sequential"))
        status = wrong("--order is %s, allowed are shuffle, sequential", o.order);
    if (status == DONE && o.save_steps
        && !parse_counts(o.save_steps, save_steps, 4096, &desc.num_save_steps))
        status = wrong("--save-steps is %s, allowed is a list of steps: 100,1000", o.save_steps);
    if (status == DONE && o.norm_multiple) {
        char *end;
        desc.buffer.max_activation_norm_multiple = strtod(o.norm_multiple, &end);
        if (*end || !(desc.buffer.max_activation_norm_multiple > 0))
            status = wrong("--max-activation-norm-multiple is %s, allowed is a number above 0",
                           o.norm_multiple);
    }
    if (status == DONE) status = agree_on_sizes(&o, trainers, num, &desc);
    if (status == DONE) status = fill_source(&o.c, &desc.buffer.source);
    for (i = 0; i < desc.num_save_steps && status == DONE; i++)
        if (save_steps[i] >= desc.steps)
            warn("--save-steps %.0f: never comes, the last step is %.0f", (double)save_steps[i],
                 (double)(desc.steps - 1));
    if (status == DONE && o.log) status = need_folder("log", o.log);
    if (status == DONE && o.log) status = keep_apart("--log", o.log, &o.c);
    if (status == DONE) status = keep_apart("--out", o.c.out, &o.c);
    if (status == DONE) status = check_rows(&o.c);
    if (status == DONE && o.c.text.count)
        status = text_rows_open(&o.c, &read, &desc.buffer.source);
    for (i = 0; read && i < num; i++) { /* where eval finds the place again */
        if (!trainers[i].lm_name) trainers[i].lm_name = o.c.model;
        if (!trainers[i].submodule_name) trainers[i].submodule_name = o.c.submodule;
        if (!trainers[i].layer) trainers[i].layer = (int64_t)text_rows_layer(read);
        desc.io = o.c.io;
        desc.ctx_len = (size_t)o.c.ctx;
    }
    if (status == DONE) {
        if (o.heads > 1 && num == 1) { /* one dictionary a head */
            sae_trainer_desc *heads = (sae_trainer_desc *)take((size_t)o.heads, sizeof *heads);
            for (i = 0; i < o.heads; i++) heads[i] = trainers[0];
            trainers = heads;
            num = (size_t)o.heads;
        }
        desc.buffer.rows = (size_t)o.buffer_rows;
        desc.buffer.sequential = o.order && strcmp(o.order, "sequential") == 0;
        desc.buffer.heads = (size_t)o.heads;
        desc.buffer.seed = trainers[0].seed;
        desc.trainers = trainers;
        desc.num_trainers = num;
        desc.normalize_activations = o.normalize_activations;
        desc.save_dir = o.c.out;
        desc.flat = num == 1;
        desc.save_steps = save_steps;
        desc.backup_steps = o.backup_steps ? o.backup_steps : desc.steps + 1; /* for Ctrl-C alone */
        desc.resume = o.resume;
        desc.log_steps = o.log_steps ? o.log_steps : o.log ? 100 : 0;
        warn_replaced(&desc);
        status = run_training(&o, &desc);
    }
    text_rows_close(read);
    for (i = 0; i < o.config.count; i++)
        if (configs[i]) sae_config_close(configs[i]);
    return status;
}

/* ==== >>use =================================================================================== */

static int parse_arch(const char *text, sae_arch *out) {
    char all[300] = "";
    size_t n = 0;
    int i;
    for (i = 1; i <= SAE_ARCH_IDENTITY; i++) {
        const char *name = sae_arch_name((sae_arch)i);
        if (strcmp(text, name) == 0) {
            *out = (sae_arch)i;
            return DONE;
        }
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i > 1 ? ", " : "", name);
    }
    return wrong("--dict-class is %s, allowed are %s", text, all);
}

/* The config.json beside a dictionary of ours or the reference's; NULL if there is none. Keys that
   are not ours are no matter here. */
static sae_config *config_beside(const char *path) {
    const char *file = joined(is_folder(path) ? path : folder_of(path), "config.json");
    sae_config *config = NULL;
    bool quiet = sae.quiet;
    sae.quiet = true;
    if (!file_exists(file) || sae_config_open(sae.ctx, file, &config) != SAE_OK) config = NULL;
    sae.quiet = quiet;
    if (config && sae_config_count(config)) return config;
    if (config) sae_config_close(config);
    return NULL;
}

/* What a dictionary that opened leaves to be said about its class and its threshold. */
static void warn_about(const common *c, const sae_dictionary *dict) {
    bool ours = sae_dictionary_origin(dict).format == SAE_FORMAT_DICTIONARY_LEARNING;
    sae_config *config = ours ? config_beside(c->words.items[0]) : NULL;
    const sae_trainer_desc *trainer = config ? sae_config_get(config, 0) : NULL;
    bool runs = strcmp(sae.verb, "eval") == 0 || strcmp(sae.verb, "encode") == 0
                || strcmp(sae.verb, "reconstruct") == 0;
    if (c->dict_class && trainer && trainer->arch
        && strcmp(sae_arch_name(trainer->arch), c->dict_class) != 0)
        warn("config.json says %s, --dict-class %s goes before it", sae_arch_name(trainer->arch),
             c->dict_class);
    if (runs && sae_dictionary_rule(dict) == SAE_RULE_THRESHOLD
        && sae_dictionary_threshold(dict) < 0)
        warn_threshold(trainer);
    if (config) sae_config_close(config);
}

/* A folder of a sweep is none of its dictionaries. */
static int check_sweep(const char *path) {
    char all[200] = "", name[32];
    size_t n = 0, i;
    if (!is_folder(joined(path, "trainer_0")) || file_exists(joined(path, "config.json")))
        return DONE;
    for (i = 0; n < 150; i++) {
        snprintf(name, sizeof name, "trainer_%zu", i);
        if (!is_folder(joined(path, name))) break;
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", name);
    }
    return failed("%s holds %s: name one", path, all);
}

/* Where the weights of a folder are; the path itself if it is a file. */
static const char *weights_file(const char *path) {
    static const char *const names[] = {
        "ae.pt", "ae.safetensors", "sae_weights.safetensors", "sae.safetensors", "params.npz",
        "params.safetensors", "checkpoints/final.safetensors", "autoencoder.pt"
    };
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (file_exists(joined(path, names[i]))) return joined(path, names[i]);
    return path;
}

/* More than one would wait for, or have memory for, to look at one thing in it. */
static bool is_large(const char *path) {
    struct stat about;
    return stat(weights_file(path), &about) == 0 && about.st_size > (1 << 30);
}

/* The dictionary named first on the command line, under the rule asked for. */
static int load(const common *c, bool raw_decoder_norms, sae_dictionary **dict) {
    sae_load_desc desc = { SAE_ARCH_DEFAULT, 0, false, raw_decoder_norms, 0, 0 };
    int status = DONE;
    sae_result result;
    size_t k;
    if (c->words.count == 0) return wrong("which dictionary? A folder or file comes first");
    if (c->words.count > 1) return wrong("%s belongs to no option", c->words.items[1]);
    if (c->use_top_k && c->use_threshold) return wrong("--use-top-k or --use-threshold, not both");
    if (c->dict_class && parse_arch(c->dict_class, &desc.arch) != DONE) return WRONG_USAGE;
    if (check_sweep(c->words.items[0]) != DONE) return FAILED;
    desc.k = (size_t)c->k;
    desc.raw = c->raw;
    desc.first_latent = c->first_latent;
    desc.num_latents = c->num_latents;
    result = sae_dictionary_load(sae.ctx, &desc, c->words.items[0], dict);
    if (result == SAE_ERR_UNSUPPORTED && c->num_latents) { /* a class that needs them all */
        desc.first_latent = desc.num_latents = 0;
        result = sae_dictionary_load(sae.ctx, &desc, c->words.items[0], dict);
    }
    if (result != SAE_OK) return failed_library();
    k = sae_dictionary_origin(*dict).k;
    if (c->k && k && k != c->k)
        status = failed("%s has k %zu, --k says %.0f", c->words.items[0], k, (double)c->k);
    else if ((c->use_top_k || c->use_threshold)
             && sae_dictionary_set_rule(*dict, c->use_top_k ? SAE_RULE_TOP_K : SAE_RULE_THRESHOLD)
                != SAE_OK)
        status = failed_library();
    if (status == DONE) {
        warn_about(c, *dict);
    } else {
        sae_dictionary_destroy(*dict);
        *dict = NULL;
    }
    return status;
}

/* Opens --data for dict, which is prepared where there are rows enough to gain by it. */
static int open_rows(const common *c, sae_dictionary *dict, reader *rows) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    int status;
    if (!c->data.count) return wrong("--data is missing");
    status = reader_create(rows, &c->data, c);
    if (status != DONE) return status;
    if (rows->width != info.activation_dim)
        return failed("%s has rows of %zu, the dictionary %s takes %zu", c->data.items[0],
                      rows->width, c->words.items[0], info.activation_dim);
    if (c->target.count) { /* checked here; only eval compares with it */
        reader target;
        memset(&target, 0, sizeof target);
        status = reader_create(&target, &c->target, c);
        reader_close(&target);
        if (status != DONE) return status;
        if (target.rows != rows->rows)
            return failed("%s has %.0f rows, %s has %.0f", c->target.items[0], (double)target.rows,
                          c->data.items[0], (double)rows->rows);
    }
    if (rows->rows >= 64 && sae_dictionary_prepare(dict) != SAE_OK) return failed_library();
    return DONE;
}

static void print_metric(const char *name, double value, bool json) {
    if (json && !isfinite(value)) printf("\"%s\": null, ", name);
    else if (json) printf("\"%s\": %.9g, ", name, value);
    else if (value != value) printf("%-30s nan\n", name);
    else printf("%-30s %.6g\n", name, value);
}

static void print_metrics(const sae_metrics *m, uint64_t n_rows, bool json) {
    if (json) printf("{");
#define SAE_X(name) print_metric(#name, m->name, json);
    SAE_METRICS(SAE_X)
#undef SAE_X
    if (json) printf("\"n_rows\": %.0f}\n", (double)n_rows);
    else printf("%-30s %.0f\n", "n_rows", (double)n_rows);
}

/* config.json of a run with --target says "io": "in_and_out". */
static bool was_transcoder(const char *path) {
    static char text[65536];
    FILE *file = fopen(joined(is_folder(path) ? path : folder_of(path), "config.json"), "rb");
    size_t n = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[n] = 0;
    if (file) fclose(file);
    return strstr(text, "\"io\": \"in_and_out\"") != NULL;
}

static int evaluate(const common *c, sae_dictionary *dict) {
    sae_evaluate_desc desc;
    sae_metrics metrics;
    reader rows;
    uint64_t batch;
    int status;
    memset(&desc, 0, sizeof desc);
    memset(&rows, 0, sizeof rows);
    status = open_rows(c, dict, &rows);
    reader_close(&rows);
    if (status == DONE) status = fill_source(c, &desc.buffer.source);
    if (status != DONE) return status;
    if (rows.rows == 0) return failed("%s has no rows", c->data.items[0]);
    batch = c->batch ? c->batch : 2048;
    if (batch > rows.rows) batch = rows.rows;
    if (!c->target.count && was_transcoder(c->words.items[0]))
        warn("%s was trained on another --target than its input: this judges it by its input",
             c->words.items[0]);
    desc.buffer.batch_size = (size_t)batch;
    desc.buffer.sequential = true;
    desc.batches = c->batches ? c->batches : rows.rows / batch;
    if (sae_evaluate(dict, &desc, &metrics) != SAE_OK) return failed_library();
    print_metrics(&metrics, desc.batches * batch, c->json);
    if (!c->batches && rows.rows % batch && !sae.quiet)
        failed("judged %.0f of %.0f rows: whole batches of %.0f; --batch N",
               (double)(desc.batches * batch), (double)rows.rows, (double)batch);
    return DONE;
}

/* Rows of a block: as --batch says where the rows of a batch choose together, else what fits. */
static size_t block_rows(const common *c, const sae_dictionary *dict, size_t bytes_a_row) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    size_t batch = c->batch ? (size_t)c->batch : 2048, fits = (size_t)BLOCK_BYTES / bytes_a_row;
    bool together = sae_dictionary_rule(dict) == SAE_RULE_TOP_K
                    && (info.arch == SAE_ARCH_BATCH_TOP_K || info.arch == SAE_ARCH_MATRYOSHKA);
    if (together || batch <= fits) return batch;
    return fits ? fits : 1;
}

static void tell_latents(const common *c, const reader *rows, uint64_t active) {
    if (!sae.quiet)
        printf("%s: %.0f rows, L0 %.1f\n", c->out, (double)rows->rows,
               (double)active / (double)(rows->rows ? rows->rows : 1));
}

/* A block of rows of --data after the other, encoded; dense latents or reconstruction to out. */
static int write_dense(const common *c, const sae_dictionary *dict, reader *rows, bool latents) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    size_t width = latents ? info.dict_size : info.output_dim, n, i;
    uint64_t active = 0;
    size_t block = block_rows(c, dict, 4 * (latents ? width : width + info.activation_dim));
    float *x, *y;
    npy_writer out;
    int status;
    if (block > rows->rows) block = rows->rows ? (size_t)rows->rows : 1;
    x = (float *)take(block * info.activation_dim, sizeof *x);
    y = (float *)take(block * width, sizeof *y);
    memset(&out, 0, sizeof out);
    status = npy_create(&out, c->out, ".tmp", "<f4", width);
    while (status == DONE) {
        sae_result result;
        status = reader_next(rows, x, block, &n);
        if (status != DONE || n == 0) break;
        result = latents ? sae_encode(dict, x, n, y) : sae_forward(dict, x, n, y, NULL);
        for (i = 0; latents && i < n * width; i++) active += y[i] != 0;
        if (latents && c->raw) sae_output_features(dict, n, y); /* as the reference gives them */
        status = result == SAE_OK ? npy_put(&out, y, sizeof *y, n) : failed_library();
    }
    if (status == DONE) status = npy_finish(&out, false);
    npy_abandon(&out);
    if (status == DONE && latents) tell_latents(c, rows, active);
    if (status == DONE && !latents && !sae.quiet)
        printf("%s: %.0f rows of %zu\n", c->out, (double)rows->rows, width);
    return status;
}

/* The three lists grow in files of their own, which are then mapped and packed into the .npz. */
static int write_delphi(const common *c, const sae_dictionary *dict, const sae_tensor parts[3],
                        uint64_t rows);

static int pack_sparse(const common *c, const sae_dictionary *dict, npy_writer *parts,
                       uint64_t n_rows, uint64_t width) {
    static const char *const names[] = { "row", "index", "value" };
    sae_tensor_file *files[3] = { NULL, NULL, NULL };
    sae_tensor tensors[4];
    int64_t shape[2];
    int i, status = DONE;
    for (i = 0; i < 3 && status == DONE; i++) {
        status = npy_finish(&parts[i], true);
        if (status == DONE
            && sae_tensor_file_open(sae.ctx, parts[i].temporary, &files[i]) != SAE_OK)
            status = failed_library();
        if (status != DONE) break;
        tensors[i] = *sae_tensor_file_get(files[i], 0);
        tensors[i].name = names[i];
    }
    if (status == DONE && c->delphi) status = write_delphi(c, dict, tensors, n_rows);
    else if (status == DONE) {
        memset(&tensors[3], 0, sizeof tensors[3]);
        shape[0] = (int64_t)n_rows;
        shape[1] = (int64_t)width;
        tensors[3].name = "shape";
        tensors[3].dtype = SAE_I64;
        tensors[3].ndim = 1;
        tensors[3].shape[0] = 2;
        tensors[3].stride[0] = 1;
        tensors[3].data = shape;
        if (sae_tensor_file_write(sae.ctx, c->out, tensors, 4) != SAE_OK) status = failed_library();
    }
    for (i = 0; i < 3; i++) {
        sae_tensor_file_close(files[i]);
        remove(parts[i].temporary);
    }
    return status;
}

/* ---- delphi's latent cache ---- */

enum { CONTEXT = 256, SPLITS = 5 }; /* delphi's own defaults */

static void set_tensor(sae_tensor *t, const char *name, sae_dtype dtype, uint64_t rows,
                       uint64_t columns, const void *data) {
    memset(t, 0, sizeof *t);
    t->name = name;
    t->dtype = dtype;
    t->ndim = columns ? 2 : 1;
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->stride[0] = columns ? (int64_t)columns : 1;
    t->stride[1] = 1;
    t->data = data;
}

/* To half precision, to the nearest, ties to even, as numpy does it. */
static uint16_t to_half(float value) {
    uint32_t bits, sign;
    float size = fabsf(value);
    memcpy(&bits, &value, sizeof bits);
    sign = bits >> 16 & 0x8000u;
    if (value != value) return (uint16_t)(sign | 0x7E00u);
    if (size >= 65536.0f) return (uint16_t)(sign | 0x7C00u);
    if (size < 6.103515625e-5f) { /* below 2^-14: multiples of 2^-24, as 0.5 + size has them */
        size += 0.5f;
        memcpy(&bits, &size, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3F000000u));
    }
    bits &= 0x7FFFFFFFu;
    bits += 0xFFFu + (bits >> 13 & 1u);
    return (uint16_t)(sign | (bits - 0x38000000u) >> 13);
}

/* Latents begin..end of all rows: locations [n,3] of (context, position, latent - begin), and their
   activations as F16; u16 where that holds the numbers, else u32. Entries of at most 1e-5 are left
   out, as delphi does. */
static int delphi_split(const common *c, const sae_tensor parts[3], uint64_t begin, uint64_t end,
                        const sae_tensor *tokens, const char *folder) {
    const int64_t *row = (const int64_t *)parts[0].data;
    const uint32_t *latent = (const uint32_t *)parts[1].data;
    const float *value = (const float *)parts[2].data;
    uint64_t all = parts[0].shape[0], ctx = c->ctx ? c->ctx : CONTEXT, count = 0, i;
    bool wide = false;
    uint32_t *place;
    uint16_t *narrow, *half;
    sae_tensor tensors[3];
    char name[64];
    sae_result result;
    for (i = 0; i < all; i++) {
        if (latent[i] < begin || latent[i] >= end || !(fabsf(value[i]) > 1e-5f)) continue;
        if ((uint64_t)row[i] / ctx > 65535 || latent[i] - begin > 65535 || ctx > 65536) wide = true;
        count++;
    }
    place = (uint32_t *)calloc((size_t)count + 1, 3 * sizeof *place);
    half = (uint16_t *)calloc((size_t)count + 1, sizeof *half);
    if (!place || !half) {
        free(place);
        free(half);
        return failed("no memory for %.0f latents", (double)count);
    }
    narrow = (uint16_t *)place; /* in place: a narrow number never passes a wide one */
    for (i = 0, count = 0; i < all; i++) {
        uint32_t at[3];
        size_t j;
        if (latent[i] < begin || latent[i] >= end || !(fabsf(value[i]) > 1e-5f)) continue;
        at[0] = (uint32_t)((uint64_t)row[i] / ctx);
        at[1] = (uint32_t)((uint64_t)row[i] % ctx);
        at[2] = (uint32_t)(latent[i] - begin);
        for (j = 0; j < 3; j++) {
            if (wide) place[3 * count + j] = at[j];
            else narrow[3 * count + j] = (uint16_t)at[j];
        }
        half[count++] = to_half(value[i]);
    }
    set_tensor(&tensors[0], "locations", wide ? SAE_U32 : SAE_U16, count, 3, place);
    set_tensor(&tensors[1], "activations", SAE_F16, count, 0, half);
    if (tokens) tensors[2] = *tokens;
    snprintf(name, sizeof name, "%.0f_%.0f.safetensors", (double)begin, (double)(end - 1));
    result = sae_tensor_file_write(sae.ctx, joined(folder, name), tensors, tokens ? 3 : 2);
    free(place);
    free(half);
    return result == SAE_OK ? DONE : failed_library();
}

static int delphi_config(const common *c, const sae_dictionary *dict, uint64_t rows,
                         const char *folder) {
    sae_origin origin = sae_dictionary_origin(dict);
    const char *path = joined(folder, "config.json");
    FILE *out = fopen(path, "wb");
    if (!out) return failed("%s: cannot be written", path);
    fprintf(out, "{\n    \"dataset_repo\": ");
    put_json_string(out, origin.dataset);
    fprintf(out, ",\n    \"dataset_split\": \"\",\n    \"dataset_name\": \"\",\n"
                 "    \"dataset_column\": \"\",\n    \"batch_size\": 32,\n"
                 "    \"cache_ctx_len\": %.0f,\n    \"n_tokens\": %.0f,\n"
                 "    \"n_splits\": %.0f,\n    \"model_name\": ",
            (double)(c->ctx ? c->ctx : CONTEXT), (double)rows,
            (double)(c->splits ? c->splits : SPLITS));
    put_json_string(out, origin.model);
    fprintf(out, "\n}\n");
    return fclose(out) == 0 ? DONE : failed("%s: writing failed", path);
}

/* OUT/MODULE/BEGIN_END.safetensors, a file for each share of the latents, and config.json. */
static int write_delphi(const common *c, const sae_dictionary *dict, const sae_tensor parts[3],
                        uint64_t rows) {
    sae_origin origin = sae_dictionary_origin(dict);
    uint64_t m = sae_dictionary_info(dict).dict_size, splits = c->splits ? c->splits : SPLITS;
    uint64_t ctx = c->ctx ? c->ctx : CONTEXT, s;
    const char *module = c->module ? c->module : origin.hook;
    sae_tensor_file *file = NULL;
    sae_tensor tokens;
    char *folder;
    int status = DONE;
    if (!module[0]) return wrong("--module is missing: the dictionary does not say where it sits");
    if (splits > m) splits = m;
    if (rows % ctx) return failed("%.0f rows are no multiple of --ctx %.0f", (double)rows,
                                  (double)ctx);
    if (c->tokens) {
        if (sae_tensor_file_open(sae.ctx, c->tokens, &file) != SAE_OK) return failed_library();
        tokens = *sae_tensor_file_get(file, 0);
        if (tokens.ndim != 2 || tokens.shape[0] != rows / ctx || tokens.shape[1] != ctx)
            status = failed("%s must be [%.0f,%.0f], contexts and --ctx", c->tokens,
                            (double)(rows / ctx), (double)ctx);
        tokens.name = "tokens";
    }
    folder = joined(c->out, module);
    if (status == DONE && !make_folders(joined(folder, "")))
        status = failed("%s: cannot be made", folder);
    for (s = 0; s < splits && status == DONE; s++) /* the ends of torch.linspace(0, m).long() */
        status = delphi_split(c, parts, m * s / splits, m * (s + 1) / splits,
                              c->tokens ? &tokens : NULL, folder);
    if (status == DONE) status = delphi_config(c, dict, rows, folder);
    sae_tensor_file_close(file);
    return status;
}

static int write_sparse(const common *c, const sae_dictionary *dict, reader *rows) {
    static const char *const endings[] = { ".row.npy", ".index.npy", ".value.npy" };
    static const char *const descrs[] = { "<i8", "<i4", "<f4" };
    static const size_t sizes[] = { 8, 4, 4 };
    sae_dictionary_desc info = sae_dictionary_info(dict);
    size_t m = info.dict_size, block = block_rows(c, dict, 8 * m), n, r, i;
    sae_sparse code;
    npy_writer parts[3];
    const void *lists[3];
    int64_t *row;
    float *x;
    uint64_t first = 0, active = 0;
    int status = DONE;
    if (!c->delphi && !ends_with(c->out, ".npz"))
        return wrong("--out of sparse latents ends in .npz (or add --dense, or --delphi)");
    if (block > rows->rows) block = rows->rows ? (size_t)rows->rows : 1;
    x = (float *)take(block * info.activation_dim, sizeof *x);
    row = (int64_t *)take(block * m, sizeof *row);
    code.row_begin = (size_t *)take(block + 1, sizeof *code.row_begin);
    code.latent = (uint32_t *)take(block * m, sizeof *code.latent);
    code.value = (float *)take(block * m, sizeof *code.value);
    code.capacity = block * m;
    memset(parts, 0, sizeof parts);
    for (i = 0; i < 3 && status == DONE; i++)
        status = npy_create(&parts[i], c->out, endings[i], descrs[i], 0);
    while (status == DONE) {
        status = reader_next(rows, x, block, &n);
        if (status != DONE || n == 0) break;
        if (sae_encode_sparse(dict, x, n, &code) != SAE_OK) status = failed_library();
        for (r = 0; r < n && status == DONE; r++)
            for (i = code.row_begin[r]; i < code.row_begin[r + 1]; i++)
                row[i] = (int64_t)(first + r);
        lists[0] = row;
        lists[1] = code.latent;
        lists[2] = code.value;
        for (i = 0; i < 3 && status == DONE; i++)
            status = npy_put(&parts[i], lists[i], sizes[i], code.row_begin[n]);
        active += code.row_begin[n];
        first += n;
    }
    if (status == DONE) status = pack_sparse(c, dict, parts, first, m);
    for (i = 0; i < 3; i++) npy_abandon(&parts[i]);
    if (status == DONE) tell_latents(c, rows, active);
    return status;
}

static int evaluate_in_model(const common *c, const sae_dictionary *dict); /* >>model */

static int verb_use(int argc, char **argv) {
    common c;
    sae_dictionary *dict = NULL;
    reader rows;
    int status;
    memset(&c, 0, sizeof c);
    memset(&rows, 0, sizeof rows);
    const option options[] = {
        { "data", LIST, &c.data }, { "out", TEXT, &c.out }, { "target", LIST, &c.target },
        { "batch", SIZE, &c.batch }, { "batches", SIZE, &c.batches }, { "json", FLAG, &c.json },
        { "dense", FLAG, &c.dense }, { "raw", FLAG, &c.raw }, { "use-top-k", FLAG, &c.use_top_k },
        { "use-threshold", FLAG, &c.use_threshold }, { "dict-class", TEXT, &c.dict_class },
        { "k", SIZE, &c.k }, { "dim", SIZE, &c.dim }, { "dtype", TEXT, &c.dtype },
        { "tensor", TEXT, &c.tensor }, { "threads", COUNT, &c.threads },
        { "device", TEXT, &c.device }, { "quiet", FLAG, &sae.quiet },
        { "delphi", FLAG, &c.delphi }, { "module", TEXT, &c.module }, { "ctx", COUNT, &c.ctx },
        { "splits", COUNT, &c.splits }, { "tokens", TEXT, &c.tokens },
        { "model", TEXT, &c.model }, { "text", LIST, &c.text },
        { "submodule", TEXT, &c.submodule }, { "io", TEXT, &c.io },
        { "remove-bos", FLAG, &c.remove_bos }
    };
    const bool judge = strcmp(sae.verb, "eval") == 0;
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &c.words, NULL);
    if (status == DONE && c.words.count > 1)
        status = wrong("%s belongs to no option", c.words.items[1]);
    if (status == DONE && !judge && !c.out) status = wrong("--out is missing");
    if (status == DONE && c.out && !c.delphi) status = need_folder("out", c.out);
    if (status == DONE && c.out) status = keep_apart("--out", c.out, &c);
    if (status == DONE) status = start(&c);
    if (status == DONE) status = load(&c, judge, &dict);
    if (status == DONE && judge) {
        status = c.model || c.text.count ? evaluate_in_model(&c, dict) : evaluate(&c, dict);
    } else if (status == DONE) {
        status = open_rows(&c, dict, &rows);
        if (status == DONE && strcmp(sae.verb, "encode") == 0 && !c.dense)
            status = write_sparse(&c, dict, &rows);
        else if (status == DONE)
            status = write_dense(&c, dict, &rows, strcmp(sae.verb, "encode") == 0);
        if (status == DONE) reader_tell_bad(&rows);
        reader_close(&rows);
    }
    sae_dictionary_destroy(dict);
    return status;
}

static int verb_steer_export(int argc, char **argv) {
    common c;
    sae_dictionary *dict = NULL;
    sae_steering steering = { 0, SAE_STEER_ADD, 1 };
    uint64_t feature = UINT64_MAX, layer = UINT64_MAX;
    const char *strength = NULL, *hint = NULL;
    char *end;
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = {
        { "feature", COUNT, &feature }, { "layer", COUNT, &layer }, { "strength", TEXT, &strength },
        { "model-hint", TEXT, &hint }, { "out", TEXT, &c.out }, { "raw", FLAG, &c.raw },
        { "dict-class", TEXT, &c.dict_class }, { "k", COUNT, &c.k }, { "quiet", FLAG, &sae.quiet }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &c.words, NULL);
    if (status != DONE) return status;
    if (c.words.count > 1) return wrong("%s belongs to no option", c.words.items[1]);
    if (feature == UINT64_MAX) return wrong("--feature is missing");
    if (layer == UINT64_MAX) return wrong("--layer is missing");
    if (!c.out) return wrong("--out is missing");
    if (feature > UINT32_MAX)
        return wrong("--feature is %.0f, larger than any dictionary", (double)feature);
    steering.latent = (uint32_t)feature;
    if (strength) {
        steering.value = strtof(strength, &end);
        if (end == strength || *end || !isfinite(steering.value))
            return wrong("--strength is %s, allowed is a number", strength);
    }
    status = need_folder("out", c.out);
    if (status == DONE) status = keep_apart("--out", c.out, &c);
    if (status == DONE) status = start(&c);
    if (c.words.count && is_large(c.words.items[0])) { /* its one row will do */
        c.first_latent = (size_t)feature;
        c.num_latents = 1;
    }
    if (status == DONE) status = load(&c, false, &dict);
    if (status == DONE) steering.latent -= (uint32_t)sae_dictionary_origin(dict).first_latent;
    if (status == DONE
        && sae_steer_export(dict, &steering, 1, (size_t)layer, hint, c.out) != SAE_OK)
        status = failed_library();
    if (status == DONE && !sae.quiet)
        printf("%s: %g times latent %.0f, layer %.0f\n", c.out, (double)steering.value,
               (double)feature, (double)layer);
    sae_dictionary_destroy(dict);
    return status;
}

/* ==== >>model: a language model and where a dictionary sits in it ============================= */

typedef struct language { /* --model, --text, --ctx */
    neox_model *model;
    neox_tokenizer *tokenizer;
    neox_contexts contexts;
    features_text text;
} language;

static void language_close(language *l) {
    neox_contexts_free(&l->contexts);
    neox_tokenizer_close(l->tokenizer);
    neox_model_close(l->model);
}

static void mark_padding(const neox_model *model, neox_contexts *contexts); /* >>read */

static int language_open(const common *c, language *l) {
    if (!c->model) return wrong("--model is missing: a folder with config.json, "
                                "model.safetensors, tokenizer.json");
    if (!c->text.count) return wrong("--text is missing");
    if (neox_model_open(sae.ctx, c->model, &l->model) != SAE_OK
        || neox_tokenizer_open(sae.ctx, c->model, &l->tokenizer) != SAE_OK
        || neox_contexts_read(sae.ctx, l->tokenizer, c->text.items, c->text.count, (size_t)c->ctx,
                              &l->contexts) != SAE_OK)
        return failed_library();
    mark_padding(l->model, &l->contexts);
    l->text.tokens = l->contexts.tokens;
    l->text.contexts = l->contexts.contexts;
    l->text.ctx = l->contexts.ctx;
    return DONE;
}

/* Names of places in other programs' words; %zu is the layer. */
static const struct {
    const char *theirs, *ours, *io;
} places[] = {
    { "resid_post_layer_%zu", "gpt_neox.layers.%zu", "out" }, /* the reference's demo */
    { "resid_out_layer%zu", "gpt_neox.layers.%zu", "out" },   /* its published dictionaries */
    { "mlp_out_layer%zu", "gpt_neox.layers.%zu.mlp", "out" },
    { "attn_out_layer%zu", "gpt_neox.layers.%zu.attention", "out" },
    { "blocks.%zu.hook_resid_post", "gpt_neox.layers.%zu", "out" }, /* SAELens */
    { "blocks.%zu.hook_resid_pre", "gpt_neox.layers.%zu", "in" },
    { "blocks.%zu.hook_mlp_out", "gpt_neox.layers.%zu.mlp", "out" },
    { "blocks.%zu.hook_attn_out", "gpt_neox.layers.%zu.attention", "out" },
    { "layers.%zu", "gpt_neox.layers.%zu", "out" }, /* sparsify */
    { "layers.%zu.mlp", "gpt_neox.layers.%zu.mlp", "out" },
    { "layers.%zu.attention", "gpt_neox.layers.%zu.attention", "out" }
};

/* The submodule in our words, given in others'; itself if it is none of these. */
static const char *place_name(const char *given, const char **io) {
    size_t i, layer = 0;
    for (i = 0; i < sizeof places / sizeof places[0]; i++) {
        const char *mark = strstr(places[i].theirs, "%zu"), *digits;
        size_t stem = (size_t)(mark - places[i].theirs), n;
        if (strncmp(given, places[i].theirs, stem) != 0) continue;
        digits = given + stem;
        n = strspn(digits, "0123456789");
        if (n == 0 || n > 4 || strcmp(digits + n, mark + 3) != 0) continue;
        layer = (size_t)strtoul(digits, NULL, 10);
        if (!*io) *io = places[i].io;
        mark = (const char *)take(64, 1);
        snprintf((char *)mark, 64, places[i].ours, layer);
        return mark;
    }
    return given;
}

/* config.json's "buffer": {"io": ...}; NULL if it has none. Kept by take(). */
static const char *config_io(const char *path) {
    const char *file = joined(is_folder(path) ? path : folder_of(path), "config.json");
    const char *io = NULL;
    sae_json *root = NULL;
    if (!file_exists(file) || sae_json_open(sae.ctx, file, &root) != SAE_OK) return NULL;
    io = sae_json_text(sae_json_get(sae_json_get(root, "buffer"), "io"));
    if (io) io = with_ending(io, "");
    sae_json_close(sae.ctx, root);
    return io;
}

typedef struct seat { /* where a dictionary sits */
    const char *submodule, *io;
    features_place place;
} seat;

/* From --submodule and --io, else from what the dictionary's files say. */
static int find_seat(const common *c, const char *path, const sae_dictionary *dict,
                     const language *l, seat *out) {
    sae_origin origin = sae_dictionary_origin(dict);
    sae_config *config = config_beside(path);
    const sae_trainer_desc *trainer = config ? sae_config_get(config, 0) : NULL;
    const char *name = c->submodule, *io = c->io;
    if (!io) io = config_io(path);
    if (!name && trainer && trainer->submodule_name)
        name = with_ending(trainer->submodule_name, "");
    if (config) sae_config_close(config);
    if (!name && origin.hook[0]) name = with_ending(origin.hook, "");
    if (!name) return failed("%s does not say where it belongs in the model: --submodule NAME",
                             path);
    out->submodule = place_name(name, &io);
    out->io = io ? io : "out";
    if (features_place_find(sae.ctx, l->model, dict, out->submodule, out->io, &out->place)
        == SAE_OK)
        return DONE;
    return failed("%s: %s", path, without_function(sae_error(sae.ctx)));
}

/* ==== >>model: eval =========================================================================== */

/* The columns of the reference's README. */
static void print_table(const char *const *names, const features_metrics *m, size_t num) {
    size_t i, wide = 0;
    for (i = 0; i < num; i++)
        if (strlen(names[i]) > wide) wide = strlen(names[i]);
    printf("%-*s  Variance explained      L1      L0  %% alive  CE diff  %% CE recovered\n",
           (int)wide, "");
    for (i = 0; i < num; i++)
        printf("%-*s  %17.1f%% %7.2f %7.2f  %6.1f%%  %7.4f  %13.1f%%\n", (int)wide, names[i],
               100 * m[i].rows.frac_variance_explained, m[i].rows.l1_loss, m[i].rows.l0,
               100 * m[i].rows.frac_alive, m[i].losses.reconstructed - m[i].losses.original,
               100 * m[i].losses.frac_recovered);
}

static void print_json_metric(const char *name, double value) {
    if (isfinite(value)) printf("\"%s\": %.9g, ", name, value);
    else printf("\"%s\": null, ", name);
}

static double count_tokens(const features_text *text) {
    double count = 0;
    size_t i;
    for (i = 0; i < text->contexts * text->ctx; i++) count += text->tokens[i] >= 0;
    return count;
}

static int evaluate_in_model(const common *c, const sae_dictionary *dict) {
    const char *path = c->words.items[0];
    language l;
    seat s;
    features_judge_desc how;
    features_metrics m;
    uint64_t rows = 0;
    int status;
    memset(&l, 0, sizeof l);
    memset(&how, 0, sizeof how);
    if (c->data.count || c->target.count)
        return wrong("--data, --target and --model do not go together: rows come from --text");
    status = language_open(c, &l);
    if (status == DONE) status = find_seat(c, path, dict, &l, &s);
    if (status == DONE) {
        how.batch_size = (size_t)c->batch;
        how.remove_bos = c->remove_bos;
        how.bos_token = neox_model_info(l.model).bos_token;
        if (features_judge(sae.ctx, l.model, &l.text, s.place, &dict, 1, &how, NULL, &m, &rows)
            != SAE_OK)
            status = failed_library();
    }
    if (status == DONE && c->json) {
        printf("{");
#define SAE_X(name) print_json_metric(#name, m.rows.name);
        SAE_METRICS(SAE_X)
#undef SAE_X
        print_json_metric("loss_original", m.losses.original);
        print_json_metric("loss_reconstructed", m.losses.reconstructed);
        print_json_metric("loss_zero", m.losses.zero);
        print_json_metric("frac_recovered", m.losses.frac_recovered);
        printf("\"n_rows\": %.0f, \"n_tokens\": %.0f}\n", (double)rows,
               count_tokens(&l.text));
    } else if (status == DONE) {
        print_table(&path, &m, 1);
        printf("CE %.4f of the model, %.4f with the reconstruction at %s (%s), %.4f with zeros; "
               "%.0f tokens in contexts of %zu\n", m.losses.original, m.losses.reconstructed,
               s.submodule, s.io, m.losses.zero, count_tokens(&l.text), l.text.ctx);
    }
    language_close(&l);
    return status;
}

/* ==== >>model: features ======================================================================= */

enum { MOST_RUNS = 32, JUDGED_CONTEXTS = 128 };

typedef struct feature_options {
    common c;
    list log;
    uint64_t features, contexts;
    bool no_effects;
} feature_options;

typedef struct feature_run {
    const char *path, *name;
    sae_dictionary *dict;
    seat s;
    features *f;
} feature_run;

static bool show_share(void *user, double done) {
    static double shown = -1;
    const char *what = (const char *)user;
    double now = now_seconds();
    char bar[21];
    size_t i;
    if (sae.quiet || !isatty(fileno(stderr)) || (now - shown < 0.2 && done < 1)) return true;
    for (i = 0; i < 20; i++) bar[i] = (double)i < done * 20 ? '#' : '-';
    bar[20] = 0;
    fprintf(stderr, "\r[%s] %3.0f%% %s\x1b[K%s", bar, 100 * done, what, done < 1 ? "" : "\r\x1b[K");
    fflush(stderr);
    shown = now;
    return true;
}

/* The dictionaries named; the folder of a sweep stands for all in it. */
static int list_runs(const feature_options *o, feature_run *runs, size_t *num) {
    size_t i, t;
    *num = 0;
    for (i = 0; i < o->c.words.count; i++) {
        const char *path = o->c.words.items[i];
        bool sweep = is_folder(joined(path, "trainer_0"))
                     && !file_exists(joined(path, "config.json"));
        for (t = 0; t == 0 || sweep; t++) {
            char name[32];
            snprintf(name, sizeof name, "trainer_%zu", t);
            if (sweep && !is_folder(joined(path, name))) break;
            if (*num == MOST_RUNS)
                return wrong("more than %d dictionaries: name fewer", (int)MOST_RUNS);
            runs[(*num)++].path = sweep ? joined(path, name) : path;
        }
    }
    return *num ? DONE : wrong("which dictionary? One or several folders come first");
}

/* Trainers' names where they differ, else the folders'. */
static void name_runs(feature_run *runs, size_t num) {
    bool differ = true;
    size_t i, j;
    for (i = 0; i < num; i++) {
        sae_config *config = config_beside(runs[i].path);
        runs[i].name = config && sae_config_get(config, 0)->kind
                           ? sae_trainer_name(sae_config_get(config, 0)->kind) : "";
        if (config) sae_config_close(config);
        for (j = 0; j < i; j++)
            if (strcmp(runs[i].name, runs[j].name) == 0) differ = false;
        if (!runs[i].name[0]) differ = false;
    }
    for (i = 0; i < num && !differ; i++) {
        char *copy = with_ending(runs[i].path, ""), *slash;
        size_t n = strlen(copy);
        while (n > 1 && copy[n - 1] == '/') copy[--n] = 0;
        slash = strrchr(copy, '/');
        runs[i].name = slash && slash[1] ? slash + 1 : copy;
    }
}

/* --log, else log.jsonl in the run's folder or FOLDER.jsonl beside it, or of the folder above; and
   whose lines are the run's. */
static void find_log(const feature_options *o, const feature_run *run, size_t index,
                     page_run *out) {
    const char *trainer = strstr(run->path, "trainer_"), *next;
    char *folder = with_ending(run->path, ""), *above;
    size_t n = strlen(folder), i;
    while (n > 1 && folder[n - 1] == '/') folder[--n] = 0;
    above = with_ending(folder_of(folder), "");
    n = strlen(above);
    while (n > 1 && above[n - 1] == '/') above[--n] = 0;
    out->log_trainer = -1;
    if (index < o->log.count) out->log = o->log.items[index];
    else if (o->log.count == 1) out->log = o->log.items[0];
    for (i = 0; i < 4 && !out->log; i++) {
        const char *path = i == 0   ? joined(run->path, "log.jsonl")
                           : i == 1 ? with_ending(folder, ".jsonl")
                           : i == 2 ? joined(above, "log.jsonl")
                                    : with_ending(above, ".jsonl");
        if (file_exists(path)) out->log = path;
    }
    while (trainer && (next = strstr(trainer + 1, "trainer_")) != NULL) trainer = next;
    if (trainer && strspn(trainer + 8, "0123456789"))
        out->log_trainer = (int64_t)strtol(trainer + 8, NULL, 10);
}

/* Up to JUDGED_CONTEXTS of the text's contexts, evenly. */
static features_text judged_text(const features_text *text) {
    features_text some = *text;
    int32_t *tokens;
    size_t i;
    if (text->contexts <= JUDGED_CONTEXTS) return some;
    tokens = (int32_t *)take(JUDGED_CONTEXTS * text->ctx, sizeof *tokens);
    for (i = 0; i < JUDGED_CONTEXTS; i++)
        memcpy(tokens + i * text->ctx,
               text->tokens + i * text->contexts / JUDGED_CONTEXTS * text->ctx,
               text->ctx * sizeof *tokens);
    some.tokens = tokens;
    some.contexts = JUDGED_CONTEXTS;
    return some;
}

/* Opens every dictionary and finds its seat. */
static int open_runs(const feature_options *o, const language *l, feature_run *runs, size_t num) {
    size_t i;
    for (i = 0; i < num; i++) {
        common one = o->c;
        features_desc desc;
        int status;
        one.words.items = &runs[i].path;
        one.words.count = 1;
        status = load(&one, false, &runs[i].dict);
        if (status == DONE) status = find_seat(&o->c, runs[i].path, runs[i].dict, l, &runs[i].s);
        if (status != DONE) return status;
        memset(&desc, 0, sizeof desc);
        desc.dict = runs[i].dict;
        desc.place = runs[i].s.place;
        desc.ctx = l->text.ctx;
        desc.vocab_size = neox_model_info(l->model).vocab_size;
        if (features_create(sae.ctx, &desc, &runs[i].f) != SAE_OK) return failed_library();
    }
    return DONE;
}

static int judge_runs(const language *l, const feature_run *runs, page_run *shown, size_t num) {
    features_text text = judged_text(&l->text);
    features_judge_desc how;
    size_t i;
    memset(&how, 0, sizeof how);
    for (i = 0; i < num; i++) {
        const sae_dictionary *dict = runs[i].dict;
        features_progress progress = { show_share, NULL };
        char what[64];
        snprintf(what, sizeof what, "loss with dictionary %zu of %zu", i + 1, num);
        progress.user = what;
        if (features_judge(sae.ctx, l->model, &text, runs[i].s.place, &dict, 1, &how, &progress,
                           &shown[i].metrics, &shown[i].eval_tokens) != SAE_OK)
            return failed_library();
    }
    return DONE;
}

static int show_features(const feature_options *o, language *l, feature_run *runs, size_t num) {
    page_run *shown = (page_run *)take(num, sizeof *shown);
    features **passes = (features **)take(num, sizeof *passes);
    const char **names = (const char **)take(num, sizeof *names);
    features_metrics *metrics = (features_metrics *)take(num, sizeof *metrics);
    features_progress progress = { show_share, NULL };
    const char *text = strrchr(o->c.text.items[0], '/');
    page_desc desc;
    size_t i;
    int status;
    if (o->contexts && o->contexts < l->text.contexts) l->text.contexts = (size_t)o->contexts;
    status = open_runs(o, l, runs, num);
    if (status == DONE) status = judge_runs(l, runs, shown, num);
    if (status != DONE) return status;
    for (i = 0; i < num; i++) passes[i] = runs[i].f;
    progress.user = (void *)"reading the text";
    if (features_collect(l->model, &l->text, passes, num, &progress) != SAE_OK)
        return failed_library();
    name_runs(runs, num);
    for (i = 0; i < num; i++) {
        shown[i].name = names[i] = runs[i].name;
        shown[i].trainer = "";
        shown[i].submodule = runs[i].s.submodule;
        shown[i].io = runs[i].s.io;
        shown[i].f = runs[i].f;
        shown[i].dict = runs[i].dict;
        shown[i].place = runs[i].s.place;
        metrics[i] = shown[i].metrics;
        find_log(o, &runs[i], i, &shown[i]);
    }
    memset(&desc, 0, sizeof desc);
    desc.model = l->model;
    desc.tokenizer = l->tokenizer;
    desc.model_name = o->c.model;
    desc.text_name = text && text[1] ? text + 1 : o->c.text.items[0];
    desc.text = l->text;
    desc.runs = shown;
    desc.num_runs = num;
    desc.max_features = (size_t)o->features;
    desc.ablate_contexts = desc.steer_contexts = o->no_effects ? SIZE_MAX : 0;
    desc.progress.call = show_share;
    desc.progress.user = (void *)"measuring features";
    if (page_write(sae.ctx, &desc, o->c.out) != SAE_OK) return failed_library();
    if (sae.quiet) return DONE;
    print_table(names, metrics, num);
    printf("%s\n", o->c.out);
    return DONE;
}

static int verb_features(int argc, char **argv) {
    static feature_run runs[MOST_RUNS];
    feature_options o;
    language l;
    size_t num = 0, i;
    int status;
    memset(&o, 0, sizeof o);
    memset(&l, 0, sizeof l);
    const option options[] = {
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text }, { "out", TEXT, &o.c.out },
        { "ctx", SIZE, &o.c.ctx }, { "contexts", SIZE, &o.contexts },
        { "submodule", TEXT, &o.c.submodule }, { "io", TEXT, &o.c.io }, { "log", LIST, &o.log },
        { "features", SIZE, &o.features }, { "no-effects", FLAG, &o.no_effects },
        { "raw", FLAG, &o.c.raw }, { "dict-class", TEXT, &o.c.dict_class }, { "k", SIZE, &o.c.k },
        { "use-top-k", FLAG, &o.c.use_top_k }, { "use-threshold", FLAG, &o.c.use_threshold },
        { "threads", COUNT, &o.c.threads }, { "device", TEXT, &o.c.device },
        { "quiet", FLAG, &sae.quiet }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &o.c.words, NULL);
    if (status == DONE) status = list_runs(&o, runs, &num);
    if (status == DONE && !o.c.out) status = wrong("--out is missing");
    if (status == DONE && is_folder(o.c.out))
        status = failed("--out is %s, a folder: name a file, PAGE.html", o.c.out);
    if (status == DONE) status = need_folder("out", o.c.out);
    if (status == DONE) status = keep_apart("--out", o.c.out, &o.c);
    if (status == DONE) status = start(&o.c);
    if (status == DONE) status = language_open(&o.c, &l);
    if (status == DONE) status = show_features(&o, &l, runs, num);
    for (i = 0; i < num; i++) {
        features_destroy(runs[i].f);
        sae_dictionary_destroy(runs[i].dict);
    }
    language_close(&l);
    return status;
}

/* ==== >>read: tokens ========================================================================== */

/* Ids as int32, whole: one dimension. */
static int write_ids(const char *path, const int32_t *ids, uint64_t rows, uint64_t columns) {
    sae_tensor t;
    set_tensor(&t, "", SAE_I32, rows, columns, ids);
    if (sae_tensor_file_write(sae.ctx, path, &t, 1) != SAE_OK) return failed_library();
    return DONE;
}

/* All bytes of a file into memory that lives until the program ends. */
static int read_whole(const char *path, char **data, size_t *size) {
    FILE *file;
    int64_t length;
    if (is_folder(path)) return failed("%s is a folder", path);
    file = fopen(path, "rb");
    if (!file) return failed("%s: there is no such file", path);
    if (seek_end(file) != 0 || (length = tell(file)) < 0) {
        fclose(file);
        return failed("%s: has no size", path);
    }
    rewind(file);
    *size = (size_t)length;
    *data = (char *)take(*size + 1, 1);
    length = (int64_t)fread(*data, 1, *size, file);
    fclose(file);
    return length == (int64_t)*size ? DONE : failed("%s: reading failed", path);
}

/* M, the model's folder, comes first. */
static int model_word(common *c) {
    if (c->words.count == 0) return wrong("which model? A folder with tokenizer.json comes first");
    if (c->words.count > 1) return wrong("%s belongs to no option", c->words.items[1]);
    if (!c->out) return wrong("--out is missing");
    c->model = c->words.items[0];
    return need_folder("out", c->out);
}

static int verb_tokenize(int argc, char **argv) {
    common c;
    neox_tokenizer *tokenizer = NULL;
    neox_tokens ids = { NULL, 0, 0 };
    size_t i, size = 0, bytes = 0;
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = {
        { "text", LIST, &c.text }, { "out", TEXT, &c.out }, { "threads", COUNT, &c.threads },
        { "quiet", FLAG, &sae.quiet }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &c.words, NULL);
    if (status == DONE) status = model_word(&c);
    if (status == DONE && !c.text.count) status = wrong("--text is missing");
    if (status == DONE) status = keep_apart("--out", c.out, &c);
    if (status == DONE) status = start(&c);
    if (status == DONE && neox_tokenizer_open(sae.ctx, c.model, &tokenizer) != SAE_OK)
        status = failed_library();
    for (i = 0; i < c.text.count && status == DONE; i++) {
        char *text = NULL;
        status = read_whole(c.text.items[i], &text, &size);
        bytes += size;
        if (status == DONE && neox_encode(tokenizer, text, size, &ids) != SAE_OK)
            status = failed_library();
    }
    if (status == DONE) status = write_ids(c.out, ids.id, ids.count, 0);
    if (status == DONE && !sae.quiet)
        printf("%s: %zu tokens of %zu bytes\n", c.out, ids.count, bytes);
    neox_tokens_free(&ids);
    neox_tokenizer_close(tokenizer);
    return status;
}

static int verb_detokenize(int argc, char **argv) {
    common c;
    neox_tokenizer *tokenizer = NULL;
    neox_contexts ids = { NULL, 0, 0, 0 };
    neox_text text = { NULL, 0, 0 };
    FILE *file;
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = {
        { "tokens", TEXT, &c.tokens }, { "out", TEXT, &c.out }, { "threads", COUNT, &c.threads },
        { "quiet", FLAG, &sae.quiet }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &c.words, NULL);
    if (status == DONE) status = model_word(&c);
    if (status == DONE && !c.tokens) status = wrong("--tokens is missing");
    if (status == DONE && same_file(c.tokens, c.out))
        status = failed("--out is %s, which is read: it would be lost", c.out);
    if (status == DONE) status = start(&c);
    if (status == DONE
        && (neox_tokenizer_open(sae.ctx, c.model, &tokenizer) != SAE_OK
            || neox_contexts_read(sae.ctx, NULL, &c.tokens, 1, 1, &ids) != SAE_OK
            || neox_decode(tokenizer, ids.tokens, ids.contexts, &text) != SAE_OK))
        status = failed_library();
    if (status == DONE) {
        file = fopen(c.out, "wb");
        if (!file) status = failed("%s: cannot be written", c.out);
        else {
            bool good = fwrite(text.data, 1, text.size, file) == text.size;
            if (fclose(file) != 0 || !good)
                status = failed("%s: writing failed (is the disk full?)", c.out);
        }
    }
    if (status == DONE && !sae.quiet)
        printf("%s: %zu bytes of %zu tokens\n", c.out, text.size, ids.contexts);
    neox_text_free(&text);
    neox_contexts_free(&ids);
    neox_tokenizer_close(tokenizer);
    return status;
}

/* ==== >>read: logits ========================================================================== */

static sae_result put_logits(void *user, const float *logits, size_t first, size_t count) {
    npy_writer *w = (npy_writer *)user;
    (void)first;
    if (npy_put(w, logits, sizeof *logits, count) == DONE) return SAE_OK;
    return sae_context_fail(sae.ctx, SAE_ERR_IO, "%s: writing failed (is the disk full?)", w->path);
}

/* Some 2048 tokens at a time. */
static int write_logits(const common *c, neox_model *model, const neox_contexts *all) {
    size_t batch = all->ctx < 2048 ? 2048 / all->ctx : 1, at, num;
    double loss = 0, *losses = (double *)take(batch, sizeof *losses);
    size_t predictions = 0, *counts = (size_t *)take(batch, sizeof *counts), i;
    neox_forward_desc run;
    npy_writer out;
    int status;
    memset(&run, 0, sizeof run);
    memset(&out, 0, sizeof out);
    out.group = all->ctx;
    status = npy_create(&out, c->out, ".tmp", "<f4", neox_model_info(model).vocab_size);
    run.ctx = all->ctx;
    run.logits = put_logits;
    run.user = &out;
    run.loss = losses;
    run.predictions = counts;
    for (at = 0; at < all->contexts && status == DONE; at += num) {
        num = batch < all->contexts - at ? batch : all->contexts - at;
        run.tokens = all->tokens + at * all->ctx;
        run.contexts = num;
        if (neox_forward(model, &run) != SAE_OK) status = failed_library();
        for (i = 0; i < num && status == DONE; i++) {
            loss += losses[i];
            predictions += counts[i];
        }
    }
    if (status == DONE) status = npy_finish(&out, false);
    npy_abandon(&out);
    if (status == DONE && !sae.quiet) {
        printf("%s: %zu contexts of %zu tokens, ", c->out, all->contexts, all->ctx);
        if (predictions) printf("cross-entropy %.6f\n", loss / (double)predictions);
        else printf("no next token to predict\n");
    }
    return status;
}

/* The contexts of --tokens or --text. A list of ids shorter than a context is one. */
static int read_contexts(const common *c, neox_tokenizer *tokenizer, neox_contexts *out) {
    neox_contexts ids = { NULL, 0, 0, 0 };
    sae_tensor_file *file = NULL;
    size_t length = (size_t)c->ctx;
    if (!c->tokens) {
        if (neox_contexts_read(sae.ctx, tokenizer, c->text.items, c->text.count, length, &ids)
            != SAE_OK)
            return failed_library();
    } else {
        const sae_tensor *t;
        if (!ends_with(c->tokens, ".npy"))
            return failed("%s is no .npy: ids of tokens come in one", c->tokens);
        if (sae_tensor_file_open(sae.ctx, c->tokens, &file) != SAE_OK) return failed_library();
        t = sae_tensor_file_get(file, 0);
        if (!length && t && t->ndim == 1 && t->shape[0] && t->shape[0] < 128)
            length = (size_t)t->shape[0];
        sae_tensor_file_close(file);
        if (neox_contexts_read(sae.ctx, tokenizer, &c->tokens, 1, length, &ids) != SAE_OK)
            return failed_library();
    }
    *out = ids;
    return DONE;
}

static int verb_logits(int argc, char **argv) {
    common c;
    neox_model *model = NULL;
    neox_tokenizer *tokenizer = NULL;
    neox_contexts all = { NULL, 0, 0, 0 };
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = {
        { "tokens", TEXT, &c.tokens }, { "text", LIST, &c.text }, { "out", TEXT, &c.out },
        { "ctx", SIZE, &c.ctx }, { "threads", COUNT, &c.threads }, { "device", TEXT, &c.device },
        { "quiet", FLAG, &sae.quiet }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &c.words, NULL);
    if (status == DONE) status = model_word(&c);
    if (status == DONE && !c.tokens == !c.text.count)
        status = wrong("--tokens F.npy is missing (or --text, in its place)");
    if (status == DONE) status = keep_apart("--out", c.out, &c);
    if (status == DONE && c.tokens && same_file(c.tokens, c.out))
        status = failed("--out is %s, which is read: it would be lost", c.out);
    if (status == DONE) status = start(&c);
    if (status == DONE && !c.tokens
        && neox_tokenizer_open(sae.ctx, c.model, &tokenizer) != SAE_OK)
        status = failed_library();
    if (status == DONE && neox_model_open(sae.ctx, c.model, &model) != SAE_OK)
        status = failed_library();
    if (status == DONE) status = read_contexts(&c, tokenizer, &all);
    if (status == DONE) status = write_logits(&c, model, &all);
    neox_contexts_free(&all);
    neox_tokenizer_close(tokenizer);
    neox_model_close(model);
    return status;
}

/* ==== >>read: activations ===================================================================== */

struct text_rows {
    neox_model *model;
    neox_tokenizer *tokenizer;
    neox_contexts contexts;
    neox_site site, target;
    neox_source *source;
    bool has_target;
    int64_t bos; /* the token whose rows are left out; -2: none */
};

static void text_rows_close(text_rows *r) {
    if (!r) return;
    neox_source_destroy(r->source);
    neox_contexts_free(&r->contexts);
    neox_tokenizer_close(r->tokenizer);
    neox_model_close(r->model);
}

static size_t text_rows_layer(const text_rows *r) { return r->site.layer; }

/* Rows of padding are ids below 0 and, where config.json has a token of its own for it, that. */
static void mark_padding(const neox_model *model, neox_contexts *contexts) {
    neox_info info = neox_model_info(model);
    size_t i;
    if (info.pad_token < 0 || info.pad_token == info.bos_token || info.pad_token == info.eos_token)
        return;
    for (i = contexts->contexts; i-- > 0;) { /* at the end of a context alone */
        int32_t *ids = contexts->tokens + i * contexts->ctx;
        size_t n = contexts->ctx;
        while (n && (ids[n - 1] < 0 || ids[n - 1] == info.pad_token)) ids[--n] = -1;
    }
}

static int text_rows_open(const common *c, text_rows **out, sae_source_desc *source) {
    text_rows *r = (text_rows *)take(1, sizeof *r);
    const char *io = c->io ? c->io : "out";
    bool both = strcmp(io, "in_and_out") == 0, text = c->text.count != 0;
    neox_source_desc desc;
    size_t i;
    int status;
    *out = r; /* closed by the caller, whatever comes */
    if (!c->model)
        return wrong("--model is missing: a folder with config.json, model.safetensors, "
                     "tokenizer.json");
    if (!c->submodule) return wrong("--submodule is missing, for example gpt_neox.layers.3");
    if (!both && strcmp(io, "in") && strcmp(io, "out"))
        return wrong("--io is %s, allowed are in, out, in_and_out", io);
    if (neox_model_open(sae.ctx, c->model, &r->model) != SAE_OK
        || neox_site_find(r->model, c->submodule, strcmp(io, "out") != 0, &r->site) != SAE_OK
        || (both && neox_site_find(r->model, c->submodule, false, &r->target) != SAE_OK))
        return failed_library();
    for (i = 0; i < c->text.count && ends_with(c->text.items[i], ".npy"); i++) {}
    if (text && i < c->text.count
        && neox_tokenizer_open(sae.ctx, c->model, &r->tokenizer) != SAE_OK)
        return failed_library();
    status = read_contexts(c, r->tokenizer, &r->contexts);
    if (status != DONE) return status;
    mark_padding(r->model, &r->contexts);
    memset(&desc, 0, sizeof desc);
    desc.model = r->model;
    desc.tokens = r->contexts.tokens;
    desc.contexts = r->contexts.contexts;
    desc.ctx = r->contexts.ctx;
    desc.site = r->site;
    r->has_target = both;
    if (both) desc.target = &r->target;
    desc.remove_bos = c->remove_bos;
    desc.bos_token = neox_model_info(r->model).bos_token;
    r->bos = c->remove_bos && desc.bos_token >= 0 ? desc.bos_token : -2;
    if (neox_source_create(sae.ctx, &desc, &r->source) != SAE_OK) return failed_library();
    *source = neox_source_rows(r->source);
    return DONE;
}

/* A shard that is being filled: a .npy grows, a .safetensors is gathered. */
typedef struct shard_writer {
    npy_writer npy;
    unsigned char *gathered; /* [size] rows */
    uint64_t size, rows;
    const char *path;
    size_t width, element;
    bool safetensors;
} shard_writer;

static int shard_open(shard_writer *w, const char *path, uint64_t rows, bool half) {
    w->path = path;
    w->rows = 0;
    if (!w->safetensors) return npy_create(&w->npy, path, ".tmp", half ? "<f2" : "<f4", w->width);
    if (rows > w->size) {
        w->gathered = (unsigned char *)take((size_t)rows, w->width * w->element);
        w->size = rows;
    }
    return DONE;
}

static int shard_put(shard_writer *w, const void *data, size_t rows) {
    size_t row = w->width * w->element;
    if (!w->safetensors) return npy_put(&w->npy, data, w->element, rows);
    memcpy(w->gathered + w->rows * row, data, rows * row);
    w->rows += rows;
    return DONE;
}

static int shard_close(shard_writer *w) {
    sae_tensor t;
    if (!w->safetensors) return npy_finish(&w->npy, false);
    set_tensor(&t, "activations", w->element == 2 ? SAE_F16 : SAE_F32, w->rows, w->width,
               w->gathered);
    if (sae_tensor_file_write(sae.ctx, w->path, &t, 1) != SAE_OK) return failed_library();
    return DONE;
}

/* OUT, with ".in" or ".out" and the number of the shard before its ending. */
static const char *shard_name(const char *out, const char *which, uint64_t shard,
                              uint64_t shards) {
    const char *dot = strrchr(out, '.');
    char *name = (char *)take(strlen(out) + 64, 1);
    int stem = (int)(dot - out);
    if (shards == 1) sprintf(name, "%.*s%s%s", stem, out, which, dot);
    else
        sprintf(name, "%.*s%s-%05.0f-of-%05.0f%s", stem, out, which, (double)shard + 1,
                (double)shards, dot);
    return name;
}

typedef struct activation_options {
    common c;
    const char *tokens_out;
    uint64_t shard_rows;
} activation_options;

/* How many rows there will be, and the ids of their tokens. */
static uint64_t kept_tokens(const text_rows *r, int32_t *ids) {
    uint64_t kept = 0;
    size_t i, n = r->contexts.contexts * r->contexts.ctx;
    for (i = 0; i < n; i++) {
        int32_t id = r->contexts.tokens[i];
        if (id < 0 || id == r->bos) continue;
        if (ids) ids[kept] = id;
        kept++;
    }
    return kept;
}

static int write_activations(const activation_options *o, text_rows *r, sae_source_desc *source,
                             uint64_t total) {
    enum { BLOCK = 2048 };
    bool half = o->c.dtype && strstr(o->c.dtype, "16") != NULL;
    float *x[2];
    uint16_t *narrow = (uint16_t *)take(BLOCK * source->dim, sizeof *narrow);
    uint64_t each = o->shard_rows ? o->shard_rows : total, shards = (total + each - 1) / each;
    uint64_t shard, left;
    shard_writer w[2];
    size_t s, streams = r->has_target ? 2 : 1, i;
    int status = DONE;
    memset(w, 0, sizeof w);
    for (s = 0; s < 2; s++) {
        x[s] = (float *)take(BLOCK * source->dim, sizeof(float));
        w[s].safetensors = ends_with(o->c.out, ".safetensors");
        w[s].width = source->dim;
        w[s].element = half ? 2 : 4;
    }
    for (shard = 0; shard < shards && status == DONE; shard++) {
        left = total - shard * each < each ? total - shard * each : each;
        for (s = 0; s < streams && status == DONE; s++)
            status = shard_open(&w[s], shard_name(o->c.out, streams == 1 ? "" : s ? ".out" : ".in",
                                                  shard, shards), left, half);
        while (left && status == DONE) {
            int64_t got = source->read(source->user, x[0], x[1], left < BLOCK ? left : BLOCK);
            if (got <= 0) status = got < 0 ? failed_library() : failed("rows end too soon");
            for (s = 0; s < streams && status == DONE; s++) {
                for (i = 0; half && i < (size_t)got * source->dim; i++)
                    narrow[i] = to_half(x[s][i]);
                status = shard_put(&w[s], half ? (const void *)narrow : x[s], (size_t)got);
            }
            left -= status == DONE ? (uint64_t)got : 0;
            if (status == DONE && total > 65536)
                show_share((void *)"running the model",
                           (double)(shard * each + each - left) / (double)total);
        }
        for (s = 0; s < streams && status == DONE; s++) status = shard_close(&w[s]);
    }
    for (s = 0; s < streams; s++) npy_abandon(&w[s].npy);
    return status;
}

static int check_activations(activation_options *o) {
    common *c = &o->c;
    const char *dot = c->out ? strrchr(c->out, '.') : NULL;
    if (c->words.count) return wrong("%s belongs to no option", c->words.items[0]);
    if (!c->out) return wrong("--out is missing");
    if (!c->text.count == !c->tokens) return wrong("--text is missing (or --tokens, in its place)");
    if (!dot || (strcmp(dot, ".npy") && strcmp(dot, ".safetensors")))
        return wrong("--out is %s, allowed are .npy and .safetensors", c->out);
    if (c->dtype && strcmp(c->dtype, "f32") && strcmp(c->dtype, "float32")
        && strcmp(c->dtype, "f16") && strcmp(c->dtype, "float16"))
        return wrong("--dtype is %s, allowed are f32, f16", c->dtype);
    if (need_folder("out", c->out) != DONE) return FAILED;
    if (o->tokens_out && need_folder("tokens-out", o->tokens_out) != DONE) return FAILED;
    return keep_apart("--out", c->out, c);
}

static int verb_activations(int argc, char **argv) {
    activation_options o;
    text_rows *r = NULL;
    sae_source_desc source;
    uint64_t total = 0;
    int status;
    memset(&o, 0, sizeof o);
    const option options[] = {
        { "model", TEXT, &o.c.model }, { "text", LIST, &o.c.text }, { "tokens", TEXT, &o.c.tokens },
        { "submodule", TEXT, &o.c.submodule }, { "io", TEXT, &o.c.io }, { "out", TEXT, &o.c.out },
        { "ctx", SIZE, &o.c.ctx }, { "dtype", TEXT, &o.c.dtype },
        { "tokens-out", TEXT, &o.tokens_out }, { "shard-rows", SIZE, &o.shard_rows },
        { "remove-bos", FLAG, &o.c.remove_bos }, { "threads", COUNT, &o.c.threads },
        { "device", TEXT, &o.c.device }, { "quiet", FLAG, &sae.quiet }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &o.c.words, NULL);
    if (status == DONE) status = check_activations(&o);
    if (status == DONE) status = start(&o.c);
    if (status == DONE) status = text_rows_open(&o.c, &r, &source);
    if (status == DONE && !(total = kept_tokens(r, NULL)))
        status = failed("all tokens are padding or bos: there are no rows");
    if (status == DONE) status = write_activations(&o, r, &source, total);
    if (status == DONE && o.tokens_out) { /* by contexts where every token has its row */
        int32_t *ids = (int32_t *)take((size_t)total, sizeof *ids);
        bool whole = total == r->contexts.contexts * r->contexts.ctx;
        kept_tokens(r, ids);
        status = write_ids(o.tokens_out, ids, whole ? r->contexts.contexts : total,
                           whole ? r->contexts.ctx : 0);
    }
    if (status == DONE && !sae.quiet)
        printf("%s: %.0f rows of %zu, %zu contexts of %zu tokens, %zu tokens left over\n", o.c.out,
               (double)total, source.dim, r->contexts.contexts, r->contexts.ctx,
               r->contexts.dropped);
    text_rows_close(r);
    return status;
}

/* ==== >>look ================================================================================== */

static void put_shape(FILE *out, const sae_tensor *t) {
    size_t i;
    fprintf(out, "[");
    for (i = 0; i < t->ndim; i++) fprintf(out, "%s%.0f", i ? ", " : "", (double)t->shape[i]);
    fprintf(out, "]");
}

static void list_tensors(const sae_tensor_file *file, bool json) {
    size_t i;
    if (json) printf("[");
    for (i = 0; i < sae_tensor_file_count(file); i++) {
        const sae_tensor *t = sae_tensor_file_get(file, i);
        if (json) {
            printf("%s\n {\"name\": ", i ? "," : "");
            put_json_string(stdout, t->name);
            printf(", \"dtype\": \"%s\", \"shape\": ", sae_dtype_name(t->dtype));
            put_shape(stdout, t);
            printf("}");
        } else {
            printf("%-32s %-5s ", t->name[0] ? t->name : "(array)", sae_dtype_name(t->dtype));
            put_shape(stdout, t);
            printf("\n");
        }
    }
    if (json) printf("\n]\n");
}

/* Integers and bools of any strides as int64 in row-major order. */
static void to_i64(const sae_tensor *t, size_t count, int64_t *out) {
    uint64_t index[SAE_MAX_DIMS] = { 0 };
    size_t size = sae_dtype_size(t->dtype), i, d;
    for (i = 0; i < count; i++) {
        int64_t at = 0;
        const unsigned char *p;
        uint64_t bits = 0;
        for (d = 0; d < t->ndim; d++) at += (int64_t)index[d] * t->stride[d];
        p = (const unsigned char *)t->data + at * (int64_t)size;
        for (d = size; d-- > 0;) bits = bits << 8 | p[d];
        if (t->dtype == SAE_I8) out[i] = (int8_t)bits;
        else if (t->dtype == SAE_I16) out[i] = (int16_t)bits;
        else if (t->dtype == SAE_I32) out[i] = (int32_t)bits;
        else out[i] = (int64_t)bits;
        for (d = t->ndim; d-- > 0;) {
            if (++index[d] < t->shape[d]) break;
            index[d] = 0;
        }
    }
}

static bool is_float(sae_dtype dtype) {
    return dtype == SAE_F32 || dtype == SAE_F16 || dtype == SAE_BF16 || dtype == SAE_F64;
}

/* Tensor t as FOLDER/NAME. */
static int extract_one(sae_tensor t, const char *folder, const char *name) {
    size_t count = 1, d;
    sae_result result;
    void *data;
    for (d = 0; d < t.ndim; d++) count *= (size_t)t.shape[d];
    data = calloc(count ? count : 1, 8);
    if (!data) return failed("no memory for %zu numbers", count);
    if (is_float(t.dtype)) sae_tensor_to_f32(&t, (float *)data);
    else to_i64(&t, count, (int64_t *)data);
    t.dtype = is_float(t.dtype) ? SAE_F32 : SAE_I64;
    t.data = data;
    t.name = "";
    result = sae_tensor_file_write(sae.ctx, joined(folder, name), &t, 1);
    free(data);
    return result == SAE_OK ? DONE : failed_library();
}

/* names.json comes last: where it is, everything it names is there. */
static int extract(const sae_tensor_file *file, const char *folder) {
    char *names = joined(folder, "names.json"), *temporary = with_ending(names, ".tmp");
    int status = DONE;
    bool good;
    FILE *out;
    size_t i;
    if (!make_folders(folder)) return failed("%s: no such folder, and it cannot be made", folder);
    out = fopen(temporary, "wb");
    if (!out) return failed("%s: cannot be written", names);
    fprintf(out, "[");
    for (i = 0; i < sae_tensor_file_count(file) && status == DONE; i++) {
        const sae_tensor *t = sae_tensor_file_get(file, i);
        char name[32];
        snprintf(name, sizeof name, "%03zu.npy", i);
        fprintf(out, "%s\n {\"name\": ", i ? "," : "");
        put_json_string(out, t->name);
        fprintf(out, ", \"file\": \"%s\", \"dtype\": \"%s\", \"shape\": ", name,
                sae_dtype_name(t->dtype));
        put_shape(out, t);
        fprintf(out, "}");
        status = extract_one(*t, folder, name);
    }
    good = fprintf(out, "\n]\n") > 0 && synced(out) && !ferror(out);
    if (fclose(out) != 0) good = false;
#if defined(_WIN32)
    if (good && status == DONE) remove(names);
#endif
    if (status == DONE && (!good || rename(temporary, names) != 0))
        status = failed("%s: writing failed", names);
    if (status != DONE) remove(temporary);
    return status;
}

static const sae_tensor *either_case(const sae_tensor_file *file, const char *upper,
                                     const char *lower) {
    const sae_tensor *t = sae_tensor_file_find(file, upper);
    return t ? t : sae_tensor_file_find(file, lower);
}

/* params.npz is Gemma Scope's name and needs nothing beside it: damage to its arrays shows here,
   without reading the numbers of what may be 19 GB. */
static int check_params(const sae_tensor_file *file, const char *path) {
    static const char *const vectors[] = { "b_enc", "threshold", "b_dec" };
    const sae_tensor *enc = either_case(file, "W_enc", "w_enc");
    const sae_tensor *dec = either_case(file, "W_dec", "w_dec");
    size_t i;
    if (!enc || !dec || enc->ndim != 2 || dec->ndim != 2 || dec->shape[0] != enc->shape[1])
        return failed("%s: as Gemma Scope it must hold W_enc [d,m] and W_dec [m,d]", path);
    for (i = 0; i < 3; i++) {
        const sae_tensor *t = sae_tensor_file_find(file, vectors[i]);
        uint64_t size = i < 2 ? enc->shape[1] : dec->shape[1];
        if (!t) return failed("%s: as Gemma Scope it lacks %s", path, vectors[i]);
        if (t->ndim != 1 || t->shape[0] != size)
            return failed("%s: %s must be [%.0f]", path, vectors[i], (double)size);
    }
    return DONE;
}

static int verb_tensors(int argc, char **argv) {
    common c;
    sae_tensor_file *file = NULL;
    const char *path;
    bool any = false;
    int status;
    size_t i;
    memset(&c, 0, sizeof c);
    const option options[] = { { "json", FLAG, &c.json }, { "out", TEXT, &c.out },
                               { "any", FLAG, &any }, { "quiet", FLAG, &sae.quiet } };
    status = parse(argc, argv, options, 4, &c.words, NULL);
    if (status == DONE && c.words.count != 1) status = wrong("one file or folder is needed");
    if (status == DONE) status = start(&c);
    if (status != DONE) return status;
    path = weights_file(c.words.items[0]);
    if (sae_tensor_file_open(sae.ctx, path, &file) != SAE_OK) return failed_library();
    if (!any && (ends_with(path, "/params.npz") || strcmp(path, "params.npz") == 0))
        status = check_params(file, path);
    for (i = 0; c.out && i < sae_tensor_file_count(file) && status == DONE; i++) {
        char name[32];
        snprintf(name, sizeof name, "%03zu.npy", i);
        status = keep_apart("a file of --out", joined(c.out, name), &c);
    }
    if (status == DONE && c.out && sae_tensor_file_check(file, NULL) != SAE_OK)
        status = failed_library();
    if (status == DONE && c.out) status = extract(file, c.out);
    if (status == DONE && c.out && !c.json && !sae.quiet)
        printf("%s: %zu tensors, named in names.json\n", c.out, sae_tensor_file_count(file));
    if (status == DONE && (!c.out || c.json)) list_tensors(file, c.json);
    sae_tensor_file_close(file);
    return status;
}

typedef struct norms {
    double least, mean, most;
    size_t none; /* rows of norm 0 */
} norms;

static norms row_norms(const sae_dictionary *dict,
                       const float *(*row)(const sae_dictionary *dict, size_t latent)) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    norms all = { 0, 0, 0, 0 };
    size_t i, j;
    size_t width = row == sae_dictionary_decoder_row ? info.output_dim : info.activation_dim;
    for (i = 0; i < info.dict_size; i++) {
        const float *w = row(dict, i);
        double sum = 0;
        for (j = 0; w && j < width; j++) sum += (double)w[j] * (double)w[j];
        sum = sqrt(sum);
        if (i == 0 || sum < all.least) all.least = sum;
        if (sum > all.most) all.most = sum;
        if (sum == 0) all.none++;
        all.mean += sum / (double)info.dict_size;
    }
    return all;
}

/* The variations of the class in words, comma between; "" for none. */
static const char *variations(const sae_dictionary_desc *h, char out[256]) {
    static const char *const latents[] = { "", "signed", "largest magnitude", "group max" };
    static const char *const norms[] = { "", "constant norm", "layer norm" };
    size_t n = 0;
    out[0] = 0;
    if (h->no_b_dec_subtraction)
        n += (size_t)snprintf(out + n, 256 - n, "b_dec stays in the input, ");
    if (h->subtract_b_dec) n += (size_t)snprintf(out + n, 256 - n, "b_dec leaves the input, ");
    if (h->activation)
        n += (size_t)snprintf(out + n, 256 - n, "latents: %s, ", latents[h->activation]);
    if (h->input_norm)
        n += (size_t)snprintf(out + n, 256 - n, "input: %s%s, ", norms[h->input_norm],
                              h->output_normalized ? " (kept on the output)" : "");
    if (h->output_dim != h->activation_dim) n += (size_t)snprintf(out + n, 256 - n, "transcoder, ");
    if (h->skip) n += (size_t)snprintf(out + n, 256 - n, "skip connection, ");
    if (n) out[n - 2] = 0;
    return out;
}

static void text_line(const char *name, const char *text) {
    if (text[0]) printf("%-18s %s\n", name, text);
}

/* Which latents are dead depends on the data; the weights alone show only rows of norm 0. */
static void text_info(const sae_dictionary *dict, const sae_trainer_desc *trainer) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    sae_origin origin = sae_dictionary_origin(dict);
    norms enc = row_norms(dict, sae_dictionary_encoder_row);
    norms dec = row_norms(dict, sae_dictionary_decoder_row);
    char text[256], of[64] = "";
    size_t i;
    bool whole = info.dict_size == origin.dict_size;
    if (!whole) snprintf(of, sizeof of, " (of the first %zu latents)", info.dict_size);
    text_line("format", sae_format_name(origin.format));
    printf("%-18s %s\n", "class", sae_arch_name(info.arch));
    text_line("called there", origin.class_name);
    text_line("variations", variations(&info, text));
    printf("%-18s %zu\n%-18s %zu\n", "activation_dim", info.activation_dim, "dict_size",
           origin.dict_size);
    if (info.output_dim != info.activation_dim)
        printf("%-18s %zu\n", "output_dim", info.output_dim);
    if (info.k) printf("%-18s %g\n", "k", (double)origin.k + info.k_fraction);
    if (info.k && sae_dictionary_threshold(dict) < 0) text_line("threshold", "never set");
    else if (info.k) printf("%-18s %g\n", "threshold", (double)sae_dictionary_threshold(dict));
    for (i = 0; whole && i < info.num_groups; i++)
        printf("%-18s %zu\n", i ? "" : "group_sizes", info.group_sizes[i]);
    if (origin.dtype) text_line("dtype in the file", sae_dtype_name(origin.dtype));
    printf("%-18s %.4g .. %.4g, mean %.4g%s\n", "encoder norms", enc.least, enc.most, enc.mean, of);
    printf("%-18s %.4g .. %.4g, mean %.4g%s\n", "decoder norms", dec.least, dec.most, dec.mean, of);
    printf("%-18s %.4f of the latents have an encoder or decoder row of zeros%s\n", "dead-looking",
           (double)(enc.none > dec.none ? enc.none : dec.none) / (double)info.dict_size, of);
    text_line("model", origin.model);
    text_line("hook", origin.hook);
    if (origin.layer >= 0) printf("%-18s %.0f\n", "layer", (double)origin.layer);
    text_line("dataset", origin.dataset);
    if (origin.context_size) printf("%-18s %zu\n", "context size", origin.context_size);
    text_line("written by version", origin.version);
    if (trainer)
        printf("%-18s %s (%s), %.0f steps, lr %g, seed %.0f\n", "trained by",
               sae_trainer_name(trainer->kind), sae_trainer_class(trainer->kind),
               (double)trainer->steps, trainer->lr, (double)trainer->seed);
}

static void json_text(const char *name, const char *text) {
    if (!text[0]) return;
    printf(", \"%s\": ", name);
    put_json_string(stdout, text);
}

static void json_info(const sae_dictionary *dict, const sae_trainer_desc *trainer) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    sae_origin origin = sae_dictionary_origin(dict);
    norms enc = row_norms(dict, sae_dictionary_encoder_row);
    norms dec = row_norms(dict, sae_dictionary_decoder_row);
    char text[256];
    size_t i;
    bool whole;
    printf("{\"format\": \"%s\", \"dict_class\": \"%s\", \"activation_dim\": %zu, "
           "\"dict_size\": %zu, \"output_dim\": %zu", sae_format_name(origin.format),
           sae_arch_name(info.arch), info.activation_dim, origin.dict_size, info.output_dim);
    json_text("class", origin.class_name);
    json_text("variations", variations(&info, text));
    if (info.k)
        printf(", \"k\": %.9g, \"threshold\": %.9g", (double)origin.k + info.k_fraction,
               (double)sae_dictionary_threshold(dict));
    whole = info.dict_size == origin.dict_size;
    if (whole && info.num_groups) printf(", \"group_sizes\": [");
    for (i = 0; whole && i < info.num_groups; i++)
        printf("%zu%s", info.group_sizes[i], i + 1 < info.num_groups ? ", " : "]");
    if (origin.dtype) json_text("dtype", sae_dtype_name(origin.dtype));
    json_text("model", origin.model);
    json_text("hook", origin.hook);
    json_text("dataset", origin.dataset);
    json_text("version", origin.version);
    if (origin.layer >= 0) printf(", \"layer\": %.0f", (double)origin.layer);
    if (origin.context_size) printf(", \"context_size\": %zu", origin.context_size);
    printf(", \"encoder_norm\": {\"min\": %.9g, \"mean\": %.9g, \"max\": %.9g}", enc.least,
           enc.mean, enc.most);
    printf(", \"decoder_norm\": {\"min\": %.9g, \"mean\": %.9g, \"max\": %.9g}", dec.least,
           dec.mean, dec.most);
    if (!whole) printf(", \"norms_of_first_latents\": %zu", info.dict_size);
    printf(", \"frac_zero_rows\": %.9g",
           (double)(enc.none > dec.none ? enc.none : dec.none) / (double)info.dict_size);
    if (trainer) {
        printf(", \"trainer\": {\"name\": \"%s\", \"trainer_class\": \"%s\", \"steps\": %.0f, "
               "\"lr\": %.9g, "
               "\"seed\": %.0f, \"layer\": %.0f",
               sae_trainer_name(trainer->kind), sae_trainer_class(trainer->kind),
               (double)trainer->steps, trainer->lr, (double)trainer->seed, (double)trainer->layer);
        if (trainer->lm_name) {
            printf(", \"lm_name\": ");
            put_json_string(stdout, trainer->lm_name);
        }
        if (trainer->submodule_name) {
            printf(", \"submodule_name\": ");
            put_json_string(stdout, trainer->submodule_name);
        }
        printf("}");
    }
    printf("}\n");
}

/* What lies in the folder, with sizes. */
static void list_files(const char *path) {
    static const char *const names[] = {
        "config.json", "cfg.json", "hyperparams.json", "ae.pt", "ae.safetensors",
        "sae_weights.safetensors", "sparsity.safetensors", "sae.safetensors", "params.npz",
        "params.safetensors", "checkpoints/final.safetensors", "autoencoder.pt"
    };
    struct stat about;
    size_t i;
    for (i = 0; i < sizeof names / sizeof names[0]; i++)
        if (stat(joined(path, names[i]), &about) == 0)
            printf("%-18s %s, %.1f KiB\n", "file", names[i], (double)about.st_size / 1024);
}

static int verb_info(int argc, char **argv) {
    common c;
    sae_dictionary *dict = NULL;
    sae_config *config = NULL;
    sae_tensor_file *file = NULL;
    const sae_trainer_desc *trainer = NULL;
    const char *path;
    struct stat about;
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = { { "json", FLAG, &c.json }, { "raw", FLAG, &c.raw },
                               { "dict-class", TEXT, &c.dict_class }, { "k", SIZE, &c.k } };
    status = parse(argc, argv, options, 4, &c.words, NULL);
    if (status == DONE && c.words.count != 1) status = wrong("one folder or file is needed");
    if (status == DONE) status = start(&c);
    if (status != DONE) return status;
    path = c.words.items[0];
    if (is_large(path)) c.num_latents = 1024;
    if (stat(path, &about) == 0 && (about.st_mode & S_IFMT) != S_IFDIR
        && sae_tensor_file_open(sae.ctx, path, &file) != SAE_OK)
        return failed_library();
    if (file) { /* a bare file may hold a dictionary, or just tensors */
        sae_load_desc desc = { SAE_ARCH_DEFAULT, (size_t)c.k, c.raw, false, 0, c.num_latents };
        if (c.dict_class && parse_arch(c.dict_class, &desc.arch) != DONE) status = WRONG_USAGE;
        if (status == DONE && sae_dictionary_load(sae.ctx, &desc, path, &dict) != SAE_OK) {
            if (!is_large(path) && sae_tensor_file_check(file, NULL) != SAE_OK)
                status = failed_library();
            else list_tensors(file, c.json);
            sae_tensor_file_close(file);
            return status;
        }
        sae_tensor_file_close(file);
    } else {
        status = load(&c, false, &dict);
    }
    if (status != DONE) return status;
    sae.quiet = true; /* the folder opened; config.json may still hold keys that are not ours */
    if (sae_dictionary_origin(dict).format == SAE_FORMAT_DICTIONARY_LEARNING
        && file_exists(joined(path, "config.json"))
        && sae_config_open(sae.ctx, joined(path, "config.json"), &config) == SAE_OK
        && sae_config_count(config) > 0)
        trainer = sae_config_get(config, 0);
    if (c.json) {
        json_info(dict, trainer);
    } else {
        text_info(dict, trainer);
        list_files(path);
    }
    if (config) sae_config_close(config);
    sae_dictionary_destroy(dict);
    return DONE;
}

/* ==== >>convert =============================================================================== */

enum { PROBES = 64 }; /* random rows on which both dictionaries are compared */

/* A number from -1 to 1, of no great quality. */
static float draw(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / 8388608.0 - 1);
}

static double norm_of(const float *w, size_t n) {
    double sum = 0;
    size_t i;
    for (i = 0; w && i < n; i++) sum += (double)w[i] * (double)w[i];
    return w ? sqrt(sum) : 1;
}

/* The largest difference of an entry, as a share of the largest entry of its row (at least 1). */
static double difference(const float *a, const float *b, size_t rows, size_t width) {
    double worst = 0;
    size_t r, j;
    for (r = 0; r < rows; r++) {
        double largest = 1, most = 0;
        for (j = 0; j < width; j++) {
            double e = fabs((double)a[r * width + j] - (double)b[r * width + j]);
            if (!(e <= most)) most = e;
            if (fabs((double)a[r * width + j]) > largest)
                largest = fabs((double)a[r * width + j]);
        }
        if (!(most / largest <= worst)) worst = most / largest;
    }
    return worst;
}

/* Both on the same random rows, of about the size that the dictionary's own directions have. Where
   decoder rows were rescaled, latents are compared with their norms. */
static int compare(const sae_dictionary *from, const sae_dictionary *to) {
    sae_dictionary_desc info = sae_dictionary_info(from);
    size_t d = info.activation_dim, m = info.dict_size, out = info.output_dim, r, i;
    float *x = (float *)take(PROBES * d, sizeof *x), *ratio = (float *)take(m, sizeof *ratio);
    float *f[2], *x_hat[2];
    const sae_dictionary *both[2];
    uint64_t state = 1;
    bool rescaled = false;
    both[0] = from;
    both[1] = to;
    for (r = 0; r < PROBES; r++) {
        float size = r % 4 == 0 ? 0.1f : r % 4 == 1 ? 10.0f : 1.0f;
        for (i = 0; i < d; i++) x[r * d + i] = size * draw(&state);
    }
    for (i = 0; i < m; i++) {
        double a = norm_of(sae_dictionary_decoder_row(from, i), out);
        double b = norm_of(sae_dictionary_decoder_row(to, i), out);
        ratio[i] = b > 0 ? (float)(a / b) : 1;
        if (fabs((double)ratio[i] - 1) > 1e-5) rescaled = true;
    }
    for (i = 0; i < 2; i++) {
        f[i] = (float *)take(PROBES * m, sizeof **f);
        x_hat[i] = (float *)take(PROBES * out, sizeof **x_hat);
        if (sae_forward(both[i], x, PROBES, x_hat[i], f[i]) != SAE_OK) return failed_library();
    }
    for (r = 0; rescaled && r < PROBES; r++)
        for (i = 0; i < m; i++) f[0][r * m + i] *= ratio[i];
    if (sae.quiet) return DONE;
    printf("largest difference on %d random rows: latents %.2e%s, x_hat %.2e\n", (int)PROBES,
           difference(f[0], f[1], PROBES, m), rescaled ? " (times the decoder's norms)" : "",
           difference(x_hat[0], x_hat[1], PROBES, out));
    return DONE;
}

/* log10 of how often each latent fires on the rows of --data. */
static int measure_sparsity(const common *c, sae_dictionary *dict, float *log_sparsity) {
    sae_dictionary_desc info = sae_dictionary_info(dict);
    size_t m = info.dict_size, block = block_rows(c, dict, 4 * m), n, i;
    uint64_t *count = (uint64_t *)take(m, sizeof *count);
    float *x = (float *)take(block * info.activation_dim, sizeof *x);
    float *f = (float *)take(block * m, sizeof *f);
    reader rows;
    int status;
    memset(&rows, 0, sizeof rows);
    status = open_rows(c, dict, &rows);
    while (status == DONE) {
        status = reader_next(&rows, x, block, &n);
        if (status != DONE || n == 0) break;
        if (sae_encode(dict, x, n, f) != SAE_OK) status = failed_library();
        for (i = 0; i < n * m && status == DONE; i++) count[i % m] += f[i] != 0;
    }
    reader_close(&rows);
    if (status == DONE && rows.rows == 0) status = failed("%s has no rows", c->data.items[0]);
    for (i = 0; i < m && status == DONE; i++)
        log_sparsity[i] = (float)log10((double)count[i] / (double)rows.rows + 1e-10);
    return status;
}

static int run_convert(const common *c, const sae_export_desc *desc, sae_dictionary *dict,
                       const char *folder) {
    sae_load_desc how;
    sae_dictionary *back = NULL;
    int status;
    if (sae_dictionary_export(dict, desc, folder) != SAE_OK) return failed_library();
    printf("%s", sae.notes);
    memset(&how, 0, sizeof how);
    how.raw = c->raw;
    if (sae_dictionary_load(sae.ctx, &how, folder, &back) != SAE_OK) return failed_library();
    if (sae_dictionary_rule(dict) == SAE_RULE_TOP_K
        && sae_dictionary_rule(back) != SAE_RULE_TOP_K)
        sae_dictionary_set_rule(dict, SAE_RULE_THRESHOLD); /* as the export said */
    status = compare(dict, back);
    sae_dictionary_destroy(back);
    if (status == DONE && !sae.quiet)
        printf("%s: %s, %zu latents of %zu dimensions\n", folder, sae_format_name(desc->format),
               sae_dictionary_info(dict).dict_size, sae_dictionary_info(dict).activation_dim);
    return status;
}

/* DST may be new or hold what is written there; SRC, and other programs' files, stay. */
static int check_destination(const char *from, const char *folder, sae_format format) {
    static const struct {
        const char *name;
        sae_format format; /* NONE: of a program that convert does not write for */
    } files[] = {
        { "ae.pt", SAE_FORMAT_DICTIONARY_LEARNING },
        { "ae.safetensors", SAE_FORMAT_DICTIONARY_LEARNING },
        { "config.json", SAE_FORMAT_DICTIONARY_LEARNING },
        { "sae_weights.safetensors", SAE_FORMAT_SAE_LENS },
        { "sae.safetensors", SAE_FORMAT_SPARSIFY }, { "params.npz", SAE_FORMAT_NONE },
        { "params.safetensors", SAE_FORMAT_NONE }, { "hyperparams.json", SAE_FORMAT_NONE },
        { "autoencoder.pt", SAE_FORMAT_NONE }
    };
    size_t i;
    if (same_file(is_folder(from) ? from : folder_of(from), folder))
        return failed("%s would be converted into itself, and lost: name another folder", from);
    for (i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i].format != format && file_exists(joined(folder, files[i].name)))
            return failed("%s holds %s, a file of another format: name another folder", folder,
                          files[i].name);
    return DONE;
}

static int verb_convert(int argc, char **argv) {
    common c;
    sae_export_desc desc;
    sae_origin origin;
    sae_dictionary *dict = NULL;
    const char *to = NULL, *model = NULL, *hook = NULL, *layer = NULL, *folder;
    uint64_t number = 0;
    int status;
    memset(&c, 0, sizeof c);
    memset(&desc, 0, sizeof desc);
    const option options[] = {
        { "to", TEXT, &to }, { "raw", FLAG, &c.raw }, { "dict-class", TEXT, &c.dict_class },
        { "k", COUNT, &c.k }, { "lm-name", TEXT, &model }, { "hook", TEXT, &hook },
        { "layer", TEXT, &layer }, { "data", LIST, &c.data }, { "batch", COUNT, &c.batch },
        { "dim", COUNT, &c.dim }, { "dtype", TEXT, &c.dtype }, { "tensor", TEXT, &c.tensor },
        { "threads", COUNT, &c.threads }, { "quiet", FLAG, &sae.quiet },
        { "use-top-k", FLAG, &c.use_top_k }, { "use-threshold", FLAG, &c.use_threshold }
    };
    status = parse(argc, argv, options, sizeof options / sizeof options[0], &c.words, NULL);
    if (status == DONE && c.words.count != 2)
        status = wrong("two folders are needed: what to convert, and where to");
    if (status == DONE && !to) status = wrong("--to is missing");
    if (status == DONE
        && (!sae_format_from_name(to, &desc.format) || desc.format > SAE_FORMAT_SPARSIFY))
        status = wrong("--to is %s, allowed are dictionary_learning, sae_lens, sparsify", to);
    if (status == DONE && layer && !parse_count(layer, &number))
        status = wrong("--layer is %s, allowed is a whole number from 0", layer);
    if (status == DONE) status = start(&c);
    if (status != DONE) return status;
    folder = c.words.items[1];
    c.words.count = 1;
    status = check_destination(c.words.items[0], folder, desc.format);
    if (status == DONE) status = load(&c, false, &dict);
    if (status != DONE) return status;
    if (desc.format == SAE_FORMAT_SPARSIFY
        && sae_dictionary_info(dict).arch != SAE_ARCH_TOP_K) {
        status = failed("sparsify holds only top-k dictionaries, this is %s",
                        sae_arch_name(sae_dictionary_info(dict).arch));
        sae_dictionary_destroy(dict);
        return status;
    }
    origin = sae_dictionary_origin(dict);
    if (model) snprintf(origin.model, sizeof origin.model, "%s", model);
    if (hook) snprintf(origin.hook, sizeof origin.hook, "%s", hook);
    if (layer) origin.layer = (int64_t)number;
    desc.origin = &origin;
    desc.raw = c.raw;
    if (c.data.count) {
        float *log_sparsity = (float *)take(sae_dictionary_info(dict).dict_size, sizeof(float));
        status = measure_sparsity(&c, dict, log_sparsity);
        desc.log_sparsity = log_sparsity;
    }
    if (status == DONE) status = run_convert(&c, &desc, dict, folder);
    sae_dictionary_destroy(dict);
    return status;
}

/* ==== >>main ================================================================================== */

static const char help_all[] =
    "sae " SAE_VERSION " - sparse autoencoders\n"
    "\n"
    "  sae train --data FILE... --trainer NAME --dict-size M --steps N --out DIR\n"
    "  sae eval DIR --data FILE          how good it is\n"
    "  sae eval DIR --model M --text FILE             and what the model's loss becomes with it\n"
    "  sae features DIR... --model M --text FILE --out PAGE.html   what its features mean\n"
    "  sae activations --model M --text FILE --submodule PATH --io in|out --out F.npy\n"
    "  sae train --model M --text FILE --submodule PATH ...   in place of --data\n"
    "  sae tokenize M --text FILE --out IDS.npy, sae detokenize M --tokens IDS.npy --out FILE\n"
    "  sae logits M --tokens IDS.npy --out F.npy\n"
    "  sae encode DIR --data FILE --out F.npz         latents of each row\n"
    "  sae reconstruct DIR --data FILE --out F.npy\n"
    "  sae steer-export DIR --feature I --layer L --out F.gguf   a direction for llama.cpp\n"
    "  sae info PATH                     what a file or folder holds\n"
    "  sae tensors PATH [--out DIR]      list or extract the tensors of a file\n"
    "  sae convert SRC DST --to FORMAT   dictionary_learning, sae_lens or sparsify\n"
    "\n"
    "sae VERB --help says more. Exit status: 0 done, 1 failed, 2 wrong usage,\n"
    "130 interrupted.\n";

static const char help_train[] =
    "sae train --data FILE... --trainer NAME --dict-size M --steps N --out DIR\n"
    "\n"
    "  --trainer NAME    standard, standard_april, gated, gated_anneal, p_anneal, top_k, "
    "batch_top_k,\n"
    "                    matryoshka_batch_top_k, jumprelu, or the reference's class name\n"
    "  --config F        the reference's config.json; the command line wins over it. Given "
    "several\n"
    "                    times, or holding a list: a sweep over one pass, into DIR/trainer_0, ...\n"
    "  --init F          start from these weights: .safetensors, ae.pt, or a folder\n"
    "  --seed N          of initialisation and shuffling\n"
    "Data\n"
    "  --data FILE...    .npy, .safetensors, or raw with --dim N and --dtype f32|f16|bf16\n"
    "  --target FILE...  the rows to give, row by row (transcoders): as many, and as wide\n"
    "  --tensor NAME     of a .safetensors with several\n"
    "  --order shuffle|sequential    --batch N (2048; or --batch-size)    --buffer-rows N\n"
    "  --model M --text FILE... --submodule PATH --io out|in|in_and_out    in place of --data: "
    "rows of\n"
    "                    a language model while it reads, as in sae activations --help\n"
    "  --max-activation-norm-multiple X    drop rows with a norm above X medians\n"
    "  --normalize-activations    --heads N\n"
    "Run\n"
    "  --log F.jsonl     one JSON object every --log-steps N (100)\n"
    "  --save-steps A,B  checkpoints/ae_STEP.pt    --backup-steps N    --resume\n"
    "  --out DIR         config.json, ae.pt, ae.safetensors; of a sweep in DIR/trainer_0, ...\n"
    "                    Ctrl-C and SIGTERM leave a backup; --resume refuses other steps: --init\n"
    "  --threads N (0: all; the result does not depend on it)    --device cpu|cuda    --quiet\n"
    "Hyperparameters under the reference's names (none switches a step count off); which\n"
    "trainers have them: s standard, S standard_april, g gated, G gated_anneal, p p_anneal,\n"
    "t top_k, b batch_top_k, m matryoshka_batch_top_k, j jumprelu; and the default\n";

static const char help_eval[] =
    "sae eval DIR --data FILE... [--target FILE] [--batch N] [--batches N] [--json]\n"
    "sae eval DIR --model M --text FILE... [--ctx N] [--batch N] [--remove-bos] [--json]\n"
    "\n"
    "  With a language model the rows are its activations at the dictionary's submodule (from its "
    "files,\n"
    "  or --submodule NAME and --io in|out|in_and_out) while it reads the text in contexts of N "
    "(128)\n"
    "  tokens; and its loss is measured as it is, with the reconstruction and with zeros in place "
    "of the\n"
    "  rows, at every position. Prints the table of the reference's README.\n"
    "\n"
    "  The reference's evaluate() over the batches, in the order of the file. l1_loss is that of "
    "the\n"
    "  latents as they were trained: an AutoEncoder keeps its decoder norms here (no other figure "
    "feels\n"
    "  them), while encode and reconstruct bring them to 1, as the reference's loader does.\n"
    "  --raw             the tensors as the file has them, also those of a run that was cut off\n"
    "  --use-top-k, --use-threshold    the other rule of the top-k classes\n"
    "  --dict-class NAME, --k N        for files that do not say\n"
    "  --dim N, --dtype T              of raw data;  --tensor NAME of a .safetensors\n"
    "  --batch N (2048)                whole batches are judged, the rows that are left are not\n"
    "  --threads N, --quiet\n";

static const char help_features[] =
    "sae features DIR... --model M --text FILE... --out PAGE.html\n"
    "\n"
    "  One page, no network: for each feature the contexts where it fires most, its tokens, what "
    "its\n"
    "  direction says and what the model does without and with it; the runs side by side. "
    "Beside it\n"
    "  PAGE.json in Neuronpedia's layout (PAGE.0.json, ... of several). A folder of a sweep stands "
    "for\n"
    "  all dictionaries in it. The table's losses are of at most 128 contexts, taken evenly;\n"
    "  sae eval judges all.\n"
    "  --model M         a folder with config.json, model.safetensors, tokenizer.json (GPT-NeoX)\n"
    "  --text FILE...    cut into contexts of --ctx N (128) tokens; --contexts N: the first N "
    "alone\n"
    "  --submodule NAME, --io in|out|in_and_out    where it sits, if its files do not say\n"
    "  --features N (2000)    on the page, of all runs together: those with most energy, the sum "
    "of\n"
    "                    f^2 |w|^2. 2000 make some 4 MB\n"
    "  --log F.jsonl...  of the training; default DIR/log.jsonl or DIR.jsonl\n"
    "  --no-effects      leave out ablating and steering, which run the model most\n"
    "  --raw, --use-top-k, --use-threshold, --dict-class, --k, --threads, --quiet:\n"
    "  as in sae eval --help\n";

static const char help_activations[] =
    "sae activations --model M --text FILE... --submodule PATH --out F.npy|F.safetensors\n"
    "\n"
    "  What a language model computes at a submodule while it reads the text: float32 [rows,dim].\n"
    "  --model M         a folder with config.json, model.safetensors (or shards) and\n"
    "                    tokenizer.json, of the GPT-NeoX family (Pythia)\n"
    "  --text FILE...    each is tokenised whole and cut into contexts, the rest dropped; or .npy\n"
    "                    of ids, [n] or [contexts,ctx], below 0: padding\n"
    "  --tokens F.npy    ids, in place of --text\n"
    "  --submodule PATH  gpt_neox.layers.3, gpt_neox.layers.3.mlp, gpt_neox.embed_in, ...\n"
    "  --io out|in|in_and_out    its output (default), its input; both: F.in.npy, F.out.npy\n"
    "  --ctx N (128)     tokens of a context\n"
    "  --dtype f32|f16   of the file\n"
    "  --tokens-out F.npy    the rows' tokens, int32 [contexts,ctx]; [rows] if some are left out\n"
    "  --shard-rows N    F-00001-of-00003.npy, ... of N rows each; train reads them as one stream\n"
    "  --remove-bos      leave out the rows of the bos token; those of padding always are\n"
    "  --threads N, --quiet\n";

static const char help_tokenize[] =
    "sae tokenize M --text FILE... --out IDS.npy\n"
    "\n"
    "  The ids of the text, int32 [n], by M/tokenizer.json (byte-level BPE). Special tokens that\n"
    "  are written in the text are taken for what they are; bytes that are no UTF-8 stay.\n";

static const char help_detokenize[] =
    "sae detokenize M --tokens IDS.npy --out FILE\n"
    "\n"
    "  The bytes that the ids stand for.\n";

static const char help_logits[] =
    "sae logits M --tokens IDS.npy --out F.npy\n"
    "\n"
    "  What the model predicts behind each token: float32 [contexts,ctx,vocabulary].\n"
    "  --tokens F.npy    [contexts,ctx], or [n], cut into contexts of --ctx N (128)\n"
    "  --text FILE...    in place of it\n"
    "  --threads N, --quiet\n";

static const char help_encode[] =
    "sae encode DIR --data FILE... --out F.npz\n"
    "\n"
    "  The latents that are not 0, as row (int64), index (int32), value (float32), shape (int64 "
    "[2]).\n"
    "  --dense           a float32 .npy [rows,dict_size] instead\n"
    "  --delphi          delphi's latent cache instead: OUT is a folder, MODULE/0_N.safetensors, "
    "...\n"
    "                    with --module NAME, --ctx N (256) tokens a context, --splits N (5)\n"
    "                    files, --tokens F.npy [contexts,ctx]\n"
    "  --batch N (2048)  rows that choose together, with --use-top-k of the batch classes\n"
    "  --raw             the tensors as the file has them (an AutoEncoder's decoder rows are "
    "brought to\n"
    "                    norm 1 otherwise)\n"
    "  --use-top-k, --use-threshold, --dict-class, --k, --dim, --dtype, --tensor, --threads:\n"
    "  as in sae eval --help\n";

static const char help_reconstruct[] =
    "sae reconstruct DIR --data FILE... --out F.npy\n"
    "\n"
    "  What the dictionary gives back for each row, float32 [rows,activation_dim].\n"
    "  Options: as in sae encode --help, without --dense.\n";

static const char help_steer_export[] =
    "sae steer-export DIR --feature I --layer L --out F.gguf [--strength S]\n"
    "\n"
    "  The direction of latent I as a control vector of llama.cpp:\n"
    "    llama-cli -m MODEL.gguf --control-vector-scaled F.gguf 8\n"
    "  --layer L           the block whose output (resid_post L) is steered, from 1\n"
    "  --strength S (1)    times the decoder row, which has norm 1 in most classes\n"
    "  --model-hint NAME   the model's architecture, for the reader\n"
    "  --raw, --dict-class NAME, --k N    as in sae eval --help\n";

static const char help_info[] =
    "sae info PATH [--json]\n"
    "\n"
    "  Format, class, shapes, threshold, norms, origin of a dictionary; a listing of any other "
    "file.\n"
    "  Of files above 1 GiB the norms are those of the first 1024 latents.\n"
    "  --dict-class NAME, --k N        for files that do not say\n";

static const char help_tensors[] =
    "sae tensors PATH [--json] [--out DIR]\n"
    "\n"
    "  Lists the tensors of a .pt, .safetensors, .npz or .npy. With --out each goes to "
    "DIR/000.npy, ...\n"
    "  with DIR/names.json; floats as float32, integers and bools as int64. Of a folder the file\n"
    "  of the weights. --any: also a params.npz that is not Gemma Scope's.\n";

static const char help_convert[] =
    "sae convert SRC DST --to dictionary_learning|sae_lens|sparsify\n"
    "\n"
    "  Writes SRC, any dictionary that sae info opens, as a folder of another program; says what\n"
    "  was mapped, and how far both differ on random rows. What DST cannot say is refused.\n"
    "  --lm-name NAME, --hook NAME, --layer N    where the dictionary sits, if SRC does not say\n"
    "  --data FILE...                  to sae_lens: also sparsity.safetensors, of these rows\n"
    "  --raw                           to dictionary_learning: leave the decoder's norms\n"
    "  --use-threshold                 the threshold of a top-k class\n"
    "  --dict-class NAME, --k N        for files that do not say\n"
    "  --batch, --dim, --dtype, --tensor, --threads, --quiet: as in sae encode --help\n";

static const struct {
    const char *name, *help;
    int (*run)(int argc, char **argv); /* NULL: a later version's */
} verbs[] = {
    { "train", help_train, verb_train }, { "eval", help_eval, verb_use },
    { "encode", help_encode, verb_use }, { "reconstruct", help_reconstruct, verb_use },
    { "steer-export", help_steer_export, verb_steer_export },
    { "info", help_info, verb_info }, { "tensors", help_tensors, verb_tensors },
    { "convert", help_convert, verb_convert },
    { "features", help_features, verb_features },
    { "activations", help_activations, verb_activations },
    { "tokenize", help_tokenize, verb_tokenize },
    { "detokenize", help_detokenize, verb_detokenize }, { "logits", help_logits, verb_logits }
};
enum { NUM_VERBS = sizeof verbs / sizeof verbs[0] };

static void print_help(size_t verb) {
    size_t i, n;
    printf("%s", verbs[verb].help);
    if (verbs[verb].run != verb_train) return;
    for (i = 0; i < NUM_HYPERPARAMETERS; i++) {
        printf("  --%-26s ", hyperparameters[i].name);
        for (n = 0; trainer_letters[n]; n++)
            putchar(strchr(hyperparameters[i].trainers, trainer_letters[n]) ? trainer_letters[n]
                                                                            : '.');
        printf("  %s\n", hyperparameters[i].value);
    }
}

static int run_verb(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "", *best = NULL;
    size_t least = 4, i;
    int a;
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("sae %s\n", SAE_VERSION);
        return DONE;
    }
    if (strcmp(name, "help") == 0 && argc > 2) name = argv[2];
    else if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        printf("%s", help_all);
        return DONE;
    }
    if (!name[0]) {
        fprintf(stderr, "%s", help_all);
        return WRONG_USAGE;
    }
    for (i = 0; i < NUM_VERBS; i++) {
        bool help = strcmp(argv[1], "help") == 0;
        if (strcmp(verbs[i].name, name) != 0) continue;
        if (!verbs[i].run) return wrong("%s is not in this version", name);
        for (a = 2; a < argc; a++)
            if (strcmp(argv[a], "--help") == 0 || strcmp(argv[a], "-h") == 0) help = true;
        if (help) {
            print_help(i);
            return DONE;
        }
        sae.verb = verbs[i].name;
        return verbs[i].run(argc, argv);
    }
    for (i = 0; i < NUM_VERBS; i++) nearer(name, verbs[i].name, &best, &least);
    if (best) return wrong("%s is no verb; did you mean %s?", name, best);
    return wrong("%s is no verb; sae --help lists them", name);
}

int main(int argc, char **argv) {
    int status;
    sae.verb = "";
    status = run_verb(argc, argv);
    sae_context_destroy(sae.ctx);
    while (sae.num_kept) free(sae.kept[--sae.num_kept]);
    free(sae.kept);
    if (fflush(stdout) != 0 && status == DONE)
        status = failed("writing to the standard output failed");
    return status;
}
