/* SPDX-License-Identifier: Apache-2.0 */

#include "rows.h"

enum { EIGHT = 8, MOST = 256 }; /* rows: kernels measure eight at a time */

ncpu_status ncpu_plan_rows(ncpu_rows *r, const ncpu_array *x, const uint8_t *axes, size_t group_bytes)
{
    if (x->dtype > NCPU_BF16) return NCPU_ERROR_ARGUMENT;
    const ncpu_status status = ncpu_rows_of(x, axes, &r->view);
    if (status) return status;
    r->kernels = ncpu_kernels_in_use(), r->axes = axes;
    r->stored = x->dtype, r->dtype = r->taken = x->dtype == NCPU_F64 ? NCPU_F64 : NCPU_F32;
    const size_t fit = group_bytes / (r->view.s * ncpu_dtype_size(x->dtype) + 1);
    r->group = fit > MOST ? MOST : fit > EIGHT ? fit / EIGHT * EIGHT : fit ? fit : 1;
    return NCPU_OK;
}

ncpu_status ncpu_bring_rows(const ncpu_rows *r, const ncpu_array *array, const ncpu_array *x, ncpu_dtype dtype,
                            ncpu_rows_array *brought)
{
    brought->given = array != NULL;
    if (!array) return NCPU_OK;
    return array->dtype != dtype ? NCPU_ERROR_ARGUMENT : ncpu_row_operand(array, x, r->axes, &brought->operand);
}

ncpu_tile ncpu_as_floats(const ncpu_rows *r, const ncpu_tile *tile, size_t rows, size_t len, void *room)
{
    if (!ncpu_is_half(r)) return *tile;
    for (size_t i = 0; i < rows; i++)
        r->kernels->to_floats[r->stored](len, (const uint16_t *)tile->data + (ptrdiff_t)i * tile->row_stride,
                                         (float *)room + i * len);
    return (ncpu_tile){room, 0, (ptrdiff_t)len};
}

void *ncpu_row_floats(const ncpu_rows *r, const void *row, size_t len, void *room)
{
    const ncpu_tile tile = {(void *)row, 0, 0};
    return r->taken == r->dtype ? tile.data : ncpu_as_floats(r, &tile, 1, len, room).data;
}

void ncpu_from_floats(const ncpu_rows *r, const ncpu_tile *floats, const ncpu_tile *to, size_t rows, size_t len)
{
    for (size_t i = 0; i < rows && ncpu_is_half(r); i++)
        r->kernels->from_floats[r->stored](len, (const float *)floats->data + (ptrdiff_t)i * floats->row_stride,
                                           (uint16_t *)to->data + (ptrdiff_t)i * to->row_stride);
}

const void *ncpu_row_weight(const ncpu_row_norm *norm, ncpu_dtype dtype, size_t width, void *room)
{
    if (!norm->weight || !norm->plus_one) return norm->weight;
    for (size_t j = 0; j < width; j++)
        if (dtype == NCPU_F64) ((double *)room)[j] = 1 + ((const double *)norm->weight)[j];
        else ((float *)room)[j] = 1 + ((const float *)norm->weight)[j];
    return room;
}

void ncpu_set_identity(ncpu_dtype dtype, ncpu_apply_args *args)
{
    static const float single[3] = {0, 1, 0};
    static const double twice[3] = {0, 1, 0};
    const int wide = dtype == NCPU_F64;
    args->center = wide ? (const void *)twice : single;
    args->scale = wide ? (const void *)(twice + 1) : single + 1;
    args->shift = wide ? (const void *)(twice + 2) : single + 2;
}

int ncpu_drop_shifts(void *shifts, const double *var, double eps, size_t rows, ncpu_dtype dtype)
{
    int any = 0;
    double *doubles = dtype == NCPU_F64 ? shifts : NULL;
    float *floats = dtype == NCPU_F64 ? NULL : shifts;
    const double share = doubles ? 0x1p-108 : 0x1p-50;
    for (size_t i = 0; i < rows; i++) {
        const double shift = doubles ? doubles[i] : (double)floats[i];
        const int drop = shift * shift * (var[i] + eps) <= share * var[i];
        if (drop && doubles) doubles[i] = 0;
        else if (drop) floats[i] = 0;
        any |= !drop;
    }
    return any;
}
