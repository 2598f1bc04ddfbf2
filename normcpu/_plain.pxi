# SPDX-License-Identifier: Apache-2.0
# Calls of the plainest kind, without a detour: C-contiguous x and out of float32 (float64) with parameters of float32
# (float64), all exactly numpy.ndarray, eps exactly a float and other numbers exactly ints.  Each returns y, or None
# where an argument is of another kind or may be wrong: _arrays.py knows what to say of it.  Part of _core.pyx.

cdef enum:
    FEW = 64  # groups whose statistics find room on the stack


cdef bint plain_data(x, eps, int ndim) noexcept:
    """x of at least ndim dimensions."""
    if not (cnp.PyArray_CheckExact(x) and PyFloat_CheckExact(eps)):
        return False
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    cdef double epsilon = eps
    return ((number == cnp.NPY_FLOAT or number == cnp.NPY_DOUBLE) and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x)
            and ndim <= cnp.PyArray_NDIM(<cnp.ndarray>x) <= NCPU_MAX_NDIM and epsilon >= 0 and isfinite(epsilon))


cdef int plain_axis(channel_axis, int ndim) noexcept:
    """-1 where it is none."""
    cdef int overflow = 0
    if not PyLong_CheckExact(channel_axis):
        return -1
    cdef long axis = PyLong_AsLongAndOverflow(channel_axis, &overflow)
    axis += ndim if axis < 0 else 0
    return <int>axis if 0 <= axis < ndim and not overflow else -1


cdef bint plain_vector(array, int number, cnp.npy_intp length) noexcept:
    return array is None or is_vector(array, number, length)


cdef object plain_output(out, cnp.ndarray x, weight, bias):
    """out where nothing but x itself shares memory with it, or a new array; else None."""
    if out is None:
        return cnp.PyArray_SimpleNew(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x))
    if not (cnp.PyArray_CheckExact(out) and cnp.PyArray_ISCARRAY(<cnp.ndarray>out)
            and cnp.PyArray_TYPE(<cnp.ndarray>out) == cnp.PyArray_TYPE(x)
            and cnp.PyArray_SAMESHAPE(<cnp.ndarray>out, x)
            and (cnp.PyArray_DATA(<cnp.ndarray>out) == cnp.PyArray_DATA(x) or not bounds_meet(out, x))
            and not bounds_meet(out, weight) and not bounds_meet(out, bias)):
        return None
    return out


cdef void *data_of(array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray>array)


@cython.binding(False)
def batch_norm_plain(x, running_mean, running_var, weight, bias, eps, channel_axis, out):
    if not plain_data(x, eps, 2):
        return None
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    cdef int axis = plain_axis(channel_axis, cnp.PyArray_NDIM(<cnp.ndarray>x))
    if axis < 0:
        return None
    cdef cnp.npy_intp c = cnp.PyArray_DIMS(<cnp.ndarray>x)[axis]
    if not (is_vector(running_mean, number, c) and is_vector(running_var, number, c)
            and plain_vector(weight, number, c) and plain_vector(bias, number, c)):
        return None
    y = plain_output(out, x, weight, bias)
    if y is None or (out is not None and (bounds_meet(out, running_mean) or bounds_meet(out, running_var))):
        return None
    cdef ncpu_array source, target
    cdef ncpu_status status
    cdef void *mean = data_of(running_mean)
    cdef void *var = data_of(running_var)
    cdef void *gamma = data_of(weight)
    cdef void *beta = data_of(bias)
    cdef double epsilon = eps
    describe(x, &source)
    describe(y, &target)
    with nogil:
        status = ncpu_batch_norm(&source, axis, mean, var, gamma, beta, epsilon, NULL, &target)
    check(status)
    return y


@cython.binding(False)
def layer_norm_plain(x, normalized_shape, weight, bias, eps, bint rms, out):
    """Rows of the last axis.  eps: also None, for rms."""
    if eps is None and rms and cnp.PyArray_CheckExact(x):
        eps = DOUBLE_EPS if cnp.PyArray_TYPE(<cnp.ndarray>x) == cnp.NPY_DOUBLE else FLOAT_EPS
    if not plain_data(x, eps, 1):
        return None
    if type(normalized_shape) is tuple and len(<tuple>normalized_shape) == 1:
        normalized_shape = (<tuple>normalized_shape)[0]
    if not PyLong_CheckExact(normalized_shape):
        return None
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>x), ndim = cnp.PyArray_NDIM(<cnp.ndarray>x)
    cdef int overflow = 0
    cdef long width = PyLong_AsLongAndOverflow(normalized_shape, &overflow)
    if overflow or cnp.PyArray_DIMS(<cnp.ndarray>x)[ndim - 1] != width or cnp.PyArray_SIZE(<cnp.ndarray>x) == 0:
        return None
    if not (plain_vector(weight, number, width) and plain_vector(bias, number, width)):
        return None
    y = plain_output(out, x, weight, bias)
    if y is None:
        return None
    cdef ncpu_array source, target
    cdef ncpu_row_norm norm
    cdef ncpu_status status
    cdef uint8_t inner[NCPU_MAX_NDIM]
    describe(x, &source)
    describe(y, &target)
    memset(inner, 0, sizeof(inner))
    inner[ndim - 1] = 1
    norm.axes = inner
    norm.rms = rms
    norm.plus_one = 0
    norm.eps = eps
    norm.valid = NULL
    norm.weight = data_of(weight)
    norm.bias = data_of(bias)
    with nogil:
        status = ncpu_layer_norm(&source, &norm, NULL, NULL, NULL, NULL, &target, NULL, NULL)
    check(status)
    return y


@cython.binding(False)
def group_norm_plain(x, num_groups, weight, bias, eps, channel_axis, out):
    """num_groups: None for as many as there are channels, of more than one position each."""
    if not plain_data(x, eps, 2):
        return None
    cdef int number = cnp.PyArray_TYPE(<cnp.ndarray>x)
    cdef int axis = plain_axis(channel_axis, cnp.PyArray_NDIM(<cnp.ndarray>x))
    if axis < 1:
        return None
    cdef cnp.npy_intp n = cnp.PyArray_DIMS(<cnp.ndarray>x)[0], c = cnp.PyArray_DIMS(<cnp.ndarray>x)[axis]
    cdef cnp.npy_intp size = cnp.PyArray_SIZE(<cnp.ndarray>x)
    cdef int overflow = 0
    cdef long count = <long>c
    if num_groups is None:
        if size == n * c:
            return None
    elif not PyLong_CheckExact(num_groups):
        return None
    else:
        count = PyLong_AsLongAndOverflow(num_groups, &overflow)
    if size == 0 or overflow or count < 1 or c % count or n * count > FEW:
        return None
    if not (plain_vector(weight, number, c) and plain_vector(bias, number, c)):
        return None
    y = plain_output(out, x, weight, bias)
    if y is None:
        return None
    cdef ncpu_array source, target
    cdef ncpu_groups groups
    cdef ncpu_status status
    cdef double mean[FEW]
    cdef double var[FEW]
    cdef void *gamma = data_of(weight)
    cdef void *beta = data_of(bias)
    cdef double epsilon = eps
    describe(x, &source)
    describe(y, &target)
    groups.count = count
    groups.given = 0
    groups.mean = mean
    groups.var = var
    groups.valid = NULL
    with nogil:
        status = ncpu_group_norm(&source, axis, &groups, gamma, beta, epsilon, NULL, &target)
    check(status)
    return y
