"""Holding samples out for validation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import _checks
from fastbp._sparse import SparseRows

__all__ = ["KINDS", "Samples", "split"]

# X, y and weights, as the engine takes them.
Samples = tuple[NDArray[Any] | SparseRows, NDArray[Any], "NDArray[Any] | None"]

KINDS = ("shuffled", "stratified", "last")


def split(
    samples: Samples, part: object, kind: str, rng: np.random.Generator
) -> tuple[Samples, Samples]:
    """Split samples in two: what is trained on, in the order it came, and what is held out.

    Raises
    ------
    TypeError, ValueError
        If `part` is not in (0, 1), or leaves one of the two without samples, or labels are wanted
        and not there; before anything is drawn.
    """
    y = samples[1]
    fraction = _checks.fraction("validation_split", part)
    count = round(fraction * len(y))
    if not 0 < count < len(y):
        raise ValueError(
            f"validation_split must leave samples on both sides, got {part!r} of {len(y)} samples"
        )
    if kind == "last":
        held_out = np.arange(len(y) - count, len(y))
    elif kind == "shuffled":
        held_out = rng.permutation(len(y))[:count]
    else:
        held_out = _stratified(_classes(y), count, rng)
    trained = np.ones(len(y), bool)
    trained[held_out] = False
    return _rows(samples, trained), _rows(samples, ~trained)


def _classes(y: NDArray[Any]) -> NDArray[Any]:
    """The class of each sample: a label, or which target is the largest."""
    if y.ndim == 1:
        return y
    if y.shape[1] > 1:
        largest: NDArray[Any] = y.argmax(axis=1)
        return largest
    values, labels = np.unique(y, return_inverse=True)
    if len(values) > 2:
        raise ValueError(
            "validation_kind='stratified' wants classes: labels, or targets of two values"
        )
    return labels.ravel()


def _stratified(labels: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[Any]:
    """`count` samples at random, of each class its share; what is over goes by remainder."""
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    share = sizes * count / len(labels)
    taken = share.astype(int)
    over = np.argsort(taken - share, kind="stable")[: count - taken.sum()]
    taken[over] += 1
    order = rng.permutation(len(labels))
    return np.concatenate(
        [order[labels[order] == label][:number] for label, number in enumerate(taken)]
    )


def _rows(samples: Samples, rows: NDArray[np.bool_]) -> Samples:
    X, y, weights = samples
    if weights is not None:
        weights = weights[rows]
        mean = weights.mean()
        if not mean > 0:
            raise ValueError("validation_split must leave samples of some weight on both sides")
        weights /= mean
    return X[rows], y[rows], weights
