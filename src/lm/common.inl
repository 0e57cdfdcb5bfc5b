/* Lanes 8, 4, 2, 1 apart, in double. */
static double lmi_vsum(lmi_v a) {
    double sum[16];
    float f[16];
    lmi_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}

/* The first n < 16 of p, the other lanes rest. */
static lmi_v lmi_vpart(const float *p, size_t n, float rest) {
    float f[16];
    for (size_t i = 0; i < 16; i++) f[i] = i < n ? p[i] : rest;
    return lmi_vload(f);
}

/* e^x in float, about 1 unit in the last place; below -87 that of -87 (1.6e-38), above 88 that of
   88: x = n ln2 + r, Taylor to r^7. */
static inline lmi_v lmi_vexp(lmi_v x) {
    const lmi_v magic = lmi_vset(12582912.0f);
    lmi_v n, r, y;
    x = lmi_vmin(lmi_vmax(x, lmi_vset(-87.0f)), lmi_vset(88.0f));
    n = lmi_vfma(x, lmi_vset(1.44269504f), magic);
    r = lmi_vsub(n, magic);
    x = lmi_vfma(r, lmi_vset(-0.693359375f), x);
    r = lmi_vfma(r, lmi_vset(2.12194440e-4f), x);
    y = lmi_vset(1.0f / 5040);
    y = lmi_vfma(y, r, lmi_vset(1.0f / 720));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 120));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 24));
    y = lmi_vfma(y, r, lmi_vset(1.0f / 6));
    y = lmi_vfma(y, r, lmi_vset(0.5f));
    y = lmi_vfma(y, r, lmi_vset(1));
    y = lmi_vfma(y, r, lmi_vset(1));
    return lmi_vmul(y, lmi_vpower(n));
}

/* erf z = z P(z^2) / Q(z^2), fitted to 2e-8 of it for |z| <= 3.92 (beyond, erf is 1 in float); with
   the rounding 4e-7. */
static inline lmi_v lmi_verf(lmi_v z) {
    static const float P[] = { 2.0500785922195064e-06f, 0.00028488485259003937f,
                               0.003765694098547101f, 0.05274895951151848f, 0.19040821492671967f,
                               1.1283791065216064f };
    static const float Q[] = { 3.8091737224021927e-05f, 0.0011625549523159862f,
                               0.014969369396567345f, 0.1141098365187645f, 0.5020776391029358f,
                               1.0f };
    lmi_v t, p = lmi_vset(P[0]), q = lmi_vset(Q[0]);
    z = lmi_vmin(lmi_vmax(z, lmi_vset(-3.92f)), lmi_vset(3.92f));
    t = lmi_vmul(z, z);
    for (int i = 1; i < 6; i++) {
        p = lmi_vfma(p, t, lmi_vset(P[i]));
        q = lmi_vfma(q, t, lmi_vset(Q[i]));
    }
    z = lmi_vdiv(lmi_vmul(z, p), q);
    return lmi_vmin(lmi_vmax(z, lmi_vset(-1)), lmi_vset(1));
}

static inline lmi_v lmi_vact(lmi_act act, lmi_v x) {
    const lmi_v one = lmi_vset(1), zero = lmi_vset(0);
    lmi_v y = x;
    switch (act) {
    case LMI_GELU: /* x (1 + erf(x / sqrt 2)) / 2 */
        y = lmi_verf(lmi_vmul(x, lmi_vset(0.70710678118f)));
        return lmi_vmul(lmi_vmul(x, lmi_vset(0.5f)), lmi_vadd(one, y));
    case LMI_GELU_TANH: /* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)) */
        y = lmi_vfma(lmi_vmul(x, x), lmi_vset(0.044715f), one);
        y = lmi_vmul(lmi_vmul(x, y), lmi_vset(-1.5957691216f));
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(y)));
    case LMI_GELU_QUICK:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vmul(x, lmi_vset(-1.702f)))));
    case LMI_SILU:
        return lmi_vdiv(x, lmi_vadd(one, lmi_vexp(lmi_vsub(zero, x))));
    case LMI_RELU: return lmi_vmax(x, zero);
    case LMI_RELU2:
        y = lmi_vmax(x, zero);
        return lmi_vmul(y, y);
    case LMI_LINEAR: break;
    }
    return y;
}

static void LMI_FN(lmi_activate)(lmi_act act, size_t n, float *x) {
    size_t i = 0;
    if (act == LMI_GELU) /* the one that matters, without the switch inside */
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vact(LMI_GELU, lmi_vload(x + i)));
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vact(act, lmi_vload(x + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vact(act, lmi_vpart(x + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_gate)(lmi_act act, size_t n, float *x, const float *up) {
    size_t i = 0;
    if (act == LMI_SILU)
        for (; i + 16 <= n; i += 16)
            lmi_vstore(x + i, lmi_vmul(lmi_vact(LMI_SILU, lmi_vload(x + i)), lmi_vload(up + i)));
    for (; i + 16 <= n; i += 16)
        lmi_vstore(x + i, lmi_vmul(lmi_vact(act, lmi_vload(x + i)), lmi_vload(up + i)));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vmul(lmi_vact(act, lmi_vpart(x + i, n - i, 0)),
                               lmi_vpart(up + i, n - i, 0)));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

/* cap tanh(x / cap) = cap (1 - 2 / (exp(2 x / cap) + 1)) */
static inline lmi_v lmi_vcap(lmi_v x, lmi_v cap) {
    lmi_v e = lmi_vexp(lmi_vmul(lmi_vdiv(x, cap), lmi_vset(2)));
    e = lmi_vdiv(lmi_vset(2), lmi_vadd(e, lmi_vset(1)));
    return lmi_vmul(cap, lmi_vsub(lmi_vset(1), e));
}

static void LMI_FN(lmi_cap)(size_t n, float cap, float *x) {
    lmi_v c = lmi_vset(cap);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) lmi_vstore(x + i, lmi_vcap(lmi_vload(x + i), c));
    if (i < n) {
        float f[16];
        lmi_vstore(f, lmi_vcap(lmi_vpart(x + i, n - i, 0), c));
        memcpy(x + i, f, (n - i) * sizeof *x);
    }
}

static void LMI_FN(lmi_turn)(size_t pairs, const float *cosine, const float *sine, float *x) {
    size_t i = 0;
    for (; i + 16 <= pairs; i += 16) {
        lmi_v a = lmi_vload(x + i), b = lmi_vload(x + pairs + i);
        lmi_v c = lmi_vload(cosine + i), s = lmi_vload(sine + i);
        lmi_vstore(x + i, lmi_vsub(lmi_vmul(a, c), lmi_vmul(b, s)));
        lmi_vstore(x + pairs + i, lmi_vadd(lmi_vmul(b, c), lmi_vmul(a, s)));
    }
    for (; i < pairs; i++) {
        float a = x[i], b = x[i + pairs], c = cosine[i], s = sine[i];
        x[i] = a * c - b * s;
        x[i + pairs] = b * c + a * s;
    }
}

static void LMI_FN(lmi_add)(size_t n, const float *a, const float *x, float *out) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        lmi_vstore(out + i, lmi_vadd(lmi_vload(a + i), lmi_vload(x + i)));
    for (; i < n; i++) out[i] = a[i] + x[i];
}

static void LMI_FN(lmi_norm)(size_t n, const float *x, const float *weight, const float *bias,
                             double eps, float *out) {
    lmi_v sum = lmi_vset(0), square = lmi_vset(0), mean, factor;
    size_t whole = n / 16 * 16, i;
    float m, f;
    for (i = 0; i < whole; i += 16) sum = lmi_vadd(sum, lmi_vload(x + i));
    if (i < n) sum = lmi_vadd(sum, lmi_vpart(x + i, n - i, 0));
    m = (float)(lmi_vsum(sum) / (double)n);
    mean = lmi_vset(m);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vsub(lmi_vload(x + i), mean);
        square = lmi_vfma(d, d, square);
    }
    if (i < n) {
        lmi_v d = lmi_vsub(lmi_vpart(x + i, n - i, m), mean);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16) {
        lmi_v d = lmi_vmul(lmi_vsub(lmi_vload(x + i), mean), factor);
        lmi_vstore(out + i, lmi_vfma(d, lmi_vload(weight + i), lmi_vload(bias + i)));
    }
    for (; i < n; i++) out[i] = fmaf((x[i] - m) * f, weight[i], bias[i]);
}

static void LMI_FN(lmi_rms_norm)(size_t n, const float *x, const float *weight, double eps,
                                 float *out) {
    lmi_v square = lmi_vset(0), factor;
    size_t whole = n / 16 * 16, i;
    float f;
    for (i = 0; i < whole; i += 16)
        square = lmi_vfma(lmi_vload(x + i), lmi_vload(x + i), square);
    if (i < n) {
        lmi_v d = lmi_vpart(x + i, n - i, 0);
        square = lmi_vfma(d, d, square);
    }
    f = (float)(1 / sqrt(lmi_vsum(square) / (double)n + eps));
    factor = lmi_vset(f);
    for (i = 0; i < whole; i += 16)
        lmi_vstore(out + i, lmi_vmul(lmi_vmul(lmi_vload(x + i), factor), lmi_vload(weight + i)));
    for (; i < n; i++) out[i] = x[i] * f * weight[i];
}

/* Sums of 1024 floats in 16 lanes, these in double. */
static double LMI_FN(lmi_sum_exp)(size_t n, const float *x, float *largest) {
    lmi_v most = lmi_vset(x[0]), high;
    float f[16];
    double sum = 0;
    size_t i;
    for (i = 0; i + 16 <= n; i += 16) most = lmi_vmax(lmi_vload(x + i), most);
    if (i < n) most = lmi_vmax(lmi_vpart(x + i, n - i, x[0]), most);
    lmi_vstore(f, most);
    *largest = f[0];
    for (int j = 1; j < 16; j++)
        if (f[j] > *largest) *largest = f[j];
    high = lmi_vset(*largest);
    for (size_t at = 0; at < n; at += 1024) {
        size_t end = at + 1024 < n ? at + 1024 : n;
        lmi_v s = lmi_vset(0);
        for (i = at; i + 16 <= end; i += 16)
            s = lmi_vadd(s, lmi_vexp(lmi_vsub(lmi_vload(x + i), high)));
        sum += lmi_vsum(s);
    }
    for (i = n / 16 * 16; i < n; i++) {
        lmi_vstore(f, lmi_vexp(lmi_vset(x[i] - *largest)));
        sum += (double)f[0];
    }
    return sum;
}
