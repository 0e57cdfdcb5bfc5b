/*  Proves: the hand-written gradients of tests/oracle.h are the derivatives of its losses, for all
    trainers, every option of the loss and the experiments.
    Oracle: central differences with h = 1e-6 in double precision; parts that the reference detaches,
    and the straight-through windows of JumpReLU, are held (see oracle.h).
    Tolerance: 1e-6 of the largest entry of the gradient (of each parameter block). The error of the
    difference is about h^2 f''' + 1e-16 loss / h, 1e-9 here. Starts are drawn until nothing lies within
    `margin` of a kink, so that no difference crosses one. */
#define SAE_IMPLEMENTATION
#include "sae.h"
#include "check.h"
#include "common.h"
#include "oracle.h"

typedef struct example {
    const char *name;
    sae_trainer_kind kind;
    sae_arch arch;
    double margin;
    size_t k, num_dead, num_ghosts;
    sae_sparsity_function sparsity;
    double p;
    bool norm_loss, target;
    size_t out; /* of a transcoder with a skip connection */
} example;

static const example examples[] = {
    { "standard", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "standard, transcoder", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0,
      SAE_SPARSITY_L1, 1, 0, 1, 0 },
    { "standard, norm loss, target", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0,
      SAE_SPARSITY_L1, 1, 1, 1, 0 },
    { "standard, entropy", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-2, 0, 0, 0,
      SAE_SPARSITY_ENTROPY, 1, 1, 0, 0 },
    { "standard, ghosts", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 3, SAE_SPARSITY_L1, 1,
      1, 0, 0 },
    { "standard, ghosts, squares", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 3,
      SAE_SPARSITY_L1, 1, 0, 1, 0 },
    { "standard_april", SAE_TRAINER_STANDARD_APRIL, SAE_ARCH_STANDARD, 1e-4, 0, 0, 0,
      SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "standard_april, new", SAE_TRAINER_STANDARD_APRIL, SAE_ARCH_STANDARD_NEW, 1e-4, 0, 0, 0,
      SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "gated", SAE_TRAINER_GATED, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "gated_anneal, Lp^p", SAE_TRAINER_GATED_ANNEAL, SAE_ARCH_DEFAULT, 2e-2, 0, 0, 0,
      SAE_SPARSITY_LP_P, 0.7, 0, 0, 0 },
    { "gated_anneal, Lp", SAE_TRAINER_GATED_ANNEAL, SAE_ARCH_DEFAULT, 2e-2, 0, 0, 0,
      SAE_SPARSITY_LP, 0.6, 0, 0, 0 },
    { "p_anneal, Lp", SAE_TRAINER_P_ANNEAL, SAE_ARCH_DEFAULT, 2e-2, 0, 0, 0, SAE_SPARSITY_LP, 0.5,
      0, 0, 0 },
    { "p_anneal, Lp, p = 1", SAE_TRAINER_P_ANNEAL, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_LP,
      1, 0, 0, 0 },
    { "p_anneal, Lp^p", SAE_TRAINER_P_ANNEAL, SAE_ARCH_DEFAULT, 2e-2, 0, 0, 0, SAE_SPARSITY_LP_P,
      0.4, 0, 0, 0 },
    { "top_k", SAE_TRAINER_TOP_K, SAE_ARCH_DEFAULT, 1e-4, 3, 0, 0, SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "top_k, auxk", SAE_TRAINER_TOP_K, SAE_ARCH_DEFAULT, 1e-4, 3, 5, 0, SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "batch_top_k", SAE_TRAINER_BATCH_TOP_K, SAE_ARCH_DEFAULT, 1e-4, 3, 0, 0, SAE_SPARSITY_L1, 1,
      0, 0, 0 },
    { "batch_top_k, auxk", SAE_TRAINER_BATCH_TOP_K, SAE_ARCH_DEFAULT, 1e-4, 3, 5, 0,
      SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "matryoshka", SAE_TRAINER_MATRYOSHKA, SAE_ARCH_DEFAULT, 1e-4, 3, 0, 0, SAE_SPARSITY_L1, 1, 0,
      0, 0 },
    { "matryoshka, auxk, target", SAE_TRAINER_MATRYOSHKA, SAE_ARCH_DEFAULT, 1e-4, 3, 5, 0,
      SAE_SPARSITY_L1, 1, 0, 1, 0 },
    { "standard, wider", SAE_TRAINER_STANDARD, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1,
      0, 1, 7 },
    { "gated, wider", SAE_TRAINER_GATED, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1, 0, 1,
      6 },
    { "top_k, auxk, narrower", SAE_TRAINER_TOP_K, SAE_ARCH_DEFAULT, 1e-4, 3, 5, 0, SAE_SPARSITY_L1,
      1, 0, 1, 4 },
    { "matryoshka, wider", SAE_TRAINER_MATRYOSHKA, SAE_ARCH_DEFAULT, 1e-4, 3, 0, 0,
      SAE_SPARSITY_L1, 1, 0, 1, 7 },
    { "batch_top_k, skip", SAE_TRAINER_BATCH_TOP_K, SAE_ARCH_DEFAULT, 1e-4, 3, 0, 0,
      SAE_SPARSITY_L1, 1, 0, 1, 5 },
    { "jumprelu, wider", SAE_TRAINER_JUMP_RELU, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1,
      0, 1, 8 },
    { "sparsify", SAE_TRAINER_SPARSIFY, SAE_ARCH_DEFAULT, 1e-4, 3, 0, 0, SAE_SPARSITY_L1, 1, 0, 1,
      5 },
    { "jumprelu", SAE_TRAINER_JUMP_RELU, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1, 0,
      0, 0 },
    { "crosscoder", SAE_TRAINER_CROSSCODER, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0, SAE_SPARSITY_L1, 1, 1,
      0, 0 },
    { "crosscoder, SAE, mse", SAE_TRAINER_CROSSCODER, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0,
      SAE_SPARSITY_L1, 1, 0, 0, 0 },
    { "crosscoder, MIXED", SAE_TRAINER_CROSSCODER, SAE_ARCH_DEFAULT, 1e-4, 0, 0, 0,
      SAE_SPARSITY_L1, 1, 1, 0, 0 },
    { "batch_top_k_crosscoder, auxk", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, SAE_ARCH_DEFAULT, 1e-4,
      3, 5, 0, SAE_SPARSITY_L1, 1, 1, 0, 0 },
    { "batch_top_k_crosscoder, DECOUPLED", SAE_TRAINER_BATCH_TOP_K_CROSSCODER, SAE_ARCH_DEFAULT,
      1e-5, 3, 0, 0, SAE_SPARSITY_L1, 1, 1, 0, 0 },
};

enum { D = 6, M = 11, N = 6, MOST = 8 };

static void draw(oracle *o, uint64_t seed, double *x, double *y) {
    check_rng rng = { seed };
    for (size_t i = 0; i < oracle_size(o); i++) o->theta[i] = 0.4 * check_normal(&rng);
    if (o->kind == SAE_TRAINER_JUMP_RELU)
        for (size_t i = 0; i < M; i++) ORACLE_A0(o, o->theta)[i] = 0.1 + 0.2 * check_uniform(&rng);
    if (o->arch == SAE_ARCH_STANDARD || o->arch == SAE_ARCH_STANDARD_NEW || oracle_is_topk(o))
        memset(ORACLE_A0(o, o->theta), 0, M * sizeof(double));
    if (o->arch != SAE_ARCH_GATED) memset(ORACLE_A1(o, o->theta), 0, M * sizeof(double));
    for (size_t q = 0; q < N * MOST; q++) {
        if (q < N * D) x[q] = check_normal(&rng);
        y[q] = check_normal(&rng);
    }
}

static void run(const example *c) {
    sae_trainer_desc s;
    oracle o;
    double x[N * D], y[N * MOST], *difference;
    const double *target = c->target ? y : x;
    const char *const names[] = { "W_enc", "W_dec", "b_enc", "aux0", "aux1", "b_dec", "W_skip" };
    size_t at = 0;
    uint64_t seed = 1;
    check_test = c->name;
    memset(&s, 0, sizeof s);
    s.kind = c->kind;
    s.arch = c->arch;
    s.activation_dim = D;
    s.dict_size = M;
    s.batch_size = N;
    s.steps = 100;
    s.sparsity_warmup_steps = 10;
    s.k = c->k;
    s.sparsity_function = c->sparsity;
    s.auxk_alpha = 0.5;
    s.bandwidth = 0.25;
    s.target_l0 = 2;
    s.num_groups = 3;
    s.group_fractions[0] = 0.2;
    s.group_fractions[1] = 0.3;
    s.group_fractions[2] = 0.5;
    s.group_weights[0] = 0.5;
    s.group_weights[1] = 0.3;
    s.group_weights[2] = 0.9;
    s.reconstruction_norm = c->norm_loss;
    s.output_dim = c->out;
    s.skip_connection = c->out > 0;
    if (strstr(c->name, "crosscoder")) s.num_layers = 2, s.use_mse_loss = !c->norm_loss;
    s.code_normalization = strstr(c->name, "SAE") ? SAE_CODE_SAE : strstr(c->name, "MIXED")
                           ? SAE_CODE_MIXED : strstr(c->name, "DECOUPLED") ? SAE_CODE_DECOUPLED
                           : SAE_CODE_DEFAULT;
    oracle_init(&o, &s);
    o.t = 7; /* sparsity factor 0.7 */
    o.p = c->p;
    for (size_t i = 0; i < c->num_dead; i++) o.dead[2 * i + 1] = true;
    for (size_t i = 0; i < c->num_ghosts; i++) o.ghost[3 * i] = true;
    o.num_dead = c->num_dead;
    o.num_ghosts = c->num_ghosts;
    while (draw(&o, seed, x, y), oracle_margin(&o, o.theta, x, target, N) < c->margin)
        if (++seed > 20000) {
            CHECK(false, "no start keeps %g away from a kink", c->margin);
            oracle_free(&o);
            return;
        }
    difference = oracle_doubles(oracle_size(&o));
    oracle_finite_difference(&o, x, target, N, 1e-6, difference);
    oracle_loss(&o, o.theta, x, target, N, o.grad);
    for (size_t b = 0; b < (c->out ? 7 : 6); b++) {
        size_t count = b == 0 ? M * D : b == 1 ? M * o.out : b < 5 ? M : b == 5 ? o.out : o.out * D;
        double worst = 0, largest = 0;
        for (size_t i = at; i < at + count; i++) {
            worst = fmax(worst, fabs(o.grad[i] - difference[i]));
            largest = fmax(largest, fabs(difference[i]));
        }
        CHECK(worst <= 1e-6 * largest + 1e-8, "gradient of %s off by %.2e of %.2e", names[b], worst,
              largest);
        if (b != 3 && b != 4) CHECK(largest > 1e-4, "gradient of %s is nothing", names[b]);
        at += count;
    }
    free(difference);
    oracle_free(&o);
}

int main(void) {
    COMMON_EVERY_TRAINER(examples)
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) run(&examples[i]);
    return check_end();
}
