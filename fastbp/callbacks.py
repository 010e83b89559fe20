"""Callbacks: what looks on while a network trains."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastbp import _checks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastbp.network import Network
    from fastbp.training import History

__all__ = ["Callback", "EarlyStopping", "ProgressBar"]


class Callback:
    """Looks on during `Network.fit`; override what is of interest.

    Attributes
    ----------
    every_steps : int or None
        After how many steps of an epoch `on_steps` is called; None for never, which costs nothing.

    Examples
    --------
    >>> class StopAtLoss(Callback):
    ...     def __init__(self, loss):
    ...         self.loss = loss
    ...     def on_epoch_end(self, network, history):
    ...         return history.loss[-1] < self.loss
    """

    every_steps: int | None = None

    def on_train_begin(self, network: Network, epochs: int) -> None:
        """Hear that training starts, for at most this many epochs."""

    def on_steps(self, network: Network, loss: float) -> None:
        """Hear that `every_steps` more steps are made, or the epoch's last; and their mean loss."""

    def on_epoch_begin(self, network: Network, history: History) -> None:
        """Hear that an epoch starts; the history is that of the epochs before it."""

    def on_epoch_end(self, network: Network, history: History) -> bool | None:
        """Hear that an epoch has ended; return true to end the training."""

    def on_train_end(self, network: Network, history: History) -> None:
        """Hear that training has ended, by an exception too."""


class EarlyStopping(Callback):
    """Ends the training when the loss has not improved for some epochs.

    What is watched is the validation loss, or the training loss where there is no validation data.

    Parameters
    ----------
    patience : int
        How many epochs in a row without progress end the training.
    min_delta : float
        Progress is a loss lower than the best one by more than this.
    restore_best : bool
        Whether parameters and statistics go back to those of the best epoch when the training
        ends, unless an exception ends it.

    Attributes
    ----------
    best_epoch : int
        Which epoch of the last `fit` was the best, from 1.
    best_loss : float
        What was watched, in that epoch.

    Examples
    --------
    >>> EarlyStopping(patience=5).patience
    5
    """

    def __init__(
        self, patience: int = 10, min_delta: float = 0.0, *, restore_best: bool = True
    ) -> None:
        self.patience = _checks.count("patience", patience)
        self.min_delta = _checks.non_negative("min_delta", min_delta)
        self.restore_best = _checks.flag("restore_best", restore_best)

    def on_train_begin(self, network: Network, epochs: int) -> None:
        """Forget the last training."""
        self._best: list[NDArray[Any]] = []
        self._in_epoch = False
        self.best_epoch, self.best_loss = 0, math.inf

    def on_epoch_begin(self, network: Network, history: History) -> None:
        """Note that this epoch has not ended well yet."""
        self._in_epoch = True

    def on_epoch_end(self, network: Network, history: History) -> bool:
        """Note a best epoch; end the training when the last one was too long ago."""
        self._in_epoch = False
        epoch, loss = len(history.loss), history.watched()[-1]
        if not self.best_epoch or loss < self.best_loss - self.min_delta:
            self.best_epoch, self.best_loss = epoch, loss
            if self.restore_best:
                self._best = [each.copy() for each in _all_vectors(network)]
        return epoch - self.best_epoch >= self.patience

    def on_train_end(self, network: Network, history: History) -> None:
        """Go back to the best epoch, unless the last one was broken off."""
        if not self._in_epoch:
            for vector, best in zip(_all_vectors(network), self._best, strict=False):
                vector[:] = best


def _all_vectors(network: Network) -> list[NDArray[Any]]:
    """What a prediction depends on."""
    return [network.parameters, *(vector for pair in network.statistics for vector in pair)]


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
        figures.update((name, values[-1]) for name, values in history.metrics.items())
        figures.update((name, metric(network)) for name, metric in self._metrics.items())
        line = f"epoch {len(history.loss):3d}  " + "  ".join(
            f"{name} {value:.4f}" for name, value in figures.items()
        )
        self._bar.write(line, file=sys.stdout)
        self._bar.update()

    def on_train_end(self, network: Network, history: History) -> None:
        """Take the bar away."""
        self._bar.close()
