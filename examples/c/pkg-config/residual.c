/* SPDX-License-Identifier: Apache-2.0
 * What stands between two layers of a transformer: the residual stream takes up a branch's output, and its RMSNorm goes
 * into the next layer.  Both in one pass, the stream in place. */
#include <normcpu.h>
#include <stdio.h>

enum { TOKENS = 3, WIDTH = 10 };

int main(void)
{
    static float stream[TOKENS][WIDTH], branch[TOKENS][WIDTH], normal[TOKENS][WIDTH];
    float weight[WIDTH];
    for (int i = 0; i < TOKENS * WIDTH; i++) {
        (&stream[0][0])[i] = (float)(i * 37 % 101) / 8 - 6;
        (&branch[0][0])[i] = (float)(i * 53 % 97) / 16 - 3;
    }
    for (int j = 0; j < WIDTH; j++) weight[j] = 1 + (float)j / 8;

    const ptrdiff_t shape[] = {TOKENS, WIDTH}, strides[] = {WIDTH * sizeof(float), sizeof(float)};
    const ncpu_array x = {stream, NCPU_F32, 2, shape, strides}, added = {branch, NCPU_F32, 2, shape, strides};
    const ncpu_array y = {normal, NCPU_F32, 2, shape, strides};
    const uint8_t axes[] = {0, 1}; /* every token by itself */
    const ncpu_row_norm norm = {.axes = axes, .rms = 1, .weight = weight, .eps = 1e-6};
    const ncpu_status status = ncpu_layer_norm(&x, &norm, &added, &x, NULL, NULL, &y, NULL, NULL);
    if (status) {
        fprintf(stderr, "ncpu_layer_norm: status %d\n", (int)status);
        return 1;
    }
    printf("# token by token: the stream, and its norm\n");
    for (int i = 0; i < TOKENS; i++) {
        for (int j = 0; j < WIDTH; j++) printf("%.9g ", stream[i][j]);
        for (int j = 0; j < WIDTH; j++) printf("%.9g%c", normal[i][j], j + 1 < WIDTH ? ' ' : '\n');
    }
    return 0;
}
