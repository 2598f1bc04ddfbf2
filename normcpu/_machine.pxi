# SPDX-License-Identifier: Apache-2.0
# Instruction sets, threads and interrupts.  Part of _core.pyx.


def isas_built():
    cdef const char *const *names = ncpu_isas_built()
    built = []
    while names[len(built)] != NULL:
        built.append(names[len(built)].decode())
    return tuple(built)


def isa_supported(str name not None):
    return ncpu_isa_supported(name.encode()) == 1


def isa():
    return ncpu_isa().decode()


def use_isa(name):
    """From now on, in every thread; None: the best that runs here."""
    if name is None:
        check(ncpu_use_isa(NULL))
        return
    status = ncpu_use_isa(name.encode())
    if status == NCPU_OK:
        return
    problem = "is not supported by this CPU" if status == NCPU_ERROR_UNSUPPORTED else "is not in this build"
    usable = ", ".join([known for known in isas_built() if isa_supported(known)])
    raise ValueError(f"instruction set {name!r} {problem}; usable here: {usable}")


def set_threading(capsule):
    """capsule: a static ncpu_threading by the name normcpu.threading; None: serial."""
    cdef const ncpu_threading *layer = NULL
    if capsule is not None:
        layer = <const ncpu_threading *>PyCapsule_GetPointer(capsule, "normcpu.threading")
    ncpu_set_threading(layer)


def threading_name():
    return ncpu_threading_name().decode()


def set_num_threads(int threads):
    ncpu_set_num_threads(threads)


def get_num_threads():
    return ncpu_get_num_threads()


def region_cost(int threads):
    """Seconds that a parallel region of so many threads costs, measured once."""
    cdef double cost
    with nogil:
        cost = ncpu_region_cost(threads)
    return cost


cdef int interrupted() noexcept nogil:
    with gil:
        return PyErr_CheckSignals()


ncpu_set_interrupt_check(interrupted)

if os.environ.get("NORMCPU_ISA"):
    try:
        use_isa(os.environ["NORMCPU_ISA"])
    except ValueError as error:
        raise ImportError(f"NORMCPU_ISA: {error}") from None
