"""The best rate of matrix products on one core: what "percent of peak" is a percentage of.

Run as a process of its own, with the environment of `threads`: it prints one line of JSON, the
best rate by dtype in floating-point operations per second.
"""

from __future__ import annotations

import json
import time

import numpy as np
from scipy.linalg import blas

from benchmarks import threads

SIZES = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048))
SECONDS = 0.4  # for each size


def best_rate(dtype: str) -> float:
    """Return the highest rate of SciPy's gemm, over sizes and repetitions."""
    gemm = {"float32": blas.sgemm, "float64": blas.dgemm}[dtype]
    rng = np.random.default_rng(0)
    best = 0.0
    for m, k, n in SIZES:
        a = np.asfortranarray(rng.normal(size=(m, k)), dtype)
        b = np.asfortranarray(rng.normal(size=(k, n)), dtype)
        c = np.zeros((m, n), dtype, order="F")
        deadline = time.perf_counter() + SECONDS
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            gemm(1.0, a, b, 0.0, c, overwrite_c=True)
            best = max(best, 2 * m * k * n / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    threads.bind(1)
    print(json.dumps({dtype: best_rate(dtype) for dtype in ("float32", "float64")}))
