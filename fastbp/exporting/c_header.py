"""A network as one C header."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import numpy as np

import fastbp
from fastbp import BatchNorm, Normalize
from fastbp._writing import write_whole
from fastbp.exporting.c_functions import Text, functions
from fastbp.exporting.c_layers import Step, arrays, forward, steps_of
from fastbp.exporting.c_training import Training

if TYPE_CHECKING:
    from fastbp import Network

__all__ = ["ISAS", "c_header", "export_c"]

# Names of instruction sets, and what GNU compilers call them.
ISAS = {
    "sse4.2": "sse4.2",
    "avx2": "avx2,fma",
    "avx512": "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma",
}


def export_c(
    network: Network,
    path: str | os.PathLike[str],
    *,
    name: str = "model",
    isa: str | None = None,
    train_step: bool = False,
) -> None:
    """Write a network as a C header; see `Network.export_c`."""
    write_whole(path, c_header(network, name=name, isa=isa, train_step=train_step).encode("ascii"))


def c_header(
    network: Network, *, name: str = "model", isa: str | None = None, train_step: bool = False
) -> str:
    """Return the text of the header that `Network.export_c` writes.

    Parameters
    ----------
    network : Network
    name, isa, train_step
        As for `Network.export_c`.

    Returns
    -------
    str

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `Network.export_c`.
    """
    _check(network, name, isa, train_step)
    steps = steps_of(network)
    text = Text(name, network.dtype)
    training = Training(network, steps) if train_step else None
    body = _predict(steps) if training is None else training.functions()
    return "\n".join([
        _title(network, steps, text, isa, training),
        text(_preamble(network, text, isa)),
        _constants(steps, text, folded=training is None),
        functions(text, body),
        text(body),
        text(_END),
    ])


def _check(network: Network, name: object, isa: object, train_step: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    if not re.fullmatch(r"[A-Za-z](?:_?[A-Za-z0-9])*", name):
        raise ValueError(
            "name must be a C identifier of ASCII letters, digits and single underscores between "
            f"them, not beginning with a digit, got {name!r}"
        )
    if isa is not None and isa not in ISAS:
        raise ValueError(f"isa must be None or one of {', '.join(map(repr, ISAS))}; got {isa!r}")
    if not isinstance(train_step, bool):
        raise TypeError(f"train_step must be True or False, got {train_step!r}")
    if not np.isfinite(network.parameters).all():
        raise ValueError("all parameters must be finite, got some that are infinite or NaN")
    for layer, (_, spread) in zip(_gathering(network.layers), network.statistics, strict=True):
        if isinstance(layer, Normalize) and not spread.any():
            raise RuntimeError("the Normalize layer has no statistics yet: call fit or adapt first")
    if not all(np.isfinite(each).all() for pair in network.statistics for each in pair):
        raise ValueError("all statistics must be finite, got some that are infinite or NaN")


def _gathering(layers: object) -> list[BatchNorm | Normalize]:
    found: list[BatchNorm | Normalize] = []
    for layer in layers:  # type: ignore[attr-defined]
        if isinstance(layer, (BatchNorm, Normalize)):
            found.append(layer)
        elif hasattr(layer, "layers"):
            found += _gathering(layer.layers)
    return found


def _predict(steps: list[Step]) -> str:
    """The body of a header that predicts alone."""
    return (
        "/* out = the outputs for one row x; they must not overlap. */\n"
        "static inline @@TARGET void @predict(const @real *x, @real *@@RESTRICT out)\n{\n"
        + arrays(steps)
        + forward(steps, lambda field: f"@{field}", folded=True)
        + "}\n"
    )


def _title(
    network: Network, steps: list[Step], text: Text, isa: str | None, training: Training | None
) -> str:
    """The comment on top: what it is, what it offers, what it wants."""
    name, real = text("@"), text.real
    lines = [
        f"{network.n_inputs} inputs, {network.n_outputs} outputs, {network.n_parameters:,} "
        f"parameters, {network.dtype.name}; written by fastbp {fastbp.__version__}.",
        "",
        *(f"  {_harmless(layer)}" for layer in network.layers),
        "",
        f"static void {name}predict(const {real} *x, {real} *out)",
        *(() if training is None else (
            f"static void {name}init({name}learner *learner)",
            f"static double {name}train_step({name}learner *learner, const {real} *x, "
            f"const {real} *y)",
            f"static void {name}predict_with(const {name}parameters *p, const {real} *x, "
            f"{real} *out)",
            "",
            *training.description(),
        )),
        "",
        "C99 and C++11, of no library. Reentrant: nothing is written but what the arguments point",
        f"to. It takes some {_stack(network, steps, training):,} bytes of stack. Compile with -O3"
        + (f"; for processors with {isa}." if isa else "."),
    ]
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */"])


def _harmless(shown: object) -> str:
    """A text that may stand in a comment, whatever names of functions are in it."""
    text = str(shown).encode("ascii", "backslashreplace").decode()
    return text.replace("*/", "* /").replace("\n", " ")


def _stack(network: Network, steps: list[Step], training: Training | None) -> int:
    """Bytes of the arrays of a call, each with its alignment."""
    elements = [step.n_out for step in steps] if training is None else training.elements()
    listed = 4 * (256 + 8)
    return sum(-(-each * network.dtype.itemsize // 64) * 64 for each in elements) + listed


def _preamble(network: Network, text: Text, isa: str | None) -> str:
    targets = "\n#define @@TARGET" if isa is None else f"""
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define @@TARGET __attribute__((target("{ISAS[isa]}")))
#else
#define @@TARGET
#endif"""
    fused = "defined(__FMA__) || defined(__ARM_FEATURE_FMA)"
    if isa is not None and "fma" in ISAS[isa]:
        fused += " || defined(__x86_64__) || defined(__i386__)"
    builtin = "__builtin_fmaf" if text.is_float else "__builtin_fma"
    return f"""
#ifndef @@H
#define @@H

#include <stdint.h>

#ifdef __FAST_MATH__
#error "-ffast-math breaks the rounding that exp, tanh and their kin rely on"
#endif

#define @@N_INPUTS {network.n_inputs}
#define @@N_OUTPUTS {network.n_outputs}

#ifdef __GNUC__
#define @@ALIGNED __attribute__((aligned(64)))
#define @@BARRIER __asm__ volatile(""); /* keeps loops as they are nested */
#define @@RESTRICT __restrict__
#define @@INLINE static inline @@TARGET __attribute__((always_inline))
#else
#define @@ALIGNED
#define @@BARRIER
#ifdef __cplusplus
#define @@RESTRICT
#else
#define @@RESTRICT restrict
#endif
#define @@INLINE static inline @@TARGET
#endif{targets}
#ifdef __clang__ /* which would unroll short loops first, and then not vectorise them */
#define @@SETTLE(array) __asm__ volatile("" : : "r"(array) : "memory");
#else
#define @@SETTLE(array)
#endif
#if defined(__GNUC__) && ({fused})
#define @@FMA(a, b, c) {builtin}((a), (b), (c))
#else
#define @@FMA(a, b, c) ((a) * (b) + (c))
#endif
#define @@LANES {16 if text.is_float else 8}

typedef {text.real} @real;
"""


_END = """
#undef @@ALIGNED
#undef @@BARRIER
#undef @@RESTRICT
#undef @@SETTLE
#undef @@INLINE
#undef @@TARGET
#undef @@FMA
#undef @@LANES

#endif
"""


def _constants(steps: list[Step], text: Text, *, folded: bool) -> str:
    """The values of the network, as arrays or, where they are trained on, as one struct."""
    constants = [pair for step in steps for pair in step.constants(folded=folded)]
    fields = [
        pair for step in steps for pair in step.fields
        if not (folded and isinstance(step.layer, BatchNorm) and pair[0].startswith("gain"))
    ]
    if folded:
        constants += fields
    parts = [
        text(f"static const @real @{name}[{values.size}] @@ALIGNED = ") + text.array(values) + ";\n"
        for name, values in constants
    ]
    if not folded:
        members = "".join(f"    @real {name}[{values.size}];\n" for name, values in fields)
        values = ",\n".join(text.array(values) for _, values in fields)
        parts.append(
            text(
                "/* In the order of fastbp.Network.parameters, each W row by row. */\n"
                f"typedef struct {{\n{members}}} @parameters;\n\n"
                "static const @parameters @initial @@ALIGNED = {\n"
            )
            + values + "};\n"
        )
    return "\n".join(parts)

