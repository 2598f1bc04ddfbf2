/* SPDX-License-Identifier: Apache-2.0
 * Instructions of a generated convolution, layer.c, and of the loops that one writes by hand, for the same one.
 *
 * QEMU with -icount gives each instruction the same time, and SysTick reads that clock: what a loop of known length
 * takes is the unit.  main returns how many elements of the two results differ. */

#include "layer.h"
#include "plain.h" /* x, weight (o, i / groups, k, k) and bias as they are in NumPy */

#include <stdint.h>

#ifndef SIZE /* and INPUTS, OUTPUTS, KERNEL, STRIDE, PADDING, GROUPS; a linear layer is a convolution of one element */
#error "say what the layer is: -DSIZE=8 -DINPUTS=1 ..."
#endif
enum { ACROSS = (SIZE + 2 * PADDING - KERNEL) / STRIDE + 1 };
enum { INNER = INPUTS / GROUPS };
enum { KNOWN = 100000 }; /* rounds of a loop of two instructions */

void put(const char *text);

static volatile uint32_t *const systick = (volatile uint32_t *)0xE000E010u; /* control, reload, value: 24 bits, down */
static float by_hand[LAYER_OUTPUT], generated[LAYER_OUTPUT];

static void __attribute__((noinline)) convolution(const float *x, float *y)
{
    for (int o = 0; o < OUTPUTS; o++) {
        for (int row = 0; row < ACROSS; row++) {
            for (int column = 0; column < ACROSS; column++) {
                float sum = plain_bias[o];
                for (int i = 0; i < INNER; i++) {
                    for (int k = 0; k < KERNEL; k++) {
                        for (int l = 0; l < KERNEL; l++) {
                            const int r = row * STRIDE + k - PADDING, c = column * STRIDE + l - PADDING;
                            if (r >= 0 && r < SIZE && c >= 0 && c < SIZE) {
                                const int channel = o / (OUTPUTS / GROUPS) * INNER + i;
                                sum += plain_weight[((o * INNER + i) * KERNEL + k) * KERNEL + l] *
                                       x[(channel * SIZE + r) * SIZE + c];
                            }
                        }
                    }
                }
                y[(o * ACROSS + row) * ACROSS + column] = sum < 0.0f ? 0.0f : sum;
            }
        }
    }
}

static void say(uint32_t number)
{
    char text[12], *at = text + sizeof text;
    *--at = 0;
    *--at = '\n';
    do *--at = (char)('0' + number % 10);
    while (number /= 10);
    put(at);
}

static uint32_t now(void) { return 0xFFFFFFu - systick[2]; }

int main(void)
{
    uint32_t begin, rounds = KNOWN;
    int different = 0;
    systick[1] = 0xFFFFFFu;
    systick[2] = 0;
    systick[0] = 5; /* on, with the CPU's clock, no interrupt */
    while (!systick[2]) continue; /* it begins with 0, before the first reload */
    begin = now();
    __asm__ volatile("1: subs %0, #1\n\tbne 1b" : "+l"(rounds) : : "cc");
    say(now() - begin); /* 2 * KNOWN instructions */
    begin = now();
    convolution(plain_x, by_hand);
    say(now() - begin);
    begin = now();
    layer(plain_x, generated);
    say(now() - begin);
    for (int i = 0; i < LAYER_OUTPUT; i++) different += by_hand[i] != generated[i];
    return different;
}
