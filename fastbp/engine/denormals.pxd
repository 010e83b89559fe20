"""Denormal numbers count as zero while the engine computes."""

cdef extern from "denormals.h" nogil:
    unsigned long long denormals_flush() noexcept
    void denormals_restore(unsigned long long) noexcept
