"""What is measured: networks, their data, and what a cell is.

A cell is one piece of work, such as one step of gradient descent on ``small`` with 32 rows in
float32 on one thread. Everything here is data, so that it can be listed without importing any
peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Inputs = Any  # an Array of shape (n, n_inputs), or a SciPy CSR array of that shape

TRAINING = ("sgd", "adam", "adamw", "rmsprop", "momentum")  # tasks, and names of optimizers
LATENCIES = ("latency", "bound-latency")  # tasks that time each call by itself
ONLINE = ("online", "online-adam")
ONLINE_ROWS = 256  # after which the parameters go back to the first ones

# Settings of the optimizers and of layer normalisation: PyTorch's and fastbp's defaults. The
# decay is ten times theirs, so that a side that forgets it is found out by the check.
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
MOMENTUM, RHO = 0.9, 0.99
WEIGHT_DECAY = 0.1
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """A network of dense layers.

    Parameters
    ----------
    name : str
        Of a network that differs from another in its hidden layers, the other's name, a hyphen,
        and what differs.
    widths : tuple of int
        Inputs, hidden layers, outputs.
    loss : {"squared_error", "cross_entropy"}
        Behind linear outputs and behind softmax, respectively.
    steps : dict of int to int
        Training steps in one epoch, by batch size. Enough of them that what a library does once
        per epoch is small beside the steps, as it is on real data.
    activation : {"relu", "gelu", "tanh", "sigmoid"}
        Of the hidden layers.
    dropout : float
        The part that is dropped behind each hidden layer's activation.
    layer_norm : bool
        Whether each hidden layer normalises its rows before the activation.
    nonzeros : int, optional
        Non-zero inputs in each row, which are sparse then.
    checked_steps : int
        The most steps of an epoch in the comparison before the timing.
    """

    name: str
    widths: tuple[int, ...]
    loss: str
    steps: dict[int, int]
    activation: str = "relu"
    dropout: float = 0.0
    layer_norm: bool = False
    nonzeros: int | None = None
    # Over thousands of steps in float32 it happens that a relu whose input is zero to rounding is
    # on for one side and off for the other; from there on the two go apart.
    checked_steps: int = 1000

    @property
    def base(self) -> str:
        """The name of the network that this one is a variant of, or its own."""
        return self.name.partition("-")[0]

    @property
    def needs(self) -> frozenset[str]:
        """What a library must offer: an activation, a kind of inputs, and perhaps layers."""
        needed = {self.activation, "dense" if self.nonzeros is None else "sparse"}
        layers = {"dropout": self.dropout > 0, "layer_norm": self.layer_norm}
        return frozenset(needed | {layer for layer, present in layers.items() if present})

    @property
    def terms(self) -> tuple[int, ...]:
        """How many inputs are summed up in a unit of each layer: all that are not zero."""
        return (self.nonzeros or self.widths[0], *self.widths[1:-1])

    @property
    def _products(self) -> list[int]:
        return [n * n_out for n, n_out in zip(self.terms, self.widths[1:], strict=True)]

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases, gains and shifts."""
        norms = 2 * sum(self.widths[1:-1]) if self.layer_norm else 0
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(self.widths)) + norms

    @property
    def learning_rate(self) -> float:
        """Small enough that no network of this shape diverges, whatever the batch size."""
        return 0.1 / max(*self.terms, self.widths[-1])

    def flops(self, task: str, rows: int) -> int:
        """Floating-point operations in the products of one call or one step.

        Each product takes 2 m n k of them, zeros of sparse inputs not counted. A prediction is
        one product per layer; a step adds the gradient of each weight, and of each layer's input
        but the first layer's. A Jacobian is a prediction, and for each output the gradient of each
        layer's input but the last layer's, where it is the weight itself.
        """
        products = self._products
        if task in (*TRAINING, *ONLINE):
            return 2 * rows * (2 * sum(products) + sum(products[1:]))
        if task == "jacobian":
            return 2 * rows * (sum(products) + self.widths[-1] * sum(products[:-1]))
        return 2 * rows * sum(products)


TINY = Shape("tiny", (16, 32, 1), "squared_error", {1: 2048, 32: 512, 256: 128})
EXAMPLE = Shape("example", (40, 100, 100, 10), "squared_error", {})  # mlpfile's own
SMALL = Shape("small", (64, 128, 128, 10), "cross_entropy", {1: 2048, 32: 256, 256: 64})
MNIST = Shape("mnist", (784, 128, 10), "cross_entropy", {1: 1024, 32: 256, 256: 32})
WIDE = Shape("wide", (512, 512, 512, 10), "cross_entropy", {1: 512, 32: 128, 256: 16})
BIG = Shape("big", (1024, 2048, 2048, 1000), "cross_entropy", {1: 256, 32: 64, 256: 8})
# As a bag of words is: 100 words of 100,000 in a row. So few steps are checked since a library
# that updates all weights in each takes a thousand times as long as one that does not.
TEXT = Shape(
    "text", (100_000, 64, 10), "cross_entropy", {32: 1024}, nonzeros=100, checked_steps=16
)

ACTIVATIONS = ("gelu", "tanh", "sigmoid")  # beside ReLU
DROPOUT = 0.2

SHAPES = {
    shape.name: shape
    for shape in (
        TINY, EXAMPLE, SMALL, MNIST, WIDE, BIG, TEXT,
        *(
            replace(base, name=f"{base.name}-{activation}", activation=activation)
            for base in (SMALL, MNIST)
            for activation in ACTIVATIONS
        ),
        *(
            variant
            for base in (SMALL, MNIST, WIDE)
            for variant in (
                replace(base, name=f"{base.name}-dropout", dropout=DROPOUT),
                replace(base, name=f"{base.name}-layernorm", layer_norm=True),
            )
        ),
    )
}
DIGITS = Shape("digits", (64, 64, 10), "cross_entropy", {32: 57})


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Parameters
    ----------
    task : str
        "latency", one row timed call by call, or "predict", predictions timed in blocks;
        "bound-latency" and "bound", the same of calls on arrays that were named before; by an
        optimizer's name (`TRAINING`), a training step inside an epoch; "online", single steps of
        SGD with a row each, or "online-adam", those of Adam beside the peer's of SGD; "jacobian",
        the derivatives of the outputs by the inputs; "overhead", a step of a network beside the
        same without its additional layers; or "digits", a whole training.
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

    @property
    def needs(self) -> frozenset[str]:
        """What a library must offer for it: the task, and what the network is made of."""
        return self.shape.needs | {self.task}

    def matches(self, patterns: Iterable[str]) -> bool:
        """Whether a shell pattern fits the name, or a part of the name between slashes."""
        words = (self.name, *self.name.split("/"))
        return any(fnmatchcase(word, pattern) for pattern in patterns for word in words)


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
        Where a layer normalises, gain and shift, both (n_out,), follow those of its products.
    optimizer : {"sgd", "adam", "adamw", "rmsprop", "momentum"}
    learning_rate : float
    weight_decay : float
        Decoupled, as AdamW has it.
    activation : {"relu", "gelu", "tanh", "sigmoid"}
    dropout : float
    nonzeros : int, optional
        As of a `Shape`.
    """

    widths: tuple[int, ...]
    loss: str
    softmax: bool
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    optimizer: str
    learning_rate: float
    weight_decay: float = 0.0
    activation: str = "relu"
    dropout: float = 0.0
    nonzeros: int | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters and data."""
        return self.weights[0].dtype

    @property
    def flat(self) -> Array:
        """The parameters as one vector: W0 row by row, b0, W1, b1, ..."""
        return flatten(self.weights, self.biases)

    @property
    def layer_norm(self) -> bool:
        """Whether hidden layers normalise."""
        return any(weight.ndim == 1 for weight in self.weights)

    @property
    def longest_sum(self) -> int:
        """The most terms that are added up in one element of a product."""
        return max(self.nonzeros or self.widths[0], *self.widths[1:])


def flatten(weights: Iterable[Array], biases: Iterable[Array]) -> Array:
    """Join (n_in, n_out) weights and biases to one vector: W0 row by row, b0, W1, b1, ..."""
    pairs = zip(weights, biases, strict=True)
    return np.concatenate([np.ravel(part) for pair in pairs for part in pair])


def learning_rate(cell: Cell) -> float:
    """Return a rate that suits the optimizer of a cell."""
    if cell.task in ("adam", "adamw", "rmsprop"):
        # Their steps have the length of the rate itself, whatever the size of the gradient.
        return cell.shape.learning_rate / 10
    # Momentum adds up the gradients of some 1 / (1 - 0.9) steps.
    return cell.shape.learning_rate * (1 - MOMENTUM if cell.task == "momentum" else 1)


def make_model(cell: Cell, *, softmax: bool = True) -> Model:
    """Draw the first parameters of a cell: He's initialisation, and small biases."""
    rng, rng_of_norms = np.random.default_rng(1), np.random.default_rng(3)
    shape = cell.shape
    pairs = zip(pairwise(shape.widths), shape.terms, strict=True)
    weights = [rng.normal(size=pair) * np.sqrt(2 / n) for pair, n in pairs]
    biases = [0.01 * rng.normal(size=n_out) for n_out in shape.widths[1:]]
    if shape.layer_norm:
        for layer, n_out in reversed([*enumerate(shape.widths[1:-1], 1)]):
            weights.insert(layer, 1 + 0.1 * rng_of_norms.normal(size=n_out))
            biases.insert(layer, 0.1 * rng_of_norms.normal(size=n_out))
    return Model(
        widths=shape.widths,
        loss=shape.loss,
        softmax=softmax and shape.loss == "cross_entropy",
        weights=tuple(weight.astype(cell.dtype) for weight in weights),
        biases=tuple(bias.astype(cell.dtype) for bias in biases),
        optimizer=cell.task if cell.task in TRAINING else "sgd",
        learning_rate=learning_rate(cell),
        weight_decay=WEIGHT_DECAY if cell.task == "adamw" else 0.0,
        activation=shape.activation,
        dropout=shape.dropout,
        nonzeros=shape.nonzeros,
    )


def make_online(cell: Cell, optimizer: str) -> tuple[Model, Array, Array]:
    """Draw a cell's network with linear outputs and squared error, and rows to learn from."""
    model = make_model(replace(cell, task=optimizer), softmax=False)
    X, _ = make_data(cell, ONLINE_ROWS)
    y = np.random.default_rng(4).normal(size=(ONLINE_ROWS, model.widths[-1])).astype(cell.dtype)
    return replace(model, loss="squared_error"), X, y


def sparse_inputs(rng: np.random.Generator, rows: int, shape: Shape, dtype: str) -> Inputs:
    """Draw the rows of a bag of words as a SciPy CSR array.

    The features are parted into as many ranges as a row has non-zeros, with one in each. The k-th
    feature of a range is drawn with a probability of about 1 / k, as words are (Zipf's law), so
    that the rows of a batch share some and not others. Values are positive, 1 in mean square.
    """
    from scipy.sparse import csr_array

    n = shape.nonzeros or shape.widths[0]
    span = shape.widths[0] // n
    rank = np.floor(float(span) ** rng.random((rows, n))).astype(np.int32) - 1
    columns = np.arange(n, dtype=np.int32) * np.int32(span) + rank
    values = (rng.exponential(size=rows * n) / np.sqrt(2)).astype(dtype)
    starts = np.arange(rows + 1, dtype=np.int32) * np.int32(n)
    return csr_array((values, columns.ravel(), starts), shape=(rows, shape.widths[0]))


def make_data(cell: Cell, rows: int) -> tuple[Inputs, Array]:
    """Draw inputs, dense ones from the normal distribution, and labels or targets for them."""
    rng = np.random.default_rng(2)
    shape = cell.shape
    if shape.nonzeros is None:
        X = rng.normal(size=(rows, shape.widths[0])).astype(cell.dtype)
    else:
        X = sparse_inputs(rng, rows, shape, cell.dtype)
    if shape.loss == "squared_error":
        return X, rng.normal(size=(rows, shape.widths[-1])).astype(cell.dtype)
    return X, rng.integers(0, shape.widths[-1], size=rows)
