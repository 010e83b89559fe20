"""PyTorch without compilation: `nn.functional`, inference mode, fused optimizers.

`nn.functional` is faster here than `nn.Sequential` of the same layers, by up to a third in a
small call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch.nn import functional

from benchmarks.peers import base
from benchmarks.workloads import Array, Model, flatten

Parameters = list[tuple[torch.Tensor, torch.Tensor]]


def first_parameters(model: Model) -> Parameters:
    """Copy a model's parameters to PyTorch, each weight as (n_out, n_in)."""
    pairs = zip(model.weights, model.biases, strict=True)
    return [(torch.tensor(W.T.copy()), torch.tensor(b)) for W, b in pairs]


def forward(parameters: Parameters, X: torch.Tensor) -> torch.Tensor:
    """Compute the linear outputs."""
    *hidden, (W, b) = parameters
    for W_hidden, b_hidden in hidden:
        X = functional.relu(functional.linear(X, W_hidden, b_hidden))
    return functional.linear(X, W, b)


def squared_error(Z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Half the squared error, summed over outputs and averaged over rows."""
    return functional.mse_loss(Z, y, reduction="sum") / (2 * len(Z))


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "squared_error": squared_error,
    "cross_entropy": functional.cross_entropy,
}


class Trainer(base.Trainer):
    """Autograd, and an optimizer of `torch.optim`."""

    def __init__(self, model: Model, X: Array, y: Array, batch: int) -> None:
        self.model, self.batch = model, batch
        self.X, self.y = torch.from_numpy(X), torch.from_numpy(y)
        self.loss = LOSSES[model.loss]
        self.pairs = first_parameters(model)
        self.tensors = [tensor for pair in self.pairs for tensor in pair]
        self.prepare()

    def prepare(self) -> None:
        """Make the optimizer."""
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[self.model.optimizer]
        tensors = [tensor.requires_grad_() for tensor in self.tensors]
        self.optimizer = kind(tensors, lr=self.model.learning_rate, fused=True)

    def batches(self, shuffle: bool) -> tuple[torch.Tensor, ...]:
        """Return the rows of each batch."""
        n = len(self.X)
        return torch.split(torch.randperm(n) if shuffle else torch.arange(n), self.batch)

    def epoch(self, *, shuffle: bool) -> float:
        total = torch.zeros((), dtype=self.X.dtype)
        batches = self.batches(shuffle)
        for rows in batches:
            loss = self.loss(forward(self.pairs, self.X[rows]), self.y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.detach()
        return float(total) / len(batches)

    def parameters(self) -> Array:
        pairs = [(W.detach().numpy().T, b.detach().numpy()) for W, b in self.pairs]
        return flatten([W for W, _ in pairs], [b for _, b in pairs])

    @torch.no_grad()
    def restore(self) -> None:
        pairs = zip(self.pairs, self.model.weights, self.model.biases, strict=True)
        for (W, b), first_W, first_b in pairs:
            W.copy_(torch.from_numpy(first_W).T)
            b.copy_(torch.from_numpy(first_b))


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
            Z = forward(parameters, torch.from_numpy(X))
            array: Array = (torch.softmax(Z, dim=1) if model.softmax else Z).numpy()
            return array

        return predict

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
