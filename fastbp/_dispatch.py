"""Picks the compiled variant of the engine for this processor, once, at import."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from typing import TYPE_CHECKING

from fastbp.engine import cpu

if TYPE_CHECKING:
    from fastbp.engine import engine
else:
    engine = None

__all__ = ["VARIANTS", "available_variants", "cpu", "engine", "variant"]

# What each variant needs of the processor, best first.
_V2 = {"sse4.2", "popcnt"}
_V3 = _V2 | {"avx", "avx2", "fma", "bmi", "bmi2"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VARIANTS = {
    "x86_64_v4": _V4,
    "x86_64_v3": _V3,
    "x86_64_v2": _V2,
    "neon": {"neon"},
    "portable": set(),
}


def available_variants() -> list[str]:
    """Names of the variants that are built and that this processor runs, best first."""
    present = set(cpu.features())
    return [
        name
        for name, needed in VARIANTS.items()
        if needed <= present and importlib.util.find_spec(f"fastbp.engine.{name}") is not None
    ]


def _pick() -> str:
    available = available_variants()
    wanted = os.environ.get("FASTBP_ISA")
    if not wanted:
        return available[0]
    if wanted not in available:
        raise ImportError(
            f"FASTBP_ISA={wanted!r} is not available here; available are {', '.join(available)}"
        )
    return wanted


variant = _pick()
engine = importlib.import_module(f"fastbp.engine.{variant}")
if variant == "portable" and not os.environ.get("FASTBP_ISA"):
    warnings.warn(
        "fastbp runs on its portable engine, which is many times slower: "
        "no variant for this processor is installed",
        RuntimeWarning,
        stacklevel=2,
    )
