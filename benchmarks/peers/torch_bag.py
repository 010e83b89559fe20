"""PyTorch with sparse inputs: an embedding bag that adds up rows of the first weight, weighted.

The gradient of that weight is a sparse tensor, and SGD changes no more than what it holds. Rows
are padded to the longest one, so that one call gathers a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers import base, torch_csr, torch_eager
from benchmarks.workloads import Array, Inputs, Model


def padded(X: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return columns and values of each row, (n, longest); behind its end they are zero."""
    lengths = np.diff(X.indptr)
    filled = np.arange(lengths.max()) < lengths[:, None]
    columns = np.zeros(filled.shape, np.int64)
    values = np.zeros(filled.shape, X.dtype)
    columns[filled], values[filled] = X.indices, X.data
    return torch.from_numpy(columns), torch.from_numpy(values)


class Trainer(torch_csr.Trainer):
    """Autograd through `embedding_bag`, and SGD on its sparse gradient."""

    def hold(self, X: Inputs) -> None:
        self.columns, self.values = padded(X)

    def prepare(self) -> None:
        """Make two optimizers: the fused one does not take sparse gradients."""
        super().prepare()
        rate = self.model.learning_rate
        self.sparse_optimizer = torch.optim.SGD([self.first[0]], lr=rate, foreach=False)
        self.optimizer = torch.optim.SGD(self.tensors[1:], lr=rate, fused=True)

    def outputs(self, rows: torch.Tensor) -> torch.Tensor:
        W, b = self.first
        sums = functional.embedding_bag(
            self.columns[rows], W, mode="sum", sparse=True, per_sample_weights=self.values[rows]
        )
        return torch_eager.rest_of_forward(self.model, self.rest, sums + b, training=True)

    def update(self) -> None:
        super().update()
        self.sparse_optimizer.step()
        self.sparse_optimizer.zero_grad()


class Adapter(torch_eager.Adapter):
    """PyTorch's embedding bags."""

    def predictor(self, model: Model, X: Inputs) -> Callable[[], Array]:
        (W, b), *rest = torch_eager.first_parameters(model)
        W = W.T.contiguous()

        def predict() -> Array:
            columns, starts, values = map(torch.from_numpy, (X.indices, X.indptr, X.data))
            sums = functional.embedding_bag(
                columns, W, starts, mode="sum", per_sample_weights=values, include_last_offset=True
            )
            Z = torch_eager.rest_of_forward(model, rest, sums + b, training=False)
            array: Array = (torch.softmax(Z, dim=1) if model.softmax else Z).numpy()
            return array

        return predict

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
