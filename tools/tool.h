/*  tool.h - what the files of the program `sae` share.

    The program is a thin user of sae.h. A verb is one file; this is what they stand on:

        main.c           the verbs, and help
        help.c           what they print for --help
        program.c        messages, memory, paths; the context of the library
        options.c        the command line
        rows.c           rows of activations from files; .npy files written in blocks
        dictionary.c     the dictionary a command line names
        layers.c         dictionaries over the layers of a model: sae_clt
        reading.c        the language model it names, and the text for it
        model.c          where a dictionary sits in it; eval --model
        models.c         sae_lm.h, sae_features.h and page.h, compiled

        train.c, train_run.c, memory.c, use.c (eval, encode, reconstruct, steer-export), delphi.c
        (encode --delphi), features.c, tokens.c (tokenize, detokenize, logits), activations.c,
        generate.c, steer.c, info.c, tensors.c, convert.c

    Exit status: 0 done, 1 failed (one line on stderr), 2 wrong usage, 130 interrupted.
*/
#ifndef SAE_TOOL_H
#define SAE_TOOL_H

#include "sae.h"

#include "sae_lm.h"
#include "sae_features.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#if defined(_WIN32)
#include <io.h>
#define isatty _isatty
#define fileno _fileno
#define seek_end(file) _fseeki64(file, 0, SEEK_END)
#define file_tell(file) ((int64_t)_ftelli64(file))
#else
#include <unistd.h>
#define seek_end(file) fseeko(file, 0, SEEK_END)
#define file_tell(file) ((int64_t)ftello(file))
#endif

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

enum { DONE = 0, FAILED = 1, WRONG_USAGE = 2, INTERRUPTED = 130 };

/* ==== program.c =============================================================================== */

typedef struct program {
    const char *verb;
    sae_context *ctx;
    bool quiet;
    char notes[4000]; /* what the library said it mapped */
    void **kept;      /* every block of keep_alloc(), freed at the end */
    size_t num_kept;
} program;

extern program tool; /* the tool is one program; the library has no such thing */

/* One line on stderr, whatever the text holds. Each returns the exit status it means. */
int fail(const char *format, ...);
int fail_usage(const char *format, ...);
int fail_library(void); /* with the library's last message */
void warning(const char *format, ...); /* stops nothing; --quiet takes it away */
void note(const char *format, ...);    /* likewise; nothing is wrong */
const char *without_function(const char *message);

void *keep_alloc(size_t count, size_t size); /* zeroed, until the program ends; or exits */
int check_replaceable(const char *path); /* fails where a device, pipe or folder is there */
/* What is whole takes the place of path, or of what a link of that name leads to. */
bool replace_file(const char *temporary, const char *path);
char *joined(const char *folder, const char *name);         /* kept, as the next */
char *with_ending(const char *path, const char *ending);
const char *folder_of(const char *path);
bool ends_with(const char *text, const char *end);
void put_json_string(FILE *out, const char *text);
double now_seconds(void);
bool show_share(void *what, double done); /* a bar on a terminal; true */

bool file_exists(const char *path);
bool is_folder(const char *path);
bool same_file(const char *a, const char *b);
int need_folder(const char *name, const char *path);
bool make_folders(const char *path);
bool synced(FILE *file);

/* ==== options.c =============================================================================== */

/* SIZE: a count from 1. LIST takes all words up to the next option, EACH the one behind it. */
typedef enum option_kind { FLAG, TEXT, ONCE, COUNT, SIZE, LIST, EACH } option_kind;

typedef struct list {
    const char **items;
    size_t count;
} list;

typedef struct option {
    const char *name; /* without -- */
    option_kind kind;
    void *value; /* bool, const char * (TEXT, ONCE), uint64_t (COUNT, SIZE), list (LIST, EACH) */
} option;

#define NO_HEAD UINT64_MAX

/* Options that several verbs share. */
typedef struct common {
    list words, data, target;
    const char *dtype, *tensor, *device, *out, *dict_class, *module, *tokens, *input_scale;
    uint64_t dim, threads, batch, batches, k, ctx, splits;
    size_t first_latent, num_latents; /* of a large dictionary only these; 0: all */
    bool json, raw, use_top_k, use_threshold, dense, delphi;
    list text, submodules; /* with a language model */
    const char *model, *submodule, *io;
    uint64_t head; /* NO_HEAD: not given */
    const char *data_layer;
    bool remove_bos, bos, no_bos;
} common;

int parse_options(int argc, char **argv, const option *options, size_t count, list *words,
                  list *others);
int unknown_option(const char *given, const option *options, size_t count);
void nearer(const char *given, const char *candidate, const char **best, size_t *least);
bool parse_count(const char *text, uint64_t *out);
bool parse_counts(const char *text, uint64_t *out, size_t capacity, size_t *count);
int parse_dtype(const char *text, sae_dtype *out);

/* The hyperparameters of sae_trainer_desc_set. */
bool is_ignored(const char *hyperparameter, const sae_trainer_desc *descs, size_t num);
void print_hyperparameters(void);

int start_program(const common *c); /* the context: --threads, --device */

/* ==== rows.c ================================================================================== */

/* Rows of one or several files as float32, NaN and infinity included. */
typedef struct reader {
    const list *files;
    const char *tensor;
    size_t want;         /* the width that is needed, set beforehand; 0: any */
    const char *data_layer; /* of files [rows,layers,dim] the layer of that number; NULL: all */
    struct reader *side; /* files that lie side by side: a reader of each, */
    size_t sides;        /* and how many; 0: they are one stream */
    float *part;         /* [rows,width of a side] */
    bool odd;            /* not a stream of files [rows,dim] */
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

int reader_create(reader *r, const list *files, const common *c);
int reader_next(reader *r, float *x, size_t max, size_t *n);
int reader_rewind(reader *r);
void reader_source(reader *r, sae_source_desc *source);
void reader_warn_bad(const reader *r);
void reader_close(reader *r);
int check_rows(const common *c);
int keep_apart(const char *what, const char *out, const common *c);

/* A .npy that grows by rows: written beside as PATH.tmp, renamed when it is whole. */
typedef struct npy_writer {
    FILE *file;
    const char *path, *temporary, *descr;
    uint64_t rows;
    size_t width; /* 0: one dimension */
    size_t group; /* rows of one element of a first dimension of three; 0: none */
} npy_writer;

int npy_create(npy_writer *w, const char *path, const char *ending, const char *descr,
               size_t width);
int npy_put(npy_writer *w, const void *data, size_t element, size_t rows);
int npy_finish(npy_writer *w, bool keep);
void npy_abandon(npy_writer *w);

void set_tensor(sae_tensor *t, const char *name, sae_dtype dtype, uint64_t rows,
                uint64_t columns, const void *data);
uint16_t to_half(float value);
bool half_overflows(float value);
void warn_overflow(const char *path, uint64_t count);

/* ==== dictionary.c ============================================================================ */

int parse_arch(const char *text, sae_arch *out);
int fill_load(const common *c, sae_load_desc *desc);
int load_dictionary(const common *c, bool raw_decoder_norms, sae_dictionary **dict);
sae_config *config_beside(const char *path);
const char *weights_file(const char *path);
bool is_large(const char *path);
void warn_threshold(const sae_trainer_desc *trainer);
int fill_source(const common *c, sae_source_desc *source);
int open_rows(const common *c, sae_dictionary *dict, reader *rows);
int open_rows_of(const common *c, size_t width, reader *rows);

size_t block_rows(const common *c, const sae_dictionary *dict, size_t bytes_a_row);

/* ==== reading.c =============================================================================== */

typedef struct language { /* --model, --text, --ctx */
    sae_lm *model;
    sae_tokenizer *tokenizer; /* NULL: there is none, and no text that needs one */
    sae_contexts contexts;
    features_text text;       /* the same */
    int64_t bos;              /* the token whose rows --remove-bos leaves out; -1: there is none */
    bool begins_with_bos;     /* the contexts do */
} language;

typedef struct reading { /* how a text is read */
    size_t ctx;          /* 0: the default */
    bool bos;            /* at the head of each context */
    bool keeps_padding;  /* tokens of padding are tokens as others */
    const char *asker;   /* the dictionary whose files ask for ctx; NULL: the command line does */
    char ctx_note[200], bos_note[200]; /* where the command line goes before a dictionary's files */
} reading;

int open_model(const char *path, bool needs_tokenizer, language *l);
size_t bos_tokens(const language *l, int32_t *room, const int32_t **out);
void warn_no_bos(const char *model);
int choose_reading(const common *c, const sae_dictionary *const *dicts, const char *const *paths,
                   size_t num, reading *out);
int language_open(const common *c, language *l); /* the model */
int language_read(const common *c, const reading *how, language *l); /* then its text */
void language_close(language *l);

/* ==== model.c, tokens.c, activations.c ======================================================== */

typedef struct position { /* where a dictionary sits */
    const char *submodule, *io;
    const char *gives; /* transcoders: another place, whose rows it gives; else NULL */
    int64_t head;      /* -1: all there are */
    features_place place;
} position;

const char *place_name(const char *given, const char **io);
int find_position(const common *c, const char *path, const sae_dictionary *dict,
                  const language *l, position *out);
const char *rows_text(const position *at, char out[96]);
void print_table(const char *const *names, const features_metrics *m, size_t num);
int evaluate_in_model(const common *c, const sae_dictionary *dict);
int write_ids(const char *path, const int32_t *ids, uint64_t rows, uint64_t columns);

/* Rows of a language model that reads --text. */
typedef struct text_rows text_rows;
int text_rows_open(const common *c, text_rows **rows);
void text_rows_close(text_rows *rows);
size_t text_rows_count(const text_rows *rows); /* places */
const char *text_rows_name(const text_rows *rows, size_t place);
size_t text_rows_layer(const text_rows *rows, size_t place);
size_t text_rows_ctx(const text_rows *rows);
sae_source_desc text_rows_source(const text_rows *rows, size_t place);

/* ==== generate.c ============================================================================== */

typedef struct sampling { /* how a text goes on */
    const char *prompt, *prompt_tokens, *temperature_text, *top_p_text;
    uint64_t count, seed;
    double temperature, top_p;
    bool ignore_eos;
} sampling;

int check_sampling(sampling *s);
int read_prompt(const char *model, const sampling *s, bool bos, const language *l,
                sae_tokens *out);
size_t stop_tokens(const char *model, const sampling *s, const language *l, const int32_t **out);
sae_result text_of_ids(const sae_tokenizer *tokenizer, const int32_t *ids, size_t count,
                       sae_text *out);
void fill_generate(const sampling *s, const sae_tokens *prompt, const int32_t *stops,
                   size_t num_stops, sae_lm_generate_desc *out);

/* A dictionary, or one over layers: dict or clt. */
typedef struct subject {
    sae_dictionary *dict;
    sae_clt *clt;
    size_t in, codes, out; /* numbers of a row */
} subject;

int open_subject(const common *c, bool raw_decoder_norms, subject *s);
void close_subject(subject *s);
size_t subject_block(const common *c, const subject *s, size_t bytes_a_row);

/* ==== layers.c ================================================================================ */

bool is_layers(const common *c); /* the first word is a cross-layer transcoder or a set */
int open_layers(const common *c, sae_clt **clt);
int info_layers(const common *c);
int evaluate_layers(const common *c, const subject *s, reader *rows);

/* ==== the verbs =============================================================================== */

/* memory.c: fails where the runs together take more memory than there is; says what they take. */
int check_memory(const sae_train_desc *descs, size_t num);
/* Of several places of rows; each has its name. rows NULL: of files; log_path NULL: no log. */
int run_trainings(sae_train_desc *descs, const char *const *names, size_t num, text_rows *rows,
                  const char *log_path);
int write_delphi(const common *c, const sae_dictionary *dict, const sae_tensor parts[3],
                 uint64_t rows);
void put_shape(FILE *out, const sae_tensor *t);
const char *slice_text(const int64_t positions[3], char out[96]);
void list_tensors(const sae_tensor_file *file, bool json);

int verb_train(int argc, char **argv);
int verb_use(int argc, char **argv); /* eval, encode, reconstruct */
int verb_steer_export(int argc, char **argv);
int verb_features(int argc, char **argv);
int verb_activations(int argc, char **argv);
int verb_tokenize(int argc, char **argv);
int verb_detokenize(int argc, char **argv);
int verb_logits(int argc, char **argv);
int verb_generate(int argc, char **argv);
int verb_steer(int argc, char **argv);
int verb_info(int argc, char **argv);
int verb_tensors(int argc, char **argv);
int verb_convert(int argc, char **argv);

extern const char help_all[], help_train[], help_eval[], help_features[], help_activations[],
    help_tokenize[], help_detokenize[], help_logits[], help_generate[], help_steer[],
    help_encode[], help_reconstruct[], help_steer_export[], help_info[], help_tensors[],
    help_convert[];

#endif
