/* SPDX-License-Identifier: Apache-2.0
 * Reads the digits of digits.h with lenet.c, and says what it takes each of them for. */

#include "digits.h"
#include "lenet.h"

enum { COUNT = sizeof digits_images / sizeof *digits_images / LENET_INPUT };

void put(const char *text); /* cortex_m/start.c: to the debugger, or QEMU's standard output */

static char guesses[COUNT + 2];

int main(void)
{
    for (int i = 0; i < COUNT; i++) {
        float chances[LENET_OUTPUT];
        int best = 0;
        lenet(digits_images + i * LENET_INPUT, chances);
        for (int k = 1; k < LENET_OUTPUT; k++)
            if (chances[k] > chances[best]) best = k;
        guesses[i] = (char)('0' + best);
    }
    guesses[COUNT] = '\n';
    put(guesses);
    return 0;
}
