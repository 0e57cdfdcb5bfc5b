/* p[j] = exp(scale (p[j] - max)) over the first n, zeros up to wide (a multiple of 16); returns
   their sum. */
static float lmi_softmax(float *p, size_t n, size_t wide, float scale) {
    lmi_v most, sum = lmi_vset(0), s = lmi_vset(scale);
    float f[16], m;
    size_t j;
    for (j = n; j < wide; j++) p[j] = p[0];
    most = lmi_vload(p);
    for (j = 16; j < wide; j += 16) most = lmi_vmax(lmi_vload(p + j), most);
    lmi_vstore(f, most);
    m = f[0];
    for (j = 1; j < 16; j++)
        if (f[j] > m) m = f[j];
    most = lmi_vset(m);
    for (j = 0; j + 16 <= n; j += 16) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
    }
    if (j < n) {
        lmi_v e = lmi_vexp(lmi_vmul(s, lmi_vsub(lmi_vload(p + j), most)));
        lmi_vstore(f, e);
        e = lmi_vpart(f, n - j, 0);
        sum = lmi_vadd(sum, e);
        lmi_vstore(p + j, e);
        j += 16;
    }
    for (; j < wide; j++) p[j] = 0;
    return (float)lmi_vsum(sum);
}

/* Causal attention, 8 queries at a time; keys behind the last of them are not looked at. */
static void LMI_FN(lmi_attend)(const lmi_head *h) {
    size_t wide = lmi_round(h->ctx), deep = lmi_round(h->head_dim), d = h->head_dim;
    float *keys = h->scratch, *values = keys + d * wide, *p = values + h->ctx * deep;
    float *mixed = p + LMI_ROWS * wide;
    for (size_t t = 0; t < wide; t++)
        for (size_t c = 0; c < d; c++)
            keys[c * wide + t] = t < h->ctx ? h->k[t * h->stride + c] : 0;
    for (size_t t = 0; t < h->ctx; t++)
        for (size_t c = 0; c < deep; c++)
            values[t * deep + c] = c < d ? h->v[t * h->stride + c] : 0;
    for (size_t i = 0; i < h->ctx; i += LMI_ROWS) {
        size_t rows = lmi_min(h->ctx - i, LMI_ROWS), seen = i + rows;
        const float *at[LMI_ROWS];
        float sum[LMI_ROWS];
        for (size_t r = 0; r < LMI_ROWS; r++)
            at[r] = h->q + (i + (r < rows ? r : rows - 1)) * h->stride;
        for (size_t j = 0; j < seen; j += LMI_COLUMNS)
            lmi_block(at, d, keys + j, wide, p + j, wide);
        for (size_t r = 0; r < rows; r++)
            sum[r] = lmi_softmax(p + r * wide, i + r + 1, lmi_round(seen), h->scale);
        for (size_t r = 0; r < LMI_ROWS; r++) at[r] = p + (r < rows ? r : rows - 1) * wide;
        for (size_t c = 0; c < d; c += LMI_COLUMNS)
            lmi_block(at, seen, values + c, deep, mixed + c, deep);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < d; c++)
                h->out[(i + r) * h->out_stride + c] = mixed[r * deep + c] / sum[r];
    }
}
