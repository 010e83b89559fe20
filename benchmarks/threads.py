"""The same number of threads for every library.

Most libraries read their number of threads from an environment variable when they are first
imported, so it is set for a process of its own before anything is imported there. One thread is
enforced once more by binding that process to one core, where the system can do that; what a
library offers in Python (`torch.set_num_threads`, ONNX Runtime's session options) is used on top
by its adapter.
"""

from __future__ import annotations

import os

VARIABLES = (
    "BLIS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NPROC",  # XLA's thread pool
    "NUMEXPR_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count(threads: str) -> int:
    """Return the number of threads that "1" or "all" stands for."""
    return 1 if threads == "1" else available_cores()


def environment(n_threads: int) -> dict[str, str]:
    """Return the variables that make a new process compute on that many threads."""
    variables = dict.fromkeys(VARIABLES, str(n_threads))
    flags = os.environ.get("XLA_FLAGS", "")
    many = "true" if n_threads > 1 else "false"
    return variables | {"XLA_FLAGS": f"{flags} --xla_cpu_multi_thread_eigen={many}".strip()}


def bind(n_threads: int) -> None:
    """Keep this process and its future threads on `n_threads` cores, where that is possible."""
    if hasattr(os, "sched_setaffinity"):
        # The last ones: interrupts are mostly served by the first.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-n_threads:])
