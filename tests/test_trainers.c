/*  Proves: every trainer of sae.h makes the same updates as the naive trainer of tests/oracle.h, with
    every option, for even and odd sizes, over 20 steps from the same start.
    Oracle: tests/oracle.h in double precision (its gradients are checked by test_gradients).
    Tolerance: losses 1e-4 relative, parameters 1e-4 of the largest entry of their tensor: float32
    against double over 20 steps of Adam stays within 1e-5 here; a wrong term shows at 1e-2. Data and
    starts are fixed, chosen so that no top-k choice hangs on a rounding, and no f of an annealer comes
    so near 0 that f^(p-1), which has no bound there, makes a rounding large. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include "oracle.h"

typedef struct options {
    const char *name;
    sae_trainer_kind kind;
    void (*set)(sae_trainer_desc *s);
    size_t weak;   /* every weak-th latent starts dead */
    double offset; /* of the encoder's bias */
    bool target, ragged;
    int wider; /* the output is so much wider than the input */
} options;

static void set_none(sae_trainer_desc *s) { (void)s; }
static void set_decay(sae_trainer_desc *s) { s->decay_start = 15; }
static void set_no_schedule(sae_trainer_desc *s) {
    s->warmup_steps = SAE_NONE;
    s->sparsity_warmup_steps = SAE_NONE;
}
static void set_no_penalty(sae_trainer_desc *s) { s->l1_penalty = -1; }
static void set_resample(sae_trainer_desc *s) { s->resample_steps = 9; }
static void set_entropy(sae_trainer_desc *s) {
    s->reconstruction_norm = true;
    s->sparsity_function = SAE_SPARSITY_ENTROPY;
}
static void set_ghosts(sae_trainer_desc *s) {
    s->reconstruction_norm = true;
    s->ghost_threshold = 2;
}
static void set_ghosts_soon(sae_trainer_desc *s) {
    s->reconstruction_norm = true;
    s->ghost_threshold = 1;
}
static void set_norm(sae_trainer_desc *s) { s->reconstruction_norm = true; }
static void set_new(sae_trainer_desc *s) { s->arch = SAE_ARCH_STANDARD_NEW; }
static void set_lpp(sae_trainer_desc *s) { s->sparsity_function = SAE_SPARSITY_LP_P; }
static void set_lp(sae_trainer_desc *s) { s->sparsity_function = SAE_SPARSITY_LP; }
static void set_continuous(sae_trainer_desc *s) {
    s->n_sparsity_updates = SAE_NONE;
    s->anneal_end = 16;
}
static void set_early_end(sae_trainer_desc *s) {
    s->anneal_start = SAE_NONE;
    s->anneal_end = 12;
    s->n_sparsity_updates = 5;
}
static void set_auxk(sae_trainer_desc *s) {
    s->auxk_alpha = 0.25;
    s->dead_feature_threshold = 3 * s->batch_size;
}
static void set_auxk_small(sae_trainer_desc *s) {
    set_auxk(s);
    s->top_k_aux = 2;
}
static void set_no_auxk(sae_trainer_desc *s) {
    set_auxk(s);
    s->auxk_alpha = -1;
}
static void set_k_anneal(sae_trainer_desc *s) { s->k_anneal_steps = 10; }
static void set_beta_zero(sae_trainer_desc *s) {
    s->threshold_beta = -1;
    s->threshold_start_step = SAE_NONE;
}
static void set_default_lr(sae_trainer_desc *s) { s->lr = 0; }
static void set_groups(sae_trainer_desc *s) {
    s->num_groups = 4;
    s->group_fractions[0] = 0.1;
    s->group_fractions[1] = 0.2;
    s->group_fractions[2] = 0.3;
    s->group_fractions[3] = 0.4;
    s->group_weights[0] = 0.4;
    s->group_weights[1] = 0.1;
    s->group_weights[2] = 0.2;
    s->group_weights[3] = 0.3;
}
static void set_one_group(sae_trainer_desc *s) {
    s->num_groups = 1;
    s->group_fractions[0] = 1;
}
static void set_groups_auxk(sae_trainer_desc *s) {
    set_groups(s);
    set_auxk(s);
}
static void set_narrow(sae_trainer_desc *s) {
    s->bandwidth = 0.001;
    s->target_l0 = 0;
}
static void set_wide(sae_trainer_desc *s) { s->bandwidth = 1.5; } /* theta < bandwidth / 2 */
static void set_sae(sae_trainer_desc *s) { s->code_normalization = SAE_CODE_SAE; }
static void set_code_none(sae_trainer_desc *s) { s->code_normalization = SAE_CODE_NONE; }
static void set_mixed(sae_trainer_desc *s) {
    s->code_normalization = SAE_CODE_MIXED;
    s->code_normalization_alpha_sae = 0.7;
    s->code_normalization_alpha_cc = 0.3;
    s->use_mse_loss = s->kind == SAE_TRAINER_CROSSCODER;
}
static void set_mixed_auxk(sae_trainer_desc *s) {
    set_mixed(s);
    set_auxk(s);
}
static void set_decoupled(sae_trainer_desc *s) {
    s->code_normalization = SAE_CODE_DECOUPLED;
    set_auxk(s);
}
static void set_k_max(sae_trainer_desc *s) {
    s->k_max = s->k + 5;
    s->k_annealing_steps = 10;
}
static void set_jump_dead(sae_trainer_desc *s) { s->dead_feature_threshold = s->batch_size; }

static void set_skip(sae_trainer_desc *s) { s->skip_connection = 1; }
static void set_skip_auxk(sae_trainer_desc *s) {
    set_auxk(s);
    s->skip_connection = 1;
}
static void set_skip_raw(sae_trainer_desc *s) {
    s->skip_connection = 1;
    s->apply_b_dec_to_input = -1;
}
static void set_subtracted(sae_trainer_desc *s) { s->apply_b_dec_to_input = 1; }
static void set_skip_groups(sae_trainer_desc *s) {
    set_groups(s);
    s->skip_connection = 1;
}
static void set_adam(sae_trainer_desc *s) {
    s->optimizer = SAE_OPTIMIZER_ADAM;
    s->lr_warmup_steps = 4;
    s->k_decay_steps = 0;
    set_skip_auxk(s);
}
static void set_adam_dead(sae_trainer_desc *s) {
    set_adam(s);
    s->finetune = 1;
}
/* with b_dec at the mean its first gradient is rounding, and so its sign */
static void set_signum(sae_trainer_desc *s) {
    s->finetune = 1;
    s->skip_connection = 1;
    s->auxk_alpha = -1;
}

static const options cases[] = {
    { "standard", SAE_TRAINER_STANDARD, set_decay, 0, 0, 0, 0, 0 },
    { "standard, no schedule", SAE_TRAINER_STANDARD, set_no_schedule, 0, 0, 0, 1, 0 },
    { "standard, no penalty", SAE_TRAINER_STANDARD, set_no_penalty, 0, 0, 0, 0, 0 },
    { "standard, target", SAE_TRAINER_STANDARD, set_none, 0, 0, 1, 0, 0 },
    { "standard, resample schedule", SAE_TRAINER_STANDARD, set_resample, 0, 0.5, 0, 0, 0 },
    { "standard, entropy", SAE_TRAINER_STANDARD, set_entropy, 0, 0, 0, 0, 0 },
    { "standard, ghosts", SAE_TRAINER_STANDARD, set_ghosts, 3, 0, 0, 0, 0 },
    { "standard, ghosts, target", SAE_TRAINER_STANDARD, set_ghosts_soon, 2, 0, 1, 1, 0 },
    { "standard, norm loss, target", SAE_TRAINER_STANDARD, set_norm, 0, 0, 1, 0, 0 },
    { "standard_april", SAE_TRAINER_STANDARD_APRIL, set_decay, 0, 0, 0, 0, 0 },
    { "standard_april, new", SAE_TRAINER_STANDARD_APRIL, set_new, 0, 0, 0, 1, 0 },
    { "standard_april, target", SAE_TRAINER_STANDARD_APRIL, set_none, 0, 0, 1, 0, 0 },
    { "gated", SAE_TRAINER_GATED, set_decay, 0, 0, 0, 1, 0 },
    { "gated, target", SAE_TRAINER_GATED, set_none, 0, 0, 1, 0, 0 },
    { "gated_anneal", SAE_TRAINER_GATED_ANNEAL, set_none, 0, 0, 0, 0, 0 },
    { "gated_anneal, Lp", SAE_TRAINER_GATED_ANNEAL, set_lp, 0, 0, 0, 0, 0 },
    { "gated_anneal, early end", SAE_TRAINER_GATED_ANNEAL, set_early_end, 0, 0, 0, 0, 0 },
    { "p_anneal", SAE_TRAINER_P_ANNEAL, set_none, 0, 0, 0, 0, 0 },
    { "p_anneal, Lp^p", SAE_TRAINER_P_ANNEAL, set_lpp, 0, 0, 0, 1, 0 },
    { "p_anneal, continuous", SAE_TRAINER_P_ANNEAL, set_continuous, 0, 0, 0, 0, 0 },
    { "p_anneal, early end", SAE_TRAINER_P_ANNEAL, set_early_end, 0, 0, 1, 0, 0 },
    { "top_k", SAE_TRAINER_TOP_K, set_decay, 0, 0, 0, 1, 0 },
    { "top_k, auxk", SAE_TRAINER_TOP_K, set_auxk, 3, 0, 0, 0, 0 },
    { "top_k, auxk of two", SAE_TRAINER_TOP_K, set_auxk_small, 3, 0, 0, 0, 0 },
    { "top_k, auxk off", SAE_TRAINER_TOP_K, set_no_auxk, 3, 0, 0, 0, 0 },
    { "top_k, k annealed", SAE_TRAINER_TOP_K, set_k_anneal, 0, 0, 0, 0, 0 },
    { "top_k, beta 0", SAE_TRAINER_TOP_K, set_beta_zero, 0, 0, 0, 0, 0 },
    { "top_k, default lr, target", SAE_TRAINER_TOP_K, set_default_lr, 0, 0, 1, 0, 0 },
    { "batch_top_k", SAE_TRAINER_BATCH_TOP_K, set_decay, 0, 0, 0, 1, 0 },
    { "batch_top_k, auxk", SAE_TRAINER_BATCH_TOP_K, set_auxk, 3, 0, 0, 0, 0 },
    { "batch_top_k, k annealed", SAE_TRAINER_BATCH_TOP_K, set_k_anneal, 0, 0, 0, 0, 0 },
    { "batch_top_k, target", SAE_TRAINER_BATCH_TOP_K, set_beta_zero, 0, 0, 1, 0, 0 },
    { "matryoshka", SAE_TRAINER_MATRYOSHKA, set_decay, 0, 0, 0, 1, 0 },
    { "matryoshka, weights", SAE_TRAINER_MATRYOSHKA, set_groups, 0, 0, 0, 0, 0 },
    { "matryoshka, one group", SAE_TRAINER_MATRYOSHKA, set_one_group, 0, 0, 0, 0, 0 },
    { "matryoshka, weights, auxk", SAE_TRAINER_MATRYOSHKA, set_groups_auxk, 3, 0, 1, 0, 0 },
    { "matryoshka, k annealed", SAE_TRAINER_MATRYOSHKA, set_k_anneal, 0, 0, 0, 0, 0 },
    { "jumprelu", SAE_TRAINER_JUMP_RELU, set_decay, 0, 0, 0, 1, 0 },
    { "jumprelu, narrow", SAE_TRAINER_JUMP_RELU, set_narrow, 0, 0, 0, 0, 0 },
    { "jumprelu, wide, target", SAE_TRAINER_JUMP_RELU, set_wide, 0, 0, 1, 0, 0 },
    { "jumprelu, dead counted", SAE_TRAINER_JUMP_RELU, set_jump_dead, 4, 0, 0, 0, 0 },
    { "standard, wider", SAE_TRAINER_STANDARD, set_decay, 0, 0, 1, 1, 3 },
    { "standard, skip, narrower", SAE_TRAINER_STANDARD, set_skip, 0, 0, 1, 0, -3 },
    { "standard_april, skip, wider", SAE_TRAINER_STANDARD_APRIL, set_skip, 0, 0, 1, 0, 18 },
    { "gated, skip, wider", SAE_TRAINER_GATED, set_skip, 0, 0, 1, 0, 4 },
    { "gated_anneal, skip, narrower", SAE_TRAINER_GATED_ANNEAL, set_skip, 0, 0, 1, 0, -2 },
    { "p_anneal, skip, wider", SAE_TRAINER_P_ANNEAL, set_skip, 0, 0, 1, 0, 1 },
    { "top_k, skip, auxk, narrower", SAE_TRAINER_TOP_K, set_skip_auxk, 3, 0, 1, 0, -3 },
    { "top_k, skip, raw input", SAE_TRAINER_TOP_K, set_skip_raw, 0, 0, 1, 1, 0 },
    { "batch_top_k, skip", SAE_TRAINER_BATCH_TOP_K, set_skip, 0, 0, 1, 0, 0 },
    { "batch_top_k, skip, auxk, wider", SAE_TRAINER_BATCH_TOP_K, set_skip_auxk, 3, 0, 1, 0, 13 },
    { "matryoshka, skip, wider", SAE_TRAINER_MATRYOSHKA, set_skip_groups, 0, 0, 1, 0, 5 },
    { "jumprelu, skip, wider", SAE_TRAINER_JUMP_RELU, set_skip, 0, 0, 1, 0, 6 },
    { "jumprelu, b_dec subtracted", SAE_TRAINER_JUMP_RELU, set_subtracted, 0, 0, 1, 0, 0 },
    { "sparsify, adam", SAE_TRAINER_SPARSIFY, set_adam, 0, 0, 1, 0, 0 },
    { "sparsify, adam, auxk", SAE_TRAINER_SPARSIFY, set_adam_dead, 3, 0, 1, 0, 0 },
    { "sparsify, signum", SAE_TRAINER_SPARSIFY, set_signum, 0, 0.5, 1, 1, 0 },
    { "crosscoder", SAE_TRAINER_CROSSCODER, set_none, 0, 0, 0, 1, 0 },
    { "crosscoder, SAE", SAE_TRAINER_CROSSCODER, set_sae, 0, 0, 0, 0, 0 },
    { "crosscoder, MIXED, mse", SAE_TRAINER_CROSSCODER, set_mixed, 0, 0, 0, 0, 0 },
    { "crosscoder, NONE", SAE_TRAINER_CROSSCODER, set_code_none, 0, 0, 0, 0, 0 },
    { "batch_top_k_crosscoder", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, set_decay, 0, 0, 0, 1, 0 },
    { "batch_top_k_crosscoder, k_max", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, set_k_max, 0, 0, 0, 0, 0 },
    { "batch_top_k_crosscoder, SAE", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, set_sae, 0, 0, 0, 0, 0 },
    { "batch_top_k_crosscoder, NONE", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, set_code_none, 0, 0, 0, 0, 0 },
    { "batch_top_k_crosscoder, MIXED, auxk", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, set_mixed_auxk, 3,
      0, 0, 0, 0 },
    { "batch_top_k_crosscoder, DECOUPLED", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, set_decoupled, 3, 0,
      0, 0, 0 },
};

static void compare_stats(const options *c, const sae_stats *g, const oracle *o, uint64_t t) {
    const oracle_stats *w = &o->stats;
    char at[64];
#define FIELD(field, tolerance)                                                                    \
    do {                                                                                           \
        snprintf(at, sizeof at, "step %d " #field, (int)t);                                        \
        CHECK(check_near(g->field, w->field, tolerance) || fabs(g->field - w->field) < 1e-6,       \
              "%s is %.9g, want %.9g", at, g->field, w->field);                                    \
    } while (0)
    CHECK(g->step == t, "step %d calls itself %d", (int)t, (int)g->step);
    FIELD(loss, 1e-4);
    FIELD(l2_loss, 1e-4);
    if (c->kind == SAE_TRAINER_SPARSIFY) {
        FIELD(fvu, 1e-4);
        FIELD(k, 0);
        FIELD(dead_features, 0);
        if (o->auxk_alpha > 0) FIELD(auxk_loss, 1e-3);
        FIELD(lr, 1e-6);
        return;
    }
    FIELD(lr, 1e-6);
    if (o->layer_on) CHECK(g->l0 != g->l0, "l0 is %g where layers choose apart", g->l0);
    else FIELD(l0, 1e-9);
    if (oracle_is_gated(o)) FIELD(aux_loss, 1e-4);
    if (!oracle_is_topk(o) && c->kind != SAE_TRAINER_JUMP_RELU) FIELD(sparsity_loss, 1e-4);
    if (oracle_is_annealer(o)) {
        FIELD(p, 1e-6);
        FIELD(next_p, 1e-6);
        FIELD(sparsity_coeff, 1e-3);
    } else CHECK(g->p != g->p, "p is %g where there is none", g->p);
    if (oracle_is_topk(o)) {
        FIELD(threshold, 1e-4);
        FIELD(effective_l0, 0);
        FIELD(dead_features, 0);
        FIELD(grad_norm, 1e-3);
        if (o->auxk_alpha > 0) {
            FIELD(pre_norm_auxk_loss, 1e-3);
            FIELD(auxk_loss, 1e-3);
        }
    }
    if (c->kind == SAE_TRAINER_JUMP_RELU) FIELD(dead_features, 0);
    if (o->ghost_threshold != ORACLE_NO_STEP) FIELD(ghosts, 0);
#undef FIELD
}

static void compare_parameters(const sae_dictionary *dict, const oracle *o) {
    common_block blocks[7];
    size_t n = common_blocks(dict, blocks);
    for (size_t b = 0; b < n; b++) {
        const double *want =
            !strcmp(blocks[b].name, "W_enc")   ? ORACLE_WE(o, o->theta)
            : !strcmp(blocks[b].name, "W_dec") ? ORACLE_WD(o, o->theta)
            : !strcmp(blocks[b].name, "b_enc") ? ORACLE_BE(o, o->theta)
            : !strcmp(blocks[b].name, "aux0")  ? ORACLE_A0(o, o->theta)
            : !strcmp(blocks[b].name, "aux1")  ? ORACLE_A1(o, o->theta)
            : !strcmp(blocks[b].name, "W_skip") ? ORACLE_WS(o, o->theta)
                                                : ORACLE_BD(o, o->theta);
        if (o->kind == SAE_TRAINER_SPARSIFY && o->optimizer != SAE_OPTIMIZER_ADAM)
            want = o->second + (want - o->theta);
        double worst = 0, largest = 0;
        for (size_t r = 0; r < blocks[b].rows; r++)
            for (size_t j = 0; j < blocks[b].columns; j++) {
                double w = want[r * blocks[b].columns + j];
                double e = fabs((double)blocks[b].data[r * blocks[b].stride + j] - w);
                if (!(e <= worst)) worst = e;
                if (fabs(w) > largest) largest = fabs(w);
            }
        CHECK(worst <= 1e-4 * largest, "%s off by %.2e of %.2e", blocks[b].name, worst, largest);
        if (getenv("SAE_VERBOSE"))
            printf("    %-8s %.1e\n", blocks[b].name, worst / fmax(largest, 1e-12));
    }
}

static void run(sae_context *ctx, const options *c, size_t d, size_t m, size_t batch) {
    enum { STEPS = 20 };
    sae_trainer_desc s = common_trainer(c->kind, d, m, batch, STEPS + 1);
    sae_trainer *trainer = NULL;
    sae_dictionary *start = NULL;
    sae_load_desc load = { SAE_ARCH_DEFAULT, 0, true, false, 0, 0, NULL, 0, NULL, 0 };
    const char *path = check_path("%s/start.safetensors", check_temp());
    char name[128];
    size_t out = (size_t)((int)d + c->wider);
    float *x = (float *)malloc(batch * d * sizeof *x), *y = (float *)malloc(batch * out * sizeof *y);
    double *xd = oracle_doubles(batch * d), *yd = oracle_doubles(batch * out);
    common_block blocks[7];
    size_t count, at;
    oracle o;
    long failed = check_failed;

    snprintf(name, sizeof name, "%s, d %d, m %d, B %d", c->name, (int)d, (int)m, (int)batch);
    check_test = name;
    s.output_dim = out;
    c->set(&s);
    oracle_init(&o, &s);
    load.arch = common_arch(&s);
    if (!common_start(ctx, &s, 103 + d, c->weak, c->offset, path)) goto end;
    CHECK_OK(ctx, sae_dictionary_load(ctx, &load, path, &start), goto end);
    count = common_blocks(start, blocks);
    for (size_t b = 0; b < count; b++) {
        at = !strcmp(blocks[b].name, "W_enc")   ? 0
             : !strcmp(blocks[b].name, "W_dec") ? m * d
             : !strcmp(blocks[b].name, "b_enc") ? m * (d + out)
             : !strcmp(blocks[b].name, "aux0")  ? m * (d + out) + m
             : !strcmp(blocks[b].name, "aux1")  ? m * (d + out) + 2 * m
             : !strcmp(blocks[b].name, "b_dec") ? m * (d + out) + 3 * m
                                                : m * (d + out) + 3 * m + out;
        for (size_t r = 0; r < blocks[b].rows; r++)
            for (size_t j = 0; j < blocks[b].columns; j++)
                o.theta[at++] = (double)blocks[b].data[r * blocks[b].stride + j];
    }
    sae_dictionary_destroy(start);
    CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), goto end);
    for (uint64_t t = 0; t < STEPS && check_failed - failed < 8; t++) {
        size_t n = c->ragged ? batch - t % 3 : batch;
        sae_stats stats;
        check_activations(100 + t, x, n, d);
        check_activations(500 + t, y, n, out);
        for (size_t q = 0; q < n * out; q++) {
            y[q] = 0.5f * x[q / out * d + q % out % d] + 0.3f * y[q];
            yd[q] = (double)y[q];
        }
        for (size_t q = 0; q < n * d; q++) xd[q] = (double)x[q];
        CHECK_OK(ctx, sae_trainer_step(trainer, x, c->target ? y : NULL, n), goto end);
        CHECK_OK(ctx, sae_trainer_stats(trainer, &stats), goto end);
        oracle_step(&o, xd, c->target ? yd : NULL, n);
        compare_stats(c, &stats, &o, t);
        CHECK(sae_trainer_steps_done(trainer) == t + 1, "steps_done");
    }
    if (getenv("SAE_VERBOSE"))
        printf("%s (dead %g, ghosts %g)\n", name, o.stats.dead_features, o.stats.ghosts);
    if (c->weak && c->kind != SAE_TRAINER_STANDARD)
        CHECK(o.stats.dead_features > 0, "nothing died: the test tests nothing");
    if (c->weak && c->kind == SAE_TRAINER_STANDARD)
        CHECK(o.stats.ghosts > 0, "no ghosts: the test tests nothing");
    compare_parameters(sae_trainer_dictionary(trainer), &o);
    CHECK(check_near((double)sae_dictionary_threshold(sae_trainer_dictionary(trainer)),
                     oracle_is_topk(&o) ? o.threshold : 0, 1e-4),
          "threshold %g, want %g",
          (double)sae_dictionary_threshold(sae_trainer_dictionary(trainer)), o.threshold);
end:
    sae_trainer_destroy(trainer);
    oracle_free(&o);
    free(x);
    free(y);
    free(xd);
    free(yd);
}

/* The lists of aux-k hold top_k_aux entries a row, however long they are, and those of a k its k. */
static void long_lists(sae_context *ctx, sae_trainer_kind kind) {
    enum { D = 16, M = 2400, N = 8, AUX = 1024 };
    sae_trainer_desc s = common_trainer(kind, D, M, N, 20);
    sae_trainer *trainer = NULL;
    static float x[N * D];
    check_test = sae_trainer_name(kind);
    s.auxk_alpha = 0.25;
    s.dead_feature_threshold = N;
    s.top_k_aux = AUX;
    check_activations(5, x, N, D);
    CHECK_OK(ctx, sae_trainer_create(ctx, &s, &trainer), return);
    for (int step = 0; step < 3; step++)
        CHECK_OK(ctx, sae_trainer_step(trainer, x, NULL, N), goto end);
    for (size_t r = 0; r < N; r++)
        CHECK(trainer->aux.count[r] == AUX, "row %d has %d of %d auxiliary latents", (int)r,
              (int)trainer->aux.count[r], (int)AUX);
    CHECK(kind != SAE_TRAINER_TOP_K || trainer->code.stride == s.k, "lists of %d for k %d",
          (int)trainer->code.stride, (int)s.k);
end:
    sae_trainer_destroy(trainer);
    check_test = NULL;
}

/* Each byte of sae_trainer_desc belongs to one row of the list, but for padding and num_groups; each
   trainer has a scheme, whose words are rows; and each row is some trainer's. */
static void lists(void) {
    enum { SIZE = sizeof(sae_trainer_desc) };
    static const size_t sizes[] = { /* in the order of saei_field_type */
        sizeof(int), sizeof(int), sizeof(size_t), sizeof(uint64_t), sizeof(double),
        SAE_MAX_GROUPS * sizeof(double), 0, sizeof(int), sizeof(bool), sizeof(char *),
        sizeof(int64_t), 0, sizeof(int), sizeof(bool), sizeof(int), sizeof(int)
    };
    unsigned char owners[SIZE] = { 0 };
    sae_hyperparameter h;
    size_t count = 0, last = 0;
    check_test = "lists";
    for (; sae_hyperparameter_get(count, &h); count++) {
        const saei_field *f = &saei_fields[count];
        size_t size = *h.field ? sizes[f->type] : 0;
        CHECK(!*h.field || size, "%s has no size", h.name);
        CHECK(f->type == SAEI_FIELD_NOTHING || h.trainers, "no trainer has %s", h.name);
        CHECK(!size || f->offset >= last, "%s stands elsewhere in the desc", h.name);
        for (size_t i = 0; i < size; i++)
            CHECK(!owners[f->offset + i]++, "%s and another row have byte %d", h.name,
                  (int)(f->offset + i));
        if (size && f->type != SAEI_FIELD_TEXT && f->type != SAEI_FIELD_INTEGER)
            last = f->offset;
    }
    CHECK(count == SAEI_NUM_FIELDS && !sae_hyperparameter_get(SIZE_MAX, &h)
              && !sae_hyperparameter_get(0, NULL), "%d rows", (int)count);
    memset(owners + offsetof(sae_trainer_desc, num_groups), 1, sizeof(size_t));
    for (size_t i = 0, gap = 0; i < SIZE; i++) {
        gap = owners[i] ? 0 : gap + 1;
        CHECK(gap < 8, "byte %d of sae_trainer_desc is in no row", (int)i);
    }
    for (int kind = 1; kind <= SAE_NUM_TRAINERS; kind++) {
        const saei_scheme *scheme = saei_scheme_of((sae_trainer_kind)kind);
        const char *at, *word;
        CHECK(scheme, "%s has no scheme", sae_trainer_name((sae_trainer_kind)kind));
        if (!scheme) continue;
        at = scheme->hyperparameters;
        for (size_t n; (n = saei_next_word(&at, &word)) > 0; )
            CHECK(*word == '+' || saei_field_find(word, n), "%s: no row %.*s",
                  sae_trainer_name(scheme->kind), (int)n, word);
    }
    CHECK((int)SAEI_NUM_SCHEMES == (int)SAE_NUM_TRAINERS, "%d schemes", (int)SAEI_NUM_SCHEMES);
    check_test = NULL;
}

int main(void) {
    COMMON_EVERY_TRAINER(cases)
    lists();
    sae_context *ctx = check_context(1);
    if (!ctx) return check_end();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        run(ctx, &cases[i], 20, 64, 48);
        run(ctx, &cases[i], 7, 33, 5);
        run(ctx, &cases[i], 17, 40, 19);
    }
    long_lists(ctx, SAE_TRAINER_TOP_K);
    long_lists(ctx, SAE_TRAINER_BATCH_TOP_K);
    long_lists(ctx, SAE_TRAINER_MATRYOSHKA);
    sae_context_destroy(ctx);
    check_remove(check_temp());
    return check_end();
}
