"""What an adapter offers: a prediction to call again and again, and an epoch of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from benchmarks.workloads import Array, Inputs, Model


class Trainer(ABC):
    """A network about to be trained on data that the library already holds."""

    @abstractmethod
    def epoch(self, *, shuffle: bool) -> float | None:
        """Go once through the data; return the mean loss, if the library computes it.

        Batches are taken in the order of the data, or of a new permutation. Each batch's loss is
        the one before its step.
        """

    @abstractmethod
    def parameters(self) -> Array:
        """Return a copy of the parameters in the order of `Model.flat`."""

    @abstractmethod
    def restore(self) -> None:
        """Go back to the first parameters. The optimizer's memory may stay."""


class Adapter(ABC):
    """The way to one library, for one number of threads."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads

    @abstractmethod
    def predictor(self, model: Model, X: Inputs) -> Callable[[], Array]:
        """Return a function that predicts for X: a NumPy array goes in, and one comes out.

        Parameters
        ----------
        model : Model
        X : ndarray or CSR array of shape (n, n_inputs)
            Of one row, the library may take it in whatever shape it takes single rows.
        """

    def around_predictions(self) -> AbstractContextManager[object]:
        """Return a context that a user of the library would enter once around many calls."""
        return nullcontext()

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> Trainer:
        """Return a network to train on all of X and y, whose length is a multiple of `batch`."""
        raise NotImplementedError(f"{type(self).__module__} does not train")
