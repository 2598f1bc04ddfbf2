/* SPDX-License-Identifier: Apache-2.0
 * A photo of bytes, channels last, becomes what a network wants: floats of mean 0 and variance 1 per channel, with the
 * mean and the variance of its training images.  One pass over the pixels. */
#include <normcpu.h>
#include <stdio.h>

enum { HEIGHT = 4, WIDTH = 5, CHANNELS = 3 };

int main(void)
{
    static uint8_t pixels[HEIGHT][WIDTH][CHANNELS];
    static float image[HEIGHT][WIDTH][CHANNELS];
    for (int i = 0; i < HEIGHT * WIDTH * CHANNELS; i++) (&pixels[0][0][0])[i] = (uint8_t)(i * 37 % 256);

    const float mean[CHANNELS] = {123.675f, 116.28f, 103.53f}, sigma[CHANNELS] = {58.395f, 57.12f, 57.375f};
    float scale[CHANNELS], shift[CHANNELS];
    for (int c = 0; c < CHANNELS; c++) scale[c] = 1 / sigma[c], shift[c] = -mean[c] / sigma[c];

    const ptrdiff_t shape[] = {HEIGHT, WIDTH, CHANNELS};
    const ptrdiff_t byte_strides[] = {WIDTH * CHANNELS, CHANNELS, 1}, float_strides[] = {4 * WIDTH * CHANNELS, 4 * CHANNELS, 4};
    const ncpu_array x = {pixels, NCPU_U8, 3, shape, byte_strides}, y = {image, NCPU_F32, 3, shape, float_strides};
    const ncpu_status status = ncpu_scale_shift(&x, -1, NULL, scale, shift, NULL, &y);
    if (status) {
        fprintf(stderr, "ncpu_scale_shift: status %d\n", (int)status);
        return 1;
    }
    printf("# normcpu %s on %s, threads: %s\n", NCPU_VERSION, ncpu_isa(), ncpu_threading_name());
    for (int i = 0; i < HEIGHT; i++)
        for (int j = 0; j < WIDTH; j++) printf("%.9g %.9g %.9g\n", image[i][j][0], image[i][j][1], image[i][j][2]);
    return 0;
}
