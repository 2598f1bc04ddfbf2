# SPDX-License-Identifier: Apache-2.0
# Statistics of each sample.  Part of _core.pyx.

cdef int groups_of(const ncpu_array *x, int channel_axis, Py_ssize_t count, mean, var, valid, bint given,
                   ncpu_groups *groups) except -1:
    """mean, var: (n, count) of float64; valid: None or uint8 (n, positions)."""
    cdef cnp.npy_intp c = channels_of(x, channel_axis), positions = 1
    cdef int i
    for i in range(1, x.ndim):
        positions *= 1 if i == channel_axis else x.shape[i]
    if channel_axis == 0 or count < 1 or c % count:
        raise ValueError("the channel axis must not be the first, and groups must divide the channels")
    groups.count = count
    groups.given = given
    vector(mean, cnp.NPY_DOUBLE, x.shape[0] * count, <void **>&groups.mean)
    vector(var, cnp.NPY_DOUBLE, x.shape[0] * count, <void **>&groups.var)
    vector(valid, cnp.NPY_UBYTE, x.shape[0] * positions, <void **>&groups.valid)
    return 0


def group_norm(cnp.ndarray x not None, int channel_axis, Py_ssize_t groups, mean not None, var not None, valid,
               bint given, weight, bias, double eps, int activation, double negative_slope, cnp.ndarray residual,
               cnp.ndarray mask, cnp.ndarray y not None):
    """mean, var: float64 (n * groups); valid: None or uint8 (n * positions)."""
    cdef ncpu_array source, target, added
    cdef ncpu_epilogue epilogue
    cdef ncpu_groups statistics
    cdef ncpu_status status
    cdef void *gamma
    cdef void *beta
    describe(x, &source)
    describe_like(y, &target, &source)
    cdef cnp.npy_intp c = channels_of(&source, channel_axis)
    cdef int real = real_number(&source)
    groups_of(&source, channel_axis, groups, mean, var, valid, given, &statistics)
    vector(weight, real, c, &gamma)
    vector(bias, real, c, &beta)
    epilogue_of(&source, activation, negative_slope, residual, mask, &added, &epilogue)
    with nogil:
        status = ncpu_group_norm(&source, channel_axis, &statistics, gamma, beta, eps, &epilogue, &target)
    check(status)


def group_norm_backward(cnp.ndarray dy not None, cnp.ndarray x not None, int channel_axis, Py_ssize_t groups,
                        mean not None, var not None, valid, bint given, weight, double eps, int activation,
                        cnp.ndarray y, cnp.ndarray mask, cnp.ndarray dx, cnp.ndarray dresidual, dweight, dbias):
    cdef ncpu_array gradient, source, output, to_x, to_residual
    cdef ncpu_groups statistics
    cdef ncpu_status status
    cdef void *gamma
    cdef void *to_weight
    cdef void *to_bias
    cdef const uint8_t *bits = <const uint8_t *>cnp.PyArray_DATA(mask) if mask is not None else NULL
    describe(x, &source)
    describe_like(dy, &gradient, &source)
    if y is not None:
        describe_like(y, &output, &source)
    if dx is not None:
        describe_like(dx, &to_x, &source)
    if dresidual is not None:
        describe_like(dresidual, &to_residual, &source)
    cdef cnp.npy_intp c = channels_of(&source, channel_axis)
    cdef int real = real_number(&source)
    groups_of(&source, channel_axis, groups, mean, var, valid, given, &statistics)
    vector(weight, real, c, &gamma)
    vector(dweight, real, c, &to_weight)
    vector(dbias, real, c, &to_bias)
    cdef const ncpu_array *output_or_null = &output if y is not None else NULL
    cdef const ncpu_array *to_x_or_null = &to_x if dx is not None else NULL
    cdef const ncpu_array *to_residual_or_null = &to_residual if dresidual is not None else NULL
    with nogil:
        status = ncpu_group_norm_backward(&gradient, &source, channel_axis, &statistics, gamma, eps,
                                          <ncpu_activation>activation, output_or_null, bits, to_x_or_null,
                                          to_residual_or_null, to_weight, to_bias)
    check(status)


def update_running(mean not None, m2 not None, double count, running_mean, running_var, bint double_data,
                   double momentum, bint biased, int nonfinite):
    """Whether the update was left out (nonfinite='skip').  mean, m2: float64 (c)."""
    cdef ncpu_running running
    cdef ncpu_status status
    cdef void *center
    cdef void *spread
    cdef cnp.npy_intp c = len(mean)
    cdef int real = cnp.NPY_DOUBLE if double_data else cnp.NPY_FLOAT
    vector(mean, cnp.NPY_DOUBLE, c, &center)
    vector(m2, cnp.NPY_DOUBLE, c, &spread)
    vector(running_mean, real, c, &running.mean)
    vector(running_var, real, c, &running.var)
    running.momentum = momentum
    running.biased = biased
    running.nonfinite = <ncpu_nonfinite>nonfinite
    running.skipped = 0
    status = ncpu_update_running(c, NCPU_F64 if double_data else NCPU_F32, <double *>center, <double *>spread, count,
                                 &running)
    check(status)
    return bool(running.skipped)
