"""PyTorch without compilation: `nn.functional`, inference mode, fused optimizers.

`nn.functional` is faster here than `nn.Sequential` of the same layers, by up to a third in a
small call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers import base
from benchmarks.workloads import MOMENTUM, NORM_EPSILON, Array, Inputs, Model, flatten

Parameters = list[tuple[torch.Tensor, torch.Tensor]]
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def first_parameters(model: Model) -> Parameters:
    """Copy a model's parameters to PyTorch, each weight as (n_out, n_in)."""
    pairs = zip(model.weights, model.biases, strict=True)
    return [(torch.tensor(W.T.copy()), torch.tensor(b)) for W, b in pairs]


def forward(
    model: Model, pairs: Parameters, A: torch.Tensor, *, training: bool = False
) -> torch.Tensor:
    """Compute the linear outputs."""
    (W, b), *rest = pairs
    return rest_of_forward(model, rest, functional.linear(A, W, b), training=training)


def rest_of_forward(
    model: Model, pairs: Parameters, A: torch.Tensor, *, training: bool
) -> torch.Tensor:
    """Compute the linear outputs from the first layer's product."""
    for W, b in pairs:
        if W.ndim == 1:
            A = functional.layer_norm(A, W.shape, W, b, NORM_EPSILON)
            continue
        A = ACTIVATIONS[model.activation](A)
        if model.dropout:
            A = functional.dropout(A, model.dropout, training)
        A = functional.linear(A, W, b)
    return A


def squared_error(Z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Half the squared error, summed over outputs and averaged over rows."""
    return functional.mse_loss(Z, y, reduction="sum") / (2 * len(Z))


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "squared_error": squared_error,
    "cross_entropy": functional.cross_entropy,
}


def make_optimizer(model: Model, tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer of a model, fused where PyTorch has that."""
    rate = model.learning_rate
    if model.optimizer == "momentum":
        return torch.optim.SGD(tensors, lr=rate, momentum=MOMENTUM, fused=True)
    if model.optimizer == "rmsprop":
        return torch.optim.RMSprop(tensors, lr=rate)  # foreach is slower on a CPU
    if model.optimizer == "adamw":
        return torch.optim.AdamW(tensors, lr=rate, weight_decay=model.weight_decay, fused=True)
    if model.optimizer == "adam":
        return torch.optim.Adam(tensors, lr=rate, fused=True)
    return torch.optim.SGD(tensors, lr=rate, fused=True)


class Trainer(base.Trainer):
    """Autograd, and an optimizer of `torch.optim`."""

    def __init__(self, model: Model, X: Inputs, y: Array, batch: int) -> None:
        self.model, self.batch = model, batch
        self.dtype, self.n = torch.from_numpy(model.biases[0]).dtype, X.shape[0]
        self.y = torch.from_numpy(y)
        self.loss = LOSSES[model.loss]
        self.pairs = first_parameters(model)
        self.tensors = [tensor for pair in self.pairs for tensor in pair]
        self.hold(X)
        self.prepare()

    def hold(self, X: Inputs) -> None:
        """Keep the inputs as tensors."""
        self.X = torch.from_numpy(X)

    def prepare(self) -> None:
        """Make the optimizer."""
        tensors = [tensor.requires_grad_() for tensor in self.tensors]
        self.optimizer = make_optimizer(self.model, tensors)

    def batches(self, shuffle: bool) -> tuple[torch.Tensor, ...]:
        """Return the rows of each batch."""
        order = torch.randperm(self.n) if shuffle else torch.arange(self.n)
        return torch.split(order, self.batch)

    def outputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Compute the linear outputs of a batch, as in training."""
        return forward(self.model, self.pairs, self.X[rows], training=True)

    def epoch(self, *, shuffle: bool) -> float | None:
        total = torch.zeros((), dtype=self.dtype)
        batches = self.batches(shuffle)
        for rows in batches:
            loss = self.loss(self.outputs(rows), self.y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            self.update()
            total += loss.detach()
        return float(total) / len(batches)

    def update(self) -> None:
        """Make the optimizer's step."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def parameters(self) -> Array:
        pairs = [(W.detach().numpy().T, b.detach().numpy()) for W, b in self.pairs]
        return flatten([W for W, _ in pairs], [b for _, b in pairs])

    @torch.no_grad()
    def restore(self) -> None:
        pairs = zip(self.pairs, self.model.weights, self.model.biases, strict=True)
        for (W, b), first_W, first_b in pairs:
            W.copy_(torch.from_numpy(first_W.T))
            b.copy_(torch.from_numpy(first_b))


class Online(Trainer):
    """A step of the optimizer for each row."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        super().__init__(model, X, y, 1)
        self.rows = list(zip(self.X.split(1), self.y.split(1), strict=True))

    def epoch(self, *, shuffle: bool) -> None:
        for x, y in self.rows:
            loss = self.loss(forward(self.model, self.pairs, x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            self.update()


class Adapter(base.Adapter):
    """PyTorch on the CPU."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        torch.set_num_threads(n_threads)

    def around_predictions(self) -> AbstractContextManager[object]:
        return torch.inference_mode()

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        parameters = first_parameters(model)

        def predict() -> Array:
            Z = forward(model, parameters, torch.from_numpy(X))
            array: Array = (torch.softmax(Z, dim=1) if model.softmax else Z).numpy()
            return array

        return predict

    def bound(self, model: Model, x: Array) -> Callable[[], Array]:
        row = torch.from_numpy(x[np.newaxis])
        (W, b), *rest = [(W.t(), b) for W, b in first_parameters(model)]
        first, *outs = [torch.empty(1, n_out, dtype=row.dtype) for n_out in model.widths[1:]]
        last = (outs or [first])[-1]
        layers = list(zip(rest, outs, strict=True))
        array: Array = last.numpy()

        def predict() -> Array:
            A = torch.addmm(b, row, W, out=first)
            for (weight, bias), out in layers:
                A = torch.addmm(bias, torch.relu_(A), weight, out=out)
            if model.softmax:
                torch.softmax(A, dim=1, out=last)
            return array

        return predict

    def jacobian(self, model: Model, x: Array) -> Callable[[], Array]:
        parameters = first_parameters(model)
        derivatives = torch.func.jacrev(partial(forward, model, parameters))

        def compute() -> Array:
            array: Array = derivatives(torch.from_numpy(x)).numpy()
            return array

        return compute

    def online(self, model: Model, X: Array, y: Array) -> base.Trainer:
        return Online(model, X, y)

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
