# SPDX-License-Identifier: Apache-2.0
# Local response normalization.  Part of _core.pyx.

def local_response_norm(cnp.ndarray x not None, int channel_axis, size_t before, size_t after, double alpha,
                        double beta, double k, int activation, double negative_slope, cnp.ndarray residual,
                        cnp.ndarray y not None):
    cdef ncpu_array source, target, added
    cdef ncpu_local_response window = ncpu_local_response(before, after, alpha, beta, k)
    cdef ncpu_epilogue epilogue
    cdef ncpu_status status
    describe(x, &source)
    describe_like(y, &target, &source)
    channels_of(&source, channel_axis)
    epilogue_of(&source, activation, negative_slope, residual, None, &added, &epilogue)
    with nogil:
        status = ncpu_local_response_norm(&source, channel_axis, &window, &epilogue, &target)
    check(status)


def local_response_norm_backward(cnp.ndarray dy not None, cnp.ndarray x not None, int channel_axis, size_t before,
                                 size_t after, double alpha, double beta, double k, cnp.ndarray dx not None):
    cdef ncpu_array gradient, source, target
    cdef ncpu_local_response window = ncpu_local_response(before, after, alpha, beta, k)
    cdef ncpu_status status
    describe(x, &source)
    describe_like(dy, &gradient, &source)
    describe_like(dx, &target, &source)
    channels_of(&source, channel_axis)
    with nogil:
        status = ncpu_local_response_norm_backward(&gradient, &source, channel_axis, &window, &target)
    check(status)
