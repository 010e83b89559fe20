"""What is measured: five networks, their data, and the cells of the tables.

A cell is one piece of work, such as one step of gradient descent on ``small`` with 32 rows in
float32 on one thread. Everything here is data, so that it can be listed without importing any
peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BATCHES = (1, 32, 256)
TRAINING = ("sgd", "adam")  # tasks, and names of optimizers


@dataclass(frozen=True)
class Shape:
    """A network of dense layers, ReLU in the hidden ones.

    Parameters
    ----------
    name : str
    widths : tuple of int
        Inputs, hidden layers, outputs.
    loss : {"squared_error", "cross_entropy"}
        Behind linear outputs and behind softmax, respectively.
    steps : dict of int to int
        Training steps in one epoch, by batch size. Enough of them that what a library does once
        per epoch is small beside the steps, as it is on real data.
    """

    name: str
    widths: tuple[int, ...]
    loss: str
    steps: dict[int, int]

    @property
    def _products(self) -> list[int]:
        return [n_in * n_out for n_in, n_out in pairwise(self.widths)]

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(self._products) + sum(self.widths[1:])

    @property
    def learning_rate(self) -> float:
        """Small enough that no network of this shape diverges, whatever the batch size."""
        return 0.1 / max(self.widths)

    def flops(self, task: str, rows: int) -> int:
        """Floating-point operations in the products of one call or one step.

        Each product takes 2 m n k of them. A prediction is one product per layer; a step adds
        the gradient of each weight, and of each layer's input but the first layer's.
        """
        products = self._products
        if task in TRAINING:
            return 2 * rows * (2 * sum(products) + sum(products[1:]))
        return 2 * rows * sum(products)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", (16, 32, 1), "squared_error", {1: 2048, 32: 512, 256: 128}),
        Shape("small", (64, 128, 128, 10), "cross_entropy", {1: 2048, 32: 256, 256: 64}),
        Shape("mnist", (784, 128, 10), "cross_entropy", {1: 1024, 32: 256, 256: 32}),
        Shape("wide", (512, 512, 512, 10), "cross_entropy", {1: 512, 32: 128, 256: 16}),
        Shape("big", (1024, 2048, 2048, 1000), "cross_entropy", {1: 256, 32: 64, 256: 8}),
    )
}
DIGITS = Shape("digits", (64, 64, 10), "cross_entropy", {32: 57})


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Parameters
    ----------
    task : {"latency", "predict", "sgd", "adam", "digits"}
        One row timed call by call; predictions timed in blocks; a training step inside an epoch;
        a whole training.
    network : str
        A name in `SHAPES`, or "digits".
    batch : int
        Rows in a call or step.
    dtype : {"float32", "float64"}
    threads : {"1", "all"}
    """

    task: str
    network: str
    batch: int
    dtype: str = "float32"
    threads: str = "1"

    @property
    def name(self) -> str:
        """Its name on the command line and in results, such as ``sgd/small/32/float32/1``."""
        return f"{self.task}/{self.network}/{self.batch}/{self.dtype}/{self.threads}"

    @property
    def shape(self) -> Shape:
        """The network's shape."""
        return DIGITS if self.network == "digits" else SHAPES[self.network]

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether a shell pattern fits the name, or a part of the name between slashes."""
        words = (self.name, *self.name.split("/"))
        return any(fnmatchcase(word, pattern) for pattern in patterns for word in words)


def all_cells() -> list[Cell]:
    """Return every cell of a full run, in the order of the report."""
    cells = [Cell("latency", network, 1) for network in SHAPES]
    for threads in ("1", "all"):
        for task in ("predict", *TRAINING):
            cells += [
                Cell(task, network, batch, threads=threads)
                for network in SHAPES
                for batch in BATCHES
            ]
    for task in ("predict", *TRAINING):
        cells += [Cell(task, "small", batch, "float64") for batch in BATCHES]
    cells.append(Cell("digits", "digits", 32))
    return cells


def is_quick(cell: Cell) -> bool:
    """Whether a cell belongs to the short run: small networks, float32, one thread."""
    small = cell.network in ("tiny", "small", "mnist", "digits")
    return small and cell.dtype == "float32" and cell.threads == "1"


@dataclass(frozen=True)
class Model:
    """A network with its first parameters, as every library gets it.

    Parameters
    ----------
    widths : tuple of int
    loss : {"squared_error", "cross_entropy"}
    softmax : bool
        Whether `predict` ends with a softmax; otherwise the outputs are linear.
    weights, biases : tuple of arrays of shape (n_in, n_out) and (n_out,)
    optimizer : {"sgd", "adam"}
    learning_rate : float
    """

    widths: tuple[int, ...]
    loss: str
    softmax: bool
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    optimizer: str
    learning_rate: float

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and data."""
        return self.weights[0].dtype

    @property
    def flat(self) -> Array:
        """The parameters as one vector: W0 row by row, b0, W1, b1, ..."""
        return flatten(self.weights, self.biases)


def flatten(weights: Iterable[Array], biases: Iterable[Array]) -> Array:
    """Join (n_in, n_out) weights and biases to one vector: W0 row by row, b0, W1, b1, ..."""
    pairs = zip(weights, biases, strict=True)
    return np.concatenate([np.ravel(part) for pair in pairs for part in pair])


def make_model(cell: Cell, *, softmax: bool = True) -> Model:
    """Draw the first parameters of a cell: He's initialisation, and small biases."""
    rng = np.random.default_rng(1)
    shape = cell.shape
    pairs = list(pairwise(shape.widths))
    weights = [rng.normal(size=pair) * np.sqrt(2 / pair[0]) for pair in pairs]
    biases = [0.01 * rng.normal(size=n_out) for _, n_out in pairs]
    return Model(
        widths=shape.widths,
        loss=shape.loss,
        softmax=softmax and shape.loss == "cross_entropy",
        weights=tuple(weight.astype(cell.dtype) for weight in weights),
        biases=tuple(bias.astype(cell.dtype) for bias in biases),
        optimizer=cell.task if cell.task in TRAINING else "sgd",
        # Adam's steps have the length of the rate itself, whatever the size of the gradient.
        learning_rate=1e-4 if cell.task == "adam" else shape.learning_rate,
    )


def make_data(cell: Cell, rows: int) -> tuple[Array, Array]:
    """Draw dense inputs from the normal distribution, and labels or targets to go with them."""
    rng = np.random.default_rng(2)
    widths = cell.shape.widths
    X = rng.normal(size=(rows, widths[0])).astype(cell.dtype)
    if cell.shape.loss == "squared_error":
        return X, rng.normal(size=(rows, widths[-1])).astype(cell.dtype)
    return X, rng.integers(0, widths[-1], size=rows)
