# SPDX-License-Identifier: Apache-2.0
# Tensors of other libraries: https://dmlc.github.io/dlpack/latest/c_api.html.  Part of _core.pyx.


cdef extern from *:
    """
    typedef struct {
        void *data;
        int32_t device_type, device_id;
        int32_t ndim;
        uint8_t code, bits;
        uint16_t lanes;
        int64_t *shape, *strides; /* strides in elements, NULL: C order */
        uint64_t byte_offset;
    } dlpack_tensor;
    typedef struct { /* DLManagedTensorVersioned, up to what is read here */
        uint32_t major, minor;
        void *context;
        void (*deleter)(void *);
        uint64_t flags;
        dlpack_tensor tensor;
    } dlpack_versioned;
    """
    ctypedef struct dlpack_tensor:
        void *data
        int device_type, ndim
        int code, bits, lanes
        int64_t *shape
        int64_t *strides
        size_t byte_offset
    ctypedef struct dlpack_versioned:
        unsigned major
        dlpack_tensor tensor

cdef extern from "numpy/arrayobject.h":
    object new_array "PyArray_New"(PyTypeObject *, int, cnp.npy_intp *, int, cnp.npy_intp *, void *, int, int, void *)

cdef tuple dlpack_codes = ("int", "uint", "float", "handle", "bfloat", "complex", "bool")
cdef dict dlpack_numbers = {
    "float16": cnp.NPY_FLOAT16, "float32": cnp.NPY_FLOAT32, "float64": cnp.NPY_FLOAT64,
    "bfloat16": cnp.NPY_UINT16, "uint8": cnp.NPY_UINT8, "int8": cnp.NPY_INT8,
}


cdef dlpack_tensor *dlpack_of(capsule) except NULL:
    cdef dlpack_versioned *versioned
    if PyCapsule_IsValid(capsule, "dltensor"):
        return <dlpack_tensor *>PyCapsule_GetPointer(capsule, "dltensor")
    versioned = <dlpack_versioned *>PyCapsule_GetPointer(capsule, "dltensor_versioned")
    if versioned.major != 1:
        raise BufferError(f"DLPack version {versioned.major} is not known here")
    return &versioned.tensor


def dlpack_dtype(capsule):
    """The name of the element type, as NumPy would say it."""
    cdef dlpack_tensor *tensor = dlpack_of(capsule)
    name = f"{dlpack_codes[tensor.code] if tensor.code < 7 else 'type'}{tensor.bits}"
    return name if tensor.lanes == 1 else f"{name}x{tensor.lanes}"


def from_dlpack(capsule):
    """A read-only array of the same memory; bfloat16 comes as uint16.

    The capsule stays unused by the letter of the protocol, so its destructor releases the tensor: it is the base
    of the array."""
    cdef dlpack_tensor *tensor = dlpack_of(capsule)
    cdef cnp.npy_intp shape[NCPU_MAX_NDIM]
    cdef cnp.npy_intp strides[NCPU_MAX_NDIM]
    cdef cnp.npy_intp itemsize = tensor.bits // 8, step = itemsize
    cdef int i, number = dlpack_numbers[dlpack_dtype(capsule)]
    if tensor.device_type != 1 or tensor.ndim > NCPU_MAX_NDIM:
        raise BufferError("not in the memory of the CPU, or of more than 16 dimensions")
    for i in reversed(range(tensor.ndim)):
        shape[i] = tensor.shape[i]
        strides[i] = tensor.strides[i] * itemsize if tensor.strides != NULL else step
        step *= shape[i]
    cdef cnp.ndarray array = new_array(<PyTypeObject *>cnp.ndarray, tensor.ndim, shape, number, strides,
                                       <char *>tensor.data + tensor.byte_offset, <int>itemsize, 0, NULL)
    cnp.set_array_base(array, capsule)
    return array
