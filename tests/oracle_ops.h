/*  oracle_ops.h - every operation of the sae_backend table once more, on host memory, as plainly as it
    can be said. Where >>backend fixes an order of rounding (products, rows, dots, scalars) these
    follow it step by step, so that results can be compared with ==; elsewhere they compute in double,
    with libm. Arguments are those of the table without the work. Include behind check.h. */
#ifndef ORACLE_OPS_H
#define ORACLE_OPS_H

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

/* -- the orders -- */

static float oracle_op_product(const float *x, const float *w, size_t d) {
    float s = 0;
    for (size_t c = 0; c < d; c++) s = fmaf(x[c], w[c], s);
    return s;
}

static double oracle_op_dot(const float *a, const float *b, size_t n) {
    float lane[16] = { 0 };
    double wide[16];
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(a[i], b[i], lane[i % 16]);
    for (int l = 0; l < 16; l++) wide[l] = (double)lane[l];
    for (int apart = 8; apart > 0; apart /= 2)
        for (int l = 0; l < apart; l++) wide[l] += wide[l + apart];
    return wide[0];
}

/* Doubles in blocks of 1024. */
static double oracle_op_sum(const double *x, size_t n) {
    double sum = 0;
    for (size_t at = 0; at < n; at += 1024) {
        double block = 0;
        for (size_t i = at; i < n && i < at + 1024; i++) block += x[i];
        sum += block;
    }
    return sum;
}

/* -- batch -- */

static void oracle_op_load_rows(const float *host, size_t stride, size_t n, size_t d, size_t ld,
                                float divisor, float *x, uint32_t *bad) {
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < d; c++) {
            x[r * ld + c] = host[r * stride + c] / divisor;
            if (!isfinite(host[r * stride + c])) *bad = 1;
        }
}
static void oracle_op_subtract(const float *x, const float *b, size_t n, size_t ld, float *out) {
    for (size_t i = 0; i < n * ld; i++) out[i] = x[i] - b[i % ld];
}
static void oracle_op_axpy(size_t count, float a, const float *x, const float *y, float *out) {
    for (size_t i = 0; i < count; i++) out[i] = y ? fmaf(a, x[i], y[i]) : a * x[i];
}

/* -- forward -- */

typedef struct oracle_op_entry {
    float p;
    size_t row, at; /* at: place in the list of latents looked at */
} oracle_op_entry;

/* Larger value first, then the lower row, then the lower latent. */
static int oracle_op_better(const void *a, const void *b) {
    const oracle_op_entry *x = (const oracle_op_entry *)a, *y = (const oracle_op_entry *)b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    if (x->row != y->row) return x->row < y->row ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static bool oracle_op_window(float p, float theta, float bandwidth) {
    float z = (p - theta) / bandwidth;
    return z > -0.5f && z < 0.5f;
}

static void oracle_op_encode(const sae_encode_args *a, sae_code *code) {
    size_t looked = a->list ? *a->list_count : a->m, most = a->n * looked, kept = 0;
    float *p = (float *)malloc((most + 1) * sizeof *p), *u = (float *)malloc((most + 1) * sizeof *u);
    uint8_t *keep = (uint8_t *)calloc(most + 1, 1);
    oracle_op_entry *order = (oracle_op_entry *)malloc((most + 1) * sizeof *order);
    for (size_t r = 0; r < a->n; r++)
        for (size_t j = 0; j < looked; j++) {
            size_t i = a->list ? a->list[j] : j, q = r * looked + j;
            u[q] = oracle_op_product(a->x + r * a->ld, a->W + i * a->ld, a->d);
            p[q] = u[q] + a->bias[i];
            switch (a->select) {
            case SAE_SELECT_ALL: keep[q] = 1; break;
            case SAE_SELECT_POSITIVE:
            case SAE_SELECT_GATE: keep[q] = p[q] > 0; break;
            case SAE_SELECT_WINDOW:
                keep[q] = p[q] > a->theta[i] || oracle_op_window(p[q], a->theta[i], a->bandwidth);
                break;
            case SAE_SELECT_TOP_K:
            case SAE_SELECT_BATCH_TOP_K: p[q] = p[q] > 0 ? p[q] : 0; break;
            }
        }
    if (a->select == SAE_SELECT_TOP_K)
        for (size_t r = 0; r < a->n; r++) {
            for (size_t j = 0; j < looked; j++)
                order[j].p = p[r * looked + j], order[j].row = r, order[j].at = j;
            qsort(order, looked, sizeof *order, oracle_op_better);
            for (size_t j = 0; j < looked && j < a->k; j++) keep[r * looked + order[j].at] = 1;
        }
    if (a->select == SAE_SELECT_BATCH_TOP_K) {
        for (size_t q = 0; q < most; q++)
            order[q].p = p[q], order[q].row = q / looked, order[q].at = q % looked;
        qsort(order, most, sizeof *order, oracle_op_better);
        for (size_t q = 0; q < most && kept < a->k * a->n && order[q].p > 0; q++, kept++)
            keep[order[q].row * looked + order[q].at] = 1;
    }
    code->rows = a->n;
    for (size_t r = 0; r < a->n; r++) {
        code->count[r] = 0;
        for (size_t j = 0; j < looked; j++)
            if (keep[r * looked + j]) {
                size_t at = r * code->stride + code->count[r]++;
                code->latent[at] = a->list ? a->list[j] : (uint32_t)j;
                code->pre[at] = a->select == SAE_SELECT_GATE ? u[r * looked + j] : p[r * looked + j];
            }
    }
    free(p);
    free(u);
    free(keep);
    free(order);
}

#define ORACLE_OP_ENTRIES(code, r, j)                                                              \
    for (size_t r = 0; r < (code)->rows; r++)                                                      \
        for (size_t j = r * (code)->stride; j < r * (code)->stride + (code)->count[r]; j++)

/* gate in float, value in double */
static void oracle_op_gate(const float *gate_bias, const float *r_mag, const float *mag_bias,
                           const sae_code *code, float *gate, double *value) {
    ORACLE_OP_ENTRIES(code, r, j) {
        size_t i = code->latent[j];
        double v = exp((double)r_mag[i]) * (double)code->pre[j] + (double)mag_bias[i];
        gate[j] = code->pre[j] + gate_bias[i];
        value[j] = v > 0 ? v : 0;
    }
}
static void oracle_op_jump(const float *theta, sae_code *code) {
    ORACLE_OP_ENTRIES(code, r, j)
        code->value[j] = code->pre[j] > theta[code->latent[j]] ? code->pre[j] : 0;
}

static void oracle_op_decode(const sae_code *code, const float *values, const float *W, size_t ld,
                             size_t lo, size_t hi, const float *base, size_t base_stride,
                             float *out) {
    for (size_t r = 0; r < code->rows; r++)
        for (size_t c = 0; c < ld; c++) {
            float s = 0;
            for (size_t j = r * code->stride; j < r * code->stride + code->count[r]; j++)
                if (code->latent[j] >= lo && code->latent[j] < hi)
                    s = fmaf(values[j], W[code->latent[j] * ld + c], s);
            out[r * ld + c] = base ? base[r * base_stride + c] + s : s;
        }
}

static void oracle_op_residual(const float *x_hat, const float *y, size_t n, size_t ld, float *e,
                               double *loss) {
    double *sum = (double *)malloc(n * sizeof *sum);
    for (size_t r = 0; r < n; r++) {
        for (size_t c = 0; c < ld; c++) e[r * ld + c] = x_hat[r * ld + c] - y[r * ld + c];
        sum[r] = oracle_op_dot(e + r * ld, e + r * ld, ld);
    }
    *loss = oracle_op_sum(sum, n) / (double)n;
    free(sum);
}
static void oracle_op_unit_rows(size_t n, size_t ld, float *e, double *loss) {
    double *sum = (double *)malloc(n * sizeof *sum);
    for (size_t r = 0; r < n; r++) {
        sum[r] = sqrt(oracle_op_dot(e + r * ld, e + r * ld, ld));
        for (size_t c = 0; sum[r] > 0 && c < ld; c++) e[r * ld + c] /= (float)sum[r];
    }
    *loss = oracle_op_sum(sum, n) / (double)n;
    free(sum);
}

/* sum over columns of sum_r (x - column mean)^2 */
static double oracle_op_scatter(const float *x, size_t n, size_t d, size_t ld) {
    double all = 0;
    for (size_t c = 0; c < d; c++) {
        double mean = 0;
        for (size_t r = 0; r < n; r++) mean += (double)x[r * ld + c] / (double)n;
        for (size_t r = 0; r < n; r++) all += pow((double)x[r * ld + c] - mean, 2);
    }
    return all;
}
static double oracle_op_norm(const double *x, size_t n) {
    double s = 0;
    for (size_t c = 0; c < n; c++) s += x[c] * x[c];
    return sqrt(s);
}

static void oracle_op_auxk(const float *x_aux, const float *e, size_t n, size_t d, size_t ld,
                           uint32_t dead, double alpha, double *r, double *pre_norm, double *norm) {
    double denominator = oracle_op_scatter(e, n, d, ld) / (double)n;
    memset(r, 0, n * ld * sizeof *r);
    *pre_norm = -1, *norm = 0;
    if (!dead) return;
    *pre_norm = 0;
    for (size_t q = 0; q < n * ld; q++) {
        r[q] = (double)x_aux[q] + (double)e[q];
        *pre_norm += r[q] * r[q] / (double)n;
    }
    *norm = *pre_norm / denominator;
    if (!isfinite(*norm)) *norm = 0;
    for (size_t q = 0; q < n * ld; q++)
        r[q] = *norm != 0 ? r[q] * 2 * alpha / ((double)n * denominator) : 0;
}

static void oracle_op_ghost(const float *x_g, const float *e, size_t n, size_t ld, uint32_t dead,
                            double *out, double *loss) {
    double *row = (double *)malloc(ld * sizeof *row), mse = 0, ghost = 0;
    memset(out, 0, n * ld * sizeof *out);
    *loss = 0;
    for (int pass = 0; dead && pass < 2; pass++)
        for (size_t i = 0; i < n; i++) {
            double norm_e, s, norm_r;
            for (size_t c = 0; c < ld; c++) row[c] = (double)e[i * ld + c];
            norm_e = oracle_op_norm(row, ld);
            for (size_t c = 0; c < ld; c++) row[c] = (double)x_g[i * ld + c];
            s = norm_e / (2 * oracle_op_norm(row, ld) + 1e-8);
            for (size_t c = 0; c < ld; c++)
                row[c] = -(double)e[i * ld + c] - s * (double)x_g[i * ld + c];
            norm_r = oracle_op_norm(row, ld);
            if (!pass) mse += norm_e / (double)n, ghost += norm_r / (double)n;
            else
                for (size_t c = 0; norm_r > 0 && c < ld; c++)
                    out[i * ld + c] = -(row[c] / norm_r) * s * mse / (ghost + 1e-8) / (double)n;
        }
    if (dead) *loss = ghost * mse / (ghost + 1e-8);
    free(row);
}

/* -- penalties, gradients of entries -- */

/* grad: what is added to each entry; m: latents of a row, listed or not */
static void oracle_op_penalty(sae_penalty kind, double p, double coef, const float *weight,
                              const sae_code *code, const float *values, size_t m, double *grad,
                              double *loss) {
    *loss = 0;
    for (size_t r = 0; r < code->rows; r++) {
        const float *f = values + r * code->stride;
        const uint32_t *latent = code->latent + r * code->stride;
        double sum = 0, row = 0, mean = 0, *g = grad + r * code->stride;
        size_t count = code->count[r];
        for (size_t j = 0; j < count; j++) {
            if (kind == SAE_PENALTY_L1) sum += (weight ? (double)weight[latent[j]] : 1) * (double)f[j];
            else if (kind == SAE_PENALTY_ENTROPY) sum += (double)f[j];
            else if (f[j] > 0) sum += pow((double)f[j], p);
        }
        if (kind == SAE_PENALTY_LP_P && p == 0) sum = (double)m; /* 0^0 is 1, of every latent */
        row = sum;
        if (kind == SAE_PENALTY_LP) row = sum > 0 ? pow(sum, 1 / p) : 0;
        if (kind == SAE_PENALTY_ENTROPY) {
            row = 0;
            for (size_t j = 0; sum > 0 && j < count; j++) {
                double q = (double)f[j] / (sum + 1e-8);
                row -= q * log(q + 1e-8);
                mean -= q * (log(q + 1e-8) + q / (q + 1e-8));
            }
        }
        *loss += row / (double)code->rows;
        for (size_t j = 0; j < count; j++) {
            double slope = 0, q;
            if (!(f[j] > 0)) {
                g[j] = 0;
                continue;
            }
            switch (kind) {
            case SAE_PENALTY_L1: slope = weight ? (double)weight[latent[j]] : 1; break;
            case SAE_PENALTY_LP_P: slope = p * pow((double)f[j], p - 1); break;
            case SAE_PENALTY_LP:
                slope = pow(sum, 1 / p - 1) * pow((double)f[j], p - 1);
                break;
            case SAE_PENALTY_ENTROPY:
                q = (double)f[j] / (sum + 1e-8);
                slope = (-(log(q + 1e-8) + q / (q + 1e-8)) - mean) / (sum + 1e-8);
                break;
            }
            g[j] = coef / (double)code->rows * slope;
        }
    }
}

static void oracle_op_dots(const sae_code *code, const float *e, const float *W, size_t ld, size_t lo,
                           size_t hi, float alpha, const float *relu_of, float *grad) {
    ORACLE_OP_ENTRIES(code, r, j) {
        size_t i = code->latent[j];
        if (i < lo || i >= hi) continue;
        grad[j] = (float)((double)alpha * oracle_op_dot(e + r * ld, W + i * ld, ld));
        if (relu_of && !(relu_of[j] > 0)) grad[j] = 0;
    }
}

static void oracle_op_gate_grad(const float *r_mag, const sae_code *code, double *mag,
                                double *r_grad, double *grad) {
    ORACLE_OP_ENTRIES(code, r, j) {
        double scale = exp((double)r_mag[code->latent[j]]);
        mag[j] = code->value[j] > 0 ? (double)code->extra[0][j] : 0;
        r_grad[j] = mag[j] * scale * (double)code->pre[j];
        grad[j] = scale * mag[j] + (double)code->extra[1][j];
    }
}

/* f = value of listed latents, 0 of the others: both can lie above a threshold */
static double oracle_op_jump_l0(const sae_code *code, const float *theta, size_t m) {
    size_t above = 0;
    for (size_t r = 0; r < code->rows; r++)
        for (size_t i = 0; i < m; i++) {
            float f = 0;
            for (size_t j = r * code->stride; j < r * code->stride + code->count[r]; j++)
                if (code->latent[j] == i) f = code->value[j];
            above += f > theta[i];
        }
    return (double)above / (double)code->rows;
}
static double oracle_op_jump_slope(double coef, double target, double l0, size_t n, float bandwidth) {
    return -coef * 2 * (l0 / target - 1) / target / (double)n / (double)bandwidth;
}
static void oracle_op_jump_grad(const float *theta, float bandwidth, double coef, double target,
                                const sae_code *code, size_t m, double *theta_grad, float *grad,
                                double *l0, double *loss) {
    double slope;
    *l0 = oracle_op_jump_l0(code, theta, m);
    *loss = coef * pow(*l0 / target - 1, 2);
    slope = oracle_op_jump_slope(coef, target, *l0, code->rows, bandwidth);
    ORACLE_OP_ENTRIES(code, r, j) {
        float t = theta[code->latent[j]];
        theta_grad[j] = 0;
        if (oracle_op_window(code->pre[j], t, bandwidth))
            theta_grad[j] -= (double)t / (double)bandwidth * (double)code->grad[j];
        if (oracle_op_window(code->value[j], t, bandwidth)) theta_grad[j] += slope;
        grad[j] = code->pre[j] > t ? code->grad[j] : 0;
    }
}

/* -- by latent -- */

static void oracle_op_index(const sae_code *code, const float *const *values, size_t count,
                            sae_index *index) {
    size_t at = 0;
    for (size_t i = 0; i < index->dict_size; i++) {
        index->begin[i] = at;
        ORACLE_OP_ENTRIES(code, r, j) {
            if (code->latent[j] != i) continue;
            index->row[at] = (uint32_t)r;
            for (size_t v = 0; v < count; v++) index->value[v][at] = values[v][j];
            at++;
        }
    }
    index->begin[index->dict_size] = at;
}
static void oracle_op_latent_rows(const sae_index *index, size_t which, const float *x, size_t ld,
                                  size_t lo, size_t hi, float alpha, bool add, float *out) {
    for (size_t i = lo; i < hi; i++)
        for (size_t c = 0; c < ld; c++) {
            float sum = 0, *o = out + i * ld + c;
            for (size_t j = index->begin[i]; j < index->begin[i + 1];) {
                size_t block = index->row[j] / 1024;
                float part = 0;
                for (; j < index->begin[i + 1] && index->row[j] / 1024 == block; j++)
                    part = fmaf(index->value[which][j], x[index->row[j] * ld + c], part);
                sum += part;
            }
            *o = add ? fmaf(alpha, sum, *o) : alpha * sum;
        }
}
static double oracle_op_latent_sum(const sae_index *index, size_t which, size_t i) {
    double sum = 0;
    for (size_t j = index->begin[i]; j < index->begin[i + 1]; j++)
        sum += (double)index->value[which][j];
    return sum;
}

/* -- sums -- */

/* out = alpha sum_r s_r x_r (s NULL: 1), + out if add */
static void oracle_op_rows_sum(const float *x, const float *s, size_t n, size_t ld, float alpha,
                               bool add, float *out) {
    double *column = (double *)malloc((n + 1) * sizeof *column);
    for (size_t c = 0; c < ld; c++) {
        double sum;
        for (size_t r = 0; r < n; r++)
            column[r] = (s ? (double)s[r] : 1) * (double)x[r * ld + c];
        sum = (double)alpha * oracle_op_sum(column, n);
        out[c] = (float)(add ? (double)out[c] + sum : sum);
    }
    free(column);
}
static double oracle_op_sum_squares(const float *x, size_t count) {
    size_t parts = (count + 16383) / 16384;
    double *sum = (double *)malloc((parts + 1) * sizeof *sum), all;
    for (size_t i = 0; i < parts; i++) {
        size_t at = i * 16384, n = count - at < 16384 ? count - at : 16384;
        sum[i] = oracle_op_dot(x + at, x + at, n);
    }
    all = oracle_op_sum(sum, parts);
    free(sum);
    return all;
}

/* -- weights -- */

/* Adam by its formula, in double; first NULL: beta1 is 0 */
static void oracle_op_adam(const sae_adam_desc *adam, uint64_t t, double scale, double *param,
                           const float *grad, double *first, double *second, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double g = (double)grad[i] * scale, m = g;
        if (first) m = first[i] = adam->beta1 * first[i] + (1 - adam->beta1) * g;
        second[i] = adam->beta2 * second[i] + (1 - adam->beta2) * g * g;
        param[i] -= adam->lr * (m / (1 - pow(adam->beta1, (double)t)))
                    / (sqrt(second[i] / (1 - pow(adam->beta2, (double)t))) + adam->eps);
    }
}

static double oracle_op_threshold(const sae_code *code, bool by_row, double beta, double threshold) {
    double sum = 0, smallest = 0, now;
    size_t rows = 0;
    for (size_t r = 0; r < code->rows; r++) {
        double least = 0;
        for (size_t j = r * code->stride; j < r * code->stride + code->count[r]; j++)
            if (code->value[j] > 0 && (least == 0 || (double)code->value[j] < least))
                least = (double)code->value[j];
        if (least == 0) continue;
        rows++;
        sum += least;
        if (smallest == 0 || least < smallest) smallest = least;
    }
    if (by_row && !rows) return threshold;
    now = by_row ? sum / (double)rows : smallest;
    return threshold < 0 ? now : beta * threshold + (1 - beta) * now;
}

/* The point where the sum of distances is least, by many rounds. */
static void oracle_op_median(const float *x, size_t n, size_t d, size_t ld, double *out) {
    for (size_t c = 0; c < d; c++) {
        out[c] = 0;
        for (size_t r = 0; r < n; r++) out[c] += (double)x[r * ld + c] / (double)n;
    }
    for (int round = 0; round < 100; round++) {
        double *next = (double *)calloc(d, sizeof *next), total = 0, moved = 0;
        for (size_t r = 0; r < n; r++) {
            double distance = 0;
            for (size_t c = 0; c < d; c++) distance += pow((double)x[r * ld + c] - out[c], 2);
            distance = sqrt(distance) > 1e-20 ? sqrt(distance) : 1e-20;
            total += 1 / distance;
            for (size_t c = 0; c < d; c++) next[c] += (double)x[r * ld + c] / distance;
        }
        for (size_t c = 0; c < d; c++) {
            moved += pow(next[c] / total - out[c], 2);
            out[c] = next[c] / total;
        }
        free(next);
        if (sqrt(moved) < 1e-5) break;
    }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
#endif /* ORACLE_OPS_H */
