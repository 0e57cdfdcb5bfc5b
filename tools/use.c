/* sae: eval, encode, reconstruct, steer-export. */
#include "tool.h"

static void print_metric(const char *name, double value, bool json) {
    if (json && !isfinite(value)) printf("\"%s\": null, ", name);
    else if (json) printf("\"%s\": %.9g, ", name, value);
    else if (value != value) printf("%-30s nan\n", name);
    else printf("%-30s %.6g\n", name, value);
}

/* layers: of sae_evaluate_desc, of `count` layers; NULL: there are none. */
static void print_metrics(const sae_metrics *m, const double *layers, size_t count,
                          uint64_t n_rows, bool json) {
    char name[64];
    size_t l;
    if (json) printf("{");
#define SAE_X(name) print_metric(#name, m->name, json);
    SAE_METRICS(SAE_X)
#undef SAE_X
    if (layers) print_metric("mse_loss", layers[0], json);
    for (l = 0; layers && l < count; l++) {
        snprintf(name, sizeof name, "cl%zu_frac_variance_explained", l);
        print_metric(name, layers[1 + l], json);
    }
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
    size_t layers = sae_dictionary_get_desc(dict)->layers;
    int status;
    memset(&desc, 0, sizeof desc);
    memset(&rows, 0, sizeof rows);
    status = open_rows(c, dict, &rows);
    if (!rows.odd) reader_close(&rows);
    if (status == DONE) status = fill_source(c, &desc.buffer.source);
    if (status == DONE && rows.odd && c->target.count)
        status = fail("--target goes with --data [rows,dim], not with %s", c->data.items[0]);
    if (status == DONE && rows.odd) reader_source(&rows, &desc.buffer.source);
    if (status == DONE && rows.rows == 0) status = fail("%s has no rows", c->data.items[0]);
    if (status != DONE) {
        reader_close(&rows);
        return status;
    }
    batch = c->batch ? c->batch : 2048;
    if (batch > rows.rows) batch = rows.rows;
    if (!c->target.count && was_transcoder(c->words.items[0]))
        warning("%s was trained on another --target than its input: this judges it by its input",
                c->words.items[0]);
    desc.buffer.batch_size = (size_t)batch;
    desc.buffer.sequential = true;
    desc.batches = c->batches ? c->batches : rows.rows / batch;
    desc.layers = (double *)keep_alloc(layers + 1, sizeof *desc.layers);
    desc.layers[0] = -1; /* untouched: no CrossCoder */
    if (sae_evaluate(dict, &desc, &metrics) != SAE_OK) status = fail_library();
    reader_close(&rows);
    if (status != DONE) return status;
    print_metrics(&metrics, desc.layers[0] < 0 ? NULL : desc.layers, layers, desc.batches * batch,
                  c->json);
    if (!c->batches && rows.rows % batch && !tool.quiet)
        fail("judged %.0f of %.0f rows: whole batches of %.0f; --batch N",
             (double)(desc.batches * batch), (double)rows.rows, (double)batch);
    return DONE;
}

static void print_l0(const common *c, const reader *rows, uint64_t active) {
    if (!tool.quiet)
        printf("%s: %.0f rows, L0 %.1f\n", c->out, (double)rows->rows,
               (double)active / (double)(rows->rows ? rows->rows : 1));
}

/* A block of rows of --data after the other, encoded; dense latents or reconstruction to out. */
static int write_dense(const common *c, const subject *s, reader *rows, bool latents) {
    size_t width = latents ? s->codes : s->out, n, i;
    uint64_t active = 0;
    size_t block = subject_block(c, s, 4 * (latents ? width : width + s->in));
    float *x, *y;
    npy_writer out;
    int status;
    if (block > rows->rows) block = rows->rows ? (size_t)rows->rows : 1;
    x = (float *)keep_alloc(block * s->in, sizeof *x);
    y = (float *)keep_alloc(block * width, sizeof *y);
    memset(&out, 0, sizeof out);
    status = npy_create(&out, c->out, ".tmp", "<f4", width);
    while (status == DONE) {
        sae_result result;
        status = reader_next(rows, x, block, &n);
        if (status != DONE || n == 0) break;
        if (s->clt)
            result = latents ? sae_clt_encode(s->clt, x, n, y)
                             : sae_clt_forward(s->clt, x, n, y, NULL);
        else
            result = latents ? sae_encode(s->dict, x, n, y)
                             : sae_forward(s->dict, x, n, y, NULL);
        for (i = 0; latents && i < n * width; i++) active += y[i] != 0;
        if (latents && c->raw) sae_output_features(s->dict, n, y); /* as the reference gives them */
        status = result == SAE_OK ? npy_put(&out, y, sizeof *y, n) : fail_library();
    }
    if (status == DONE) status = npy_finish(&out, false);
    npy_abandon(&out);
    if (status == DONE && latents) print_l0(c, rows, active);
    if (status == DONE && !latents && !tool.quiet)
        printf("%s: %.0f rows of %zu\n", c->out, (double)rows->rows, width);
    return status;
}

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
            && sae_tensor_file_open(tool.ctx, parts[i].temporary, &files[i]) != SAE_OK)
            status = fail_library();
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
        if (sae_tensor_file_write(tool.ctx, c->out, tensors, 4) != SAE_OK) status = fail_library();
    }
    for (i = 0; i < 3; i++) {
        sae_tensor_file_close(files[i]);
        remove(parts[i].temporary);
    }
    return status;
}

static int write_sparse(const common *c, const subject *s, reader *rows) {
    static const char *const endings[] = { ".row.npy", ".index.npy", ".value.npy" };
    static const char *const descrs[] = { "<i8", "<i4", "<f4" };
    static const size_t sizes[] = { 8, 4, 4 };
    size_t m = s->codes, block = subject_block(c, s, 8 * m), n, r, i;
    sae_sparse code;
    npy_writer parts[3];
    const void *lists[3];
    int64_t *row;
    float *x;
    uint64_t first = 0, active = 0;
    int status = DONE;
    if (!c->delphi && !ends_with(c->out, ".npz"))
        return fail_usage("--out of sparse latents ends in .npz (or add --dense, or --delphi)");
    if (c->delphi && s->clt)
        return fail("%s is a dictionary over layers, delphi's cache is of one", c->words.items[0]);
    if (block > rows->rows) block = rows->rows ? (size_t)rows->rows : 1;
    x = (float *)keep_alloc(block * s->in, sizeof *x);
    row = (int64_t *)keep_alloc(block * m, sizeof *row);
    code.row_begin = (size_t *)keep_alloc(block + 1, sizeof *code.row_begin);
    code.latent = (uint32_t *)keep_alloc(block * m, sizeof *code.latent);
    code.value = (float *)keep_alloc(block * m, sizeof *code.value);
    code.capacity = block * m;
    memset(parts, 0, sizeof parts);
    for (i = 0; i < 3 && status == DONE; i++)
        status = npy_create(&parts[i], c->out, endings[i], descrs[i], 0);
    while (status == DONE) {
        status = reader_next(rows, x, block, &n);
        if (status != DONE || n == 0) break;
        if ((s->clt ? sae_clt_encode_sparse(s->clt, x, n, &code)
                    : sae_encode_sparse(s->dict, x, n, &code)) != SAE_OK)
            status = fail_library();
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
    if (status == DONE) status = pack_sparse(c, s->dict, parts, first, m);
    for (i = 0; i < 3; i++) npy_abandon(&parts[i]);
    if (status == DONE) print_l0(c, rows, active);
    return status;
}

int verb_use(int argc, char **argv) {
    common c;
    subject s;
    reader rows;
    int status;
    memset(&c, 0, sizeof c);
    memset(&s, 0, sizeof s);
    memset(&rows, 0, sizeof rows);
    c.head = NO_HEAD;
    const option options[] = {
        { "data", LIST, &c.data }, { "out", TEXT, &c.out }, { "target", LIST, &c.target },
        { "batch", SIZE, &c.batch }, { "batches", SIZE, &c.batches }, { "json", FLAG, &c.json },
        { "dense", FLAG, &c.dense }, { "raw", FLAG, &c.raw }, { "use-top-k", FLAG, &c.use_top_k },
        { "use-threshold", FLAG, &c.use_threshold }, { "dict-class", TEXT, &c.dict_class },
        { "k", SIZE, &c.k }, { "dim", SIZE, &c.dim }, { "dtype", TEXT, &c.dtype },
        { "tensor", TEXT, &c.tensor }, { "threads", COUNT, &c.threads },
        { "device", TEXT, &c.device }, { "quiet", FLAG, &tool.quiet },
        { "delphi", FLAG, &c.delphi }, { "module", TEXT, &c.module }, { "ctx", COUNT, &c.ctx },
        { "splits", COUNT, &c.splits }, { "tokens", TEXT, &c.tokens },
        { "model", TEXT, &c.model }, { "text", LIST, &c.text },
        { "submodule", ONCE, &c.submodule }, { "io", TEXT, &c.io }, { "head", COUNT, &c.head },
        { "remove-bos", FLAG, &c.remove_bos }, { "bos", FLAG, &c.bos },
        { "no-bos", FLAG, &c.no_bos }, { "input-scale", TEXT, &c.input_scale },
        { "data-layer", ONCE, &c.data_layer }
    };
    const bool judge = strcmp(tool.verb, "eval") == 0;
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE && c.words.count > 1)
        status = fail_usage("%s belongs to no option", c.words.items[1]);
    if (status == DONE && !judge && !c.out) status = fail_usage("--out is missing");
    if (status == DONE && c.out && !c.delphi) status = need_folder("out", c.out);
    if (status == DONE && c.out) status = keep_apart("--out", c.out, &c);
    if (status == DONE) status = start_program(&c);
    if (status == DONE) status = open_subject(&c, judge, &s);
    if (status == DONE && judge && s.dict) {
        status = c.model || c.text.count ? evaluate_in_model(&c, s.dict) : evaluate(&c, s.dict);
    } else if (status == DONE) {
        status = s.dict ? open_rows(&c, s.dict, &rows) : open_rows_of(&c, s.in, &rows);
        if (status == DONE && judge) status = evaluate_layers(&c, &s, &rows);
        else if (status == DONE && strcmp(tool.verb, "encode") == 0 && !c.dense)
            status = write_sparse(&c, &s, &rows);
        else if (status == DONE)
            status = write_dense(&c, &s, &rows, strcmp(tool.verb, "encode") == 0);
        if (status == DONE) reader_warn_bad(&rows);
        reader_close(&rows);
    }
    close_subject(&s);
    return status;
}

int verb_steer_export(int argc, char **argv) {
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
        { "dict-class", TEXT, &c.dict_class }, { "k", COUNT, &c.k }, { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status != DONE) return status;
    if (c.words.count > 1) return fail_usage("%s belongs to no option", c.words.items[1]);
    if (feature == UINT64_MAX) return fail_usage("--feature is missing");
    if (layer == UINT64_MAX) return fail_usage("--layer is missing");
    if (!c.out) return fail_usage("--out is missing");
    if (feature > UINT32_MAX)
        return fail_usage("--feature is %.0f, larger than any dictionary", (double)feature);
    steering.latent = (uint32_t)feature;
    if (strength) {
        steering.value = strtof(strength, &end);
        if (end == strength || *end || !isfinite(steering.value))
            return fail_usage("--strength is %s, allowed is a number", strength);
    }
    status = need_folder("out", c.out);
    if (status == DONE) status = keep_apart("--out", c.out, &c);
    if (status == DONE) status = start_program(&c);
    if (c.words.count && is_large(c.words.items[0])) { /* its one row will do */
        c.first_latent = (size_t)feature;
        c.num_latents = 1;
    }
    if (status == DONE) status = load_dictionary(&c, false, &dict);
    if (status == DONE) steering.latent -= (uint32_t)sae_dictionary_origin(dict)->first_latent;
    if (status == DONE
        && sae_steer_export(dict, &steering, 1, (size_t)layer, hint, c.out) != SAE_OK)
        status = fail_library();
    if (status == DONE && !tool.quiet)
        printf("%s: %g times latent %.0f, layer %.0f\n", c.out, (double)steering.value,
               (double)feature, (double)layer);
    sae_dictionary_destroy(dict);
    return status;
}
