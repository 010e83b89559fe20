"""Threads for the length of one call, and how they share a product."""

cdef extern from "team.h" nogil:
    enum:
        MOST_THREADS

    cdef struct team:
        int size
    void team_barrier(team*) noexcept
    void team_run(team*, int, void (*)(void*, int) noexcept nogil, void*) noexcept


cdef struct Member:
    team* of
    int part


cdef inline bint is_first(const Member* member) noexcept nogil:
    return member.part == 0


cdef inline void barrier(const Member* member) noexcept nogil:
    team_barrier(member.of)


cdef inline Py_ssize_t share(
    const Member* member, int offset, Py_ssize_t n, Py_ssize_t step,
) noexcept nogil:
    """Where this member's part of 0 .. n starts (offset 0) and stops (offset 1).

    Parts are cut at multiples of `step`, so that who computes an element does not change how.
    """
    cdef Py_ssize_t steps
    if member.of.size == 1:     # where a call takes a tenth of a microsecond, divisions are felt
        return n if offset else 0
    steps = (n + step - 1) // step
    return min(n, steps * (member.part + offset) // member.of.size * step)
