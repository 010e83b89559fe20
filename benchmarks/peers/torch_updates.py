"""Optimizers for torch.compile: one step of each, in place, to be compiled with the gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.workloads import BETA_1, BETA_2, EPSILON, MOMENTUM, RHO, Model

Tensors = list[torch.Tensor]
Update = Callable[[Tensors], None]  # given the gradients


def sgd(model: Model, tensors: Tensors) -> Update:
    def update(gradients: Tensors) -> None:
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.sub_(gradient, alpha=model.learning_rate)

    return update


def momentum(model: Model, tensors: Tensors) -> Update:
    directions = [torch.zeros_like(tensor) for tensor in tensors]

    def update(gradients: Tensors) -> None:
        for tensor, gradient, b in zip(tensors, gradients, directions, strict=True):
            b.mul_(MOMENTUM).add_(gradient)
            tensor.sub_(b, alpha=model.learning_rate)

    return update


def rmsprop(model: Model, tensors: Tensors) -> Update:
    squares = [torch.zeros_like(tensor) for tensor in tensors]

    def update(gradients: Tensors) -> None:
        for tensor, gradient, v in zip(tensors, gradients, squares, strict=True):
            v.mul_(RHO).addcmul_(gradient, gradient, value=1 - RHO)
            tensor.sub_(model.learning_rate * gradient / (v.sqrt() + EPSILON))

    return update


def adam(model: Model, tensors: Tensors) -> Update:
    """Adam, and AdamW if the model's weights decay."""
    moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in tensors]
    t = torch.zeros(1, dtype=tensors[0].dtype)  # Inductor loses a count in a float64 scalar
    rate = model.learning_rate

    def update(gradients: Tensors) -> None:
        t.add_(1)
        first, second = 1 / (1 - BETA_1**t), 1 / (1 - BETA_2**t)
        for tensor, gradient, (m, v) in zip(tensors, gradients, moments, strict=True):
            m.mul_(BETA_1).add_(gradient, alpha=1 - BETA_1)
            v.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
            if model.weight_decay:
                tensor.mul_(1 - rate * model.weight_decay)
            tensor.sub_(rate * (m * first) / ((v * second).sqrt() + EPSILON))

    return update


UPDATES: dict[str, Callable[[Model, Tensors], Update]] = {
    "sgd": sgd,
    "momentum": momentum,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adam,
}
