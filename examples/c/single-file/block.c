/* SPDX-License-Identifier: Apache-2.0
 * The end of a residual block of a trained network: BatchNorm with the statistics of training, the shortcut added, and
 * relu, in one pass; then the mean over the pixels, which a classifier takes. */
#include "normcpu.h"

#include <stdio.h>

enum { CHANNELS = 4, HEIGHT = 3, WIDTH = 3 };
typedef float maps[CHANNELS][HEIGHT][WIDTH];

int main(void)
{
    static maps convolved, shortcut, out;
    for (int i = 0; i < CHANNELS * HEIGHT * WIDTH; i++) {
        (&convolved[0][0][0])[i] = (float)(i * 37 % 101) / 8 - 6;
        (&shortcut[0][0][0])[i] = (float)(i * 53 % 97) / 16 - 3;
    }
    const float mean[CHANNELS] = {0.5f, -0.25f, 1, 0}, var[CHANNELS] = {4, 9, 2.25f, 1};
    const float weight[CHANNELS] = {1, 0.5f, 2, 1.5f}, bias[CHANNELS] = {0, 1, -1, 0.125f};

    const ptrdiff_t shape[] = {CHANNELS, HEIGHT, WIDTH};
    const ptrdiff_t strides[] = {HEIGHT * WIDTH * sizeof(float), WIDTH * sizeof(float), sizeof(float)};
    const ncpu_array x = {convolved, NCPU_F32, 3, shape, strides}, residual = {shortcut, NCPU_F32, 3, shape, strides};
    const ncpu_array y = {out, NCPU_F32, 3, shape, strides};
    const ncpu_epilogue after = {.activation = NCPU_RELU, .residual = &residual};
    ncpu_status status = ncpu_batch_norm(&x, 0, mean, var, weight, bias, 1e-5, &after, &y);

    double means[CHANNELS], tails[CHANNELS], m2[CHANNELS], m2_tails[CHANNELS];
    const ncpu_moments_state state = {means, tails, m2, m2_tails};
    const uint8_t pixels[] = {0, 1, 1};
    if (!status) status = ncpu_moments(&y, pixels, &state);
    if (status) {
        fprintf(stderr, "normcpu: status %d\n", (int)status);
        return 1;
    }
    printf("# on %s, channel by channel: the maps, and their mean\n", ncpu_isa());
    for (int c = 0; c < CHANNELS; c++) {
        for (int i = 0; i < HEIGHT * WIDTH; i++) printf("%.9g ", (&out[c][0][0])[i]);
        printf("%.17g\n", means[c]);
    }
    return 0;
}
