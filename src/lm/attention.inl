/* p[j] = exp(scale (p[j] - max)) over first <= j < n, zeros elsewhere up to wide (a multiple of
   16); returns their sum, in lanes j mod 16, so that zeros in front or behind change no bit. */
static float lmi_softmax(float *p, size_t first, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = 0; j < first; j++) p[j] = p[first];
    for (j = n; j < wide; j++) p[j] = p[first];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j < wide; j += 16) {
        lmi_v e = lmi_vset(0);
        if (j + 16 > first && j < n) {
            e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
            if (j < first || j + 16 > n) {
                lmi_vstore(f, e);
                for (size_t i = 0; i < 16; i++)
                    if (j + i < first || j + i >= n) f[i] = 0;
                e = lmi_vload(f);
            }
            sum = lmi_vadd(sum, e);
        }
        lmi_vstore(p + j, e);
    }
    return (float)lmi_vsum(sum);
}

static void LMI_FN(lmi_attend)(const lmi_tile *t) {
    size_t d = t->head_dim, deep = lmi_round(d), low = t->first[0], high = 0, wide, c, j, r;
    const float *at[LMI_ROWS];
    float sum[LMI_ROWS], scale = t->scale;
    for (r = 0; r < LMI_ROWS; r++) {
        size_t row = r < t->rows ? r : t->rows - 1;
        at[r] = t->q + row * d;
        low = lmi_min(low, t->first[row]);
        high = lmi_max(high, t->end[row]);
    }
    low = low / LMI_COLUMNS * LMI_COLUMNS;
    wide = lmi_round(high - low);
    for (j = low; j < high; j += LMI_COLUMNS)
        lmi_block(at, d, t->keys + j * d, LMI_COLUMNS, t->p + (j - low), wide);
    if (t->cap > 0) {
        lmi_v s = lmi_vset(scale), cap = lmi_vset(t->cap);
        for (j = 0; j < t->rows * wide; j += 16)
            lmi_vstore(t->p + j, lmi_vcap(lmi_vmul(lmi_vload(t->p + j), s), cap));
        scale = 1;
    }
    for (r = 0; r < t->rows; r++)
        sum[r] = lmi_softmax(t->p + r * wide, t->first[r] - low, t->end[r] - low, wide, scale);
    for (r = 0; r < LMI_ROWS; r++) at[r] = t->p + (r < t->rows ? r : t->rows - 1) * wide;
    for (c = 0; c < d; c += LMI_COLUMNS)
        lmi_block(at, high - low, t->values + low * deep + c, deep, t->mixed + c, deep);
    for (r = 0; r < t->rows; r++)
        for (c = 0; c < d; c++) t->out[r][c] = t->mixed[r * deep + c] / sum[r];
}
