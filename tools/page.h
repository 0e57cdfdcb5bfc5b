/*  page.h - the features of dictionaries on one page: PAGE.html, and PAGE.json in Neuronpedia's
    layout beside it.

    DO THIS
        #include "sae.h", "sae_lm.h", "sae_features.h", then
        #define PAGE_IMPLEMENTATION     in exactly ONE .c file, before
        #include "page.h"
    page.html, the page without its data, is compiled in: page_html.h holds its lines
    (`make build/page_html.h`).

    WHAT IT DOES
        Measures what sae_features.h can of each run's features and writes them. The page is one
        file with no network access; whatever the texts hold (tags, quotes, control bytes, no
        UTF-8) is written as JSON in which nothing ends a script. Both files are written beside and
        renamed.
*/
#ifndef PAGE_H_INCLUDED
#define PAGE_H_INCLUDED

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct page_run { /* one dictionary; the pass over the text is done */
    const char *name;      /* short, as shown */
    const char *trainer;   /* "" if not known */
    const char *submodule, *io;
    const char *hook;      /* the place as TransformerLens names it; "" or NULL: it does not */
    const features *f;
    const sae_dictionary *dict;
    features_place place;
    features_metrics metrics; /* of some text, NaN where not known */
    uint64_t eval_tokens;
    const char *log;       /* JSON lines of the training, NULL: none */
    int64_t log_trainer;   /* whose of a sweep's log, by "trainer"; -1: lines with none */
} page_run;

typedef struct page_desc {
    sae_lm *model;
    const sae_tokenizer *tokenizer;
    const char *model_name, *text_name;
    features_text text;
    size_t before, after;   /* as the features_desc had them; default likewise */
    const page_run *runs;
    size_t num_runs;
    size_t max_features;    /* of all runs together; default 2000: some 4 MB */
    size_t ablate_contexts; /* default 2; SIZE_MAX: none */
    size_t steer_contexts;  /* default 4; SIZE_MAX: none */
    size_t steer_length;    /* default 16 tokens */
    features_progress progress;
} page_desc;

/* path should end in .html; the JSON of run 0 goes to the same name with .json, of several runs to
   NAME.0.json, NAME.1.json, ... Errors: SAE_ERR_IO, SAE_ERR_OUT_OF_MEMORY, those of measuring. */
SAE_API sae_result page_write(sae_context *ctx, const page_desc *desc, const char *path);

/* A JSON string in quotes that may stand in a script element. Bytes that are no UTF-8 become
   <0xE2>, as other programs write byte tokens. */
SAE_API void page_put_string(FILE *out, const char *text, size_t size);

#ifdef __cplusplus
} /* extern "C" */
#endif
#endif /* PAGE_H_INCLUDED */

/* ============================================================================================== */
#ifdef PAGE_IMPLEMENTATION

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "page_html.h" /* static const char *const page_html[]; NULL at the end */

enum {
    PAGE_LOG_KEYS = 4, PAGE_LOG_POINTS = 400,
    PAGE_LOGITS = 8, PAGE_TOKENS = 8, PAGE_NEIGHBOURS = 8, PAGE_CHANGES = 5 /* of a feature */
};

#define PAGE_TRY(call)                                                                             \
    do {                                                                                           \
        sae_result page_result_ = (call);                                                          \
        if (page_result_ != SAE_OK) return page_result_;                                           \
    } while (0)

typedef struct page_measured { /* what is known of one run's features, [num] */
    uint32_t *latents;
    size_t num;
    uint32_t *near;                /* [num,PAGE_NEIGHBOURS] */
    float *cosine, *xy;
    features_logit *top, *bottom;  /* [num,PAGE_LOGITS]; NULL: no logits at this place */
    features_logits_of *logits;
    features_effect *ablated, *steered; /* contexts 0 where not measured */
    features_pursued pursuit;
} page_measured;

typedef struct page { /* what is being written */
    sae_context *ctx;
    const page_desc *desc;
    FILE *out;
    int32_t *short_token;   /* [vocabulary] its number on the page, -1: not on it yet */
    int32_t *tokens;        /* by number */
    size_t num_tokens, vocab;
    int32_t *short_context; /* [contexts] likewise */
    size_t *contexts;       /* by number */
    size_t *first, *last;   /* [contexts] the stretch that examples show */
    size_t num_contexts;
    page_measured *runs;
    double points[PAGE_LOG_POINTS][1 + PAGE_LOG_KEYS]; /* of a log */
    double done, share;     /* of the progress: before this step, of this step */
} page;

/* ---- JSON ---- */

/* Bytes of the UTF-8 character at s, of n left; 0 if it is none. */
static size_t page_utf8(const unsigned char *s, size_t n) {
    size_t size = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3
                : s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0, i;
    if (size > n) return 0;
    for (i = 1; i < size; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (size == 3 && ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0))) return 0;
    if (size == 4 && ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))) return 0;
    return size;
}

SAE_API void page_put_string(FILE *out, const char *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    size_t i, n;
    fputc('"', out);
    for (i = 0; i < size; i += n) {
        n = page_utf8(s + i, size - i);
        if (n == 0) {
            fprintf(out, "\\u003c0x%02X>", s[i]);
            n = 1;
        } else if (n == 1 && (s[i] < 32 || s[i] == 127 || s[i] == '<' || s[i] == '>'
                              || s[i] == '&' || s[i] == '\'')) {
            fprintf(out, "\\u%04x", s[i]);
        } else if (n == 3 && s[i] == 0xe2 && s[i + 1] == 0x80 && (s[i + 2] & 0xfe) == 0xa8) {
            fprintf(out, "\\u20%02x", s[i + 2] == 0xa8 ? 0x28 : 0x29); /* line ends to a script */
        } else {
            if (s[i] == '"' || s[i] == '\\') fputc('\\', out);
            fwrite(s + i, 1, n, out);
        }
    }
    fputc('"', out);
}

static void page_put_text(FILE *out, const char *text) {
    page_put_string(out, text, strlen(text));
}

/* JSON has no NaN. */
static void page_put_number(FILE *out, double value, int digits) {
    if (isfinite(value)) fprintf(out, "%.*g", digits, value);
    else fprintf(out, "null");
}

static void page_put_metric(FILE *out, const char *name, double value) {
    fprintf(out, "\"%s\":", name);
    page_put_number(out, value, 6);
    fputc(',', out);
}

/* ---- measuring ---- */

static bool page_tell(void *user, double done) {
    page *p = (page *)user;
    const features_progress *to = &p->desc->progress;
    return !to->call || to->call(to->user, p->done + p->share * done);
}

static sae_result page_measure(page *p, const page_run *run, page_measured *m, double share) {
    const page_desc *desc = p->desc;
    size_t max = (desc->max_features ? desc->max_features : 2000) / desc->num_runs;
    size_t m_all = sae_dictionary_get_desc(run->dict)->dict_size, n;
    features_progress progress;
    progress.call = page_tell;
    progress.user = p;
    m->latents = (uint32_t *)calloc(m_all, sizeof *m->latents);
    if (m->latents) m->num = features_rank(run->f, m->latents, max);
    n = m->num ? m->num : 1;
    m->near = (uint32_t *)calloc(n, PAGE_NEIGHBOURS * sizeof *m->near);
    m->cosine = (float *)calloc(n, PAGE_NEIGHBOURS * sizeof *m->cosine);
    m->xy = (float *)calloc(n, 2 * sizeof *m->xy);
    m->ablated = (features_effect *)calloc(n, sizeof *m->ablated);
    m->steered = (features_effect *)calloc(n, sizeof *m->steered);
    if (!m->latents || !m->near || !m->cosine || !m->xy || !m->ablated || !m->steered)
        return sae_context_fail(p->ctx, SAE_ERR_OUT_OF_MEMORY, "page_write: no memory");
    PAGE_TRY(features_neighbours(p->ctx, run->dict, m->latents, m->num, PAGE_NEIGHBOURS, m->near,
                                 m->cosine));
    PAGE_TRY(features_map(p->ctx, run->dict, m->latents, m->num, m->xy));
    if (features_place_has_logits(p->desc->model, run->place) && p->vocab >= PAGE_LOGITS) {
        m->top = (features_logit *)calloc(n, PAGE_LOGITS * sizeof *m->top);
        m->bottom = (features_logit *)calloc(n, PAGE_LOGITS * sizeof *m->bottom);
        m->logits = (features_logits_of *)calloc(n, sizeof *m->logits);
        if (!m->top || !m->bottom || !m->logits)
            return sae_context_fail(p->ctx, SAE_ERR_OUT_OF_MEMORY, "page_write: no memory");
        PAGE_TRY(features_logits(p->ctx, desc->model, run->place, run->dict, m->latents, m->num,
                                 PAGE_LOGITS, m->top, m->bottom, m->logits));
    }
    if (features_pursuit(run->f, &m->pursuit) != SAE_OK)
        memset(&m->pursuit, 0, sizeof m->pursuit); /* a dictionary that pursuit has no answer for */
    p->share = share / 2;
    if (desc->ablate_contexts != SIZE_MAX)
        PAGE_TRY(features_ablate(run->f, desc->model, &desc->text, m->latents, m->num,
                                 desc->ablate_contexts ? desc->ablate_contexts : 2, PAGE_CHANGES,
                                 &progress, m->ablated));
    p->done += p->share;
    if (desc->steer_contexts != SIZE_MAX)
        PAGE_TRY(features_steer(run->f, desc->model, &desc->text, m->latents, m->num,
                                desc->steer_contexts ? desc->steer_contexts : 4,
                                desc->steer_length ? desc->steer_length : 16, PAGE_CHANGES,
                                &progress, m->steered));
    p->done += p->share;
    return SAE_OK;
}

static void page_measured_free(page_measured *m) {
    free(m->latents);
    free(m->near);
    free(m->cosine);
    free(m->xy);
    free(m->top);
    free(m->bottom);
    free(m->logits);
    free(m->ablated);
    free(m->steered);
}

/* ---- the training's log ---- */

static const char *const page_log_keys[PAGE_LOG_KEYS] = { "loss", "frac_variance_explained", "l0",
                                             "dead_features" };

/* The number behind "key": in a line; NaN if there is none. */
static double page_log_number(const char *line, const char *key) {
    char quoted[40];
    const char *at;
    char *end;
    double value;
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    at = strstr(line, quoted);
    if (!at) return NAN;
    at += strlen(quoted);
    at += strspn(at, " \t");
    if (*at++ != ':') return NAN;
    value = strtod(at, &end);
    return end == at ? NAN : value;
}

/* Every so many of the log's lines, so that there are at most PAGE_LOG_POINTS: whenever it is full
   every other goes. */
static void page_put_log(page *p, const page_run *run) {
    double (*points)[1 + PAGE_LOG_KEYS] = p->points;
    FILE *out = p->out;
    FILE *log = run->log ? fopen(run->log, "rb") : NULL;
    size_t n = 0, lines = 0, every = 1, i, k;
    char line[4096];
    while (log && fgets(line, (int)sizeof line, log)) {
        double step = page_log_number(line, "step"), whose = page_log_number(line, "trainer");
        if (line[0] != '{' || !isfinite(step)) continue;
        if (run->log_trainer < 0 ? isfinite(whose) : whose != (double)run->log_trainer) continue;
        if (lines++ % every) continue;
        if (n == PAGE_LOG_POINTS) {
            for (i = 0; i < n / 2; i++) memcpy(points[i], points[2 * i], sizeof points[i]);
            n /= 2;
            every *= 2;
            if ((lines - 1) % every) continue;
        }
        points[n][0] = step;
        for (k = 0; k < PAGE_LOG_KEYS; k++)
            points[n][1 + k] = page_log_number(line, page_log_keys[k]);
        n++;
    }
    if (log) fclose(log);
    if (n < 2) {
        fprintf(out, "null");
        return;
    }
    for (k = 0; k <= PAGE_LOG_KEYS; k++) {
        fprintf(out, "%s\"%s\":[", k ? "," : "{", k ? page_log_keys[k - 1] : "step");
        for (i = 0; i < n; i++) {
            if (i) fputc(',', out);
            page_put_number(out, points[i][k], k ? 4 : 12);
        }
        fprintf(out, "]");
    }
    fprintf(out, "}");
}

/* ---- the page ---- */

static int32_t page_token(page *p, int32_t token) {
    if (p->short_token[token] < 0) {
        p->short_token[token] = (int32_t)p->num_tokens;
        p->tokens[p->num_tokens++] = token;
    }
    return p->short_token[token];
}

/* Only an example's fired tokens are written; the page draws the rest from the context. */
static void page_put_examples(page *p, const page_run *run, uint32_t latent, bool drawn) {
    features_example examples[FEATURES_MAX_KEPT];
    size_t n = features_examples(run->f, latent, drawn, examples), i, t;
    fputc('[', p->out);
    for (i = 0; i < n; i++) {
        const features_example *e = &examples[i];
        size_t c = e->context;
        if (p->short_context[c] < 0) {
            p->short_context[c] = (int32_t)p->num_contexts;
            p->contexts[p->num_contexts++] = c;
            p->first[c] = e->begin;
            p->last[c] = e->end;
        }
        if (e->begin < p->first[c]) p->first[c] = e->begin;
        if (e->end > p->last[c]) p->last[c] = e->end;
        fprintf(p->out, "%s[%d,%zu", i ? "," : "", (int)p->short_context[c], e->at);
        for (t = e->begin; t < e->end; t++)
            if (e->values[t - e->begin] > 0)
                fprintf(p->out, ",%zu,%.3g", t, (double)e->values[t - e->begin]);
        fputc(']', p->out);
    }
    fputc(']', p->out);
}

static void page_put_logits(page *p, const char *key, const features_logit *logits) {
    size_t i;
    fprintf(p->out, ",\"%s\":[", key);
    for (i = 0; logits && i < PAGE_LOGITS; i++)
        fprintf(p->out, "%s[%d,%.3g]", i ? "," : "", (int)page_token(p, logits[i].token),
                (double)logits[i].value);
    fputc(']', p->out);
}

static void page_put_changes(page *p, const char *key, const features_effect *effect,
                             const features_change *changes) {
    size_t i;
    fprintf(p->out, ",\"%s\":[", key);
    for (i = 0; effect->contexts && i < PAGE_CHANGES && i < p->vocab; i++)
        fprintf(p->out, "%s[%d,%.3g,%.3g]", i ? "," : "", (int)page_token(p, changes[i].token),
                (double)changes[i].before, (double)fmaxf(changes[i].after, 0));
    fputc(']', p->out);
}

static void page_put_feature(page *p, const page_run *run, const page_measured *m, size_t i) {
    uint32_t latent = m->latents[i], bars[FEATURES_BARS];
    features_stats s = features_get(run->f, latent);
    features_token tokens[PAGE_TOKENS];
    const features_effect *ablated = &m->ablated[i], *steered = &m->steered[i];
    FILE *out = p->out;
    double width;
    size_t n, j;
    fprintf(out, "{\"i\":%u,\"n\":%.0f,\"max\":%.4g,\"mean\":%.4g,\"spread\":%.4g,\"peak\":",
            (unsigned)latent, (double)s.count, s.max, s.mean, s.spread);
    page_put_number(out, m->logits ? m->logits[i].peak : NAN, 4);
    fprintf(out, ",\"kl\":");
    page_put_number(out, ablated->contexts ? ablated->kl : NAN, 3);
    fprintf(out, ",\"dl\":");
    page_put_number(out, ablated->contexts ? ablated->loss : NAN, 3);
    n = features_histogram(run->f, latent, bars, &width);
    fprintf(out, ",\"h\":[%.4g", width);
    for (j = 0; j < n; j++) fprintf(out, ",%u", (unsigned)bars[j]);
    n = features_tokens(run->f, latent, 3, tokens, PAGE_TOKENS);
    fprintf(out, "],\"t\":[");
    for (j = 0; j < n; j++)
        fprintf(out, "%s[%d,%.3g,%u]", j ? "," : "", (int)page_token(p, tokens[j].token),
                tokens[j].mean, (unsigned)tokens[j].count);
    fprintf(out, "],\"e\":");
    page_put_examples(p, run, latent, false);
    fprintf(out, ",\"s\":");
    page_put_examples(p, run, latent, true);
    page_put_logits(p, "lt", m->top ? m->top + i * PAGE_LOGITS : NULL);
    page_put_logits(p, "lb", m->bottom ? m->bottom + i * PAGE_LOGITS : NULL);
    fprintf(out, ",\"nb\":[");
    for (j = 0; j < PAGE_NEIGHBOURS && m->near[i * PAGE_NEIGHBOURS + j] != UINT32_MAX; j++)
        fprintf(out, "%s[%u,%.3f]", j ? "," : "", (unsigned)m->near[i * PAGE_NEIGHBOURS + j],
                (double)m->cosine[i * PAGE_NEIGHBOURS + j]);
    fputc(']', out);
    page_put_changes(p, "au", ablated, ablated->up);
    page_put_changes(p, "ad", ablated, ablated->down);
    page_put_changes(p, "su", steered, steered->up);
    page_put_changes(p, "sd", steered, steered->down);
    fprintf(out, ",\"an\":%zu,\"sn\":%zu,\"x\":%.4f,\"y\":%.4f}", ablated->contexts,
            steered->contexts, (double)m->xy[2 * i], (double)m->xy[2 * i + 1]);
}

/* How many features fire on 10^-6 .. 10^-5.75 of the rows, and so on up to all. */
static void page_put_density(FILE *out, const page_run *run) {
    size_t m = sae_dictionary_get_desc(run->dict)->dict_size, bars[24] = { 0 }, dead = 0, i;
    for (i = 0; i < m; i++) {
        features_stats s = features_get(run->f, i);
        double at = s.count ? (log10(s.density) + 6) * 4 : 0;
        if (!s.count) dead++;
        else bars[at < 0 ? 0 : at >= 23 ? 23 : (size_t)at]++;
    }
    fprintf(out, "\"dead\":%zu,\"alive\":%zu,\"density\":[", dead, m - dead);
    for (i = 0; i < 24; i++) fprintf(out, "%s%zu", i ? "," : "", bars[i]);
    fprintf(out, "]");
}

static void page_put_run(page *p, const page_run *run, const page_measured *m) {
    sae_dictionary_desc info = *sae_dictionary_get_desc(run->dict);
    FILE *out = p->out;
    size_t i;
    fprintf(out, "{\"name\":");
    page_put_text(out, run->name);
    fprintf(out, ",\"trainer\":");
    page_put_text(out, run->trainer);
    fprintf(out, ",\"class\":");
    page_put_text(out, sae_arch_name(info.arch));
    fprintf(out, ",\"submodule\":");
    page_put_text(out, run->submodule);
    fprintf(out, ",\"hook\":");
    page_put_text(out, run->hook && strcmp(run->hook, run->submodule) ? run->hook : "");
    fprintf(out, ",\"io\":");
    page_put_text(out, run->io);
    fprintf(out, ",\"m\":%zu,\"d\":%zu,\"l0\":%.5g,\"rows\":%.0f,\"eval_tokens\":%.0f,",
            info.dict_size, info.activation_dim, features_l0(run->f),
            (double)features_rows(run->f), (double)run->eval_tokens);
    fprintf(out, "\"metrics\":{");
#define SAE_X(field) page_put_metric(out, #field, run->metrics.rows.field);
    SAE_METRICS(SAE_X)
#undef SAE_X
    page_put_metric(out, "loss_original", run->metrics.losses.original);
    page_put_metric(out, "loss_reconstructed", run->metrics.losses.reconstructed);
    page_put_metric(out, "loss_zero", run->metrics.losses.zero);
    page_put_metric(out, "frac_recovered", run->metrics.losses.frac_recovered);
    fprintf(out, "\"rows\":%.0f},\"pursuit\":{\"rows\":%zu,\"l0\":%zu,\"encoder\":",
            (double)features_rows(run->f), m->pursuit.rows, m->pursuit.l0);
    page_put_number(out, m->pursuit.encoder, 5);
    fprintf(out, ",\"pursuit\":");
    page_put_number(out, m->pursuit.pursuit, 5);
    fprintf(out, "},");
    page_put_density(out, run);
    fprintf(out, ",\"log\":");
    page_put_log(p, run);
    fprintf(out, ",\"features\":[");
    for (i = 0; i < m->num; i++) {
        fprintf(out, i ? ",\n" : "\n");
        page_put_feature(p, run, m, i);
    }
    fprintf(out, "]}");
}

/* What the examples have asked for, now that all are written. */
static void page_put_contexts(page *p) {
    size_t i, t;
    fprintf(p->out, "\"contexts\":[");
    for (i = 0; i < p->num_contexts; i++) {
        size_t c = p->contexts[i];
        const int32_t *tokens = p->desc->text.tokens + c * p->desc->text.ctx;
        fprintf(p->out, "%s[%zu", i ? ",\n" : "\n", p->first[c]);
        for (t = p->first[c]; t < p->last[c] && tokens[t] >= 0; t++)
            fprintf(p->out, ",%d", (int)page_token(p, tokens[t]));
        fputc(']', p->out);
    }
    fprintf(p->out, "],\n\"vocab\":[");
    for (i = 0; i < p->num_tokens; i++) {
        size_t size = 0;
        const char *bytes = sae_tokenizer_token(p->desc->tokenizer, p->tokens[i], &size);
        if (i) fputc(',', p->out);
        if (bytes) page_put_string(p->out, bytes, size);
        else fprintf(p->out, "\"[%d]\"", (int)p->tokens[i]); /* an id that the tokenizer has not */
    }
    fprintf(p->out, "]");
}

static void page_put_data(page *p) {
    const page_desc *desc = p->desc;
    size_t i;
    fprintf(p->out, "{\"model\":");
    page_put_text(p->out, desc->model_name);
    fprintf(p->out, ",\"text\":");
    page_put_text(p->out, desc->text_name);
    fprintf(p->out, ",\"tokens\":%.0f,\"ctx\":%zu,\"before\":%zu,\"after\":%zu,\n\"runs\":[",
            (double)features_rows(desc->runs[0].f), desc->text.ctx,
            desc->before ? desc->before : FEATURES_BEFORE,
            desc->after ? desc->after : FEATURES_AFTER);
    for (i = 0; i < desc->num_runs; i++) {
        if (i) fprintf(p->out, ",\n");
        page_put_run(p, &desc->runs[i], &p->runs[i]);
    }
    fprintf(p->out, "],\n");
    page_put_contexts(p);
    fprintf(p->out, "}\n");
}

/* ---- Neuronpedia's layout ---- */

static void page_put_token(page *p, int32_t token) {
    size_t size = 0;
    const char *bytes = token >= 0 ? sae_tokenizer_token(p->desc->tokenizer, token, &size) : NULL;
    page_put_string(p->out, bytes ? bytes : "", bytes ? size : 0);
}

/* ,"STEMstr":[...],"STEMvalues":[...] */
static void page_put_np_logits(page *p, const char *stem, const features_logit *logits) {
    size_t i;
    fprintf(p->out, ",\"%s_str\":[", stem);
    for (i = 0; logits && i < PAGE_LOGITS; i++) {
        if (i) fputc(',', p->out);
        page_put_token(p, logits[i].token);
    }
    fprintf(p->out, "],\"%s_values\":[", stem);
    for (i = 0; logits && i < PAGE_LOGITS; i++)
        fprintf(p->out, "%s%.3f", i ? "," : "", (double)logits[i].value);
    fputc(']', p->out);
}

/* ,"STEM_bar_heights":[...],"STEM_bar_values":[...]: counts, and the middles of the bars. */
static void page_put_np_bars(FILE *out, const char *stem, const uint32_t *bars, size_t n,
                             double from, double width) {
    size_t i;
    fprintf(out, ",\"%s_bar_heights\":[", stem);
    for (i = 0; i < n; i++) fprintf(out, "%s%u", i ? "," : "", (unsigned)bars[i]);
    fprintf(out, "],\"%s_bar_values\":[", stem);
    for (i = 0; i < n; i++) fprintf(out, "%s%.4g", i ? "," : "", from + width * ((double)i + 0.5));
    fputc(']', out);
}

/* The three components of the decoder row that are largest, and their share of its 1-norm. */
static void page_put_np_alignment(FILE *out, const float *w, size_t d) {
    size_t most[3], have = 0, i, at;
    double norm = 0;
    for (i = 0; w && i < d; i++) {
        norm += fabs((double)w[i]);
        if (have == 3 && !(w[i] > w[most[2]])) continue;
        if (have < 3) have++;
        for (at = have - 1; at > 0 && w[i] > w[most[at - 1]]; at--) most[at] = most[at - 1];
        most[at] = i;
    }
    fprintf(out, ",\"neuron_alignment_indices\":[");
    for (i = 0; i < have; i++) fprintf(out, "%s%zu", i ? "," : "", most[i]);
    fprintf(out, "],\"neuron_alignment_values\":[");
    for (i = 0; i < have; i++) fprintf(out, "%s%.3f", i ? "," : "", (double)w[most[i]]);
    fprintf(out, "],\"neuron_alignment_l1\":[");
    for (i = 0; i < have; i++)
        fprintf(out, "%s%.3f", i ? "," : "", norm > 0 ? fabs((double)w[most[i]]) / norm : 0);
    fputc(']', out);
}

/* The largest carry bin -1; those drawn the whole range, as they come from all of it. */
static void page_put_np_examples(page *p, const page_run *run, uint32_t latent) {
    features_example examples[FEATURES_MAX_KEPT];
    double max = features_get(run->f, latent).max;
    size_t drawn, i, t, count = 0;
    fprintf(p->out, ",\"activations\":[");
    for (drawn = 0; drawn < 2; drawn++) {
        size_t n = features_examples(run->f, latent, drawn == 1, examples);
        for (i = 0; i < n; i++) {
            const features_example *e = &examples[i];
            const int32_t *tokens = p->desc->text.tokens + e->context * p->desc->text.ctx;
            size_t end = e->begin;
            while (end < e->end && tokens[end] >= 0) end++;
            fprintf(p->out, "%s\n  {\"bin_min\":", count++ ? "," : "");
            if (drawn)
                fprintf(p->out, "0.0,\"bin_max\":%.3f,\"bin_contains\":1.0", max);
            else fprintf(p->out, "-1,\"bin_max\":-1,\"bin_contains\":-1");
            fprintf(p->out, ",\"qualifying_token_index\":%zu,\"tokens\":[", e->at - e->begin);
            for (t = e->begin; t < end; t++) {
                if (t > e->begin) fputc(',', p->out);
                page_put_token(p, tokens[t]);
            }
            fprintf(p->out, "],\"values\":[");
            for (t = e->begin; t < end; t++)
                fprintf(p->out, "%s%.3f", t > e->begin ? "," : "",
                        (double)e->values[t - e->begin]);
            fprintf(p->out, "]}");
        }
    }
    fputc(']', p->out);
}

static void page_put_np_feature(page *p, const page_run *run, const page_measured *m, size_t i) {
    uint32_t latent = m->latents[i], bars[FEATURES_BARS];
    features_stats s = features_get(run->f, latent);
    FILE *out = p->out;
    double width;
    size_t n, j;
    fprintf(out, "%s\n {\"feature_index\":%u,\"frac_nonzero\":%.6g,\"maxActApprox\":%.3f",
            i ? "," : "", (unsigned)latent, s.density, s.max);
    page_put_np_alignment(out, sae_dictionary_decoder_row(run->dict, latent),
                          sae_dictionary_get_desc(run->dict)->output_dim);
    fprintf(out, ",\"correlated_neurons_indices\":[],\"correlated_neurons_pearson\":[],"
            "\"correlated_neurons_l1\":[],\"correlated_features_indices\":[],"
            "\"correlated_features_pearson\":[],\"correlated_features_l1\":[],"
            "\"decoder_weights_dist\":[],\"topkCosSimIndices\":[");
    for (n = 0; n < PAGE_NEIGHBOURS && m->near[i * PAGE_NEIGHBOURS + n] != UINT32_MAX;) n++;
    for (j = 0; j < n; j++)
        fprintf(out, "%s%u", j ? "," : "", (unsigned)m->near[i * PAGE_NEIGHBOURS + j]);
    fprintf(out, "],\"topkCosSimValues\":[");
    for (j = 0; j < n; j++)
        fprintf(out, "%s%.3f", j ? "," : "", (double)m->cosine[i * PAGE_NEIGHBOURS + j]);
    fputc(']', out);
    page_put_np_logits(p, "neg", m->bottom ? m->bottom + i * PAGE_LOGITS : NULL);
    page_put_np_logits(p, "pos", m->top ? m->top + i * PAGE_LOGITS : NULL);
    n = features_histogram(run->f, latent, bars, &width);
    page_put_np_bars(out, "freq_hist_data", bars, n, 0, width);
    if (m->logits)
        page_put_np_bars(out, "logits_hist_data", m->logits[i].bars, FEATURES_BARS,
                         (double)m->logits[i].low,
                         ((double)m->logits[i].high - (double)m->logits[i].low) / FEATURES_BARS);
    else fprintf(out, ",\"logits_hist_data_bar_heights\":[],\"logits_hist_data_bar_values\":[]");
    fprintf(out, ",\"n_prompts_total\":%zu,\"n_tokens_in_prompt\":%zu,\"dataset\":",
            p->desc->text.contexts, p->desc->text.ctx);
    page_put_text(out, p->desc->text_name);
    page_put_np_examples(p, run, latent);
    fputc('}', out);
}

static void page_put_neuronpedia(page *p, const page_run *run, const page_measured *m) {
    size_t i;
    fprintf(p->out, "{\"model_id\":");
    page_put_text(p->out, p->desc->model_name);
    fprintf(p->out, ",\"layer\":%zu,\"sae_set\":", run->place.out.layer);
    page_put_text(p->out, run->name);
    fprintf(p->out, ",\"hook_name\":");
    page_put_text(p->out, run->hook && *run->hook ? run->hook : run->submodule);
    fprintf(p->out, ",\"features\":[");
    for (i = 0; i < m->num; i++) page_put_np_feature(p, run, m, i);
    fprintf(p->out, "\n]}\n");
}

/* ---- files ---- */

/* path.tmp, opened; renamed by page_close when all went well. */
static FILE *page_open(const char *path, char *temporary, size_t size) {
    if ((size_t)snprintf(temporary, size, "%s.tmp", path) >= size) return NULL;
    return fopen(temporary, "wb");
}

static sae_result page_close(page *p, const char *path, const char *temporary) {
    bool good = p->out && !ferror(p->out);
    if (p->out && fclose(p->out) != 0) good = false;
    p->out = NULL;
#if defined(_WIN32)
    if (good) remove(path);
#endif
    if (good && rename(temporary, path) == 0) return SAE_OK;
    remove(temporary);
    return sae_context_fail(p->ctx, SAE_ERR_IO, "page_write: %s cannot be written", path);
}

static sae_result page_write_json(page *p, const char *path, size_t run) {
    char name[4096], temporary[4200];
    size_t stem = strlen(path);
    if (stem > 5 && strcmp(path + stem - 5, ".html") == 0) stem -= 5;
    if (stem > 4000)
        return sae_context_fail(p->ctx, SAE_ERR_INVALID, "page_write: path is too long");
    if (p->desc->num_runs == 1) snprintf(name, sizeof name, "%.*s.json", (int)stem, path);
    else snprintf(name, sizeof name, "%.*s.%zu.json", (int)stem, path, run);
    p->out = page_open(name, temporary, sizeof temporary);
    if (p->out) page_put_neuronpedia(p, &p->desc->runs[run], &p->runs[run]);
    return page_close(p, name, temporary);
}

static sae_result page_write_html(page *p, const char *path) {
    char temporary[4200];
    size_t i;
    p->out = page_open(path, temporary, sizeof temporary);
    for (i = 0; p->out && page_html[i]; i++) {
        if (strcmp(page_html[i], "DATA") == 0) page_put_data(p);
        else fprintf(p->out, "%s\n", page_html[i]);
    }
    return page_close(p, path, temporary);
}

SAE_API sae_result page_write(sae_context *ctx, const page_desc *desc, const char *path) {
    page p;
    sae_result result = SAE_OK;
    size_t i;
    memset(&p, 0, sizeof p);
    if (!desc->num_runs) return sae_context_fail(ctx, SAE_ERR_INVALID, "page_write: num_runs is 0");
    p.ctx = ctx;
    p.desc = desc;
    p.vocab = sae_lm_config_of(desc->model).vocab_size;
    p.short_token = (int32_t *)malloc(p.vocab * sizeof *p.short_token);
    p.tokens = (int32_t *)malloc(p.vocab * sizeof *p.tokens);
    p.short_context = (int32_t *)malloc((desc->text.contexts + 1) * sizeof *p.short_context);
    p.contexts = (size_t *)malloc((desc->text.contexts + 1) * sizeof *p.contexts);
    p.first = (size_t *)calloc(desc->text.contexts + 1, sizeof *p.first);
    p.last = (size_t *)calloc(desc->text.contexts + 1, sizeof *p.last);
    p.runs = (page_measured *)calloc(desc->num_runs, sizeof *p.runs);
    if (!p.short_token || !p.tokens || !p.short_context || !p.contexts || !p.first || !p.last
        || !p.runs)
        result = sae_context_fail(ctx, SAE_ERR_OUT_OF_MEMORY, "page_write: no memory");
    for (i = 0; i < p.vocab && result == SAE_OK; i++) p.short_token[i] = -1;
    for (i = 0; i < desc->text.contexts && result == SAE_OK; i++) p.short_context[i] = -1;
    for (i = 0; i < desc->num_runs && result == SAE_OK; i++)
        result = page_measure(&p, &desc->runs[i], &p.runs[i], 1.0 / (double)desc->num_runs);
    if (result == SAE_OK) result = page_write_html(&p, path);
    for (i = 0; i < desc->num_runs && result == SAE_OK; i++)
        result = page_write_json(&p, path, i);
    for (i = 0; p.runs && i < desc->num_runs; i++) page_measured_free(&p.runs[i]);
    free(p.short_token);
    free(p.tokens);
    free(p.short_context);
    free(p.contexts);
    free(p.first);
    free(p.last);
    free(p.runs);
    return result;
}

#endif /* PAGE_IMPLEMENTATION */
