"""The sizes at which one path takes over from another; see crossovers.h."""

cdef extern from "crossovers.h" nogil:
    const Py_ssize_t WHOLE_WEIGHT
    const Py_ssize_t LARGE_WEIGHT
    const Py_ssize_t MANY_ROWS
    const Py_ssize_t LARGE_DELTA
    const Py_ssize_t DOT_ROWS
    const Py_ssize_t DELTA_PANELS
    const Py_ssize_t DELTA_WIDTH
    const Py_ssize_t LAID_OUT_WIDTH
    const double GIL_FLOPS
    const double TEAM_FLOPS
    const double TEAM_CALL_FLOPS
