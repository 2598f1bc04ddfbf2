# SPDX-License-Identifier: Apache-2.0
# Normalization of rows.  Part of _core.pyx.

cdef int norm_of(const ncpu_array *x, bytes axes, bint rms, weight, bias, bint plus_one, double eps, valid,
                 ncpu_row_norm *norm, cnp.npy_intp *rows) except -1:
    """axes: one byte per axis of x; weight and bias: real (width); valid: None or uint8 (rows * width).  rows: how many
    there are."""
    cdef const uint8_t *inner = axes
    cdef cnp.npy_intp width = 1
    cdef int real = real_number(x)
    cdef int i
    if axes is None or len(axes) != x.ndim:
        raise ValueError("axes must have one byte per axis")
    rows[0] = 1
    for i in range(x.ndim):
        if inner[i]:
            width *= x.shape[i]
        else:
            rows[0] *= x.shape[i]
    norm.axes = inner
    norm.rms = rms
    norm.plus_one = plus_one
    norm.eps = eps
    vector(weight, real, width, <void **>&norm.weight)
    vector(bias, real, width, <void **>&norm.bias)
    vector(valid, cnp.NPY_UBYTE, rows[0] * width, <void **>&norm.valid)
    return 0


cdef const ncpu_array *described(cnp.ndarray array, ncpu_array *view, const ncpu_array *like) except? NULL:
    """NULL of None."""
    if array is None:
        return NULL
    describe_like(array, view, like)
    return view


def layer_norm(cnp.ndarray x not None, bytes axes, bint rms, weight, bias, bint plus_one, double eps, valid,
               cnp.ndarray added, cnp.ndarray total, int activation, double negative_slope, cnp.ndarray residual,
               cnp.ndarray mask, cnp.ndarray y not None, mean, var, float scale, int zero_point, scales):
    """total: for x + added.  mean, var: float64 (rows) or None.  mask: uint8 (rows, ceil(width / 8)) or None.  Where y
    is bytes, scale and zero_point, or scales: float32 (rows)."""
    cdef ncpu_array source, target, other, to_total, epilogue_residual
    cdef ncpu_row_norm norm
    cdef ncpu_epilogue epilogue
    cdef ncpu_quantization quantization
    cdef ncpu_status status
    cdef cnp.npy_intp rows
    cdef void *to_mean
    cdef void *to_var
    describe(x, &source)
    describe_like(y, &target, &source)
    norm_of(&source, axes, rms, weight, bias, plus_one, eps, valid, &norm, &rows)
    vector(mean, cnp.NPY_DOUBLE, rows, &to_mean)
    vector(var, cnp.NPY_DOUBLE, rows, &to_var)
    vector(scales, cnp.NPY_FLOAT, rows, <void **>&quantization.scales)
    quantization.scale = scale
    quantization.zero_point = zero_point
    epilogue_of(&source, activation, negative_slope, residual, mask, &epilogue_residual, &epilogue)
    cdef const ncpu_array *other_or_null = described(added, &other, &source)
    cdef const ncpu_array *total_or_null = described(total, &to_total, &source)
    cdef bint to_bytes = target.dtype == NCPU_U8 or target.dtype == NCPU_I8
    with nogil:
        status = ncpu_layer_norm(&source, &norm, other_or_null, total_or_null, &epilogue,
                                 &quantization if to_bytes else NULL, &target, <double *>to_mean, <double *>to_var)
    check(status)


def layer_norm_backward(cnp.ndarray dy not None, cnp.ndarray x not None, bytes axes, bint rms, weight, bint plus_one,
                        double eps, valid, mean, var not None, int activation, cnp.ndarray y, cnp.ndarray mask,
                        cnp.ndarray dsum, cnp.ndarray dx not None, cnp.ndarray dresidual, dweight, dbias):
    """mean: None for rms; mean, var: float64 (rows).  mask: uint8 (rows, ceil(width / 8)) or None.  dweight, dbias:
    real (width) or None."""
    cdef ncpu_array gradient, source, output, beside, target, to_residual
    cdef ncpu_row_norm norm
    cdef ncpu_status status
    cdef cnp.npy_intp rows, width
    cdef int real
    cdef void *center
    cdef void *spread
    cdef void *to_weight
    cdef void *to_bias
    describe(x, &source)
    describe_like(dy, &gradient, &source)
    describe_like(dx, &target, &source)
    norm_of(&source, axes, rms, weight, None, plus_one, eps, valid, &norm, &rows)
    width = cnp.PyArray_SIZE(x) // rows if rows else 0
    real = real_number(&source)
    vector(mean, cnp.NPY_DOUBLE, rows, &center)
    vector(var, cnp.NPY_DOUBLE, rows, &spread)
    vector(dweight, real, width, &to_weight)
    vector(dbias, real, width, &to_bias)
    if center == NULL and not rms:
        raise ValueError("mean is needed")
    cdef const ncpu_array *output_or_null = described(y, &output, &source)
    cdef const ncpu_array *beside_or_null = described(dsum, &beside, &source)
    cdef const ncpu_array *to_residual_or_null = described(dresidual, &to_residual, &source)
    cdef const uint8_t *bits = <const uint8_t *>data_of(mask)
    with nogil:
        status = ncpu_layer_norm_backward(&gradient, &source, &norm, <double *>center, <double *>spread,
                                          <ncpu_activation>activation, output_or_null, bits, beside_or_null, &target,
                                          to_residual_or_null, to_weight, to_bias)
    check(status)
