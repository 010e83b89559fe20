"""Rows one at a time, as arrays or as dictionaries: learning online."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fastbp import _checks
from fastbp._dispatch import engine
from fastbp._sparse import SparseRows

__all__ = ["Online"]

# Targets of these types are looked at here; for all others there is `_checks.targets`.
NUMBERS = frozenset({float, int, bool, np.float32, np.float64})
# What the values of a mapping may raise on their way into a row.
FAILURES = (KeyError, OverflowError, TypeError, ValueError, struct.error)


class Row:
    """A row and its target, with the steps that are bound to them."""

    def __init__(self, online: Online) -> None:
        self.x = np.zeros(online.n_inputs, online.dtype)
        self.buffer = self.x.data
        self.targets = np.zeros((1, online.n_outputs), online.dtype)
        self.label = np.zeros(1, np.intp)
        self.step = engine.BoundStep(online.plan, self.x, self.targets, online.next_step)
        if online.loss == "cross_entropy":
            self.label_step = engine.BoundStep(online.plan, self.x, self.label, online.next_step)


class Online:
    """The way of single rows into a network's engine."""

    def __init__(
        self,
        plan: engine.Plan,
        next_step: Callable[[], tuple[float, int]],
        names: tuple[str, ...] | None,
        n_inputs: int,
        n_outputs: int,
        dtype: np.dtype[Any],
        loss: str,
    ) -> None:
        self.plan, self.next_step, self.names = plan, next_step, names
        self.n_inputs, self.n_outputs, self.dtype, self.loss = n_inputs, n_outputs, dtype, loss
        self.shape = (n_inputs,)
        self.format = struct.Struct(f"{n_inputs}{'f' if dtype == np.float32 else 'd'}")
        self.pick: Callable[[Any], Any] | None = None
        if names is not None:
            self.pick = itemgetter(*names) if n_inputs > 1 else lambda x: (x[names[0]],)
        self.largest = float(np.finfo(dtype).max)
        try:
            self.inside, self.takes_numbers = _checks.in_domain(loss), n_outputs == 1
        except KeyError:
            self.inside, self.takes_numbers = None, False
        # Rows that nobody is using: each call takes one, so that threads never share one.
        self.free: list[Row] = []

    # --- a step -----------------------------------------------------------------------------

    def learn(self, x: Any, y: Any) -> float:
        """Make a step on one row; returns the loss before it."""
        try:
            row = self.free.pop()
        except IndexError:
            row = Row(self)
        if type(x) is np.ndarray and x.dtype == self.dtype and x.shape == self.shape:
            row.x[:] = x
        elif not self.put(x, row.buffer):
            row.x[:] = self.checked(x)
        if not engine.all_finite(row.x):
            self.checked(x)  # which says so
        loss = self.with_target(row, y)()
        self.free.append(row)
        return loss

    def with_target(self, row: Row, y: Any) -> engine.BoundStep:
        """Write a target down and return the step for its kind."""
        if type(y) is int and self.loss == "cross_entropy":
            if 0 <= y < self.n_outputs:
                row.label[0] = y
                return row.label_step
        elif self.takes_numbers and type(y) in NUMBERS and self.fits(y):
            row.targets[0, 0] = y
            if self.inside is None or self.inside(row.targets[0, 0]):
                return row.step
        checked = _checks.targets(
            y, self.loss, 1, self.n_outputs, self.dtype, single=True
        )
        if checked.ndim == 1:
            row.label[:] = checked
            return row.label_step
        row.targets[:] = checked
        return row.step

    def fits(self, y: Any) -> bool:
        """Tell whether a number is finite in the network's dtype."""
        try:
            return abs(float(y)) <= self.largest
        except OverflowError:  # of an integer
            return False

    # --- a row ------------------------------------------------------------------------------

    def put(self, x: Any, buffer: bytearray | memoryview) -> bool:
        """Write a mapping to a row, not looking at the numbers; returns whether that went well."""
        if self.pick is None or not isinstance(x, Mapping):
            return False
        try:
            self.format.pack_into(buffer, 0, *self.pick(x))
        except FAILURES:
            return False
        return True

    def row(self, x: Any) -> Any:
        """A mapping as an array of the network's dtype, not looked at yet; or x as it is."""
        buffer = bytearray(self.format.size)
        return np.frombuffer(buffer, self.dtype) if self.put(x, buffer) else x

    def checked(self, x: Any) -> NDArray[Any]:
        """One row as the engine takes it, or an error that says what is wrong with it."""
        if isinstance(x, Mapping):
            if self.names is None:
                raise TypeError(
                    f"x must be an array, got {type(x).__name__}: a mapping wants a network with "
                    "feature_names"
                )
            row: NDArray[Any] = self.row(x)
            if row is x or not engine.all_finite(row):
                self.refuse(x)
            return row
        rows, single = _checks.features(x, self.n_inputs, self.dtype, name="x")
        if isinstance(rows, SparseRows):
            raise TypeError("x must not be sparse here: call .toarray() on it first")
        if not single:
            raise ValueError(f"x must have shape ({self.n_inputs},), got shape {np.shape(x)}")
        return np.asarray(rows[0])

    def refuse(self, x: Mapping[Any, Any]) -> NoReturn:
        """Say what is wrong with a mapping."""
        assert self.names is not None
        missing = [name for name in self.names if name not in x]
        if missing:
            listed = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
            raise ValueError(f"x must hold every feature, and lacks {listed}")
        for name in self.names:
            try:
                # takes what the row's format takes, and no strings
                value = struct.unpack("d", struct.pack("d", x[name]))[0]
            except FAILURES:
                raise TypeError(
                    f"feature {name!r} of x must be a number, got {x[name]!r}"
                ) from None
            if not abs(value) <= self.largest:
                raise ValueError(
                    f"feature {name!r} of x must be finite, and fit in {self.dtype.name}, "
                    f"got {x[name]!r}"
                )
        raise TypeError(f"x must be a mapping of names to numbers, got {x!r}")
