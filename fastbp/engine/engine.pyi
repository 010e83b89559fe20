from collections.abc import Callable, Mapping, Sequence
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
    def snapshot(self) -> Plan: ...
    def retire(self) -> None: ...
    def address(self, key: int) -> int: ...
    def jacobian(self, X: NDArray[Any]) -> NDArray[Any]: ...
    def hidden(self, X: NDArray[Any] | Rows, at: int) -> NDArray[Any]: ...
    def predict_sparse(self, X: Rows, n_threads: int) -> NDArray[Any]: ...
    def loss_and_gradient(
        self,
        X: NDArray[Any] | Rows,
        y: NDArray[Any],
        weights: NDArray[Any] | None = None,
        gradient: NDArray[Any] | None = None,
        n_threads: int = 1,
        by_inputs: NDArray[Any] | None = None,
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

def native_parts(plan: Plan, as_a_function: bool, key: int) -> tuple[object, object]: ...

class BoundPrediction:
    @property
    def X(self) -> NDArray[Any]: ...
    @property
    def out(self) -> NDArray[Any]: ...
    def __init__(self, plan: Plan, X: NDArray[Any], out: NDArray[Any]) -> None: ...
    def __call__(self) -> NDArray[Any]: ...

class BoundStep:
    @property
    def X(self) -> NDArray[Any]: ...
    @property
    def y(self) -> NDArray[Any]: ...
    def __init__(
        self,
        plan: Plan,
        X: NDArray[Any],
        y: NDArray[Any],
        next_step: Callable[[], tuple[float, int]],
    ) -> None: ...
    def __call__(self) -> float: ...

def epoch_of_all(
    plans: list[Plan],
    samples: list[tuple[NDArray[Any] | Rows, NDArray[Any], NDArray[Any] | None]],
    orders: list[NDArray[np.intp]],
    batch_size: int,
    rates: list[float | NDArray[np.float64]],
    keys: list[int],
    n_threads: int,
) -> list[tuple[float, int]]: ...
def predict_by_all(
    plans: list[Plan], X: NDArray[Any] | Rows, n_threads: int
) -> NDArray[Any]: ...
