"""Optimizers for JAX: what each remembers, and one step of it, as pure functions of trees."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from benchmarks.workloads import BETA_1, BETA_2, EPSILON, MOMENTUM, RHO, Model

Tree = Any  # of arrays


class Update(Protocol):
    """From parameters, gradient and memory to the parameters and the memory after a step."""

    def __call__(self, model: Model, parameters: Tree, gradient: Tree, memory: Tree) -> Any: ...


class Rule(NamedTuple):
    """An optimizer."""

    vectors: int  # as long as the parameters, that it remembers
    update: Update


def first_memory(model: Model, parameters: Tree) -> Tree:
    """Return what the optimizer remembers at first: zeros, and the number of steps."""
    vectors = RULES[model.optimizer].vectors
    zeros = tuple(jax.tree.map(jnp.zeros_like, parameters) for _ in range(vectors))
    return (*zeros, jnp.zeros((), jnp.int32)) if model.optimizer.startswith("adam") else zeros


def sgd(model: Model, parameters: Tree, gradient: Tree, memory: Tree) -> Any:
    rate = model.learning_rate
    return jax.tree.map(lambda p, g: p - rate * g, parameters, gradient), memory


def momentum(model: Model, parameters: Tree, gradient: Tree, memory: Tree) -> Any:
    rate, (b,) = model.learning_rate, memory
    b = jax.tree.map(lambda b, g: MOMENTUM * b + g, b, gradient)
    return jax.tree.map(lambda p, b: p - rate * b, parameters, b), (b,)


def rmsprop(model: Model, parameters: Tree, gradient: Tree, memory: Tree) -> Any:
    rate, (v,) = model.learning_rate, memory
    v = jax.tree.map(lambda v, g: RHO * v + (1 - RHO) * g * g, v, gradient)
    parameters = jax.tree.map(
        lambda p, g, v: p - rate * g / (jnp.sqrt(v) + EPSILON), parameters, gradient, v
    )
    return parameters, (v,)


def adam(model: Model, parameters: Tree, gradient: Tree, memory: Tree) -> Any:
    rate, (m, v, t) = model.learning_rate, memory
    kept = 1 - rate * model.weight_decay
    t = t + 1
    m = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, gradient)
    v = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, gradient)
    power = t.astype(model.dtype)
    first, second = 1 / (1 - BETA_1**power), 1 / (1 - BETA_2**power)
    parameters = jax.tree.map(
        lambda p, m, v: kept * p - rate * (m * first) / (jnp.sqrt(v * second) + EPSILON),
        parameters,
        m,
        v,
    )
    return parameters, (m, v, t)


RULES = {
    "sgd": Rule(0, sgd),
    "momentum": Rule(1, momentum),
    "rmsprop": Rule(1, rmsprop),
    "adam": Rule(2, adam),
    "adamw": Rule(2, adam),
}
