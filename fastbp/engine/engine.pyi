from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]

Floats = NDArray[np.float32] | NDArray[np.float64]

def all_finite(array: Floats) -> bool: ...

class Plan:
    @property
    def parameters(self) -> Floats: ...
    def __init__(
        self, layers: Sequence[tuple[int, int, int, int, int]], loss: int, dtype: np.dtype[Any]
    ) -> None: ...
    def predict(self, X: object, out: object = None) -> Floats | None: ...
    def loss_and_gradient(
        self, X: Floats, y: Floats | NDArray[np.intp], gradient: Floats | None = None
    ) -> float: ...
    def epoch(
        self,
        X: Floats,
        y: Floats | NDArray[np.intp],
        order: NDArray[np.intp] | None,
        batch_size: int,
        rate: float,
    ) -> tuple[float, int]: ...
