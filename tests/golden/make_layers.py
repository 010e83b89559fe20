"""Makes layers.npz: what PyTorch makes of normalisations and residual blocks in 200 steps.

    pip install numpy torch==2.13.0
    python tests/golden/make_layers.py

Each network takes 5 inputs to 3 classes by cross-entropy, in float64, over batches of 8 of 40
samples in order. What is written down: the parameters after some steps, the running statistics
after the last, and the probabilities that the network then predicts.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

SAMPLES, BATCH, STEPS = 40, 8, 200
KEPT = (1, 2, 10, 200)  # steps after which the parameters are written down


class Residual(nn.Sequential):
    """x + layers(x)."""

    def forward(self, x):
        return x + super().forward(x)


# The layers as fastbp has them, its optimizer, and both of PyTorch's.
CASES = {
    'Dense(7), BatchNorm("tanh"), Dense(3, "softmax"); SGD(0.1)': (
        lambda: [nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)],
        lambda p: torch.optim.SGD(p, 0.1),
    ),
    'BatchNorm(momentum=0.3, epsilon=0.01), Dense(7, "relu"), Dense(3, "softmax"); Adam(0.01)': (
        lambda: [nn.BatchNorm1d(5, 0.01, 0.3), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)],
        lambda p: torch.optim.Adam(p, 0.01),
    ),
    'Dense(20), LayerNorm("gelu"), Dense(3, "softmax"); SGD(0.1, 0.9)': (
        lambda: [nn.Linear(5, 20), nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 3)],
        lambda p: torch.optim.SGD(p, 0.1, 0.9),
    ),
    'LayerNorm(epsilon=0.01), Dense(7, "tanh"), Dense(3, "softmax"); Adam(0.01)': (
        lambda: [nn.LayerNorm(5, 0.01), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)],
        lambda p: torch.optim.Adam(p, 0.01),
    ),
    'Dense(6, "tanh"), Residual([LayerNorm(), Dense(9, "relu"), Dense(6)]), BatchNorm(), '
    'Dense(3, "softmax"); SGD(0.02)': (
        lambda: [
            nn.Linear(5, 6), nn.Tanh(),
            Residual(nn.LayerNorm(6), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 6)),
            nn.BatchNorm1d(6), nn.Linear(6, 3),
        ],
        lambda p: torch.optim.SGD(p, 0.02),
    ),
    'Residual([Dense(5, "tanh"), Residual([BatchNorm("silu"), Dense(5)]), Residual([Dense(5)])]), '
    'Dense(3, "softmax"); Adam(0.01)': (
        lambda: [
            Residual(
                nn.Linear(5, 5), nn.Tanh(),
                Residual(nn.BatchNorm1d(5), nn.SiLU(), nn.Linear(5, 5)),
                Residual(nn.Linear(5, 5)),
            ),
            nn.Linear(5, 3),
        ],
        lambda p: torch.optim.Adam(p, 0.01),
    ),
}


def flat(network):
    """The parameters in the order of fastbp, whose W are (n_in, n_out)."""
    return np.concatenate([theta.detach().numpy().T.ravel() for theta in network.parameters()])


def trajectory(start, X, labels, make_layers, make_optimizer):
    """The flat parameters after each step of KEPT; running statistics; predictions."""
    network = nn.Sequential(*make_layers())
    at = 0
    with torch.no_grad():
        for theta in network.parameters():
            piece = torch.tensor(start[at : at + theta.numel()])
            theta.copy_(piece.reshape(theta.T.shape).T if theta.ndim == 2 else piece)
            at += theta.numel()
    optimizer = make_optimizer(network.parameters())
    X, labels = torch.tensor(X), torch.tensor(labels)
    kept = []
    for step in range(STEPS):
        rows = slice(step * BATCH % SAMPLES, step * BATCH % SAMPLES + BATCH)
        loss = nn.functional.cross_entropy(network(X[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in KEPT:
            kept.append(flat(network))
    running = [
        buffer.numpy() for name, buffer in network.named_buffers() if name.rpartition(".")[2]
        in ("running_mean", "running_var")
    ]
    network.eval()
    predictions = torch.softmax(network(X), dim=1).detach().numpy()
    return np.array(kept), np.concatenate([*running, []]), predictions


def main():
    """Write the file."""
    torch.set_default_dtype(torch.float64)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(SAMPLES, 5)) * [1, 2, 3, 0.5, 0.1] + [0, 1, -2, 5, 0]
    labels = rng.integers(3, size=SAMPLES)
    start = rng.normal(size=1000) / 2
    arrays = {}
    for name, case in CASES.items():
        for kind, array in zip(("parameters", "running", "predictions"),
                               trajectory(start, X, labels, *case), strict=True):
            arrays[f"{name}: {kind}"] = array
    np.savez_compressed(
        Path(__file__).with_name("layers.npz"),
        X=X, labels=labels, start=start, kept=KEPT, batch=BATCH, **arrays,
    )


if __name__ == "__main__":
    main()
