# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=True, freethreading_compatible=True, autotestdict=False
"""A wire to include/normcpu.h: pointers in, status out.  What a caller may pass is decided in _arrays.py; here
only what would make a pointer lie is checked.  Arrays are described to C as they are, never copied."""

import os

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_Occurred
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.float cimport DBL_EPSILON as DOUBLE_EPS
from libc.float cimport FLT_EPSILON as FLOAT_EPS
from libc.math cimport isfinite
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memset

cnp.import_array()


cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept
    bint PyFloat_CheckExact(object)


version = NCPU_VERSION.decode()
max_ndim = NCPU_MAX_NDIM


include "_views.pxi"
include "_dlpack.pxi"


cdef int check(ncpu_status status) except -1:
    if status == NCPU_OK:
        return 0
    if status == NCPU_ERROR_INTERRUPTED:
        if PyErr_Occurred():
            return -1  # what the signal's handler raised
        raise KeyboardInterrupt
    if status == NCPU_ERROR_MEMORY:
        raise MemoryError("normcpu: no memory for scratch space")
    if status == NCPU_ERROR_NONFINITE:
        raise FloatingPointError(
            "a running statistic would become NaN or infinite (nonfinite='raise'); none was changed"
        )
    if status == NCPU_ERROR_UNSUPPORTED:
        raise NotImplementedError("normcpu does not compute this combination")
    raise ValueError("arguments do not belong together")


# ---- Operations ------------------------------------------------------------------------------------------

cdef int epilogue_of(const ncpu_array *x, int activation, double negative_slope, cnp.ndarray residual,
                     cnp.ndarray mask, ncpu_array *residual_view, ncpu_epilogue *epilogue) except -1:
    epilogue.activation = <ncpu_activation>activation
    epilogue.negative_slope = negative_slope
    epilogue.residual = NULL
    epilogue.mask = NULL
    if residual is not None:
        describe_like(residual, residual_view, x)
        epilogue.residual = residual_view
    if mask is not None:
        epilogue.mask = <uint8_t *>cnp.PyArray_DATA(mask)
    return 0


def is_channels_last(cnp.ndarray x not None, int channel_axis):
    cdef ncpu_array view
    describe(x, &view)
    channels_of(&view, channel_axis)
    return bool(ncpu_is_channels_last(&view, channel_axis))


def batch_norm(cnp.ndarray x not None, int channel_axis, mean, var, weight, bias, double eps, int activation,
               double negative_slope, cnp.ndarray residual, cnp.ndarray mask, cnp.ndarray y not None):
    cdef ncpu_array source, target, added
    cdef ncpu_epilogue epilogue
    cdef ncpu_status status
    cdef void *center
    cdef void *spread
    cdef void *gamma
    cdef void *beta
    describe(x, &source)
    describe_like(y, &target, &source)
    cdef cnp.npy_intp c = channels_of(&source, channel_axis)
    cdef int real = real_number(&source)
    vector(mean, real, c, &center)
    vector(var, real, c, &spread)
    vector(weight, real, c, &gamma)
    vector(bias, real, c, &beta)
    epilogue_of(&source, activation, negative_slope, residual, mask, &added, &epilogue)
    with nogil:
        status = ncpu_batch_norm(&source, channel_axis, center, spread, gamma, beta, eps, &epilogue, &target)
    check(status)


def batch_norm_train(cnp.ndarray x not None, int channel_axis, weight, bias, double eps, int activation,
                     double negative_slope, cnp.ndarray residual, cnp.ndarray mask, cnp.ndarray y not None,
                     batch_mean, batch_var, running_mean, running_var, double momentum, bint biased, int nonfinite):
    """Whether the update of the running statistics was left out (nonfinite='skip')."""
    cdef ncpu_array source, target, added
    cdef ncpu_epilogue epilogue
    cdef ncpu_running running
    cdef ncpu_status status
    cdef void *gamma
    cdef void *beta
    cdef void *center
    cdef void *spread
    describe(x, &source)
    describe_like(y, &target, &source)
    cdef cnp.npy_intp c = channels_of(&source, channel_axis)
    cdef int real = real_number(&source)
    vector(weight, real, c, &gamma)
    vector(bias, real, c, &beta)
    vector(batch_mean, cnp.NPY_DOUBLE, c, &center)
    vector(batch_var, cnp.NPY_DOUBLE, c, &spread)
    vector(running_mean, real, c, &running.mean)
    vector(running_var, real, c, &running.var)
    running.momentum = momentum
    running.biased = biased
    running.nonfinite = <ncpu_nonfinite>nonfinite
    running.skipped = 0
    epilogue_of(&source, activation, negative_slope, residual, mask, &added, &epilogue)
    with nogil:
        status = ncpu_batch_norm_train(&source, channel_axis, gamma, beta, eps, &epilogue, &target,
                                       <double *>center, <double *>spread, &running)
    check(status)
    return bool(running.skipped)


def batch_norm_backward(cnp.ndarray dy not None, cnp.ndarray x not None, int channel_axis, weight, mean, var,
                        double eps, bint training, int activation, cnp.ndarray y, cnp.ndarray mask,
                        cnp.ndarray dx, cnp.ndarray dresidual, dweight, dbias):
    cdef ncpu_array gradient, source, output, to_x, to_residual
    cdef ncpu_status status
    cdef void *gamma
    cdef void *center
    cdef void *spread
    cdef void *to_weight
    cdef void *to_bias
    cdef const ncpu_array *output_or_null = NULL
    cdef const ncpu_array *to_x_or_null = NULL
    cdef const ncpu_array *to_residual_or_null = NULL
    cdef const uint8_t *bits = NULL
    describe(x, &source)
    describe_like(dy, &gradient, &source)
    if y is not None:
        describe_like(y, &output, &source)
        output_or_null = &output
    if dx is not None:
        describe_like(dx, &to_x, &source)
        to_x_or_null = &to_x
    if dresidual is not None:
        describe_like(dresidual, &to_residual, &source)
        to_residual_or_null = &to_residual
    if mask is not None:
        bits = <const uint8_t *>cnp.PyArray_DATA(mask)
    cdef cnp.npy_intp c = channels_of(&source, channel_axis)
    cdef int real = real_number(&source)
    vector(weight, real, c, &gamma)
    vector(mean, cnp.NPY_DOUBLE, c, &center)
    vector(var, cnp.NPY_DOUBLE, c, &spread)
    vector(dweight, real, c, &to_weight)
    vector(dbias, real, c, &to_bias)
    with nogil:
        status = ncpu_batch_norm_backward(&gradient, &source, channel_axis, gamma, <double *>center,
                                          <double *>spread, eps, training, <ncpu_activation>activation,
                                          output_or_null, bits, to_x_or_null, to_residual_or_null, to_weight, to_bias)
    check(status)


def scale_shift(cnp.ndarray x not None, int channel_axis, center, scale, shift, int activation,
                double negative_slope, cnp.ndarray residual, cnp.ndarray y not None):
    cdef ncpu_array source, target, added
    cdef ncpu_epilogue epilogue
    cdef ncpu_status status
    cdef void *minus
    cdef void *times
    cdef void *plus
    describe(x, &source)
    describe_like(y, &target, &source)
    cdef cnp.npy_intp c = channels_of(&source, channel_axis)
    cdef int real = real_number(&source)
    vector(center, real, c, &minus)
    vector(scale, real, c, &times)
    vector(shift, real, c, &plus)
    epilogue_of(&source, activation, negative_slope, residual, None, &added, &epilogue)
    with nogil:
        status = ncpu_scale_shift(&source, channel_axis, minus, times, plus, &epilogue, &target)
    check(status)


def scale_axis(cnp.ndarray x not None, int axis, factor not None, cnp.ndarray y, peak not None):
    """Fills y, unless it is None, and peak (c); see ncpu_scale_axis."""
    cdef ncpu_array source, target
    cdef const ncpu_array *target_or_null = NULL
    cdef ncpu_status status
    cdef void *times
    cdef void *largest
    describe(x, &source)
    if y is not None:
        describe_like(y, &target, &source)
        target_or_null = &target
    cdef cnp.npy_intp c = channels_of(&source, axis)
    vector(factor, cnp.NPY_DOUBLE, c, &times)
    vector(peak, cnp.NPY_DOUBLE, c, &largest)
    with nogil:
        status = ncpu_scale_axis(&source, axis, <double *>times, target_or_null, <double *>largest)
    check(status)


# ---- Moments ---------------------------------------------------------------------------------------------

cdef int state_of(arrays, cnp.npy_intp c, ncpu_moments_state *state) except -1:
    mean, mean_tail, m2, m2_tail = arrays
    vector(mean, cnp.NPY_DOUBLE, c, <void **>&state.mean)
    vector(mean_tail, cnp.NPY_DOUBLE, c, <void **>&state.mean_tail)
    vector(m2, cnp.NPY_DOUBLE, c, <void **>&state.m2)
    vector(m2_tail, cnp.NPY_DOUBLE, c, <void **>&state.m2_tail)
    return 0


def moments(cnp.ndarray x not None, bytes reduce not None, state):
    """state: the four arrays (c) of ncpu_moments_state, c the product of the extents that are kept."""
    cdef ncpu_array source
    cdef ncpu_moments_state result
    cdef ncpu_status status
    cdef const uint8_t *axes = reduce
    cdef cnp.npy_intp c = 1
    cdef int i
    describe(x, &source)
    if len(reduce) != source.ndim:
        raise ValueError("reduce must have one byte per axis")
    for i in range(source.ndim):
        c *= 1 if axes[i] else source.shape[i]
    state_of(state, c, &result)
    with nogil:
        status = ncpu_moments(&source, axes, &result)
    check(status)


def moments_merge(Py_ssize_t c, int64_t into_count, into, int64_t count, part):
    cdef ncpu_moments_state whole, other
    state_of(into, c, &whole)
    state_of(part, c, &other)
    with nogil:
        ncpu_moments_merge(c, into_count, &whole, count, &other)


include "_plain.pxi"
include "_groups.pxi"
include "_rows.pxi"
include "_local.pxi"
include "_dropout.pxi"
include "_optim.pxi"
include "_machine.pxi"
