"""Layers that PyTorch has not. Nothing but `torch_modules` imports this, as it imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Exponential", "FrozenBatchNorm1d", "Residual", "Standardize"]


class Exponential(nn.Module):
    """``exp(x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        return torch.exp(x)


class Standardize(nn.Module):
    """``(x - mean) / deviation``, with a mean and a deviation for each feature that stay."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        return (x - self.mean) / self.deviation


class FrozenBatchNorm1d(nn.BatchNorm1d):
    """A BatchNorm1d that goes by its running statistics in training as well."""

    def train(self, mode: bool = True) -> FrozenBatchNorm1d:
        """Stay as it is."""
        return super().train(False)


class Residual(nn.Sequential):
    """The sum of its input and of what its modules make of it."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        return x + super().forward(x)
