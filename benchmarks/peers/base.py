"""What an adapter offers: a prediction to call again and again, and an epoch of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np

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

    def bound(self, model: Model, x: Array) -> Callable[[], Array]:
        """Return a function that predicts for what x holds when it is called.

        All that can be settled beforehand is: this is the library's fastest way to predict for
        one row again and again. An array that it returns may be the same each time.

        Parameters
        ----------
        model : Model
            With ReLU, and of nothing but dense layers.
        x : ndarray of shape (n_inputs,)
            Written to between the calls.
        """
        return self.predictor(model, x[np.newaxis])

    def jacobian(self, model: Model, x: Array) -> Callable[[], Array]:
        """Return a function that computes the derivatives of the linear outputs by x.

        They are an array of shape (n_outputs, n_inputs). The model is as for `bound`.
        """
        raise NotImplementedError(f"{type(self).__module__} computes no Jacobian")

    def online(self, model: Model, X: Array, y: Array) -> Trainer:
        """Return a network that learns one row at a time, each row by a call of its own.

        Its epoch is one step for each row, never shuffled. The model is as for `bound`, with
        linear outputs and squared error.
        """
        raise NotImplementedError(f"{type(self).__module__} makes no single steps")

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> Trainer:
        """Return a network to train on all of X and y, whose length is a multiple of `batch`."""
        raise NotImplementedError(f"{type(self).__module__} does not train")
