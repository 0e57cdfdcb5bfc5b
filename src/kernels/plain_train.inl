/* What only training needs, where there is no version of its own: all but AVX-512. */
static size_t SAEI_FN(saei_mark)(const uint32_t *sorted, size_t n, uint32_t first,
                                 uint64_t *bits) {
    size_t j = 0;
    for (*bits = 0; j < n && sorted[j] - first < 64; j++)
        *bits |= (uint64_t)1 << (sorted[j] - first);
    return j;
}

static void SAEI_FN(saei_regroup)(const uint32_t fires[16], size_t from[16],
                                  const float *const *values, size_t count, float *const *out,
                                  size_t to[16]) {
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t l = 0; l < 16; l++) {
            if (!(fires[r] >> l & 1)) continue;
            for (size_t v = 0; v < count; v++) out[v][to[l]] = values[v][from[r]];
            from[r]++;
            to[l]++;
        }
}

static void SAEI_FN(saei_add_fires)(size_t words, const uint64_t *fires, const float *value,
                                    double *sums) {
    size_t j = 0;
    for (size_t w = 0; w < words; w++, sums += 64)
        for (uint64_t left = fires[w]; left; left &= left - 1)
            sums[saei_lowest_bit(left)] += (double)value[j++];
}

static void SAEI_FN(saei_add_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *value, const float *panel,
                                    float *out, size_t ld) {
    for (size_t i = 0; i < targets; i++, out += ld)
        SAEI_FN(saei_add_list)(n, bits[i], value + at[i], panel, out);
}

static void SAEI_FN(saei_dot_panel)(size_t n, size_t targets, const size_t *at,
                                    const uint64_t *bits, const float *e, size_t ld,
                                    const float *panel, float *lanes, bool begin, float alpha,
                                    float *out) {
    for (size_t i = 0; i < targets; i++, e += ld) {
        float *end = SAEI_FN(saei_dot_list)(n, bits[i], e, panel, lanes, begin);
        if (out)
            for (size_t j = at[i]; lanes < end; j++, lanes += 16)
                out[j] = (float)((double)alpha * saei_vsum(saei_vload(lanes)));
        lanes = end;
    }
}

/* a is a float's value: the product is exact, so that one rounding or two are the same. */
static void SAEI_FN(saei_add_double)(size_t n, double a, const float *x, double *out) {
    for (size_t i = 0; i < n; i++) out[i] += a * (double)x[i];
}

static void SAEI_FN(saei_powers)(size_t n, const float *x, double p, double *out) {
    for (size_t i = 0; i < n; i++) out[i] = x[i] > 0 ? saei_pow((double)x[i], p) : 0;
}

static void SAEI_FN(saei_gate)(size_t n, size_t at, const float *gate_bias, const float *exp_r,
                               const float *mag_bias, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        size_t i = c->latent[j];
        c->gate[j] = c->pre[j] + gate_bias[i];
        c->value[j] = saei_gate_value(exp_r[i], c->pre[j], mag_bias[i]);
    }
}

static void SAEI_FN(saei_gate_grad)(size_t n, size_t at, const float *exp_r, const sae_code *c) {
    for (size_t j = at; j < at + n; j++) {
        float e = exp_r[c->latent[j]], mag = c->value[j] > 0 ? c->extra[0][j] : 0;
        c->extra[0][j] = mag;
        c->extra[2][j] = mag * e * c->pre[j];
        c->grad[j] = fmaf(e, mag, c->extra[1][j]);
    }
}
