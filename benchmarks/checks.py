"""Both sides compute the same: checked before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.peers.base import Trainer
from benchmarks.workloads import Array, Model

EPOCHS = 2

# Adam divides every gradient by its own size, so that one which is mostly rounding moves its
# parameter as far as any other. And libraries add epsilon before or after the bias correction
# (Kingma and Ba, section 2, have both), which shows where gradients are small.
ADAM_LOSS, ADAM_PARAMETERS = 1e-4, 2e-2


@dataclass(frozen=True)
class Check:
    """What was compared, and how far apart the two sides were.

    Parameters
    ----------
    what : str
    error, tolerance : float
        Relative.
    """

    what: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the sides agree. NaN does not."""
        return self.error <= self.tolerance


def unit_roundoff(model: Model) -> float:
    """Return the rounding error that a sum as long as the widest layer's collects, relatively.

    Two libraries add in different orders. n roundings of random sign grow like the root of n;
    4 covers what lies between the typical sum and the worst of thousands.
    """
    return float(4 * np.finfo(model.dtype).eps * np.sqrt(max(model.widths)))


def check_predictions(model: Model, ours: Array, theirs: Array) -> Check:
    """Compare what both sides predict, relative to the largest output."""
    if ours.size != theirs.size or ours.dtype != theirs.dtype:
        return Check("outputs", np.inf, 0.0)
    # scikit-learn drops the second axis where there is one output.
    largest = np.abs(theirs).max()
    error = float(np.abs(ours.ravel() - theirs.ravel()).max() / largest)
    return Check("outputs", error, unit_roundoff(model))


def trajectory(trainer: Trainer) -> tuple[list[float | None], Array]:
    """Train without shuffling; return the loss of each epoch, and the last parameters."""
    losses = [trainer.epoch(shuffle=False) for _ in range(EPOCHS)]
    return losses, trainer.parameters()


def check_training(model: Model, n_steps: int, ours: Trainer, theirs: Trainer) -> list[Check]:
    """Compare the losses of two epochs, and where the parameters have moved.

    Parameters
    ----------
    model : Model
    n_steps : int
        Steps in an epoch.
    ours, theirs : Trainer
        Not trained yet.
    """
    our_losses, our_parameters = trajectory(ours)
    their_losses, their_parameters = trajectory(theirs)
    checks = []
    compared = [
        abs(our_loss - their_loss) / their_loss
        for our_loss, their_loss in zip(our_losses, their_losses, strict=True)
        if our_loss is not None and their_loss is not None
    ]
    if compared:
        # NaN must not get lost in a maximum.
        worst = float(np.max(compared))
        allowed = ADAM_LOSS if model.optimizer == "adam" else unit_roundoff(model)
        checks.append(Check("loss of each epoch", worst, allowed))
    moved = their_parameters.astype(np.float64) - model.flat
    apart = our_parameters.astype(np.float64) - their_parameters
    distance = float(np.linalg.norm(moved))
    if distance == 0:
        return [*checks, Check("parameters", np.inf, 0.0)]
    # Every step rounds every parameter once more. Beyond that, a hidden unit whose input is zero
    # to rounding is on for one side and off for the other.
    eps = np.finfo(model.dtype).eps
    rounding = eps * np.sqrt(EPOCHS * n_steps) * np.linalg.norm(model.flat) / distance
    tolerance = float(rounding + unit_roundoff(model))
    if model.optimizer == "adam":
        tolerance = ADAM_PARAMETERS
    error = float(np.linalg.norm(apart)) / distance
    return [*checks, Check("parameters after two epochs", error, tolerance)]
