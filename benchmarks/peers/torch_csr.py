"""PyTorch with sparse inputs: `torch.addmm` of a CSR tensor and a dense weight.

SciPy gathers the rows of a batch, since PyTorch cannot index a CSR tensor by rows. The gradient of
the weight is dense.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch

from benchmarks.peers import base, torch_eager
from benchmarks.workloads import Array, Inputs, Model

# That CSR tensors are in beta, said at the first one.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")


def as_tensor(X: Inputs) -> torch.Tensor:
    """Return a SciPy CSR array as a tensor that shares its memory."""
    starts, columns, values = map(torch.from_numpy, (X.indptr, X.indices, X.data))
    return torch.sparse_csr_tensor(starts, columns, values, X.shape, check_invariants=False)


class Trainer(torch_eager.Trainer):
    """Autograd through the product of a sparse tensor and a dense one."""

    def hold(self, X: Inputs) -> None:
        self.X_rows = X

    def prepare(self) -> None:
        """Make the optimizer; the first weight is (n_inputs, n_out), and `pairs` has a view."""
        (W, b), *self.rest = self.pairs
        self.first = (W.T.contiguous().requires_grad_(), b)
        self.pairs[0] = (self.first[0].detach().T, b)
        self.tensors[0] = self.first[0]
        super().prepare()

    def outputs(self, rows: torch.Tensor) -> torch.Tensor:
        W, b = self.first
        A = torch.addmm(b, as_tensor(self.X_rows[rows.numpy()]), W)
        return torch_eager.rest_of_forward(self.model, self.rest, A, training=True)


class Adapter(torch_eager.Adapter):
    """PyTorch's sparse CSR tensors."""

    def predictor(self, model: Model, X: Inputs) -> Callable[[], Array]:
        (W, b), *rest = torch_eager.first_parameters(model)
        W = W.T.contiguous()

        def predict() -> Array:
            A = torch.addmm(b, as_tensor(X), W)
            Z = torch_eager.rest_of_forward(model, rest, A, training=False)
            array: Array = (torch.softmax(Z, dim=1) if model.softmax else Z).numpy()
            return array

        return predict

    def trainer(self, model: Model, X: Inputs, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
