"""PyTorch with torch.compile: one graph for the whole step, with gradient and update in it.

Compiling autograd and an optimizer of `torch.optim` leaves more work per step in Python, and is
three times slower at batch size 1. The C++ wrapper takes another tenth off a small call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.peers import base, torch_eager
from benchmarks.peers.torch_updates import UPDATES
from benchmarks.workloads import Array, Model

OPTIONS: dict[str, Any] = {"cpp_wrapper": True}


class Trainer(torch_eager.Trainer):
    """A compiled step that updates the parameters in place."""

    def prepare(self) -> None:
        """Compile the step."""
        torch.compiler.reset()  # or graphs of earlier networks count towards its limit
        model, pairs, X, y, loss_of = self.model, self.pairs, self.X, self.y, self.loss
        update = UPDATES[model.optimizer](model, self.tensors)

        def loss(pairs: torch_eager.Parameters, rows: torch.Tensor) -> torch.Tensor:
            return loss_of(torch_eager.forward(model, pairs, X[rows], training=True), y[rows])

        def step(total: torch.Tensor, rows: torch.Tensor) -> None:
            gradients, value = torch.func.grad_and_value(loss)(pairs, rows)
            update([gradient for pair in gradients for gradient in pair])
            total.add_(value)

        self.step = torch.compile(step, dynamic=False, fullgraph=True, options=OPTIONS)

    @torch.no_grad()
    def epoch(self, *, shuffle: bool) -> float:
        total = torch.zeros(1, dtype=self.X.dtype)  # Inductor loses a sum in a float64 scalar
        batches = self.batches(shuffle)
        for rows in batches:
            self.step(total, rows)
        return float(total) / len(batches)


class Adapter(torch_eager.Adapter):
    """PyTorch's compiler for the CPU."""

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        torch.compiler.reset()
        parameters = torch_eager.first_parameters(model)

        def outputs(X: torch.Tensor) -> torch.Tensor:
            Z = torch_eager.forward(model, parameters, X)
            return torch.softmax(Z, dim=1) if model.softmax else Z

        compiled = torch.compile(outputs, dynamic=False, fullgraph=True, options=OPTIONS)

        def predict() -> Array:
            array: Array = compiled(torch.from_numpy(X)).numpy()
            return array

        return predict

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
