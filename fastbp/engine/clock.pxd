"""How long a call has kept the GIL released, so that it can look for Ctrl-C now and then."""

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int timespec_get(timespec*, int)
    int TIME_UTC

# Ctrl-C is answered within 200 ms; what is under way when this has passed still needs its time.
cdef enum:
    PATIENCE_MS = 20


cdef inline double milliseconds() noexcept nogil:
    cdef timespec now
    timespec_get(&now, TIME_UTC)
    return 1e3 * now.tv_sec + 1e-6 * now.tv_nsec


cdef inline bint out_of_patience(double since) noexcept nogil:
    """Whether it is time to return for a moment; a clock set back counts as time passed."""
    cdef double passed = milliseconds() - since
    return passed < 0 or passed > PATIENCE_MS
