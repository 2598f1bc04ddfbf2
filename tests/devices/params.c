/* SPDX-License-Identifier: Apache-2.0
 * Arrays of embed.params on a device: 0 where their bytes have the checksums that the headers say. */

#include <stddef.h>

#include "halves.h"
#include "params.h"

/* zlib's: the polynomial reversed, one bit at a time. */
static uint32_t crc32(uint32_t crc, const void *array, size_t bytes)
{
    const unsigned char *p = array;
    crc = ~crc;
    while (bytes--) {
        crc ^= *p++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1u ? 0xedb88320u : 0u);
    }
    return ~crc;
}

int main(void)
{
    const size_t shape[] = PARAMS_CONV_WEIGHT_SHAPE;
    uint32_t crc = crc32(0, params_conv_weight, sizeof params_conv_weight);
    crc = crc32(crc, params_conv_weight_scale, sizeof params_conv_weight_scale);
    if (crc32(crc, params_bias, sizeof params_bias) != PARAMS_CRC32) return 1;
    crc = crc32(0, halves_conv_weight, sizeof halves_conv_weight);
    if (crc32(crc, halves_bias, sizeof halves_bias) != HALVES_CRC32) return 2;
    return shape[0] * shape[1] * shape[2] * shape[3] == sizeof params_conv_weight ? 0 : 3;
}
