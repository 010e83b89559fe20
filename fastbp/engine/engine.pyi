from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LAYERS: dict[str, int]
ACTIVATIONS: dict[str, int]
OPTIMIZERS: dict[str, int]
LOSSES: dict[str, int]
CROSSOVERS: dict[str, int]

def usable_cores() -> int: ...
def all_finite(array: NDArray[Any]) -> bool: ...

class Rows(Protocol):
    """Rows of a sparse matrix."""

    @property
    def values(self) -> NDArray[Any]: ...
    @property
    def columns(self) -> NDArray[np.int32]: ...
    @property
    def starts(self) -> NDArray[np.intp]: ...
    def __len__(self) -> int: ...

class Plan:
    @property
    def parameters(self) -> NDArray[Any]: ...
    @property
    def state(self) -> NDArray[Any]: ...
    @property
    def statistics(self) -> NDArray[Any]: ...
    @property
    def waits(self) -> bool: ...
    @property
    def takes_sparse(self) -> bool: ...
    @property
    def is_random(self) -> bool: ...
    progress: tuple[int, float]
    def __init__(
        self,
        layers: list[dict[str, float]],
        loss: tuple[int, float, Sequence[float], object],
        dtype: np.dtype[Any],
        dropout: float = 0,
    ) -> None: ...
    def freeze(self, frozen: list[bool]) -> None: ...
    def set_optimizer(self, kind: int, settings: Mapping[str, float]) -> None: ...
    def predict(
        self, X: object, out: object = None, n_threads: object = 1
    ) -> NDArray[Any] | None: ...
    def predict_sparse(self, X: Rows, n_threads: int) -> NDArray[Any]: ...
    def loss_and_gradient(
        self,
        X: NDArray[Any] | Rows,
        y: NDArray[Any],
        weights: NDArray[Any] | None = None,
        gradient: NDArray[Any] | None = None,
        n_threads: int = 1,
    ) -> float: ...
    def epoch(
        self,
        X: NDArray[Any] | Rows,
        y: NDArray[Any],
        weights: NDArray[Any] | None,
        order: NDArray[np.intp] | None,
        batch_size: int,
        rates: float | NDArray[np.float64],
        n_threads: int = 1,
        key: int = 0,
        first_step: int = 0,
        watched: bool = False,
    ) -> tuple[float, int, float]: ...
