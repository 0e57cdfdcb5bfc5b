/* sae: dictionaries over the layers of a model (sae_clt): info, encode, reconstruct, eval. */
#include "tool.h"

static const char *kind_name(const sae_clt_desc *h) {
    sae_clt_kind kind = h->kind;
    if (kind == SAE_CLT_SET && h->layers == 1) return "transcoder";
    return kind == SAE_CLT_CROSS_LAYER ? "clt" : kind == SAE_CLT_CROSSCODER ? "crosscoder"
                                                                            : "transcoder_set";
}

static const char *kind_words(sae_clt_kind kind) {
    return kind == SAE_CLT_CROSS_LAYER  ? "cross-layer transcoder"
           : kind == SAE_CLT_CROSSCODER ? "crosscoder"
                                        : "set of transcoders";
}

bool is_layers(const common *c) {
    return c->words.count == 1 && sae_clt_recognize(tool.ctx, c->words.items[0]);
}

int open_layers(const common *c, sae_clt **clt) {
    const char *path = c->words.items[0];
    sae_load_desc desc;
    const sae_clt_desc *h;
    size_t k;
    int status = fill_load(c, &desc);
    if (status != DONE) return status;
    if (c->use_top_k && c->use_threshold)
        return fail_usage("--use-top-k or --use-threshold, not both");
    if (c->dict_class || c->raw || c->input_scale)
        return fail("%s is a dictionary over layers: --dict-class, --raw and --input-scale are for "
                    "those of one", path);
    if (sae_clt_open(tool.ctx, &desc, path, clt) != SAE_OK) return fail_library();
    h = sae_clt_get_desc(*clt);
    k = sae_clt_origin(*clt)->k;
    if (c->k && k && k != c->k)
        status = fail("%s has k %zu, --k says %.0f", path, k, (double)c->k);
    else if (c->use_threshold && h->arch != SAE_ARCH_JUMP_RELU)
        status = fail("%s has no threshold: --use-threshold is not for it", path);
    else if (c->use_top_k && h->arch != SAE_ARCH_TOP_K && h->arch != SAE_ARCH_BATCH_TOP_K)
        status = fail("%s has no k: --use-top-k is not for it", path);
    if (status != DONE) {
        sae_clt_close(*clt);
        *clt = NULL;
    }
    return status;
}

/* ---- info ---- */

/* Rules in words. */
static const char *choice_words(const sae_clt_desc *h, char out[120]) {
    const char *of = h->over_layers ? "of all layers together" : "of each layer";
    if (h->arch == SAE_ARCH_STANDARD_NEW) return "relu";
    if (h->arch == SAE_ARCH_JUMP_RELU)
        snprintf(out, 120, "threshold of each latent%s", h->activation ? ", no relu" : "");
    else
        snprintf(out, 120, "%sk %zu %s%s", h->arch == SAE_ARCH_BATCH_TOP_K ? "batch top-" : "top-",
                 h->k, of, h->activation == SAE_ACTIVATION_SIGNED      ? ", no relu"
                           : h->activation == SAE_ACTIVATION_GROUP_MAX ? ", one of each group"
                                                                       : "");
    return out;
}

/* Mean norm of up to 64 decoder rows of a source to a target; 0: it does not write there. */
static double decoder_norm(const sae_clt *clt, size_t source, size_t target, float *row) {
    const sae_clt_desc *h = sae_clt_get_desc(clt);
    size_t most = h->dict_size < 64 ? h->dict_size : 64, i, c;
    double sum = 0;
    for (i = 0; i < most; i++) {
        double square = 0;
        sae_clt_decoder_row(clt, source, i * (h->dict_size / most), target, row);
        for (c = 0; c < h->activation_dim; c++) square += (double)row[c] * (double)row[c];
        sum += sqrt(square) / (double)most;
    }
    return sum;
}

static void json_origin(const char *name, const char *text) {
    if (!text[0]) return;
    printf(", \"%s\": ", name);
    put_json_string(stdout, text);
}

static void json_layers(const sae_clt *clt) {
    const sae_clt_desc *h = sae_clt_get_desc(clt);
    const sae_origin *o = sae_clt_origin(clt);
    char text[120];
    printf("{\"format\": \"%s\", \"kind\": \"%s\", \"layers\": %zu, \"activation_dim\": %zu, "
           "\"dict_size\": %zu", sae_format_name(o->format), kind_name(h), h->layers,
           h->activation_dim, h->dict_size);
    json_origin("class", o->class_name);
    json_origin("activation", choice_words(h, text));
    if (h->k) printf(", \"k\": %zu", h->k);
    if (h->gate) printf(", \"gate\": \"decoder norms\"");
    if (o->dtype) json_origin("dtype", sae_dtype_name(o->dtype));
    json_origin("model", o->model);
    json_origin("hook", o->hook);
    json_origin("hook_out", o->hook_out);
    printf("}\n");
}

static void text_line(const char *name, const char *text) {
    if (text[0]) printf("%-18s %s\n", name, text);
}

/* A line for each source: to which layers it writes, and with what norms. */
static void table_layers(const sae_clt *clt) {
    const sae_clt_desc *h = sae_clt_get_desc(clt);
    float *row = (float *)keep_alloc(h->activation_dim, sizeof *row);
    size_t source, target, shown = h->layers < 8 ? h->layers : 8;
    if (h->kind == SAE_CLT_SET) printf("%-8s %s\n", "layer", "mean decoder norm");
    else {
        printf("%-8s mean decoder norm to layer\n%-8s", "layer", "");
        for (target = 0; target < shown; target++) printf(" %8zu", target);
        printf("%s\n", shown < h->layers ? " ..." : "");
    }
    for (source = 0; source < h->layers; source++) {
        printf("%-8zu", source);
        for (target = 0; target < h->layers; target++) {
            double norm;
            if (h->kind == SAE_CLT_SET ? target != source : target >= shown) continue;
            norm = decoder_norm(clt, source, target, row);
            if (norm > 0) printf(" %8.4g", norm);
            else printf(" %8s", "-");
        }
        printf("\n");
    }
}

int info_layers(const common *c) {
    sae_clt *clt = NULL;
    const sae_clt_desc *h;
    const sae_origin *o;
    char text[120];
    int status = open_layers(c, &clt);
    if (status != DONE) return status;
    h = sae_clt_get_desc(clt);
    o = sae_clt_origin(clt);
    if (c->json) json_layers(clt);
    else {
        text_line("format", sae_format_name(o->format));
        if (h->kind == SAE_CLT_SET && h->layers == 1) text_line("kind", "transcoder");
        else printf("%-18s %s of %zu layers\n", "kind", kind_words(h->kind), h->layers);
        text_line("called there", o->class_name);
        printf("%-18s %zu in each layer\n%-18s %zu in each layer\n", "activation_dim",
               h->activation_dim, "dict_size", h->dict_size);
        printf("%-18s %s%s\n", "latents", choice_words(h, text),
               h->gate ? ", chosen times decoder norms" : "");
        if (o->dtype) text_line("dtype in the file", sae_dtype_name(o->dtype));
        text_line("model", o->model);
        text_line("hook", o->hook);
        text_line("hook out", o->hook_out);
        table_layers(clt);
    }
    sae_clt_close(clt);
    return DONE;
}

/* ---- eval ---- */

/* Sums over the rows of one layer: of y, of y^2, of e, of e^2. */
typedef struct layer_sums {
    double *y, *e; /* [d] */
    double yy, ee;
    uint64_t active;
} layer_sums;

static double explained(const layer_sums *s, size_t d, double n) {
    double total = s->yy, left = s->ee;
    size_t c;
    for (c = 0; c < d; c++) {
        total -= s->y[c] * s->y[c] / n;
        left -= s->e[c] * s->e[c] / n;
    }
    return 1 - left / total;
}

static void add_rows(const sae_clt_desc *h, layer_sums *sums, const float *y, const float *x_hat,
                     const float *f, size_t n, double *l2, uint64_t *fired) {
    size_t d = h->activation_dim, m = h->dict_size, r, l, c;
    for (r = 0; r < n; r++) {
        double norm = 0;
        for (l = 0; l < h->layers; l++) {
            layer_sums *s = &sums[l];
            size_t at = (r * h->layers + l) * d, code = (r * h->layers + l) * m;
            double ee = 0;
            for (c = 0; c < d; c++) {
                double v = (double)y[at + c], e = v - (double)x_hat[at + c];
                s->y[c] += v;
                s->yy += v * v;
                s->e[c] += e;
                ee += e * e;
            }
            s->ee += ee;
            norm += ee;
            for (c = 0; c < m; c++)
                if (f[code + c] != 0) {
                    s->active++;
                    fired[l * m + c]++;
                }
        }
        *l2 += sqrt(norm);
    }
}

static void print_layers(const sae_clt_desc *h, const layer_sums *sums, double l2,
                         const uint64_t *fired, uint64_t rows, bool json) {
    size_t d = h->activation_dim, codes = h->layers * h->dict_size, l, c, alive = 0;
    double n = (double)rows, left = 0, total = 0, l0 = 0;
    for (l = 0; l < h->layers; l++) {
        double variance = sums[l].yy;
        for (c = 0; c < d; c++) variance -= sums[l].y[c] * sums[l].y[c] / n;
        total += variance;
        left += (1 - explained(&sums[l], d, n)) * variance;
        l0 += (double)sums[l].active / n;
    }
    for (c = 0; c < codes; c++) alive += fired[c] != 0;
    if (json) {
        printf("{\"l2_loss\": %.9g, \"l0\": %.9g, \"frac_variance_explained\": %.9g, "
               "\"frac_alive\": %.9g, \"n_rows\": %.0f", l2 / n, l0, 1 - left / total,
               (double)alive / (double)codes, n);
        for (l = 0; l < h->layers; l++)
            printf(", \"cl%zu_frac_variance_explained\": %.9g, \"cl%zu_l0\": %.9g", l,
                   explained(&sums[l], d, n), l, (double)sums[l].active / n);
        printf("}\n");
        return;
    }
    printf("%-30s %.6g\n%-30s %.6g\n%-30s %.6g\n%-30s %.6g\n%-30s %.0f\n", "l2_loss", l2 / n, "l0",
           l0, "frac_variance_explained", 1 - left / total, "frac_alive",
           (double)alive / (double)codes, "n_rows", n);
    printf("%-8s %24s %12s\n", "layer", "frac_variance_explained", "l0");
    for (l = 0; l < h->layers; l++)
        printf("%-8zu %24.6g %12.6g\n", l, explained(&sums[l], d, n), (double)sums[l].active / n);
}

/* By what the layers' outputs are: --target, or for a crosscoder the rows themselves. */
int evaluate_layers(const common *c, const subject *s, reader *rows) {
    const sae_clt_desc *h = sae_clt_get_desc(s->clt);
    size_t block = subject_block(c, s, 4 * (s->codes + 3 * s->in)), n, same, l;
    float *x, *y, *x_hat, *f;
    layer_sums *sums = (layer_sums *)keep_alloc(h->layers, sizeof *sums);
    uint64_t *fired = (uint64_t *)keep_alloc(s->codes, sizeof *fired);
    reader target;
    double l2 = 0;
    int status = DONE;
    memset(&target, 0, sizeof target);
    if (c->model || c->text.count)
        return fail("%s is a dictionary over layers, which eval --model does not put into one",
                    c->words.items[0]);
    if (!c->target.count && h->kind != SAE_CLT_CROSSCODER)
        return fail_usage("--target is missing: %s gives other rows than it takes",
                          c->words.items[0]);
    if (rows->rows == 0) return fail("%s has no rows", c->data.items[0]);
    if (block > rows->rows) block = (size_t)rows->rows;
    x = (float *)keep_alloc(block * s->in, sizeof *x);
    y = c->target.count ? (float *)keep_alloc(block * s->out, sizeof *y) : x;
    x_hat = (float *)keep_alloc(block * s->out, sizeof *x_hat);
    f = (float *)keep_alloc(block * s->codes, sizeof *f);
    for (l = 0; l < h->layers; l++) {
        sums[l].y = (double *)keep_alloc(2 * h->activation_dim, sizeof *sums[l].y);
        sums[l].e = sums[l].y + h->activation_dim;
    }
    target.want = s->out;
    if (c->target.count) status = reader_create(&target, &c->target, c);
    if (status == DONE && c->target.count
        && (target.rows != rows->rows || target.width != s->out))
        status = fail("%s has %.0f rows of %zu, needed are %.0f of %zu", c->target.items[0],
                      (double)target.rows, target.width, (double)rows->rows, s->out);
    while (status == DONE) {
        status = reader_next(rows, x, block, &n);
        if (status != DONE || n == 0) break;
        if (y != x) status = reader_next(&target, y, block, &same);
        if (status == DONE && sae_clt_forward(s->clt, x, n, x_hat, f) != SAE_OK)
            status = fail_library();
        if (status == DONE) add_rows(h, sums, y, x_hat, f, n, &l2, fired);
    }
    reader_close(&target);
    if (status == DONE) print_layers(h, sums, l2, fired, rows->rows, c->json);
    return status;
}
