"""Makes optimizers.npz: the trajectories of PyTorch's optimizers on one small problem.

    pip install numpy torch==2.13.0
    python tests/golden/make_optimizers.py

A network of 5-7-4-3 (tanh, sigmoid, softmax with cross-entropy) takes 200 steps in float64, over
batches of 8 of 40 samples in order. PyTorch has no Lion: its steps are those of the paper's
algorithm 2, written out here.
"""

import itertools
from pathlib import Path

import numpy as np
import torch

WIDTHS = [5, 7, 4, 3]
SAMPLES, BATCH, STEPS = 40, 8, 200
KEPT = (1, 2, 10, 200)  # steps after which the parameters are written down


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of Chen and others, Symbolic discovery of optimization algorithms (2023)."""

    def __init__(self, parameters, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for theta in group["params"]:
                m = self.state[theta].setdefault("m", torch.zeros_like(theta))
                update = torch.sign(beta1 * m + (1 - beta1) * theta.grad)
                theta -= group["lr"] * (update + group["weight_decay"] * theta)
                m.mul_(beta2).add_((1 - beta2) * theta.grad)


# What fastbp calls it, its settings there, and the same optimizer of PyTorch's.
CASES = {
    "SGD(0.5)": lambda p: torch.optim.SGD(p, 0.5),
    "SGD(0.5, weight_decay=0.01)": lambda p: torch.optim.SGD(p, 0.5, weight_decay=0.01),
    "SGD(0.1, 0.9)": lambda p: torch.optim.SGD(p, 0.1, 0.9),
    "SGD(0.1, 0.9, 0.3)": lambda p: torch.optim.SGD(p, 0.1, 0.9, 0.3),
    "SGD(0.1, 0.9, nesterov=True, weight_decay=0.01)": lambda p: torch.optim.SGD(
        p, 0.1, 0.9, nesterov=True, weight_decay=0.01
    ),
    "AdaGrad(0.1)": lambda p: torch.optim.Adagrad(p, 0.1),
    "AdaGrad(0.1, 1e-6, 0.05, 0.1, weight_decay=0.01)": lambda p: torch.optim.Adagrad(
        p, 0.1, 0.05, 0.01, 0.1, 1e-6
    ),
    "RMSProp(0.01)": lambda p: torch.optim.RMSprop(p, 0.01),
    "RMSProp(0.01, 0.9, momentum=0.8)": lambda p: torch.optim.RMSprop(
        p, 0.01, 0.9, momentum=0.8
    ),
    "RMSProp(0.01, 0.9, centered=True)": lambda p: torch.optim.RMSprop(
        p, 0.01, 0.9, centered=True
    ),
    "RMSProp(0.01, 0.9, 1e-6, 0.8, True, weight_decay=0.01)": lambda p: torch.optim.RMSprop(
        p, 0.01, 0.9, 1e-6, 0.01, 0.8, True
    ),
    "AdaDelta()": lambda p: torch.optim.Adadelta(p),
    "AdaDelta(2.0, 0.8, 1e-4, weight_decay=0.01)": lambda p: torch.optim.Adadelta(
        p, 2.0, 0.8, 1e-4, 0.01
    ),
    "Adam(0.01)": lambda p: torch.optim.Adam(p, 0.01),
    "Adam(0.01, 0.8, 0.95, 1e-4, weight_decay=0.01)": lambda p: torch.optim.Adam(
        p, 0.01, (0.8, 0.95), 1e-4, 0.01
    ),
    "Adam(0.01, amsgrad=True)": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW(0.01, weight_decay=0.1)": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "AdamW(0.01, amsgrad=True)": lambda p: torch.optim.AdamW(p, 0.01, amsgrad=True),
    "Nadam(0.01)": lambda p: torch.optim.NAdam(p, 0.01),
    "Nadam(0.01, 0.8, 0.95, 1e-4, 0.02, weight_decay=0.01)": lambda p: torch.optim.NAdam(
        p, 0.01, (0.8, 0.95), 1e-4, 0.01, 0.02
    ),
    "Adamax(0.01)": lambda p: torch.optim.Adamax(p, 0.01),
    "Adamax(0.01, 0.8, 0.95, 1e-4, weight_decay=0.01)": lambda p: torch.optim.Adamax(
        p, 0.01, (0.8, 0.95), 1e-4, 0.01
    ),
    "Lion(0.01)": lambda p: Lion(p, 0.01),
    "Lion(0.01, 0.8, 0.95, weight_decay=0.1)": lambda p: Lion(p, 0.01, (0.8, 0.95), 0.1),
}
# Clipping comes before the optimizer: by value, or by the norm over all parameters.
CLIPPED = {
    "SGD(0.5, clip_value=0.01)": (lambda p: torch.optim.SGD(p, 0.5), "value", 0.01),
    "SGD(0.5, clip_norm=0.1)": (lambda p: torch.optim.SGD(p, 0.5), "norm", 0.1),
    "SGD(0.1, 0.9, clip_norm=0.1, weight_decay=0.01)": (
        lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01), "norm", 0.1,
    ),
    "Adam(0.01, clip_value=0.01)": (lambda p: torch.optim.Adam(p, 0.01), "value", 0.01),
    "Adam(0.01, clip_norm=0.1)": (lambda p: torch.optim.Adam(p, 0.01), "norm", 0.1),
}


def clip(parameters, how, limit):
    """Clip gradients in place; the norm without the 1e-6 that PyTorch adds to it."""
    if how == "value":
        torch.nn.utils.clip_grad_value_(parameters, limit)
    elif how == "norm":
        norm = torch.sqrt(sum((theta.grad**2).sum() for theta in parameters))
        for theta in parameters:
            theta.grad.mul_(min(1.0, limit / float(norm)))


def trajectory(start, X, labels, make, how=None, limit=None):
    """The flat parameters after each step of KEPT."""
    parameters, at = [], 0
    for n_in, n_out in itertools.pairwise(WIDTHS):
        for shape in ((n_in, n_out), (n_out,)):
            size = int(np.prod(shape))
            theta = torch.tensor(start[at : at + size].reshape(shape), requires_grad=True)
            parameters.append(theta)
            at += size
    optimizer = make(parameters)
    X, labels = torch.tensor(X), torch.tensor(labels)
    kept = []
    for step in range(STEPS):
        rows = slice(step * BATCH % SAMPLES, step * BATCH % SAMPLES + BATCH)
        A = torch.tanh(X[rows] @ parameters[0] + parameters[1])
        A = torch.sigmoid(A @ parameters[2] + parameters[3])
        loss = torch.nn.functional.cross_entropy(A @ parameters[4] + parameters[5], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        clip(parameters, how, limit)
        optimizer.step()
        if step + 1 in KEPT:
            kept.append(np.concatenate([theta.detach().numpy().ravel() for theta in parameters]))
    return np.array(kept)


def main():
    """Write the file."""
    torch.set_default_dtype(torch.float64)  # of NAdam's product of momenta, too
    rng = np.random.default_rng(0)
    X = rng.normal(size=(SAMPLES, WIDTHS[0]))
    labels = rng.integers(WIDTHS[-1], size=SAMPLES)
    size = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(WIDTHS))
    start = rng.normal(size=size) / 2
    cases = {name: (make,) for name, make in CASES.items()} | CLIPPED
    np.savez_compressed(
        Path(__file__).with_name("optimizers.npz"),
        X=X, labels=labels, start=start, kept=KEPT, batch=BATCH,
        **{name: trajectory(start, X, labels, *case) for name, case in cases.items()},
    )


if __name__ == "__main__":
    main()
