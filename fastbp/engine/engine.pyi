from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]
CROSSOVERS: dict[str, int]

def usable_cores() -> int: ...
def all_finite(array: NDArray[Any]) -> bool: ...

class Plan:
    @property
    def parameters(self) -> NDArray[Any]: ...
    def __init__(
        self, layers: Sequence[tuple[int, int, int, int, int]], loss: int, dtype: np.dtype[Any]
    ) -> None: ...
    def predict(
        self, X: object, out: object = None, n_threads: object = 1
    ) -> NDArray[Any] | None: ...
    def loss_and_gradient(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        gradient: NDArray[Any] | None = None,
        n_threads: int = 1,
    ) -> float: ...
    def epoch(
        self,
        X: NDArray[Any],
        y: NDArray[Any],
        order: NDArray[np.intp] | None,
        batch_size: int,
        rate: float,
        n_threads: int = 1,
    ) -> tuple[float, int]: ...
