/*  lm.h - bench lm: a language model's forward pass of many tokens, and of one at a time.

    A step is, in turn: --contexts contexts of --ctx random tokens with all logits, with the losses
    alone, with neither; one context as a prompt, with the logits of its last token; and
    LM_GENERATED tokens behind it, from the key-value cache. Tokens a second of the median step;
    beside them the matrix products' share of the FMA peak (each weight a token reads is one of
    them), and the weights' bytes as a share of reading alone. */
enum { LM_GENERATED = 16, LM_KINDS = 5 };

static sae_result take_logits(void *user, const float *logits, size_t first, size_t count) {
    (void)first;
    *(double *)user += (double)logits[count - 1];
    return SAE_OK;
}

static sae_result take_rows(void *user, float *x, size_t rows, size_t dim) {
    *(double *)user += (double)x[rows * dim - 1];
    return SAE_OK;
}

/* What one token reads: weights, and their bytes. */
typedef struct lm_weights {
    double count, bytes;
} lm_weights;

static void lm_add(lm_weights *w, const sae_linear *l, double times) {
    if (!l) return;
    w->count += times * (double)(l->inputs * l->outputs);
    w->bytes += times * (double)(l->inputs / sae_dtype_block(l->dtype) * l->outputs)
                * (double)sae_dtype_size(l->dtype);
}

static lm_weights lm_layers(const sae_lm *model) {
    lm_weights w = { 0, 0 };
    const sae_lm_config *info = &model->shape.info;
    for (size_t i = 0; i < info->layers; i++) {
        const lmi_layer *l = &model->layer[i];
        const sae_linear *const all[] = { l->qkv, l->q, l->k, l->v, l->o, l->router };
        double mlps = model->shape.layer[i].experts ? (double)info->experts_per_token : 1;
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) lm_add(&w, all[j], 1);
        lm_add(&w, l->mlp[0].gate, mlps);
        lm_add(&w, l->mlp[0].up, mlps);
        lm_add(&w, l->mlp[0].down, mlps);
    }
    return w;
}

/* Milliseconds of a prompt, and of each token behind it. */
static void lm_generate(sae_lm *model, const int32_t *prompt, size_t ctx_size, double *prompt_ms,
                        double *token_ms) {
    double ms[2];
    for (size_t i = 0; i < 2; i++) {
        sae_lm_generate_desc desc;
        sae_tokens out;
        double begun = now_ms();
        memset(&desc, 0, sizeof desc);
        memset(&out, 0, sizeof out);
        desc.prompt = prompt;
        desc.num_prompt = ctx_size;
        desc.count = i ? 1 + LM_GENERATED : 1;
        if (sae_lm_generate(model, &desc, &out) != SAE_OK) die(sae_error(ctx));
        ms[i] = now_ms() - begun;
        sae_tokens_free(&out);
    }
    *prompt_ms = ms[0];
    *token_ms = (ms[1] - ms[0]) / LM_GENERATED;
}

static void bench_lm(const options *o) {
    static const char *const kinds[LM_KINDS] = { "logits", "loss", "hidden", "prompt", "generate" };
    const size_t n = o->contexts * o->ctx, tokens_of[LM_KINDS] = { n, n, n, o->ctx, 1 };
    sae_lm *model;
    sae_lm_forward_desc run[3];
    sae_lm_hook hook;
    lm_weights layers, head = { 0, 0 };
    int32_t *tokens = (int32_t *)malloc(n * sizeof *tokens);
    double *times = (double *)malloc(LM_KINDS * o->steps * sizeof *times), seen = 0, read;
    double *loss = (double *)malloc(o->contexts * sizeof *loss);
    unsigned char *bytes;
    uint32_t state = 1;
    if (!o->path) die("bench lm MODEL: which model?");
    if (!tokens || !times || !loss) die("no memory");
    bytes = (unsigned char *)floats(LINEAR_BYTES / sizeof(float));
    linear_fill(SAE_F32, bytes);
    peak = peak_gflops(o->threads);
    read = read_gbytes((const uint64_t *)(const void *)bytes, LINEAR_BYTES / 8, o->threads);
    free(bytes);
    if (sae_lm_open(ctx, o->path, &model) != SAE_OK) die(sae_error(ctx));
    layers = lm_layers(model);
    lm_add(&head, model->unembed, 1);
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        tokens[i] = (int32_t)((state >> 8) % sae_lm_config_of(model).vocab_size);
    }
    memset(run, 0, sizeof run);
    memset(&hook, 0, sizeof hook);
    hook.site.module = SAE_LM_FINAL_NORM;
    hook.call = take_rows;
    hook.user = &seen;
    for (size_t k = 0; k < 3; k++) {
        run[k].tokens = tokens;
        run[k].contexts = o->contexts;
        run[k].ctx = o->ctx;
        run[k].user = &seen;
    }
    run[0].logits = take_logits;
    run[1].loss = loss;
    run[2].hooks = &hook;
    run[2].num_hooks = 1;
    for (size_t i = 0; i < o->warmup + o->steps; i++) {
        double ms[LM_KINDS];
        for (size_t k = 0; k < 3; k++) {
            double begun = now_ms();
            if (sae_lm_forward(model, &run[k]) != SAE_OK) die(sae_error(ctx));
            ms[k] = now_ms() - begun;
        }
        lm_generate(model, tokens, o->ctx, &ms[3], &ms[4]);
        for (size_t k = 0; k < LM_KINDS && i >= o->warmup; k++)
            times[k * o->steps + i - o->warmup] = ms[k];
    }
    printf("{\"impl\": \"sae.h\", \"tokens\": %zu, \"threads\": %d", n, o->threads);
    printf(", \"fma_gflops\": %.1f, \"read_gbytes\": %.1f", peak, read);
    for (size_t k = 0; k < LM_KINDS; k++) {
        const double ms = median(times + k * o->steps, o->steps), rows = (double)tokens_of[k];
        const double heads = k < 2 ? rows : k == 2 ? 0 : 1;
        printf(", \"%s\": %.1f", kinds[k], rows * 1e3 / ms);
        if (k < LM_KINDS - 1)
            printf(", \"%s_share_of_fma\": %.2f", kinds[k],
                   2e-6 * (rows * layers.count + heads * head.count) / ms / peak);
        else printf(", \"%s_share_of_read\": %.2f", kinds[k],
                    1e-6 * (layers.bytes + head.bytes) / ms / read);
    }
    printf("}\n");
    sae_lm_close(model);
    free(tokens);
    free(times);
    free(loss);
}
