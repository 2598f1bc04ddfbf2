/* SPDX-License-Identifier: Apache-2.0 */

#include "row_masks.h"

#include <math.h>

size_t ncpu_keep_valid_elements(ncpu_dtype dtype, size_t width, const void *row, const uint8_t *valid, void *kept)
{
    size_t n = 0;
    if (dtype == NCPU_F64)
        for (size_t k = 0; k < width; n += valid[k++] != 0) ((double *)kept)[n] = ((const double *)row)[k];
    else
        for (size_t k = 0; k < width; n += valid[k++] != 0) ((float *)kept)[n] = ((const float *)row)[k];
    return n;
}

size_t ncpu_count_valid(size_t width, const uint8_t *valid)
{
    size_t n = 0;
    for (size_t k = 0; k < width; k++) n += valid[k] != 0;
    return n;
}

void ncpu_bits_of_rows(const ncpu_rows *r, const ncpu_tile *y, size_t rows, size_t len, uint8_t *bits)
{
    ncpu_apply_args args = {.rows = rows, .len = len, .x = y->data, .y = y->data, .mask = bits,
                            .x_stride = y->row_stride, .y_stride = y->row_stride,
                            .mask_stride = (ptrdiff_t)ncpu_row_bits(len), .activation = NCPU_RELU};
    ncpu_set_identity(r->dtype, &args);
    r->kernels->set[r->dtype].apply_runs(&args);
}

void ncpu_bits_of_columns(const ncpu_rows *r, const ncpu_tile *y, size_t width, size_t columns, uint8_t *bits)
{
    const size_t bytes = ncpu_row_bits(width);
    for (size_t i = 0; i < bytes; i++)
        for (size_t j = 0; j < columns; j++) {
            unsigned byte = 0;
            for (size_t k = 8 * i; k < least(width, 8 * i + 8); k++) {
                const double value = ncpu_real(y->data, k * (size_t)y->row_stride + j, r->dtype);
                byte |= (unsigned)!(value <= 0) << k % 8;
            }
            bits[j * bytes + i] = (uint8_t)byte;
        }
}

void ncpu_bystanders_dx(ncpu_dtype dtype, size_t width, const uint8_t *valid, const ncpu_bystanders *row)
{
    const double inv = 1 / sqrt(row->var + row->eps);
    for (size_t k = 0; k < width; k++) {
        if (valid[k]) continue;
        double value = ncpu_real(row->dy, k, dtype) * inv;
        if (row->weight) value *= ncpu_real(row->weight, k, dtype);
        if (row->dsum) value += ncpu_real(row->dsum, k, dtype);
        if (dtype == NCPU_F64) ((double *)row->dx)[k] = value;
        else ((float *)row->dx)[k] = (float)value;
    }
}
