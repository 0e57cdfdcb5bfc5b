#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: normalising ============================================================ */

static bool lmi_normal_run(sae_tokenizer *t, const lmi_normal_step *step, const char *s,
                           size_t size, sae_text *out) {
    if (step->kind == LMI_NFC) return lmi_nfc((const unsigned char *)s, size, &t->cluster, out);
    if (step->kind == LMI_REPLACE) return lmi_replace(t, step->from, step->to, s, size, out);
    return (!size || lmi_text_add(out, lmi_span_data(t, step->to), step->to.size))
           && lmi_text_add(out, s, size);
}

/* s and size become what the steps make of them: theirs, or in t->normal. */
static bool lmi_normalize(sae_tokenizer *t, const unsigned char **s, size_t *size) {
    for (size_t i = 0; i < t->num_steps; i++) {
        sae_text *out = &t->normal[i % 2];
        out->size = 0;
        if (!lmi_normal_run(t, &t->step[i], (const char *)*s, *size, out)) return false;
        *s = (const unsigned char *)out->data;
        *size = out->size;
    }
    return true;
}

/* The same before words are cut: blanks become marks, and a prefix is put in front of what has
   none; first: at the beginning of the text. */
static bool lmi_mark_spaces(sae_tokenizer *t, bool first, const unsigned char **s, size_t *size) {
    const lmi_splitter *p = &t->splitter;
    bool prefix = (p->prefix == LMI_PREFIX_ALWAYS || (p->prefix == LMI_PREFIX_FIRST && first))
                  && !lmi_span_begins(t, p->prefix_text, *s, *size)
                  && !(p->space.size && lmi_span_begins(t, p->blank, *s, *size));
    if (!prefix && !p->space.size) return true;
    t->spaced.size = 0;
    if (prefix && !lmi_text_add(&t->spaced, lmi_span_data(t, p->prefix_text), p->prefix_text.size))
        return false;
    if (p->space.size
        ? !lmi_replace(t, p->blank, p->space, (const char *)*s, *size, &t->spaced)
        : !lmi_text_add(&t->spaced, *s, *size))
        return false;
    *s = (const unsigned char *)t->spaced.data;
    *size = t->spaced.size;
    return true;
}
