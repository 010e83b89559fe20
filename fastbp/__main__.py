"""The command line: ``python -m fastbp train``."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from numpy.typing import NDArray

import fastbp
from fastbp import SGD, Dense, Network, datasets
from fastbp.callbacks import ProgressBar

HELD_OUT = 0.25
TIMED_PREDICTIONS = 10_000


def stratified_split(y: NDArray[np.int64], part: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for training and held out, with the same part of every class held out."""
    rng = np.random.default_rng(seed)
    held_out: list[int] = []
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        held_out.extend(members[: round(part * len(members))])
    return sorted(set(range(len(y))) - set(held_out)), sorted(held_out)


def train(options: argparse.Namespace) -> None:
    """Train on the digits; print the network, every epoch, accuracy and times."""
    X, y = datasets.load_digits()
    train_rows, test_rows = stratified_split(y, HELD_OUT, seed=0)
    X = (X - X[train_rows].mean()) / X[train_rows].std()
    X_test, y_test = X[test_rows], y[test_rows]

    net = Network(
        64,
        [Dense(256, "relu"), Dense(10, "softmax")],
        loss="cross_entropy",
        optimizer=SGD(options.learning_rate),
        seed=options.seed,
    )
    print(net)
    print(f"digits: {len(train_rows)} samples to train on, {len(test_rows)} held out\n")

    def accuracy(network: Network) -> float:
        return float(np.mean(network.predict(X_test).argmax(axis=1) == y_test))

    history = net.fit(
        X[train_rows],
        y[train_rows],
        epochs=options.epochs,
        batch_size=options.batch_size,
        callbacks=[ProgressBar(metrics={"held-out accuracy": accuracy})],
    )

    x, out = X_test[0].copy(), np.empty(net.n_outputs, net.dtype)
    started = time.perf_counter()
    for _ in range(TIMED_PREDICTIONS):
        net.predict(x, out=out)
    prediction = (time.perf_counter() - started) / TIMED_PREDICTIONS
    print()
    print(f"held-out accuracy      {accuracy(net):.2%}")
    print(f"time training          {sum(history.seconds):.3f} s")
    print(f"time per epoch         {1e3 * np.median(history.seconds):.2f} ms")
    print(f"time per prediction    {1e6 * prediction:.2f} us (one row)")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastbp", description=fastbp.__doc__)
    parser.add_argument("--version", action="version", version=f"fastbp {fastbp.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train a network on the digits that come along")
    command.add_argument("--epochs", type=int, default=30)
    command.add_argument("--batch-size", type=int, default=8)
    command.add_argument("--learning-rate", type=float, default=0.2)
    command.add_argument("--seed", type=int, default=0)
    commands.add_parser("config", help="print what runs here")
    options = parser.parse_args(arguments)
    if options.command == "config":
        fastbp.show_config()
        return 0
    try:
        train(options)
    except (TypeError, ValueError, FloatingPointError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2 if not isinstance(error, FloatingPointError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
