"""Networks for callers without Python: addresses, ctypes functions, SciPy's LowLevelCallable.

The layout of what an address leads to is in ``include/fastbp.h``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

from fastbp import _checks
from fastbp._dispatch import engine

__all__ = ["NativeNetwork", "get_include", "interface", "low_level_callable"]


def get_include() -> str:
    """Return the folder of the C header, ``fastbp.h``, for a compiler's ``-I``.

    Returns
    -------
    str
    """
    return str(Path(__file__).with_name("include"))


class NativeNetwork(NamedTuple):
    """What foreign code needs to call a network.

    Attributes
    ----------
    address : int
        Of the network, a ``fastbp_network *``; valid while the Python object lives.
    predict : ctypes function
        ``predict(address, x, out)`` for pointers to one row of the network's dtype each; returns a
        status, 0 if all went well.
    learn : ctypes function
        ``learn(address, x, y, loss)``, with a pointer to a double for the loss.
    learn_label : ctypes function
        ``learn_label(address, x, label, loss)`` for a class.
    """

    address: int
    predict: Any
    learn: Any
    learn_label: Any


class Layout(ctypes.Structure):
    """The struct of ``fastbp.h``."""

    _fields_ = [
        ("version", ctypes.c_int),
        ("item_size", ctypes.c_int),
        ("n_inputs", ctypes.c_ssize_t),
        ("n_outputs", ctypes.c_ssize_t),
        ("predict", ctypes.c_void_p),
        ("learn", ctypes.c_void_p),
        ("learn_label", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def interface(address: int) -> NativeNetwork:
    """Return the functions of a network at an address, as ctypes functions."""
    found = Layout.from_address(address)
    number = ctypes.c_float if found.item_size == ctypes.sizeof(ctypes.c_float) else ctypes.c_double
    numbers, loss = ctypes.POINTER(number), ctypes.POINTER(ctypes.c_double)
    network = ctypes.c_void_p
    return NativeNetwork(
        address,
        ctypes.CFUNCTYPE(ctypes.c_int, network, numbers, numbers)(found.predict),
        ctypes.CFUNCTYPE(ctypes.c_int, network, numbers, numbers, loss)(found.learn),
        ctypes.CFUNCTYPE(ctypes.c_int, network, numbers, ctypes.c_ssize_t, loss)(found.learn_label),
    )


FILTER = "int (double *, intptr_t, double *, void *)"
FUNCTION = "double (int, double *, void *)"


def low_level_callable(
    plan: engine.Plan, n_outputs: int, signature: object, key: int
) -> Any:
    """Return a network as SciPy's LowLevelCallable of one of two signatures."""
    _checks.choice("signature", signature, [FILTER, FUNCTION])
    if n_outputs != 1:  # SciPy has room for no more
        raise ValueError(f"a LowLevelCallable has one output, got a network of {n_outputs}")
    from scipy import LowLevelCallable  # only who asks for it pays for its import

    function, user_data = engine.native_parts(plan, signature == FUNCTION, key)
    return LowLevelCallable(function, user_data)
