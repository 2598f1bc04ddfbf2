# SPDX-License-Identifier: Apache-2.0
# Dropout.  Part of _core.pyx.

cdef int dropped_of(const ncpu_array *x, cnp.ndarray mask, double p, bint alpha, int channel_axis, bint batched,
                    ncpu_dropped *what) except -1:
    """channel_axis: -1 for every element by itself.  mask must have the bytes that C reads and writes."""
    cdef cnp.npy_intp count = 1
    cdef int i
    what.p = p
    what.alpha = alpha
    what.whole_channels = channel_axis >= 0
    what.channel_axis = channel_axis
    what.batched = batched
    for i in range(x.ndim):
        if channel_axis < 0 or i == channel_axis or (batched and i == 0):
            count *= x.shape[i]
    if not is_vector(mask, cnp.NPY_UBYTE, (count + 7) // 8):
        raise ValueError("mask must have one bit per element or channel")
    return 0


def dropout(cnp.ndarray x not None, double p, bint alpha, int channel_axis, bint batched, uint64_t seed,
            cnp.ndarray y not None, cnp.ndarray mask not None):
    """Fills y and mask; see ncpu_dropout."""
    cdef ncpu_array source, target
    cdef ncpu_dropped what
    cdef ncpu_status status
    cdef uint8_t *bits = <uint8_t *>cnp.PyArray_DATA(mask)
    describe(x, &source)
    describe_like(y, &target, &source)
    dropped_of(&source, mask, p, alpha, channel_axis, batched, &what)
    with nogil:
        status = ncpu_dropout(&source, &what, seed, &target, bits)
    check(status)


def dropout_backward(cnp.ndarray dy not None, double p, bint alpha, int channel_axis, bint batched,
                     cnp.ndarray mask not None, cnp.ndarray dx not None):
    cdef ncpu_array gradient, target
    cdef ncpu_dropped what
    cdef ncpu_status status
    cdef const uint8_t *bits = <const uint8_t *>cnp.PyArray_DATA(mask)
    describe(dy, &gradient)
    describe_like(dx, &target, &gradient)
    dropped_of(&gradient, mask, p, alpha, channel_axis, batched, &what)
    with nogil:
        status = ncpu_dropout_backward(&gradient, &what, bits, &target)
    check(status)
