#pragma once
#include "attention.h"

/* ==== >>lm: forward pass: MLPs ================================================================ */

static void lmi_act_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    size_t first = part * LMI_ROW_PART * run->width;
    size_t count = lmi_min((part + 1) * LMI_ROW_PART, run->count) * run->width - first;
    lmi_act act = run->m->shape.act;
    if (run->from) run->m->kernels->gate(act, count, run->to + first, run->from + first);
    else run->m->kernels->activate(act, count, run->to + first);
}

/* to [rows,width] = act(to), times from if that is not NULL. */
static void lmi_act_rows(lmi_run *run, size_t rows, size_t width, const float *from, float *to) {
    run->width = width;
    run->from = from;
    run->to = to;
    lmi_row_parts(run, rows, lmi_act_part);
}

/* normed -> normed */
static sae_result lmi_run_mlp(lmi_run *run, size_t i) {
    const lmi_mlp *p = run->m->layer[i].mlp;
    size_t wide = run->m->shape.dense_dim;
    float *neurons = run->wide;
    LMI_AT(SAE_LM_MLP, i, true, run->normed);
    if (p->gate) {
        neurons = run->gate;
        LMI_TRY(sae_linear_apply(p->gate, run->normed, run->n, run->gate));
        LMI_AT(SAE_LM_GATE_PROJ, i, false, run->gate);
    }
    LMI_AT(SAE_LM_UP_PROJ, i, true, run->normed);
    LMI_TRY(sae_linear_apply(p->up, run->normed, run->n, run->wide));
    LMI_AT(SAE_LM_UP_PROJ, i, false, run->wide);
    lmi_act_rows(run, run->n, wide, p->gate ? run->wide : NULL, neurons);
    LMI_AT(SAE_LM_DOWN_PROJ, i, true, neurons);
    LMI_TRY(sae_linear_apply(p->down, neurons, run->n, run->normed));
    run->made = run->normed;
    LMI_AT(SAE_LM_DOWN_PROJ, i, false, run->made);
    LMI_AT(SAE_LM_MLP, i, false, run->made);
    return SAE_OK;
}

/* ---- mixture of experts ---- */

/* Of each row: softmax over all experts, the largest k of it (the lower expert of equal ones) as
   numbers, ascending, in `expert` and their weights in the first k of routes. */
static void lmi_route_part(void *arg, size_t part) {
    lmi_run *run = (lmi_run *)arg;
    const lmi_shape *s = &run->m->shape;
    size_t count = s->info.experts, k = s->info.experts_per_token;
    size_t end = lmi_min((part + 1) * LMI_ROW_PART, run->count);
    for (size_t r = part * LMI_ROW_PART; r < end; r++) {
        float *p = run->routes + r * count, most = p[0], all = 0, taken = 0;
        uint32_t *expert = run->expert + r * k;
        for (size_t e = 1; e < count; e++) most = p[e] > most ? p[e] : most;
        for (size_t e = 0; e < count; e++) {
            double x = (double)p[e] - (double)most;
            p[e] = x > -600 ? (float)lmi_exp(x) : 0;
            all += p[e];
        }
        for (size_t j = 0; j < k; j++) { /* the j-th largest */
            size_t best = count;
            for (size_t e = 0; e < count; e++) {
                bool had = false;
                for (size_t i = 0; i < j; i++) had = had || expert[i] == e;
                if (!had && (best == count || p[e] > p[best])) best = e;
            }
            expert[j] = (uint32_t)best;
        }
        for (size_t j = 1; j < k; j++) /* ascending */
            for (size_t i = j; i > 0 && expert[i] < expert[i - 1]; i--) {
                uint32_t swap = expert[i];
                expert[i] = expert[i - 1], expert[i - 1] = swap;
            }
        for (size_t j = 0; j < k; j++) { /* expert[j] >= j: nothing is read that was written */
            p[j] = p[expert[j]] / all;
            taken += p[j];
        }
        for (size_t j = 0; j < k && s->top_norm; j++) p[j] /= taken;
    }
}

/* One block of rows through expert e: from rows of normed, weighted into mixed. */
static sae_result lmi_run_expert(lmi_run *run, const lmi_mlp *p, const float *weight,
                                 size_t count) {
    size_t d = run->m->shape.info.dim;
    float *neurons = run->wide;
    for (size_t j = 0; j < count; j++)
        memcpy(run->gathered + j * d, run->normed + run->row[j] * d, d * sizeof(float));
    LMI_TRY(sae_linear_apply(p->up, run->gathered, count, run->wide));
    if (p->gate) {
        neurons = run->gate;
        LMI_TRY(sae_linear_apply(p->gate, run->gathered, count, run->gate));
    }
    lmi_act_rows(run, count, run->m->shape.info.mlp_dim, p->gate ? run->wide : NULL, neurons);
    LMI_TRY(sae_linear_apply(p->down, neurons, count, run->given));
    for (size_t j = 0; j < count; j++) {
        float *to = run->mixed + run->row[j] * d;
        for (size_t c = 0; c < d; c++) to[c] += weight[j] * run->given[j * d + c];
    }
    return SAE_OK;
}

/* normed -> mixed; each row's experts are added in ascending order. */
static sae_result lmi_run_experts(lmi_run *run, size_t i) {
    const lmi_layer *l = &run->m->layer[i];
    const sae_lm_config *info = &run->m->shape.info;
    size_t k = info->experts_per_token;
    float weight[LMI_LOGIT_ROWS];
    LMI_AT(SAE_LM_MLP, i, true, run->normed);
    LMI_TRY(sae_linear_apply(l->router, run->normed, run->n, run->routes));
    lmi_row_parts(run, run->n, lmi_route_part);
    memset(run->mixed, 0, run->n * info->dim * sizeof(float));
    for (size_t e = 0; e < info->experts; e++) {
        size_t count = 0;
        for (size_t j = 0; j < run->n * k; j++) {
            if (run->expert[j] != e) continue;
            run->row[count] = j / k;
            weight[count++] = run->routes[j / k * info->experts + j % k];
            if (count < LMI_LOGIT_ROWS) continue;
            LMI_TRY(lmi_run_expert(run, &l->mlp[e], weight, count));
            count = 0;
        }
        if (count) LMI_TRY(lmi_run_expert(run, &l->mlp[e], weight, count));
    }
    run->made = run->mixed;
    LMI_AT(SAE_LM_MLP, i, false, run->made);
    return SAE_OK;
}
