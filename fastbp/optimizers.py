"""Optimizers, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastbp import _checks

__all__ = ["OPTIMIZERS", "SGD", "Optimizer"]


@dataclass(frozen=True)
class SGD:
    """Gradient descent: ``theta -= learning_rate * gradient`` after every batch.

    Parameters
    ----------
    learning_rate : float
        Positive and finite.

    Raises
    ------
    TypeError, ValueError
        If `learning_rate` is no number, or not positive and finite.

    Examples
    --------
    >>> SGD(0.1)
    SGD(learning_rate=0.1)
    """

    learning_rate: float = 0.01
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        rate = _checks.positive("learning_rate", self.learning_rate)
        object.__setattr__(self, "learning_rate", rate)


Optimizer = SGD

OPTIMIZERS: dict[str, type[Optimizer]] = {each.name: each for each in (SGD,)}
