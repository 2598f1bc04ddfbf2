# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=True, freethreading_compatible=True, autotestdict=False
"""Importing this gives _core OpenMP's threads (src/omp.c); where it cannot be imported, one thread does all."""

from cpython.pycapsule cimport PyCapsule_New

from . import _core


cdef extern from *:
    """
    #include "normcpu.h"
    const ncpu_threading *ncpu_openmp(void);
    const char *ncpu_openmp_runtime(void);
    """
    ctypedef struct ncpu_threading:
        pass
    const ncpu_threading *ncpu_openmp()
    const char *ncpu_openmp_runtime()


def runtime():
    """The file that the OpenMP runtime was loaded from."""
    return ncpu_openmp_runtime().decode()


_core.set_threading(PyCapsule_New(<void *>ncpu_openmp(), "normcpu.threading", NULL))
