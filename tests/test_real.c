/*  Proves: all trainers learn from activations of a real transformer: read from a float16 file,
    shuffled, trained by sae_train, saved, loaded, judged on rows they have not seen; a transcoder from
    one real stream to another; activations whose mean is large and whose variance lies in few
    directions give finite numbers everywhere.
    Oracle: bounds around the figures measured when this was written (0.05 below in variance explained,
    a third around in L0: how far other seeds and settings of a right trainer lie apart); variance
    explained and L0 computed here once more, plainly, in double. Tolerance: 1e-5 between the two.
    Skips itself where ../shared/data is not. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"

enum { D = 384, M = 768, BATCH = 512, STEPS = 48, TRAIN = BATCH * STEPS, TEST = 2048 };
static sae_context *ctx;
static float *all; /* [TRAIN + TEST][D] */

static sae_trainer_desc settings(sae_trainer_kind kind) {
    sae_trainer_desc s = common_trainer(kind, 0, M, 0, 0);
    s.lr = 2e-3;
    s.warmup_steps = 5;
    if (s.sparsity_warmup_steps) s.sparsity_warmup_steps = 12;
    if (s.k) s.k = 32;
    if (s.k) s.threshold_start_step = 20;
    if (s.l1_penalty) s.l1_penalty = 1;
    if (s.anneal_start) s.anneal_start = 16;
    if (s.initial_sparsity_penalty) s.initial_sparsity_penalty = 1;
    if (kind == SAE_TRAINER_CROSSCODER) s.l1_penalty = 0.03; /* beside a norm, not its square */
    if (kind == SAE_TRAINER_SPARSIFY) s.optimizer = SAE_OPTIMIZER_ADAM, s.lr_warmup_steps = 5;
    if (kind == SAE_TRAINER_JUMP_RELU) s.bandwidth = 0.05, s.target_l0 = 32, s.sparsity_penalty = 20;
    return s;
}

/* f and x_hat of the test rows; variance explained and mean count of f != 0 by the plain formulas. */
static void plain_figures(const sae_dictionary *dict, const float *x, const float *y, double *fve,
                          double *l0) {
    float *f = (float *)malloc((size_t)TEST * M * sizeof *f);
    float *x_hat = (float *)malloc((size_t)TEST * D * sizeof *x_hat);
    double var_e = 0, var_y = 0;
    size_t count = 0;
    CHECK_OK(ctx, sae_forward(dict, x, TEST, x_hat, f), (void)0);
    for (size_t c = 0; c < D; c++) {
        double mean_e = 0, mean_y = 0;
        for (size_t r = 0; r < TEST; r++) {
            mean_y += (double)y[r * D + c] / TEST;
            mean_e += ((double)y[r * D + c] - (double)x_hat[r * D + c]) / TEST;
        }
        for (size_t r = 0; r < TEST; r++) {
            double e = (double)y[r * D + c] - (double)x_hat[r * D + c];
            var_e += (e - mean_e) * (e - mean_e);
            var_y += ((double)y[r * D + c] - mean_y) * ((double)y[r * D + c] - mean_y);
        }
    }
    for (size_t i = 0; i < (size_t)TEST * M; i++) count += f[i] != 0;
    *fve = 1 - var_e / var_y;
    *l0 = (double)count / TEST;
    free(f);
    free(x_hat);
}

static double first_loss, last_loss;
static void on_log(void *user, size_t trainer, const sae_stats *stats) {
    (void)user;
    (void)trainer;
    CHECK(isfinite(stats->loss) && isfinite(stats->l0), "step %d: loss %g", (int)stats->step,
          stats->loss);
    if (stats->step == 8) first_loss = stats->l2_loss;
    last_loss = stats->l2_loss;
}

/* The figures of a saved dictionary on rows x, to be y. */
static void judge(const char *folder, const float *x, const float *y, double least, double l0_least,
                  double l0_most) {
    sae_load_desc load;
    sae_dictionary *dict;
    sae_evaluate_desc e;
    sae_metrics m;
    double fve, l0;
    memset(&load, 0, sizeof load);
    memset(&e, 0, sizeof e);
    CHECK_OK(ctx, sae_dictionary_load(ctx, &load, folder, &dict), return);
    e.buffer.source.data = x, e.buffer.source.rows = TEST, e.buffer.source.dim = D;
    if (y != x) e.buffer.source.target = y;
    e.buffer.batch_size = TEST; /* one batch: the metrics are means over batches */
    e.buffer.sequential = true;
    CHECK_OK(ctx, sae_evaluate(dict, &e, &m), goto end);
    plain_figures(dict, x, y, &fve, &l0);
    CHECK_REL(m.frac_variance_explained, fve, 1e-5, "variance explained");
    CHECK_REL(m.l0, l0, 1e-5, "l0");
    CHECK(fve > least && fve < 1, "variance explained is %.4f, want above %.2f", fve, least);
    CHECK(l0 >= l0_least && l0 <= l0_most, "l0 is %.1f, want %.0f to %.0f", l0, l0_least, l0_most);
    CHECK(m.frac_alive > 0.5, "only %.3f of the latents live", m.frac_alive);
    CHECK(m.cossim > 0.5 && m.l2_ratio > 0.5 && m.l2_ratio < 1.5, "cossim %g, l2_ratio %g", m.cossim,
          m.l2_ratio);
    if (getenv("SAE_VERBOSE"))
        printf("%s: variance explained %.4f, l0 %.1f, alive %.3f\n", check_test, fve, l0,
               m.frac_alive);
end:
    sae_dictionary_destroy(dict);
}

static void trainers(const char *file) {
    static const struct {
        double fve, l0_least, l0_most; /* after 48 steps */
    } bounds[COMMON_KINDS] = {
        { 0.60, 110, 210 }, /* standard 0.653, 159.5 */
        { 0.59, 110, 210 }, /* standard_april 0.645, 157.6 */
        { 0.69, 120, 230 }, /* gated 0.742, 172.5 */
        { 0.70, 120, 230 }, /* gated_anneal 0.755, 178.5 */
        { 0.55, 80, 160 },  /* p_anneal 0.603, 115.8 */
        { 0.59, 32, 32 },   /* top_k 0.643, 32 */
        { 0.60, 25, 36 },   /* batch_top_k 0.650, 30.6 */
        { 0.57, 25, 36 },   /* matryoshka_batch_top_k 0.624, 30.9 */
        { 0.75, 150, 300 }, /* jumprelu 0.801, 226.5 */
        { 0.56, 100, 200 }, /* crosscoder, of two halves of a row, 0.612, 149.9 */
        { 0.50, 26, 53 },   /* batch_top_k_crosscoder 0.552, 39.9 */
        { 0.51, 32, 32 },   /* sparsify 0.565, 32 */
    };
    for (size_t k = 0; k < COMMON_KINDS; k++) {
        sae_trainer_desc s = settings(common_kind(k));
        const char *out = check_path("%s/%s", check_temp(), sae_trainer_name(common_kind(k)));
        sae_train_desc d;
        check_test = sae_trainer_name(common_kind(k));
        memset(&d, 0, sizeof d);
        d.buffer.source.files = &file, d.buffer.source.num_files = 1;
        d.buffer.batch_size = BATCH;
        d.buffer.seed = 1;
        d.trainers = &s, d.num_trainers = 1, d.flat = true;
        d.steps = STEPS;
        d.save_dir = out;
        d.log_steps = 1;
        d.log = on_log;
        CHECK_OK(ctx, sae_train(ctx, &d), continue);
        CHECK(last_loss < 0.9 * first_loss, "l2_loss goes from %g to %g", first_loss, last_loss);
        judge(out, all + (size_t)TRAIN * D, all + (size_t)TRAIN * D, bounds[k].fve,
              bounds[k].l0_least, bounds[k].l0_most);
    }
}

/* From what goes into a layer's MLP to what comes out of it. */
static void transcoder(const char *in, const char *out_file) {
    sae_trainer_desc s = settings(SAE_TRAINER_TOP_K);
    const char *out = check_path("%s/transcoder", check_temp());
    size_t count;
    float *x = check_tensor(ctx, in, NULL, &count, NULL);
    float *y = check_tensor(ctx, out_file, NULL, &count, NULL);
    sae_train_desc d;
    check_test = "transcoder";
    if (!x || !y || count < (size_t)2 * TEST * D) {
        CHECK(false, "%s has %d numbers", in, (int)count);
        return;
    }
    /* b_dec is the output's constant: the input is centred here, not by it */
    s.apply_b_dec_to_input = -1;
    for (size_t c = 0; c < D; c++) {
        double mean = 0;
        for (size_t i = c; i < count; i += D) mean += (double)x[i] / (double)(count / D);
        for (size_t i = c; i < count; i += D) x[i] -= (float)mean;
    }
    memset(&d, 0, sizeof d);
    d.buffer.source.data = x, d.buffer.source.target = y;
    d.buffer.source.rows = count / D, d.buffer.source.dim = D;
    d.buffer.batch_size = BATCH;
    d.trainers = &s, d.num_trainers = 1, d.flat = true;
    d.steps = STEPS;
    d.save_dir = out;
    CHECK_OK(ctx, sae_train(ctx, &d), (void)0);
    judge(out, x, y, 0.64, 32, 32); /* 0.698 */
    free(x);
    free(y);
}

int main(void) {
    const char *source = check_path("%s/data/minilm3.resid.npy", check_shared());
    const char *in = check_path("%s/data/minilm3.mlp_in.npy", check_shared());
    const char *out = check_path("%s/data/minilm3.mlp_out.npy", check_shared());
    const char *train = check_path("%s/train.npy", check_temp());
    sae_tensor_file *file;
    sae_tensor t;
    if (!check_exists(source) || !check_exists(in) || !check_exists(out)) {
        SKIP("no ../shared/data: nothing was trained on real activations");
        CHECK(true, "%s", "");
        return check_end();
    }
    if (!(ctx = check_context(0))) return check_end();
    /* the first TRAIN rows as a file of their own, all as floats */
    CHECK_OK(ctx, sae_tensor_file_open(ctx, source, &file), return check_end());
    t = *sae_tensor_file_get(file, 0);
    CHECK(t.ndim == 2 && t.shape[0] >= TRAIN + TEST && t.shape[1] == D, "%s has another shape", source);
    t.shape[0] = TRAIN;
    CHECK_OK(ctx, sae_tensor_file_write(ctx, train, &t, 1), return check_end());
    t.shape[0] = TRAIN + TEST;
    all = (float *)malloc((size_t)(TRAIN + TEST) * D * sizeof *all);
    sae_tensor_to_f32(&t, all);
    sae_tensor_file_close(file);
    trainers(train);
    transcoder(in, out);
    free(all);
    check_remove(check_temp());
    sae_context_destroy(ctx);
    return check_end();
}
