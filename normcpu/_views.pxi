# SPDX-License-Identifier: Apache-2.0
# Arrays as C sees them.  Part of _core.pyx.

cdef int bfloat16_number = -1  # the type number that ml_dtypes was given when it registered bfloat16


cdef int dtype_of(cnp.ndarray array) except -1:
    global bfloat16_number
    cdef int number = cnp.PyArray_TYPE(array)
    if number == cnp.NPY_FLOAT:
        return NCPU_F32
    if number == cnp.NPY_DOUBLE:
        return NCPU_F64
    if number == cnp.NPY_FLOAT16:
        return NCPU_F16
    if number == bfloat16_number:
        return NCPU_BF16
    if number == cnp.NPY_UBYTE:
        return NCPU_U8
    if number == cnp.NPY_BYTE:
        return NCPU_I8
    if array.dtype.name == "bfloat16":
        bfloat16_number = number
        return NCPU_BF16
    raise TypeError(f"no kernels for {array.dtype}")


cdef int describe(cnp.ndarray array, ncpu_array *view) except -1:
    view.dtype = <ncpu_dtype>dtype_of(array)
    view.ndim = cnp.PyArray_NDIM(array)
    if view.ndim > NCPU_MAX_NDIM or cnp.PyArray_ISBYTESWAPPED(array):
        raise ValueError("at most 16 dimensions, in native byte order")
    view.data = cnp.PyArray_DATA(array)
    view.shape = <const ptrdiff_t *>cnp.PyArray_DIMS(array)
    view.strides = <const ptrdiff_t *>cnp.PyArray_STRIDES(array)
    return 0


cdef int describe_like(cnp.ndarray array, ncpu_array *view, const ncpu_array *like) except -1:
    """C takes the shapes of x's companions for granted."""
    describe(array, view)
    cdef size_t bytes = view.ndim * sizeof(ptrdiff_t)
    if view.ndim != like.ndim or (bytes and memcmp(view.shape, like.shape, bytes)):  # no axes: NULL
        raise ValueError("shapes differ")
    return 0


def same_view(cnp.ndarray a not None, cnp.ndarray b not None):
    """Whether two arrays of one shape have each element at the same place."""
    cdef int i
    if cnp.PyArray_DATA(a) != cnp.PyArray_DATA(b):
        return False
    for i in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIMS(a)[i] > 1 and cnp.PyArray_STRIDES(a)[i] != cnp.PyArray_STRIDES(b)[i]:
            return False
    return True


cdef int real_number(const ncpu_array *x) noexcept:
    return cnp.NPY_DOUBLE if x.dtype == NCPU_F64 else cnp.NPY_FLOAT


cdef bint is_vector(object array, int number, cnp.npy_intp length) noexcept:
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(<cnp.ndarray>array) == number
            and cnp.PyArray_NDIM(<cnp.ndarray>array) == 1 and cnp.PyArray_DIMS(<cnp.ndarray>array)[0] == length
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array))


def is_parameter(array, bint double, Py_ssize_t length):
    """Whether C can take it as it is: an ndarray (length), aligned and contiguous, of float64 or float32."""
    return is_vector(array, cnp.NPY_DOUBLE if double else cnp.NPY_FLOAT, length)


cdef int bounds(cnp.ndarray array, char **low, char **high) except -1:
    """[low, high) has every byte of the array; low == high where there are none."""
    cdef ptrdiff_t reach
    cdef int i
    low[0] = high[0] = cnp.PyArray_BYTES(array)
    if cnp.PyArray_SIZE(array) == 0:
        return 0
    high[0] += cnp.PyArray_ITEMSIZE(array)
    for i in range(cnp.PyArray_NDIM(array)):
        reach = cnp.PyArray_STRIDES(array)[i] * (cnp.PyArray_DIMS(array)[i] - 1)
        if reach < 0:
            low[0] += reach
        else:
            high[0] += reach
    return 0


cpdef bint bounds_meet(a, b) except -1:
    """Whether two arrays lie in overlapping stretches of memory; None lies nowhere."""
    cdef char *a_low
    cdef char *a_high
    cdef char *b_low
    cdef char *b_high
    if a is None or b is None:
        return False
    bounds(a, &a_low, &a_high)
    bounds(b, &b_low, &b_high)
    return a_low < b_high and b_low < a_high and a_low < a_high and b_low < b_high


cdef int vector(object array, int number, cnp.npy_intp length, void **data) except -1:
    """The data of an array (length) of this type, NULL of None."""
    data[0] = NULL
    if array is not None:
        if not is_vector(array, number, length):
            raise ValueError("parameters must be aligned, contiguous and of the right type and length")
        data[0] = cnp.PyArray_DATA(<cnp.ndarray>array)
    return 0


cdef cnp.npy_intp channels_of(const ncpu_array *x, int channel_axis) except -1:
    if not 0 <= channel_axis < x.ndim:
        raise ValueError("channel_axis out of bounds")
    return x.shape[channel_axis]
