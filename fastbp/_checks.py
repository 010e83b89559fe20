"""The one place where what users pass is checked and converted.

Everything here either returns a value the engine can take as it is, or raises a TypeError (wrong
kind) or ValueError (wrong value) that names the argument, what was given and what is accepted.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp._dispatch import engine
from fastbp._sparse import Features, SparseRows, is_sparse, sparse_rows

__all__ = [
    "choice", "count", "dtype", "features", "flag", "fraction", "in_domain", "names",
    "non_negative", "number", "optional", "output", "positive", "ready", "ready_rows", "targets",
    "weights", "whole",
]

T = TypeVar("T")
Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.intp]
ClassWeight = Mapping[int, float] | str | None

DTYPES = ("float32", "float64")
# BLAS counts in C ints.
LARGEST_WIDTH = 2**31 - 1
# Steps are counted in doubles where a schedule asks for them; there is room for many more.
LARGEST_COUNT = 2**52
# How far from 1 a row of probabilities may sum: float32 rounding, with room for many classes.
PROBABILITY_TOLERANCE = 1e-4


def count(name: str, value: object) -> int:
    """Return `value` as a positive int."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a positive integer, got {value!r}") from None
    if not 0 < number <= LARGEST_WIDTH:
        raise ValueError(f"{name} must be an integer from 1 to {LARGEST_WIDTH}, got {number}")
    return number


def whole(name: str, value: object) -> int:
    """Return `value` as an int that is not negative, and that a double counts exactly."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if not 0 <= number <= LARGEST_COUNT:
        raise ValueError(f"{name} must be a whole number from 0 to {LARGEST_COUNT}, got {number}")
    return number


def positive(name: str, value: object) -> float:
    """Return `value` as a positive finite float."""
    result = number(name, value)
    if not (math.isfinite(result) and result > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return result


def non_negative(name: str, value: object) -> float:
    """Return `value` as a finite float that is not below zero."""
    result = number(name, value)
    if not (math.isfinite(result) and result >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return result


def fraction(name: str, value: object) -> float:
    """Return `value` as a float in [0, 1)."""
    result = number(name, value)
    if not 0 <= result < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return result


def number(name: str, value: object) -> float:
    """Return `value` as a float."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, got {value!r}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def optional(check: Callable[[str, Any], T], name: str, value: object) -> T | None:
    """Apply a check unless `value` is None."""
    if value is None:
        return None
    try:
        return check(name, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error}; None is accepted too") from None


def flag(name: str, value: object) -> bool:
    """Return `value` as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: object, valid: Iterable[str]) -> str:
    """Return `value` if it is one of the `valid` names."""
    names = list(valid)
    listed = ", ".join(repr(each) for each in names)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {listed}; got {value!r}")
    if value not in names:
        raise ValueError(f"unknown {name} {value!r}; valid are {listed}")
    return value


def names(name: str, value: object, number: int) -> tuple[str, ...]:
    """Return `value` as so many distinct strings."""
    accepted = f"{name} must be a sequence of {number} distinct strings"
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{accepted}, got {value!r}")
    given = tuple(value)
    for each in given:
        if not isinstance(each, str):
            raise TypeError(f"{accepted}, got {each!r} in it")
    if len(given) != number:
        raise ValueError(f"{accepted}, got {len(given)}")
    if len(set(given)) < number:
        twice = next(each for each in given if given.count(each) > 1)
        raise ValueError(f"{accepted}, got {twice!r} more than once")
    return given


def dtype(value: object) -> np.dtype[Any]:
    """Return float32 or float64 as a native dtype."""
    try:
        # None would be float64 for NumPy
        name = np.dtype(value).name if value is not None else ""  # type: ignore[call-overload]
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {value!r}")
    native: np.dtype[Any] = np.dtype(name)
    return native


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    """Any real array-like as an ndarray, not copied where that is possible."""
    # what has no mask does not import np.ma, which takes 10 ms
    if hasattr(value, "mask") and isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} has masked values; fill them first, with its method filled")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be an array of real numbers: {error}") from None
    return _real(name, array, value, "; call .toarray() on it first" if is_sparse(value) else "")


def _real(name: str, array: NDArray[Any], given: object, hint: str = "") -> NDArray[Any]:
    """`array`, which is what was given, if its numbers are real."""
    if array.dtype.kind not in "buif":
        raise TypeError(
            f"{name} must hold real numbers (bool, integer or float), "
            f"got {type(given).__name__} of dtype {array.dtype}{hint}"
        )
    return array


def _refuse_shape(name: str, given: NDArray[Any], accepted: str) -> NoReturn:
    raise ValueError(f"{name} must have shape {accepted}, got shape {given.shape}")


def _finite(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> Floats:
    """`array` as the engine takes it: native `dtype`, C-contiguous, aligned, all finite."""
    with np.errstate(over="ignore"):
        ready: Floats = np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])
    if not engine.all_finite(ready):
        raise ValueError(
            f"{name} must be finite, got NaN, infinity or a number too large for {dtype.name}"
        )
    return ready


def features(
    X: Features, n_inputs: int, dtype: np.dtype[Any], *, name: str = "X", one_row: bool = True
) -> tuple[Floats | SparseRows, bool]:
    """Check an input array.

    Returns
    -------
    X : ndarray of shape (n, n_inputs), or SparseRows where it is sparse
    single : bool
        Whether it was given as one row, of shape (n_inputs,); only where `one_row` allows it.
    """
    if isinstance(X, SparseRows):
        return X, False
    array: Any = X if is_sparse(X) else _array(name, X)  # type: ignore[arg-type]
    accepted = f"(n, {n_inputs})" + (f" or ({n_inputs},)" if one_row else "")
    single = one_row and array.ndim == 1
    if not (single or array.ndim == 2):
        hint = ""
        if array.ndim == 1 and n_inputs == 1:
            hint = f"; {name}.reshape(-1, 1) makes samples of one feature"
        _refuse_shape(name, array, accepted + hint)
    if array.shape[-1] != n_inputs:
        _refuse_shape(name, array, f"{accepted}, for a network of {n_inputs} inputs")
    if array.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one sample, got shape {array.shape}")
    if is_sparse(X):
        rows = sparse_rows(name, array.reshape(1, -1) if single else array, n_inputs)
        return rows.with_values(_finite(name, _real(name, rows.values, X), dtype)), single
    return _finite(name, array[np.newaxis] if single else array, dtype), single


def targets(
    y: ArrayLike,
    loss: str,
    n: int,
    n_outputs: int,
    dtype: np.dtype[Any],
    *,
    name: str = "y",
    single: bool = False,
) -> Floats | Labels:
    """Check the targets of `n` samples; with `single`, those of one sample given as one row.

    Returns
    -------
    ndarray
        Integer labels of shape (n,) for "cross_entropy", unless given as probabilities;
        (n, n_outputs) of `dtype` otherwise.
    """
    array = _array(name, y)
    if single:
        return _single_target(name, array, loss, n_outputs, dtype)
    if array.ndim == 0:
        _refuse_shape(name, array, f"({n},)")
    if array.shape[0] != n:
        raise ValueError(f"{name} must be as long as X, {n} samples; got {array.shape[0]}")
    if loss == "cross_entropy" and array.ndim == 1:
        return _labels(name, array, n_outputs)
    accepted = f"({n}, {n_outputs})"
    if loss == "cross_entropy":
        accepted = f"({n},) for labels or ({n}, {n_outputs}) for probabilities"
    elif n_outputs == 1 or loss == "quantile":
        accepted = f"({n},) or ({n}, 1)" + (f" or {accepted}" if n_outputs > 1 else "")
        array = array[:, np.newaxis] if array.ndim == 1 else array
        if array.shape == (n, 1):
            array = np.broadcast_to(array, (n, n_outputs))
    if array.shape != (n, n_outputs):
        _refuse_shape(name, array, accepted)
    ready = _finite(name, array, dtype)
    if loss in PROBABILITIES:
        _probabilities(name, ready)
    elif loss in DOMAINS:
        accepted, inside = DOMAINS[loss]
        outside = ~inside(ready)
        if outside.any():
            first = tuple(int(i) for i in np.argwhere(outside)[0])
            index = first[0] if n_outputs == 1 else first
            raise ValueError(
                f"{name} must {accepted} for {loss}, got {ready[first]:.9g} at index {index}"
            )
    return _signs(name, ready) if loss in SIGNS else ready


# Losses whose targets are rows of probabilities, those whose targets are signs, and what the
# targets of others must be.
PROBABILITIES = ("cross_entropy", "kullback_leibler")
SIGNS = ("hinge", "squared_hinge")
DOMAINS: dict[str, tuple[str, Callable[[Floats], NDArray[np.bool_]]]] = {
    "binary_cross_entropy": ("lie in [0, 1]", lambda y: (y >= 0) & (y <= 1)),
    "poisson": ("not be negative", lambda y: y >= 0),
    "tweedie": ("not be negative", lambda y: y >= 0),
    "gamma": ("be positive", lambda y: y > 0),
    **dict.fromkeys(SIGNS, ("be -1 or 1, or 0 or 1,", lambda y: (np.abs(y) == 1) | (y == 0))),
}


def in_domain(loss: str) -> Callable[[Any], Any] | None:
    """Return what tells of a target whether a loss takes it as it is: None if it takes any.

    Raises
    ------
    KeyError
        If there is more to it, and `targets` has to look at them.
    """
    if loss in (*PROBABILITIES, *SIGNS, "quantile"):
        raise KeyError(loss)
    return DOMAINS[loss][1] if loss in DOMAINS else None


def _signs(name: str, y: Floats) -> Floats:
    """Zeros and ones as signs; signs as they are."""
    zeros = y == 0
    if not zeros.any():
        return y
    if (y == -1).any():
        first = int(np.argwhere(zeros)[0][0])
        raise ValueError(f"{name} must be -1 or 1, or 0 or 1, got -1 and, at index {first}, 0")
    return np.where(zeros, y.dtype.type(-1), y)


def _probabilities(name: str, rows: Floats) -> None:
    sums = rows.sum(axis=1)
    wrong = (rows.min(axis=1) < 0) | (np.abs(sums - 1) > PROBABILITY_TOLERANCE)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{name} must hold rows of probabilities, not negative and summing to 1; row {first} "
            f"has a least value of {rows[first].min()} and sums to {sums[first]}"
        )


def _single_target(
    name: str, array: NDArray[Any], loss: str, n_outputs: int, dtype: np.dtype[Any]
) -> Floats | Labels:
    """The target of one sample: with the axis of the samples, of length 1, or without it."""
    labels = loss == "cross_entropy"
    shapes = [(n_outputs,), (1, n_outputs)]
    if labels or n_outputs == 1 or loss == "quantile":
        shapes += [(), (1,)]
    if array.shape not in shapes:
        listed = ", ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(
            f"{name} must have one of the shapes {listed} for one sample, got shape {array.shape}"
        )
    if array.ndim == 0 or (array.shape == (n_outputs,) and not (labels and n_outputs == 1)):
        array = array[np.newaxis]
    return targets(array, loss, 1, n_outputs, dtype, name=name)


def _labels(name: str, array: NDArray[Any], n_classes: int) -> Labels:
    """Whole numbers from 0 to n_classes - 1, of any real dtype, as native integers."""
    accepted = f"{name} must hold whole labels from 0 to {n_classes - 1}"
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        wrong = array[~(array == np.trunc(array))][0]
        raise ValueError(f"{accepted}, got {wrong}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high < n_classes):
        raise ValueError(f"{accepted}, got values from {low} to {high}")
    # A copy: the engine takes labels as indices, and nobody may change them under it.
    # C has two names for that type, and the engine asks for one of them.
    return np.array(array, np.intp, order="C").view(np.intp)


def weights(
    sample_weight: ArrayLike | None,
    class_weight: object,
    y: Floats | Labels,
    n_outputs: int,
    dtype: np.dtype[Any],
    *,
    prefix: str = "",
    normalize: bool = True,
) -> Floats | None:
    """Check weights of samples and of classes, for checked targets.

    Returns
    -------
    ndarray of shape (n,) and `dtype`, or None
        The weight of each sample, of mean 1 if `normalize`; None where nothing is weighted.
    """
    if sample_weight is None and class_weight is None:
        return None
    result = np.ones(len(y))
    if sample_weight is not None:
        name = prefix + "sample_weight"
        array = _array(name, sample_weight)
        if array.shape != y.shape[:1] and not (array.ndim == 0 and len(y) == 1):
            _refuse_shape(name, array, f"({len(y)},)")
        result *= _finite(name, array, np.dtype(np.float64))
        if result.min() < 0:
            raise ValueError(f"{name} must not be negative, got {result.min()}")
    if class_weight is not None:
        result *= _of_classes(class_weight, y, n_outputs)
    total = result.sum()
    if not total > 0:
        raise ValueError(f"{prefix}sample_weight and class_weight must not all be zero")
    return (result * (len(y) / total) if normalize else result).astype(dtype)


def _of_classes(class_weight: object, y: Floats | Labels, n_outputs: int) -> Floats:
    """The weight of each sample's class."""
    if y.ndim == 1:
        labels = y
    elif n_outputs == 1 and bool(np.isin(y, (0, 1)).all()):
        labels, n_outputs = y[:, 0].astype(np.intp), 2
    else:
        raise ValueError("class_weight wants labels for y, or zeros and ones for one output")
    table = np.ones(n_outputs)
    if isinstance(class_weight, str):
        choice("class_weight", class_weight, ["balanced"])
        counts = np.bincount(labels, minlength=n_outputs)
        present = counts > 0
        table[present] = len(y) / (present.sum() * counts[present])
    elif isinstance(class_weight, Mapping):
        for label, weight in class_weight.items():
            if label not in range(n_outputs):
                raise ValueError(
                    f"class_weight must have labels from 0 to {n_outputs - 1}, got {label!r}"
                )
            table[label] = non_negative(f"class_weight of {label}", weight)
    else:
        raise TypeError(
            f"class_weight must be a mapping of labels to weights or 'balanced', "
            f"got {class_weight!r}"
        )
    return table[labels]


def ready(
    name: str, array: object, shapes: Iterable[tuple[int, ...]], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Check an array that the engine is to read where it lies, again and again."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be an ndarray of {dtype.name}, got {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype.name}, got {array.dtype.str}")
    listed = list(shapes)
    if array.shape not in listed:
        _refuse_shape(name, array, " or ".join(map(str, listed)))
    array = _contiguous(name, array)
    # of the names that C has for one type, the engine asks for one
    return array if array.dtype.num == dtype.num else array.view(dtype)


def _contiguous(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if type(array) is not np.ndarray:
        raise TypeError(f"{name} must be a plain ndarray, got {type(array).__name__}")
    if not (array.flags.c_contiguous and array.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned")
    return array


def ready_rows(name: str, X: object, n_inputs: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Check one row, or several, that the engine is to read where they lie."""
    shapes: list[tuple[int, ...]] = [(n_inputs,)]
    if isinstance(X, np.ndarray) and X.ndim == 2 and len(X) > 0:
        shapes = [(len(X), n_inputs)]
    return ready(name, X, shapes, dtype)


def output(
    out: object, shape: tuple[int, ...], dtype: np.dtype[Any], others: Iterable[NDArray[Any]],
    *, contiguous: bool = False,
) -> NDArray[Any]:
    """Check an array to write results to, which must share no memory with the `others`."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an ndarray of {dtype.name}, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must have dtype {dtype.name}, got {out.dtype.str}")
    if out.shape != shape:
        _refuse_shape("out", out, str(shape))
    if not out.flags.writeable:
        raise ValueError("out must be writeable, got a read-only array")
    for other in others:
        if np.may_share_memory(out, other) and np.shares_memory(out, other):
            raise ValueError("out must not overlap the input or the network's parameters")
    return _contiguous("out", out) if contiguous else out
