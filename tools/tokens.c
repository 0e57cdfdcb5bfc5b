/* sae: tokenize, detokenize, logits. */
#include "tool.h"

/* Ids as int32, whole: one dimension. */
int write_ids(const char *path, const int32_t *ids, uint64_t rows, uint64_t columns) {
    sae_tensor t;
    set_tensor(&t, "", SAE_I32, rows, columns, ids);
    if (sae_tensor_file_write(tool.ctx, path, &t, 1) != SAE_OK) return fail_library();
    return DONE;
}

/* All bytes of a file into memory that lives until the program ends. */
static int read_whole(const char *path, char **data, size_t *size) {
    FILE *file;
    int64_t length;
    if (is_folder(path)) return fail("%s is a folder", path);
    file = fopen(path, "rb");
    if (!file) return fail("%s: there is no such file", path);
    if (seek_end(file) != 0 || (length = file_tell(file)) < 0) {
        fclose(file);
        return fail("%s: has no size", path);
    }
    rewind(file);
    *size = (size_t)length;
    *data = (char *)keep_alloc(*size + 1, 1);
    length = (int64_t)fread(*data, 1, *size, file);
    fclose(file);
    return length == (int64_t)*size ? DONE : fail("%s: reading failed", path);
}

/* M, the model's folder, comes first. */
static int model_word(common *c) {
    if (c->words.count == 0)
        return fail_usage("which model? A folder with tokenizer.json comes first");
    if (c->words.count > 1) return fail_usage("%s belongs to no option", c->words.items[1]);
    if (!c->out) return fail_usage("--out is missing");
    c->model = c->words.items[0];
    return need_folder("out", c->out);
}

int verb_tokenize(int argc, char **argv) {
    common c;
    sae_tokenizer *tokenizer = NULL;
    sae_tokens ids = { NULL, 0, 0 };
    size_t i, size = 0, bytes = 0, num_bos = 0;
    bool bos = false;
    int status;
    memset(&c, 0, sizeof c);
    const option options[] = {
        { "text", LIST, &c.text }, { "out", TEXT, &c.out }, { "bos", FLAG, &bos },
        { "threads", COUNT, &c.threads }, { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE) status = model_word(&c);
    if (status == DONE && !c.text.count) status = fail_usage("--text is missing");
    if (status == DONE) status = keep_apart("--out", c.out, &c);
    if (status == DONE) status = start_program(&c);
    if (status == DONE && sae_tokenizer_open(tool.ctx, c.model, &tokenizer) != SAE_OK)
        status = fail_library();
    if (status == DONE && bos) {
        sae_tokenizer_bos(tokenizer, &num_bos);
        if (!num_bos)
            status = fail("%s: --bos: this tokenizer puts nothing in front of a text and names no "
                          "bos_token", c.model);
    }
    for (i = 0; i < c.text.count && status == DONE; i++) {
        char *text = NULL;
        status = read_whole(c.text.items[i], &text, &size);
        bytes += size;
        if (status == DONE && sae_tokenizer_encode(tokenizer, text, size, bos, &ids) != SAE_OK)
            status = fail_library();
    }
    if (status == DONE) status = write_ids(c.out, ids.id, ids.count, 0);
    if (status == DONE && !tool.quiet)
        printf("%s: %zu tokens of %zu bytes\n", c.out, ids.count, bytes);
    sae_tokens_free(&ids);
    sae_tokenizer_close(tokenizer);
    return status;
}

int verb_detokenize(int argc, char **argv) {
    common c;
    sae_tokenizer *tokenizer = NULL;
    sae_contexts_desc read;
    sae_contexts ids = { NULL, 0, 0, 0 };
    sae_text text = { NULL, 0, 0 };
    FILE *file;
    int status;
    memset(&c, 0, sizeof c);
    memset(&read, 0, sizeof read);
    const option options[] = {
        { "tokens", TEXT, &c.tokens }, { "out", TEXT, &c.out }, { "threads", COUNT, &c.threads },
        { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE) status = model_word(&c);
    if (status == DONE && !c.tokens) status = fail_usage("--tokens is missing");
    if (status == DONE && same_file(c.tokens, c.out))
        status = fail("--out is %s, which is read: it would be lost", c.out);
    if (status == DONE) status = start_program(&c);
    read.files = &c.tokens;
    read.num_files = 1;
    read.length = 1;
    if (status == DONE
        && (sae_tokenizer_open(tool.ctx, c.model, &tokenizer) != SAE_OK
            || sae_contexts_read(tool.ctx, &read, &ids) != SAE_OK
            || sae_tokenizer_decode(tokenizer, ids.tokens, ids.contexts, &text) != SAE_OK))
        status = fail_library();
    if (status == DONE) {
        file = fopen(c.out, "wb");
        if (!file) status = fail("%s: cannot be written", c.out);
        else {
            bool good = fwrite(text.data, 1, text.size, file) == text.size;
            if (fclose(file) != 0 || !good)
                status = fail("%s: writing failed (is the disk full?)", c.out);
        }
    }
    if (status == DONE && !tool.quiet)
        printf("%s: %zu bytes of %zu tokens\n", c.out, text.size, ids.contexts);
    sae_text_free(&text);
    sae_contexts_free(&ids);
    sae_tokenizer_close(tokenizer);
    return status;
}

/* ==== >>read: logits ========================================================================== */

static sae_result put_logits(void *user, const float *logits, size_t first, size_t count) {
    npy_writer *w = (npy_writer *)user;
    (void)first;
    if (npy_put(w, logits, sizeof *logits, count) == DONE) return SAE_OK;
    return sae_context_fail(tool.ctx, SAE_ERR_IO, "%s: writing failed (is the disk full?)",
                            w->path);
}

/* Some 2048 tokens at a time. */
static int write_logits(const common *c, sae_lm *model, const sae_contexts *all) {
    size_t batch = all->ctx < 2048 ? 2048 / all->ctx : 1, at, num;
    double loss = 0, *losses = (double *)keep_alloc(batch, sizeof *losses);
    size_t predictions = 0, *counts = (size_t *)keep_alloc(batch, sizeof *counts), i;
    sae_lm_forward_desc run;
    npy_writer out;
    int status;
    memset(&run, 0, sizeof run);
    memset(&out, 0, sizeof out);
    out.group = all->ctx;
    status = npy_create(&out, c->out, ".tmp", "<f4", sae_lm_config_of(model).vocab_size);
    run.ctx = all->ctx;
    run.logits = put_logits;
    run.user = &out;
    run.loss = losses;
    run.predictions = counts;
    for (at = 0; at < all->contexts && status == DONE; at += num) {
        num = batch < all->contexts - at ? batch : all->contexts - at;
        run.tokens = all->tokens + at * all->ctx;
        run.contexts = num;
        if (sae_lm_forward(model, &run) != SAE_OK) status = fail_library();
        for (i = 0; i < num && status == DONE; i++) {
            loss += losses[i];
            predictions += counts[i];
        }
    }
    if (status == DONE) status = npy_finish(&out, false);
    npy_abandon(&out);
    if (status == DONE && !tool.quiet) {
        printf("%s: %zu contexts of %zu tokens, ", c->out, all->contexts, all->ctx);
        if (predictions) printf("cross-entropy %.6f\n", loss / (double)predictions);
        else printf("no next token to predict\n");
    }
    return status;
}

int verb_logits(int argc, char **argv) {
    common c;
    reading how;
    language l;
    int status;
    memset(&c, 0, sizeof c);
    memset(&how, 0, sizeof how);
    memset(&l, 0, sizeof l);
    const option options[] = {
        { "tokens", TEXT, &c.tokens }, { "text", LIST, &c.text }, { "out", TEXT, &c.out },
        { "ctx", SIZE, &c.ctx }, { "bos", FLAG, &c.bos }, { "threads", COUNT, &c.threads },
        { "device", TEXT, &c.device }, { "quiet", FLAG, &tool.quiet }
    };
    status = parse_options(argc, argv, options, COUNT_OF(options), &c.words, NULL);
    if (status == DONE) status = model_word(&c);
    if (status == DONE && !c.tokens == !c.text.count)
        status = fail_usage("--tokens F.npy is missing (or --text, in its place)");
    if (status == DONE) status = keep_apart("--out", c.out, &c);
    if (status == DONE && c.tokens && same_file(c.tokens, c.out))
        status = fail("--out is %s, which is read: it would be lost", c.out);
    if (status == DONE) status = start_program(&c);
    if (status == DONE) status = choose_reading(&c, NULL, NULL, 0, &how);
    how.keeps_padding = true;
    if (status == DONE) status = language_open(&c, &l);
    if (status == DONE) status = language_read(&c, &how, &l);
    if (status == DONE) status = write_logits(&c, l.model, &l.contexts);
    language_close(&l);
    return status;
}
