"""Callbacks: what looks on while a network trains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbp.network import Network
    from fastbp.training import History

__all__ = ["Callback", "ProgressBar"]


class Callback:
    """Looks on during `Network.fit`; override what is of interest.

    Examples
    --------
    >>> class StopAtLoss(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def on_epoch_end(self, network, history):
    ...         return history.loss[-1] < self.loss
    """

    def on_train_begin(self, network: Network, epochs: int) -> None:
        """Hear that training starts, for at most this many epochs."""

    def on_epoch_end(self, network: Network, history: History) -> bool | None:
        """Hear that an epoch has ended; return true to end the training."""

    def on_train_end(self, network: Network, history: History) -> None:
        """Hear that training has ended, by an exception too."""


class ProgressBar(Callback):
    """One line per epoch, above a progress bar where the output is a terminal.

    Parameters
    ----------
    metrics : mapping of str to callable, optional
        Further figures for each line: name to ``metric(network) -> float``.
    """

    def __init__(self, metrics: Mapping[str, Callable[[Network], float]] | None = None) -> None:
        self._metrics = dict(metrics or {})
        self._bar: Any = None

    def on_train_begin(self, network: Network, epochs: int) -> None:
        """Show an empty bar."""
        from tqdm import tqdm  # only who shows a bar pays for its import

        # disable=None: no bar where the output is not a terminal
        self._bar = tqdm(total=epochs, unit="epoch", file=sys.stdout, disable=None, leave=False)

    def on_epoch_end(self, network: Network, history: History) -> None:
        """Write the epoch's line."""
        figures = {"loss": history.loss[-1]}
        if history.validation_loss:
            figures["validation loss"] = history.validation_loss[-1]
        figures.update((name, metric(network)) for name, metric in self._metrics.items())
        line = f"epoch {len(history.loss):3d}  " + "  ".join(
            f"{name} {value:.4f}" for name, value in figures.items()
        )
        self._bar.write(line, file=sys.stdout)
        self._bar.update()

    def on_train_end(self, network: Network, history: History) -> None:
        """Take the bar away."""
        self._bar.close()
