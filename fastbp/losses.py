"""Losses, as data. Each sums over the outputs and averages over the samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["LOSSES", "BinaryCrossEntropy", "CrossEntropy", "Loss", "SquaredError"]


@dataclass(frozen=True)
class SquaredError:
    """``1/(2n) sum (prediction - y)^2``, over n samples and all outputs.

    PyTorch's ``MSELoss`` has no 1/2 and averages over the outputs as well.
    """

    name: ClassVar[str] = "squared_error"


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """``-1/n sum y log p + (1 - y) log(1 - p)``, for targets in [0, 1].

    Behind a sigmoid it is computed from the raw outputs, exact for any size of them. Behind any
    other activation p is the prediction clipped to [eps, 1 - eps], eps being the machine epsilon
    of the network's dtype. PyTorch's ``BCELoss`` averages over the outputs as well.
    """

    name: ClassVar[str] = "binary_cross_entropy"


@dataclass(frozen=True)
class CrossEntropy:
    """``-1/n sum y log p``, for integer labels or rows of probabilities y.

    Behind a softmax it is computed from the raw outputs, exact for any size of them. Behind any
    other activation p is the prediction, or the machine epsilon of the network's dtype where
    the prediction is below it.
    """

    name: ClassVar[str] = "cross_entropy"


Loss = SquaredError | BinaryCrossEntropy | CrossEntropy

LOSSES: dict[str, type[Loss]] = {
    each.name: each for each in (SquaredError, BinaryCrossEntropy, CrossEntropy)
}
