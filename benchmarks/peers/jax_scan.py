"""JAX: a whole epoch compiled as one `lax.scan` over the batches.

Unrolling the scan twice spares XLA a copy of the parameters in each step, which is worth up to a
third of the time at batch size 1; more than twice gains nothing.
"""

from __future__ import annotations

from typing import Any

import jax

from benchmarks.peers import base, jax_jit
from benchmarks.workloads import Array, Model

UNROLL = 2


class Trainer(jax_jit.Trainer):
    """A compiled epoch."""

    def __init__(self, model: Model, X: Array, y: Array, batch: int) -> None:
        super().__init__(model, X, y, batch)
        step = jax_jit.make_step(model)

        @jax.jit
        def compiled_epoch(
            state: Any, order: jax.Array, X: jax.Array, y: jax.Array
        ) -> tuple[Any, jax.Array]:
            def body(state: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
                return step(state, X[rows], y[rows])

            state, losses = jax.lax.scan(body, state, order, unroll=UNROLL)
            return state, losses.mean()

        self.compiled_epoch = compiled_epoch

    def epoch(self, *, shuffle: bool) -> float:
        order = self.order(shuffle)
        self.state, loss = self.compiled_epoch(self.state, order, self.X, self.y)
        return float(loss)


class Adapter(jax_jit.Adapter):
    """JAX with the whole epoch compiled."""

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
