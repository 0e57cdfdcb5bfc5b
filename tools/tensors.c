/* sae: tensors. */
#include "tool.h"

void put_shape(FILE *out, const sae_tensor *t) {
    size_t i;
    fprintf(out, "[");
    for (i = 0; i < t->ndim; i++) fprintf(out, "%s%.0f", i ? ", " : "", (double)t->shape[i]);
    fprintf(out, "]");
}

void list_tensors(const sae_tensor_file *file, bool json) {
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
            printf("%-32s %-7s ", t->name[0] ? t->name : "(array)", sae_dtype_name(t->dtype));
            put_shape(stdout, t);
            printf("\n");
        }
    }
    if (json) printf("\n]\n");
}

/* Extracted as float32; the others as int64. */
static bool is_float(const sae_tensor *t) {
    return t->dtype == SAE_F32 || t->dtype == SAE_F16 || t->dtype == SAE_BF16 || t->dtype == SAE_F64
           || sae_dtype_block(t->dtype) > 1;
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

/* Tensor t as FOLDER/NAME. */
static int extract_one(sae_tensor t, const char *folder, const char *name) {
    size_t count = 1, d;
    sae_result result;
    void *data;
    for (d = 0; d < t.ndim; d++) count *= (size_t)t.shape[d];
    data = calloc(count ? count : 1, 8);
    if (!data) return fail("no memory for %zu numbers", count);
    if (is_float(&t)) sae_tensor_to_f32(&t, (float *)data);
    else to_i64(&t, count, (int64_t *)data);
    t.dtype = is_float(&t) ? SAE_F32 : SAE_I64;
    t.data = data;
    t.name = "";
    result = sae_tensor_file_write(tool.ctx, joined(folder, name), &t, 1);
    free(data);
    return result == SAE_OK ? DONE : fail_library();
}

/* names.json comes last: where it is, everything it names is there. */
static int extract(const sae_tensor_file *file, const char *folder) {
    char *names = joined(folder, "names.json"), *temporary = with_ending(names, ".tmp");
    int status = DONE;
    bool good;
    FILE *out;
    size_t i;
    if (!make_folders(folder)) return fail("%s: no such folder, and it cannot be made", folder);
    out = fopen(temporary, "wb");
    if (!out) return fail("%s: cannot be written", names);
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
    if (status == DONE && (!good || !replace_file(temporary, names)))
        status = fail("%s: writing failed", names);
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
        return fail("%s: as Gemma Scope it must hold W_enc [d,m] and W_dec [m,d]", path);
    for (i = 0; i < 3; i++) {
        const sae_tensor *t = sae_tensor_file_find(file, vectors[i]);
        uint64_t size = i < 2 ? enc->shape[1] : dec->shape[1];
        if (!t) return fail("%s: as Gemma Scope it lacks %s", path, vectors[i]);
        if (t->ndim != 1 || t->shape[0] != size)
            return fail("%s: %s must be [%.0f]", path, vectors[i], (double)size);
    }
    return DONE;
}

int verb_tensors(int argc, char **argv) {
    common c;
    sae_tensor_file *file = NULL;
    const char *path;
    bool any = false;
    int status;
    size_t i;
    memset(&c, 0, sizeof c);
    const option options[] = { { "json", FLAG, &c.json }, { "out", TEXT, &c.out },
                               { "any", FLAG, &any }, { "quiet", FLAG, &tool.quiet } };
    status = parse_options(argc, argv, options, 4, &c.words, NULL);
    if (status == DONE && c.words.count != 1) status = fail_usage("one file or folder is needed");
    if (status == DONE) status = start_program(&c);
    if (status != DONE) return status;
    path = weights_file(c.words.items[0]);
    if (sae_tensor_file_open(tool.ctx, path, &file) != SAE_OK) return fail_library();
    if (!any && (ends_with(path, "/params.npz") || strcmp(path, "params.npz") == 0))
        status = check_params(file, path);
    for (i = 0; c.out && i < sae_tensor_file_count(file) && status == DONE; i++) {
        char name[32];
        snprintf(name, sizeof name, "%03zu.npy", i);
        status = keep_apart("a file of --out", joined(c.out, name), &c);
    }
    for (i = 0; c.out && i < sae_tensor_file_count(file) && status == DONE; i++)
        if (sae_tensor_file_check(file, sae_tensor_file_get(file, i)) != SAE_OK)
            status = fail_library();
    if (status == DONE && c.out) status = extract(file, c.out);
    if (status == DONE && c.out && !c.json && !tool.quiet)
        printf("%s: %zu tensors, named in names.json\n", c.out, sae_tensor_file_count(file));
    if (status == DONE && (!c.out || c.json)) list_tensors(file, c.json);
    sae_tensor_file_close(file);
    return status;
}
