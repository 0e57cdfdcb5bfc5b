/* sae: messages, memory, paths, and the context of the library. */
#include "tool.h"

#include <time.h>
#if defined(_WIN32)
#include <direct.h>
#define make_one_folder(path) _mkdir(path)
#else
#define make_one_folder(path) mkdir(path, 0777)
#endif

program tool;

/* One line on stderr, whatever the text holds. */
static void say_line(const char *format, va_list args) {
    char line[2000];
    size_t i;
    vsnprintf(line, sizeof line, format, args);
    for (i = 0; line[i]; i++)
        if ((unsigned char)line[i] < 32 || line[i] == 127) line[i] = '?';
    fprintf(stderr, "sae%s%s: %s\n", tool.verb[0] ? " " : "", tool.verb, line);
}

int fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
    return FAILED;
}

int fail_usage(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
    return WRONG_USAGE;
}

/* One line that stops nothing; --quiet takes it away. */
void warning(const char *format, ...) {
    char line[1900];
    va_list args;
    if (tool.quiet) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fail("warning: %s", line);
}

void note(const char *format, ...) {
    va_list args;
    if (tool.quiet) return;
    va_start(args, format);
    say_line(format, args);
    va_end(args);
}

/* A library message without the function's name: of "sae_train: steps is 0", "steps is 0". */
const char *without_function(const char *message) {
    size_t n = strspn(message, "abcdefghijklmnopqrstuvwxyz0123456789_");
    bool ours = strncmp(message, "sae_", 4) == 0 || strncmp(message, "features_", 9) == 0
                || strncmp(message, "page_", 5) == 0;
    return ours && strncmp(message + n, ": ", 2) == 0 ? message + n + 2 : message;
}

/* Names of the library's that stand in its messages, as the command line has them. */
static const char *in_our_words(const char *message, char out[2000]) {
    static const char *const words[][2] = {
        { "sae_load_desc.arch", "--dict-class" }, { "sae_load_desc.k", "--k" },
        { "sae_load_desc.input_scale", "--input-scale" }, { "sae_load_desc asks for", "asked are" },
        { "which sae_clt_open opens", "which info, encode, reconstruct and eval open" },
        { "sae_dictionary_export", "sae convert" },
        { "save_dir", "--out" }, { "leave resume out", "leave --resume out" }
    };
    size_t n = 0, i;
    while (*message && n < 1960) {
        for (i = 0; i < COUNT_OF(words); i++)
            if (strncmp(message, words[i][0], strlen(words[i][0])) == 0) break;
        if (i < COUNT_OF(words)) n += (size_t)snprintf(out + n, 2000 - n, "%s", words[i][1]);
        else out[n++] = *message;
        message += i < COUNT_OF(words) ? strlen(words[i][0]) : 1;
    }
    out[n] = 0;
    return out;
}

int fail_library(void) {
    char text[2000];
    return fail("%s", in_our_words(without_function(sae_error(tool.ctx)), text));
}

/* Zeroed memory that lives until the program ends. */
void *keep_alloc(size_t count, size_t size) {
    void **more = (void **)realloc(tool.kept, (tool.num_kept + 1) * sizeof *more);
    void *memory = more ? calloc(count ? count : 1, size ? size : 1) : NULL;
    if (more) tool.kept = more;
    if (!memory) {
        fail("no memory for %zu times %zu bytes", count, size);
        exit(FAILED);
    }
    tool.kept[tool.num_kept++] = memory;
    return memory;
}

int check_replaceable(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0 || (st.st_mode & S_IFMT) == S_IFREG) return DONE;
    return fail("%s is %s, allowed is the name of a file", path,
                (st.st_mode & S_IFMT) == S_IFDIR ? "a folder" : "a device or a pipe");
}

bool replace_file(const char *temporary, const char *path) {
#if defined(_WIN32)
    remove(path);
    return rename(temporary, path) == 0;
#else
    char *target = NULL;
    FILE *f;
    struct stat st;
    bool good;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) { /* what a link names stays where it is */
        f = fopen(path, "ab");
        if (f) fclose(f);
        target = realpath(path, NULL);
    }
    good = rename(temporary, target ? target : path) == 0;
    free(target);
    return good;
#endif
}

char *joined(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = (char *)keep_alloc(size, 1);
    const char *slash = folder[0] && folder[strlen(folder) - 1] != '/' ? "/" : "";
    snprintf(path, size, "%s%s%s", folder, slash, name);
    return path;
}

/* "PATH" + ending, kept by keep_alloc(). */
char *with_ending(const char *path, const char *ending) {
    size_t size = strlen(path) + strlen(ending) + 1;
    char *name = (char *)keep_alloc(size, 1);
    snprintf(name, size, "%s%s", path, ending);
    return name;
}

bool ends_with(const char *text, const char *end) {
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

void put_json_string(FILE *out, const char *text) {
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

double now_seconds(void) {
#if defined(CLOCK_MONOTONIC)
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    return (double)time(NULL);
#endif
}

bool file_exists(const char *path) {
    struct stat about;
    return stat(path, &about) == 0;
}

bool is_folder(const char *path) {
    struct stat about;
    return stat(path, &about) == 0 && (about.st_mode & S_IFMT) == S_IFDIR;
}

/* The same file or folder, under whatever names. Windows has no st_ino: the names must do. */
bool same_file(const char *a, const char *b) {
    struct stat x, y;
    if (strcmp(a, b) == 0) return true;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino && x.st_ino == y.st_ino
           && x.st_dev == y.st_dev;
}

/* The folder in which path lies, kept by keep_alloc(). */
const char *folder_of(const char *path) {
    char *folder = with_ending(path, "");
    size_t n = strlen(folder);
    while (n && folder[n - 1] != '/') n--;
    if (!n) return ".";
    folder[n] = 0;
    return folder;
}

int need_folder(const char *name, const char *path) {
    if (is_folder(folder_of(path))) return DONE;
    return fail("--%s is %s: there is no such folder", name, path);
}

bool make_folders(const char *path) {
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

/* Brought to the disk. */
bool synced(FILE *file) {
#if defined(_WIN32)
    return fflush(file) == 0 && _commit(_fileno(file)) == 0;
#else
    return fflush(file) == 0 && fsync(fileno(file)) == 0;
#endif
}

bool show_share(void *user, double done) {
    static double shown = -1;
    const char *what = (const char *)user;
    double now = now_seconds();
    char bar[21];
    size_t i;
    if (tool.quiet || !isatty(fileno(stderr)) || (now - shown < 0.2 && done < 1)) return true;
    for (i = 0; i < 20; i++) bar[i] = (double)i < done * 20 ? '#' : '-';
    bar[20] = 0;
    fprintf(stderr, "\r[%s] %3.0f%% %s\x1b[K%s", bar, 100 * done, what, done < 1 ? "" : "\r\x1b[K");
    fflush(stderr);
    shown = now;
    return true;
}

static void on_library_message(sae_log_level level, sae_result result, const char *message,
                               void *user) {
    char ours[2000];
    (void)result;
    (void)user;
    if (level == SAE_LOG_WARNING)
        warning("%s", in_our_words(without_function(message), ours));
    if (!tool.quiet && level == SAE_LOG_INFO && strcmp(tool.verb, "convert") == 0) {
        const char *text = without_function(message); /* shown once all is well */
        size_t n = strlen(tool.notes);
        snprintf(tool.notes + n, sizeof tool.notes - n, "%s\n", text);
    }
}

int start_program(const common *c) {
    sae_context_desc desc = { 0 };
    if (c->device && strcmp(c->device, "cuda") == 0) {
#ifdef SAE_CUDA
        desc.backend = sae_cuda_backend();
#else
        return fail("--device cuda: this program was built for the CPU alone; `make cuda` builds "
                    "build/sae-cuda");
#endif
    } else if (c->device && strcmp(c->device, "cpu") != 0)
        return fail_usage("--device is %s, allowed are cpu, cuda", c->device);
    if (c->threads > 4096)
        return fail_usage("--threads is %.0f, allowed is 0..4096", (double)c->threads);
    desc.threads = (int)c->threads;
    desc.logger.log = on_library_message;
    if (sae_context_create(&desc, &tool.ctx) != SAE_OK) return fail("no memory to start with");
    return DONE;
}
