"""What runs here: the engine's variant, the processor, BLAS, crossovers, threads."""

from __future__ import annotations

import platform

import numpy as np

from fastbp import _dispatch

__all__ = ["show_config"]


def show_config() -> None:
    """Print which compiled engine is in use, on what, and where its paths cross over.

    Says so loudly when a faster engine would run on this processor, or when the only one that
    does is the portable one.
    """
    from importlib import metadata  # takes longer to import than all of fastbp

    from fastbp import __version__

    available = _dispatch.available_variants()
    scipy = metadata.version("scipy")
    cores = _dispatch.engine.usable_cores()
    uses_blas = _dispatch.variant == "portable"
    rows = [
        ("fastbp", __version__),
        ("python", f"{platform.python_version()}, numpy {np.__version__}, scipy {scipy}"),
        ("machine", f"{platform.machine()}, {cores} cores for this process"),
        ("engine", _dispatch.variant),
        ("engines available", ", ".join(available)),
        ("processor has", ", ".join(_dispatch.cpu.features()) or "nothing known"),
        ("blas", "SciPy's, for every product" if uses_blas else "not in use: own tiles"),
        ("threads", "1 unless n_threads says more; never more than cores; none between calls"),
    ]
    rows += [(name, f"{value:,}") for name, value in _dispatch.engine.CROSSOVERS.items()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name.ljust(width)}  {value}")
    if _dispatch.variant != available[0]:
        print(f"WARNING: a slow path is in use; {available[0]} would run here (FASTBP_ISA is set)")
    elif uses_blas:
        print("WARNING: a slow path is in use; no engine for this processor is installed")
