# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""include/normcpu.h for Cython."""

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef extern from "normcpu.h" nogil:
    const char *NCPU_VERSION
    enum: NCPU_MAX_NDIM
    ctypedef enum ncpu_dtype:
        NCPU_F32, NCPU_F64, NCPU_F16, NCPU_BF16, NCPU_U8, NCPU_I8
    ctypedef enum ncpu_status:
        NCPU_OK, NCPU_ERROR_MEMORY, NCPU_ERROR_INTERRUPTED, NCPU_ERROR_NONFINITE, NCPU_ERROR_ARGUMENT
        NCPU_ERROR_UNSUPPORTED
    ctypedef struct ncpu_array:
        void *data
        ncpu_dtype dtype
        int ndim
        const ptrdiff_t *shape
        const ptrdiff_t *strides
    ctypedef enum ncpu_activation:
        NCPU_NONE
    ctypedef struct ncpu_epilogue:
        ncpu_activation activation
        double negative_slope
        const ncpu_array *residual
        uint8_t *mask
    ctypedef enum ncpu_nonfinite:
        NCPU_PROPAGATE
    ctypedef struct ncpu_running:
        void *mean
        void *var
        double momentum
        int biased
        ncpu_nonfinite nonfinite
        int skipped
    ctypedef struct ncpu_moments_state:
        double *mean
        double *mean_tail
        double *m2
        double *m2_tail
    ctypedef struct ncpu_row_norm:
        const uint8_t *axes
        int rms
        const void *weight
        const void *bias
        int plus_one
        double eps
        const uint8_t *valid
    ctypedef struct ncpu_quantization:
        float scale
        int zero_point
        float *scales
    ncpu_status ncpu_layer_norm(const ncpu_array *, const ncpu_row_norm *, const ncpu_array *, const ncpu_array *,
                                const ncpu_epilogue *, const ncpu_quantization *, const ncpu_array *, double *, double *)
    ncpu_status ncpu_layer_norm_backward(const ncpu_array *, const ncpu_array *, const ncpu_row_norm *, const double *,
                                         const double *, ncpu_activation, const ncpu_array *, const uint8_t *,
                                         const ncpu_array *, const ncpu_array *, const ncpu_array *, void *, void *)
    ctypedef struct ncpu_threading:
        pass
    int ncpu_is_channels_last(const ncpu_array *, int)
    ncpu_status ncpu_batch_norm(const ncpu_array *, int, const void *, const void *, const void *, const void *, double,
                                const ncpu_epilogue *, const ncpu_array *)
    ncpu_status ncpu_batch_norm_train(const ncpu_array *, int, const void *, const void *, double, const ncpu_epilogue *,
                                      const ncpu_array *, double *, double *, ncpu_running *)
    ncpu_status ncpu_batch_norm_backward(const ncpu_array *, const ncpu_array *, int, const void *, const double *,
                                         const double *, double, int, ncpu_activation, const ncpu_array *,
                                         const uint8_t *, const ncpu_array *, const ncpu_array *, void *, void *)
    ctypedef struct ncpu_groups:
        size_t count
        int given
        double *mean
        double *var
        const uint8_t *valid
    ncpu_status ncpu_group_norm(const ncpu_array *, int, const ncpu_groups *, const void *, const void *, double,
                                const ncpu_epilogue *, const ncpu_array *)
    ncpu_status ncpu_group_norm_backward(const ncpu_array *, const ncpu_array *, int, const ncpu_groups *, const void *,
                                         double, ncpu_activation, const ncpu_array *, const uint8_t *,
                                         const ncpu_array *, const ncpu_array *, void *, void *)
    ncpu_status ncpu_update_running(size_t, ncpu_dtype, const double *, const double *, double, ncpu_running *)
    ncpu_status ncpu_scale_shift(const ncpu_array *, int, const void *, const void *, const void *,
                                 const ncpu_epilogue *, const ncpu_array *)
    ncpu_status ncpu_moments(const ncpu_array *, const uint8_t *, const ncpu_moments_state *)
    void ncpu_moments_merge(size_t, int64_t, const ncpu_moments_state *, int64_t, const ncpu_moments_state *)
    ncpu_status ncpu_scale_axis(const ncpu_array *, int, const double *, const ncpu_array *, double *)
    ctypedef struct ncpu_local_response:
        size_t before
        size_t after
        double alpha
        double beta
        double k
    ncpu_status ncpu_local_response_norm(const ncpu_array *, int, const ncpu_local_response *, const ncpu_epilogue *,
                                         const ncpu_array *)
    ncpu_status ncpu_local_response_norm_backward(const ncpu_array *, const ncpu_array *, int,
                                                  const ncpu_local_response *, const ncpu_array *)
    ctypedef struct ncpu_dropped:
        double p
        int alpha
        int whole_channels
        int channel_axis
        int batched
    ncpu_status ncpu_dropout(const ncpu_array *, const ncpu_dropped *, uint64_t, const ncpu_array *, uint8_t *)
    ncpu_status ncpu_dropout_backward(const ncpu_array *, const ncpu_dropped *, const uint8_t *, const ncpu_array *)
    ctypedef struct ncpu_parameter:
        ncpu_dtype dtype
        size_t count
        void *weight
        const void *gradient
        void *mean
        void *square
        int64_t step
        int decayed
    ctypedef struct ncpu_sgd:
        double rate
        double momentum
        double dampening
        double weight_decay
        int nesterov
    ctypedef struct ncpu_adamw:
        double rate
        double beta1
        double beta2
        double eps
        double weight_decay
    ncpu_status ncpu_sgd_step(const ncpu_sgd *, const ncpu_parameter *, size_t)
    ncpu_status ncpu_adamw_step(const ncpu_adamw *, const ncpu_parameter *, size_t)
    const char *const *ncpu_isas_built()
    int ncpu_isa_supported(const char *)
    const char *ncpu_isa()
    ncpu_status ncpu_use_isa(const char *)
    void ncpu_set_threading(const ncpu_threading *)
    const char *ncpu_threading_name()
    void ncpu_set_num_threads(int)
    int ncpu_get_num_threads()
    double ncpu_region_cost(int)
    void ncpu_set_interrupt_check(int (*)() noexcept)
