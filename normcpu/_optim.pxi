# SPDX-License-Identifier: Apache-2.0
# Optimizers.  Part of _core.pyx.

cdef int parameter_of(tuple arrays, ncpu_parameter *parameter) except -1:
    """(weight, gradient, mean or None, square or None, step, decayed), the arrays C-contiguous, of weight's shape and dtype."""
    cdef cnp.ndarray weight = arrays[0]
    cdef cnp.ndarray other
    cdef void *data[4]
    cdef int i
    parameter.dtype = <ncpu_dtype>dtype_of(weight)
    parameter.count = cnp.PyArray_SIZE(weight)
    for i in range(4):
        data[i] = NULL
        if arrays[i] is not None:
            other = arrays[i]
            if not (cnp.PyArray_TYPE(other) == cnp.PyArray_TYPE(weight) and cnp.PyArray_ISCARRAY_RO(other)
                    and cnp.PyArray_SAMESHAPE(other, weight)):
                raise ValueError("arrays of a parameter must be alike, contiguous and aligned")
            data[i] = cnp.PyArray_DATA(other)
    parameter.weight = data[0]
    parameter.gradient = data[1]
    parameter.mean = data[2]
    parameter.square = data[3]
    parameter.step = arrays[4]
    parameter.decayed = arrays[5]
    return 0


cdef ncpu_parameter *parameters_of(list arrays) except NULL:
    cdef ncpu_parameter *parameters = <ncpu_parameter *>PyMem_Malloc((len(arrays) + 1) * sizeof(ncpu_parameter))
    if parameters == NULL:
        raise MemoryError
    try:
        for i in range(len(arrays)):
            parameter_of(arrays[i], &parameters[i])
    except BaseException:
        PyMem_Free(parameters)
        raise
    return parameters


def sgd_step(list arrays not None, double rate, double momentum, double dampening, double weight_decay, bint nesterov):
    cdef ncpu_sgd how = ncpu_sgd(rate, momentum, dampening, weight_decay, nesterov)
    cdef ncpu_parameter *parameters = parameters_of(arrays)
    cdef size_t count = len(arrays)
    cdef ncpu_status status
    with nogil:
        status = ncpu_sgd_step(&how, parameters, count)
    PyMem_Free(parameters)
    check(status)


def adamw_step(list arrays not None, double rate, double beta1, double beta2, double eps, double weight_decay):
    cdef ncpu_adamw how = ncpu_adamw(rate, beta1, beta2, eps, weight_decay)
    cdef ncpu_parameter *parameters = parameters_of(arrays)
    cdef size_t count = len(arrays)
    cdef ncpu_status status
    with nogil:
        status = ncpu_adamw_step(&how, parameters, count)
    PyMem_Free(parameters)
    check(status)
