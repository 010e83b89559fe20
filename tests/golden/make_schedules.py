"""Makes schedules.npz: the learning rates of PyTorch's schedulers, step by step.

    pip install numpy torch==2.13.0
    python tests/golden/make_schedules.py
"""

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch.optim import lr_scheduler as torch_schedulers

STEPS = 100


def rates(initial, make, steps=STEPS):
    """The rate of each step of a scheduler that starts from `initial`."""
    optimizer = torch.optim.SGD([torch.zeros(1)], initial)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def warm(optimizer, after, steps, start):
    return torch_schedulers.SequentialLR(
        optimizer,
        [torch_schedulers.LinearLR(optimizer, start, total_iters=steps), after(optimizer)],
        [steps],
    )


# What fastbp calls it, and the rates.
CASES = {
    "StepDecay(0.5, 0.7, 9)": (0.5, lambda o: torch_schedulers.StepLR(o, 9, 0.7)),
    "Exponential(0.5, 0.97)": (0.5, lambda o: torch_schedulers.ExponentialLR(o, 0.97)),
    "Exponential(0.5, 0.5, 20)": (
        0.5, lambda o: torch_schedulers.LambdaLR(o, lambda t: 0.5 ** (t / 20)),
    ),
    # scikit-learn's "invscaling": eta0 / t ** power_t, t from 1
    "InverseScaling(0.5, 0.7)": (
        0.5, lambda o: torch_schedulers.LambdaLR(o, lambda t: 1 / math.pow(t + 1, 0.7)),
    ),
    "Polynomial(0.5, 60)": (0.5, lambda o: torch_schedulers.PolynomialLR(o, 60, 1.0)),
    "Polynomial(0.5, 60, power=2.5)": (0.5, lambda o: torch_schedulers.PolynomialLR(o, 60, 2.5)),
    "Cosine(0.5, 100, 0.01)": (
        0.5, lambda o: torch_schedulers.CosineAnnealingLR(o, 100, 0.01),
    ),
    "Cosine(0.5, 13, 0.01, restarts=True)": (
        0.5, lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 13, 1, 0.01),
    ),
    "Cosine(0.5, 7, 0.01, restarts=True, growth=2)": (
        0.5, lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 7, 2, 0.01),
    ),
    "Cosine(0.5, 3, restarts=True, growth=3)": (
        0.5, lambda o: torch_schedulers.CosineAnnealingWarmRestarts(o, 3, 3),
    ),
    "WarmUp(0.5, 20, 0.25)": (
        0.5, lambda o: torch_schedulers.LinearLR(o, 0.25, total_iters=20),
    ),
    "WarmUp(Exponential(0.5, 0.9), 20, 0.25)": (
        0.5, lambda o: warm(o, lambda o: torch_schedulers.ExponentialLR(o, 0.9), 20, 0.25),
    ),
    "OneCycle(0.5, 100)": (0.5, lambda o: torch_schedulers.OneCycleLR(o, 0.5, 100)),
    "OneCycle(0.5, 100, 0.45, 0.1, 0.05)": (
        0.5, lambda o: torch_schedulers.OneCycleLR(
            o, 0.5, 100, pct_start=0.45, div_factor=10, final_div_factor=20
        ),
    ),
    "lambda step: 0.5 / (1 + step)": (
        0.5, lambda o: torch_schedulers.LambdaLR(o, lambda t: 1 / (1 + t)),
    ),
}
# A loss that falls, stalls, rises and falls again; one entry for each epoch.
EPOCHS = np.concatenate(
    [np.linspace(2, 1, 12), np.full(10, 1.0), np.linspace(1, 1.2, 9), np.linspace(0.9, 0.5, 9),
     np.full(20, 0.50001)]
)


def plateau_rates():
    """The rate of each epoch: that of epoch k follows from the losses before it."""
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.5)
    scheduler = torch_schedulers.ReduceLROnPlateau(optimizer, factor=0.3, patience=4, min_lr=0.001)
    found = []
    for loss in EPOCHS:
        found.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    return np.array(found)


def main():
    """Write the file."""
    warnings.simplefilter("ignore")  # the last call of OneCycleLR goes past its end
    found = {}
    for name, (initial, make) in CASES.items():
        steps = STEPS - 1 if "OneCycle" in name else STEPS
        found[name] = rates(initial, make, steps)
    np.savez_compressed(
        Path(__file__).with_name("schedules.npz"),
        epochs=EPOCHS, plateau=plateau_rates(), **found,
    )


if __name__ == "__main__":
    main()
