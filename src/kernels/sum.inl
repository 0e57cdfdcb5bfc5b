/* Lanes 8, 4, 2, 1 apart, in double. */
static double saei_vsum(saei_v a) {
    double sum[16];
    float f[16];
    saei_vstore(f, a);
    for (int i = 0; i < 16; i++) sum[i] = (double)f[i];
    for (int h = 8; h > 0; h /= 2)
        for (int i = 0; i < h; i++) sum[i] += sum[i + h];
    return sum[0];
}
