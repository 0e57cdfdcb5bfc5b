#pragma once
#include "../base/io.h"
#include "../base/json.h"
#include "../tensor/file.h"
#include "../dict/params.h"

/* ==== >>files: names, places, config files ==================================================== */

/* Where a tensor of a file goes. _T: the file holds it transposed; it is transposed on loading. */
typedef enum saei_slot {
    SAEI_SLOT_W_ENC, SAEI_SLOT_W_ENC_T, SAEI_SLOT_W_DEC, SAEI_SLOT_W_DEC_T, SAEI_SLOT_B_ENC,
    SAEI_SLOT_AUX0, SAEI_SLOT_AUX1, SAEI_SLOT_B_DEC, SAEI_SLOT_K, SAEI_SLOT_THRESHOLD,
    SAEI_SLOT_GROUPS, SAEI_SLOT_W_SKIP, SAEI_SLOT_W_SKIP_T,
    SAEI_SLOT_W_GLU, SAEI_SLOT_W_GLU_T, SAEI_SLOT_B_GLU,
    SAEI_SLOT_SCALE,   /* [m], latents are multiplied by it when they are decoded */
    /* of L layers, d of each: */
    SAEI_SLOT_W_ENC_LDM, SAEI_SLOT_W_DEC_LMD, SAEI_SLOT_W_DEC_MLD, SAEI_SLOT_B_DEC_LD,
    SAEI_SLOT_B_ENC_LM, /* of which the sum over the layers is b_enc */
    SAEI_SLOT_MEAN_LD, SAEI_SLOT_LAYER_SCALE, SAEI_SLOT_LAYER_THRESHOLD, SAEI_SLOT_SPREAD_LD,
    SAEI_SLOT_TARGET_RMS, SAEI_SLOT_CODE_ID,
    SAEI_SLOT_NOTHING  /* known, and of no use */
} saei_slot;

typedef struct saei_key {
    const char *name;
    saei_slot slot;
} saei_key;

/* The reference's names in the reference's order, for reading and for writing. */
enum { SAEI_MAX_KEYS = 16 };
typedef struct saei_layout {
    sae_arch arch;
    size_t count;
    saei_key keys[7];
} saei_layout;

static const saei_layout saei_layouts[] = {
    { SAE_ARCH_STANDARD, 4,
      { { "bias", SAEI_SLOT_B_DEC }, { "encoder.weight", SAEI_SLOT_W_ENC },
        { "encoder.bias", SAEI_SLOT_B_ENC }, { "decoder.weight", SAEI_SLOT_W_DEC_T } } },
    { SAE_ARCH_STANDARD_NEW, 4,
      { { "encoder.weight", SAEI_SLOT_W_ENC }, { "encoder.bias", SAEI_SLOT_B_ENC },
        { "decoder.weight", SAEI_SLOT_W_DEC_T }, { "decoder.bias", SAEI_SLOT_B_DEC } } },
    { SAE_ARCH_GATED, 6,
      { { "decoder_bias", SAEI_SLOT_B_DEC }, { "r_mag", SAEI_SLOT_AUX0 },
        { "gate_bias", SAEI_SLOT_B_ENC }, { "mag_bias", SAEI_SLOT_AUX1 },
        { "encoder.weight", SAEI_SLOT_W_ENC }, { "decoder.weight", SAEI_SLOT_W_DEC_T } } },
    { SAE_ARCH_TOP_K, 6,
      { { "b_dec", SAEI_SLOT_B_DEC }, { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_THRESHOLD },
        { "decoder.weight", SAEI_SLOT_W_DEC_T }, { "encoder.weight", SAEI_SLOT_W_ENC },
        { "encoder.bias", SAEI_SLOT_B_ENC } } },
    { SAE_ARCH_BATCH_TOP_K, 6,
      { { "b_dec", SAEI_SLOT_B_DEC }, { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_THRESHOLD },
        { "decoder.weight", SAEI_SLOT_W_DEC_T }, { "encoder.weight", SAEI_SLOT_W_ENC },
        { "encoder.bias", SAEI_SLOT_B_ENC } } },
    { SAE_ARCH_MATRYOSHKA, 7,
      { { "W_enc", SAEI_SLOT_W_ENC_T }, { "b_enc", SAEI_SLOT_B_ENC }, { "W_dec", SAEI_SLOT_W_DEC },
        { "b_dec", SAEI_SLOT_B_DEC }, { "k", SAEI_SLOT_K }, { "threshold", SAEI_SLOT_THRESHOLD },
        { "group_sizes", SAEI_SLOT_GROUPS } } },
    { SAE_ARCH_JUMP_RELU, 5,
      { { "W_enc", SAEI_SLOT_W_ENC_T }, { "b_enc", SAEI_SLOT_B_ENC }, { "W_dec", SAEI_SLOT_W_DEC },
        { "b_dec", SAEI_SLOT_B_DEC }, { "threshold", SAEI_SLOT_AUX0 } } },
    { SAE_ARCH_IDENTITY, 0, { { NULL, SAEI_SLOT_B_DEC } } }
};
enum { SAEI_NUM_LAYOUTS = sizeof saei_layouts / sizeof saei_layouts[0] };

/* What a reader works on. Names of tensors all begin with prefix: "ae." in a crashed run's nested
   file, "_orig_mod." where torch.compile was at work, else mostly "". */
typedef struct saei_load {
    sae_context *ctx;
    const char *who;  /* the function that the user called: every message begins so */
    sae_load_desc desc;
    const char *path; /* as given: for messages */
    const void *data; /* of the file, [size], where it lies in memory; NULL: it is at path */
    size_t size;
    char *file;       /* of the tensors; "" where memory has no name */
    sae_tensor_file *tensors;
    const char *prefix;
    const char *config_name; /* "config.json" */
    char *config_path;
    sae_json *root;         /* of the config file, an object; NULL: there is none */
    const sae_json *config; /* the object in it that describes the dictionary; NULL: none */
    saei_map yaml;          /* of a config.yaml, in place of root; or nothing */
} saei_load;

/* Room for a list of names in a message. */
enum { SAEI_NAMES = 320 };

/* A dictionary on its way in: its desc, and which tensor goes where. */
typedef struct saei_draft {
    const saei_load *load;
    sae_dictionary_desc desc;
    size_t count;
    struct {
        const char *name;
        saei_slot slot;
        const sae_tensor *tensor; /* NULL: the file has none */
    } keys[SAEI_MAX_KEYS];
    char lacks[SAEI_NAMES], besides[SAEI_NAMES]; /* names, for messages */
    size_t part; /* latents that are read; 0: all, as desc says */
    const char *ignored; /* names that begin so are of no use; NULL: none do */
} saei_draft;

static sae_result saei_load_fail(const saei_load *load, sae_result result, const char *format, ...)
    SAEI_PRINTF(3, 4);
static sae_result saei_load_fail(const saei_load *load, sae_result result, const char *format,
                                 ...) {
    char text[800];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return saei_fail(load->ctx, result, "%s: %s: %s", load->who, load->path, text);
}

static sae_result saei_load_no_memory(const saei_load *load) {
    return saei_load_fail(load, SAE_ERR_OUT_OF_MEMORY, "no memory for its name");
}

static const saei_layout *saei_layout_of(sae_arch arch) {
    for (size_t i = 0; i < SAEI_NUM_LAYOUTS; i++)
        if (saei_layouts[i].arch == arch) return &saei_layouts[i];
    return NULL;
}

static bool saei_is_top_k_class(sae_arch arch) {
    return arch == SAE_ARCH_TOP_K || arch == SAE_ARCH_BATCH_TOP_K;
}

/* The class by the reference's name, of today or of 2024; DEFAULT if it is none. */
static sae_arch saei_arch_from_name(const char *name) {
    static const struct {
        const char *name;
        sae_arch arch;
    } names[] = {
#define SAE_X(arch, value, text) { text, arch },
        SAE_ARCHS(SAE_X)
#undef SAE_X
        { "MatroyshkaBatchTopKSAE", SAE_ARCH_MATRYOSHKA }
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i].name) == 0) return names[i].arch;
    return SAE_ARCH_DEFAULT;
}

static const struct {
    const char *name;
    sae_format format;
} saei_format_names[] = {
#define SAE_X(format, value, text) { text, format },
    SAE_FORMATS(SAE_X)
#undef SAE_X
};
enum { SAEI_NUM_FORMATS = sizeof saei_format_names / sizeof saei_format_names[0] };

SAE_API const char *sae_format_name(sae_format format) {
    for (size_t i = 0; i < SAEI_NUM_FORMATS; i++)
        if (saei_format_names[i].format == format) return saei_format_names[i].name;
    return "none";
}

SAE_API bool sae_format_from_name(const char *name, sae_format *out) {
    if (!name || !out) return false;
    for (size_t i = 0; i < SAEI_NUM_FORMATS; i++) {
        if (strcmp(name, saei_format_names[i].name) != 0) continue;
        *out = saei_format_names[i].format;
        return true;
    }
    return false;
}

/* The whole of text is a finite number, in JSON's notation or beginning with the point. */
static bool saei_text_number(const char *text, size_t size, double *out) {
    char zero[64];
    int64_t integer;
    bool is_integer;
    size_t used;
    if (size && size < sizeof zero - 1 && text[0] == '.') {
        zero[0] = '0';
        memcpy(zero + 1, text, size++);
        text = zero;
    }
    used = saei_parse_number(text, size, out, &integer, &is_integer);
    return size && used == size && fabs(*out) <= DBL_MAX;
}

/* ---- the config file beside a dictionary ---- */

/* The path of config file `name` beside load->file, in fresh memory; with up: beside its folder.
   "*_cfg.json" is named after the file: a.pt has a_cfg.json. */
static char *saei_config_path(const saei_load *load, const char *name, bool up) {
    size_t folder = saei_folder_length(load->file, strlen(load->file)), stem = folder, size;
    const char *dot = strrchr(load->file + folder, '.');
    char *path;
    if (*name == '*') {
        stem += dot ? (size_t)(dot - (load->file + folder)) : strlen(load->file + folder);
        name++;
    }
    if (up && folder) stem = saei_folder_length(load->file, folder - 1);
    size = stem + strlen(name) + 1;
    path = (char *)saei_alloc(load->ctx, size, 1);
    if (path) snprintf(path, size, "%.*s%s", (int)stem, load->file, name);
    return path;
}

static void saei_config_close(saei_load *load) {
    saei_free(load->ctx, load->config_path);
    sae_json_close(load->root);
    saei_map_close(load->ctx, &load->yaml);
    load->root = NULL;
    load->config_name = NULL;
    load->config_path = NULL;
}

/* The config file at load->config_path, or sae_load_desc.config, which is YAML where it begins as
   no JSON does. */
static sae_result saei_config_open(saei_load *load, bool yaml, bool there) {
    const char *text = (const char *)load->desc.config;
    bool begins = text && load->desc.config_size
                  && (*text == '#' || (*text >= 'A' && *text <= 'Z')
                      || (*text >= 'a' && *text <= 'z'));
    if (text && yaml != begins) return SAE_OK; /* it is another format's */
    if (text && yaml) {
        load->yaml.data = (const unsigned char *)text;
        load->yaml.size = load->desc.config_size;
        return SAE_OK;
    }
    if (text)
        return saei_json_parse(load->ctx, load->who, load->config_path,
                               text, load->desc.config_size,
                               &load->root);
    if (!there) return SAE_OK;
    if (yaml)
        return saei_map_open(load->ctx, load->who, load->config_path, &load->yaml);
    return saei_json_load(load->ctx, load->who, load->config_path, &load->root);
}

/* sae_load_desc.config, else the file `name` beside load->file, or one folder up if that folder is
   `checkpoints`, into root, or yaml by its ending. There need not be one. */
static sae_result saei_load_config(saei_load *load, const char *name) {
    const size_t folder = saei_folder_length(load->file, strlen(load->file));
    const size_t parent = folder ? saei_folder_length(load->file, folder - 1) : 0;
    bool inside = folder - parent == 12 && strncmp(load->file + parent, "checkpoints", 11) == 0;
    saei_path_kind kind = SAEI_PATH_NONE;
    if (load->config_name && strcmp(load->config_name, name) == 0) return SAE_OK;
    saei_config_close(load);
    for (int up = 0; up < 1 + inside && kind != SAEI_PATH_FILE; up++) {
        saei_free(load->ctx, load->config_path);
        load->config_path = saei_config_path(load, name, up != 0);
        if (!load->config_path) return saei_load_no_memory(load);
        if (!load->data)
            SAEI_TRY(saei_path_find(load->ctx, load->who, load->config_path, &kind));
    }
    load->config_name = name;
    SAEI_TRY(saei_config_open(load, saei_ends_with(name, ".yaml"), kind == SAEI_PATH_FILE));
    if (!load->root || load->root->type == SAE_JSON_OBJECT) return SAE_OK;
    return saei_load_fail(load, SAE_ERR_FORMAT, "%s is not a JSON object", name);
}

/* The value of a key; NULL where it is absent or null. */
static const sae_json *saei_config_value(const sae_json *object, const char *key) {
    const sae_json *v = sae_json_get(object, key);
    return v && v->type != SAE_JSON_NULL ? v : NULL;
}

static const char *saei_config_text(const sae_json *object, const char *key) {
    return sae_json_text(sae_json_get(object, key));
}

static sae_result saei_config_refused(const saei_load *load, const char *key, const sae_json *v,
                                      const char *allowed) {
    static const char *const kinds[] = { "nothing", "null",   "a bool", "a number",
                                         "a text",  "a list", "an object" };
    char quoted[SAEI_QUOTE];
    const char *given = v->string ? saei_quote(v->string, quoted) : kinds[v->type];
    if (v->type == SAE_JSON_BOOL) given = v->number != 0 ? "true" : "false";
    return saei_load_fail(load, SAE_ERR_FORMAT, "%s in %s is %s, allowed is %s", key,
                          load->config_name, given, allowed);
}

/* A whole number of load->config; *out stays where it is absent or null. */
static sae_result saei_config_size(const saei_load *load, const char *key, size_t *out) {
    const sae_json *v = saei_config_value(load->config, key);
    if (!v) return SAE_OK;
    if (v->type != SAE_JSON_NUMBER || !v->is_integer || v->number < 0 || v->number > INT32_MAX)
        return saei_config_refused(load, key, v, "a whole number");
    *out = (size_t)v->number;
    return SAE_OK;
}

static sae_result saei_config_bool(const saei_load *load, const char *key, bool *out) {
    const sae_json *v = saei_config_value(load->config, key);
    if (!v) return SAE_OK;
    if (v->type != SAE_JSON_BOOL) return saei_config_refused(load, key, v, "true or false");
    *out = v->number != 0;
    return SAE_OK;
}

/* Text cut to fit, at a whole character; NULL is "". */
static void saei_origin_text(char *out, size_t size, const char *text) {
    size_t n = 0;
    if (text) n = strlen(text);
    if (n >= size)
        for (n = size - 1; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80; n--) {}
    if (n) memcpy(out, text, n);
    out[n] = 0;
}
