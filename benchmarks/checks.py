"""Both sides compute the same: checked before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.peers.base import Trainer
from benchmarks.workloads import Array, Model

EPOCHS = 2

# These divide every gradient by its own size, so that one which is mostly rounding moves its
# parameter as far as any other. And libraries add epsilon before or after the bias correction
# (Kingma and Ba, section 2, have both), which shows where gradients are small.
ADAPTIVE = ("adam", "adamw", "rmsprop")
ADAPTIVE_LOSS, ADAPTIVE_PARAMETERS = 1e-4, 2e-2

# A relu whose input is zero to rounding is on for one side and off for the other, once in some
# millions of inputs. In one of 500 steps with 32 rows that is worth 2e-4 of the way.
KINK = 1e-3

# What is dropped differs, so that means over this many rows are compared, at least. They vary by
# some per cent.
DROPPED_ROWS = 8192
DROPPED_LOSS, DROPPED_MOVE = 0.3, 0.1


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
    """Return the rounding error that a product's longest sum collects, relatively.

    Two libraries add in different orders. n roundings of random sign grow like the root of n;
    4 covers what lies between the typical sum and the worst of thousands.
    """
    return float(4 * np.finfo(model.dtype).eps * np.sqrt(model.longest_sum))


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
        allowed = ADAPTIVE_LOSS if model.optimizer in ADAPTIVE else unit_roundoff(model)
        checks.append(Check("loss of each epoch", worst, allowed))
    moved = their_parameters.astype(np.float64) - model.flat
    apart = our_parameters.astype(np.float64) - their_parameters
    distance = float(np.linalg.norm(moved))
    if distance == 0:
        return [*checks, Check("parameters", np.inf, 0.0)]
    # Every step rounds every parameter that it moves once more.
    eps = np.finfo(model.dtype).eps
    size = np.linalg.norm(model.flat[moved != 0])
    tolerance = float(eps * np.sqrt(EPOCHS * n_steps) * size / distance + unit_roundoff(model))
    if model.activation == "relu":
        tolerance += KINK
    if model.optimizer in ADAPTIVE:
        tolerance = ADAPTIVE_PARAMETERS
    error = float(np.linalg.norm(apart)) / distance
    return [*checks, Check("parameters after two epochs", error, tolerance)]


def means_of_epochs(trainer: Trainer, n_rows: int) -> tuple[float, Array]:
    """Return mean loss and mean parameters after one epoch, over epochs from the first ones."""
    losses, ends = [], []
    for _ in range(-(-DROPPED_ROWS // n_rows)):
        trainer.restore()
        losses.append(trainer.epoch(shuffle=False))
        ends.append(trainer.parameters().astype(np.float64))
    return float(np.mean(np.array(losses, np.float64))), np.mean(ends, axis=0)


def check_dropping(model: Model, n_rows: int, plain: Trainer, *sides: Trainer) -> list[Check]:
    """Compare in the mean what dropping does to the loss and to where the parameters move.

    Parameters
    ----------
    model : Model
    n_rows : int
        In an epoch.
    plain : Trainer
        That drops nothing.
    *sides : Trainer
        Ours and theirs, which do.
    """
    plain.restore()
    loss, end = plain.epoch(shuffle=False), plain.parameters()
    if loss is None:
        return [Check("loss with dropping", np.inf, 0.0)]
    (our_loss, our_end), (their_loss, their_end) = (means_of_epochs(side, n_rows) for side in sides)
    direction = end.astype(np.float64) - model.flat
    our_move, their_move = (float((each - model.flat) @ direction) for each in (our_end, their_end))
    return [
        compared("what dropping adds to the loss", our_loss, their_loss, loss, DROPPED_LOSS),
        compared("the move with dropping", our_move, their_move, 0.0, DROPPED_MOVE),
    ]


def compared(what: str, ours: float, theirs: float, start: float, tolerance: float) -> Check:
    """Compare two values relative to how far theirs is from a third."""
    way = abs(theirs - start)
    return Check(what, abs(ours - theirs) / way if way else np.inf, tolerance)
