/* What only training needs of every instruction set. */
/* Four to six latents at a time, so that their chains hide each other's latency: 53 cycles a dot of
   512 from the L1, of which 40 are loads (one alone 92; eight 83: too many streams for the L1). */
#define SAEI_DOT_BEGIN(i)                                                                          \
    const float *m##i = M + row[j + i] * ld;                                                       \
    saei_v s##i = saei_vset(0);
#define SAEI_DOT_STEP(i) s##i = saei_vfma(v, saei_vload(m##i + k), s##i);
#define SAEI_DOT_END(i) out[j + i] = (float)((double)alpha * saei_vsum(s##i));
#define SAEI_DOTS(ALL)                                                                             \
    ALL(SAEI_DOT_BEGIN)                                                                            \
    for (size_t k = 0; k < n; k += 16) {                                                           \
        saei_v v = saei_vload(e + k);                                                              \
        ALL(SAEI_DOT_STEP)                                                                         \
    }                                                                                              \
    ALL(SAEI_DOT_END)
#define SAEI_1(X) X(0)
#define SAEI_2(X) SAEI_1(X) X(1)
#define SAEI_3(X) SAEI_2(X) X(2)
#define SAEI_4(X) SAEI_3(X) X(3)
#define SAEI_5(X) SAEI_4(X) X(4)
#define SAEI_6(X) SAEI_5(X) X(5)
static void SAEI_FN(saei_dots)(size_t n, const float *e, size_t count, const uint32_t *row,
                               const float *M, size_t ld, float alpha, float *out) {
    for (size_t j = 0, group; j < count; j += group) {
        group = count - j > 6 ? 4 : count - j;
        switch (group) {
        case 1: { SAEI_DOTS(SAEI_1) } break;
        case 2: { SAEI_DOTS(SAEI_2) } break;
        case 3: { SAEI_DOTS(SAEI_3) } break;
        case 4: { SAEI_DOTS(SAEI_4) } break;
        case 5: { SAEI_DOTS(SAEI_5) } break;
        default: { SAEI_DOTS(SAEI_6) } break;
        }
    }
}
#undef SAEI_DOT_BEGIN
#undef SAEI_DOT_STEP
#undef SAEI_DOT_END
#undef SAEI_DOTS
#undef SAEI_1
#undef SAEI_2
#undef SAEI_3
#undef SAEI_4
#undef SAEI_5
#undef SAEI_6

/* out += sum_j v[j] of the panel's rows named in bits, ascending. */
static inline void SAEI_FN(saei_add_list)(size_t n, uint64_t bits, const float *v,
                                          const float *panel, float *out) {
    for (; bits; bits &= bits - 1, v++) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v x = saei_vset(*v);
        for (size_t c = 0; c < n; c += 16)
            saei_vstore(out + c, saei_vfma(x, saei_vload(m + c), saei_vload(out + c)));
    }
}

/* The running sums of e with the panel's rows named in bits, 16 lanes each; returns their end. */
static inline float *SAEI_FN(saei_dot_list)(size_t n, uint64_t bits, const float *e,
                                            const float *panel, float *lanes, bool begin) {
    for (; bits; bits &= bits - 1, lanes += 16) {
        const float *m = panel + saei_lowest_bit(bits) * n;
        saei_v s = begin ? saei_vset(0) : saei_vload(lanes);
        for (size_t c = 0; c < n; c += 16)
            s = saei_vfma(saei_vload(e + c), saei_vload(m + c), s);
        saei_vstore(lanes, s);
    }
    return lanes;
}

/* m += (1 - beta1)(g - m); v = beta2 v + (1 - beta2) g^2; p += (-step m) / (sqrt(v) / root2 + eps),
   rounded where PyTorch rounds. m is not kept (NULL) when beta1 is 0: then it is g. */
static void SAEI_FN(saei_adam)(const saei_adam_factors *c, size_t n, float *p, const float *g,
                               float *m, float *v) {
    saei_v keep1 = saei_vset(c->keep1), keep2 = saei_vset(c->keep2), beta2 = saei_vset(c->beta2);
    saei_v root2 = saei_vset(c->root2), eps = saei_vset(c->eps), step = saei_vset(-c->step);
    saei_v scale = saei_vset(c->scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        saei_v x = saei_vmul(saei_vload(g + i), scale), m1 = x, v1;
        if (m) {
            m1 = saei_vload(m + i);
            m1 = saei_vfma(keep1, saei_vsub(x, m1), m1);
            saei_vstore(m + i, m1);
        }
        v1 = saei_vfma(saei_vmul(keep2, x), x, saei_vmul(beta2, saei_vload(v + i)));
        saei_vstore(v + i, v1);
        v1 = saei_vadd(saei_vdiv(saei_vsqrt(v1), root2), eps);
        saei_vstore(p + i, saei_vadd(saei_vload(p + i), saei_vdiv(saei_vmul(step, m1), v1)));
    }
    for (; i < n; i++) {
        float x = g[i] * c->scale, m1 = x;
        if (m) m1 = m[i] = fmaf(c->keep1, x - m[i], m[i]);
        v[i] = fmaf(c->keep2 * x, x, c->beta2 * v[i]);
        p[i] += -c->step * m1 / (sqrtf(v[i]) / c->root2 + c->eps);
    }
}
