/* out [8][32] at ld_out = sum over k < n of a[r][k] b[k][0..32): one chain of fma each. */
static void lmi_block(const float *const a[LMI_ROWS], size_t n, const float *b, size_t ld_b,
                      float *out, size_t ld_out) {
    for (size_t r = 0; r < LMI_ROWS; r += 4)
        for (size_t c = 0; c < LMI_COLUMNS; c += 16) {
            lmi_v s0 = lmi_vset(0), s1 = s0, s2 = s0, s3 = s0;
            for (size_t k = 0; k < n; k++) {
                lmi_v v = lmi_vload(b + k * ld_b + c);
                s0 = lmi_vfma(lmi_vset(a[r][k]), v, s0);
                s1 = lmi_vfma(lmi_vset(a[r + 1][k]), v, s1);
                s2 = lmi_vfma(lmi_vset(a[r + 2][k]), v, s2);
                s3 = lmi_vfma(lmi_vset(a[r + 3][k]), v, s3);
            }
            lmi_vstore(out + r * ld_out + c, s0);
            lmi_vstore(out + (r + 1) * ld_out + c, s1);
            lmi_vstore(out + (r + 2) * ld_out + c, s2);
            lmi_vstore(out + (r + 3) * ld_out + c, s3);
        }
}
