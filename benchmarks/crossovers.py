"""Both sides of every crossover of the engine: ``python -m benchmarks.crossovers``.

A crossover is a size from which on the engine takes another path. For each one, two engines are
built from the sources beside this package, one that always takes the path before it and one that
always takes the path after it, and sizes to either side are timed by turns. Where the ratio passes
1 is where the crossover belongs on this machine; `fastbp/engine/crossovers.h` says where it is.

It needs a C compiler and some minutes for each crossover.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import threads
from benchmarks.arithmetic import Summary, pair_ratios, summarize
from benchmarks.run import ROOT

NEVER, ALWAYS = "(1L << 40)", "0L"  # reached by a size
SOURCES = ("setup.py", "pyproject.toml", "README.md", "fastbp")
PAIRS = 15
SAMPLE = 0.02  # seconds of one sample at least


@dataclass(frozen=True)
class Work:
    """One size.

    Parameters
    ----------
    label : str
    task : {"predict", "step"}
    widths : tuple of int
    rows : int
    threads : int
    """

    label: str
    task: str
    widths: tuple[int, ...]
    rows: int
    threads: int = 1


@dataclass(frozen=True)
class Crossover:
    """A crossover, and how to see both of its sides.

    Parameters
    ----------
    meaning : str
        What the numbers in the labels of `works` count.
    before, after : dict of str to str
        Macros that make the engine take the path before it, or after it, whatever the size.
    works : tuple of Work
        Sizes, ascending.
    """

    meaning: str
    before: dict[str, str]
    after: dict[str, str]
    works: tuple[Work, ...]


SIDES = (128, 256, 384, 512, 768, 1024, 2048)
KIB = 1024

CROSSOVERS = {
    "WHOLE_WEIGHT": Crossover(
        "KiB of W, predicting 32 rows",
        {"WHOLE_WEIGHT": NEVER},
        {"WHOLE_WEIGHT": ALWAYS},
        tuple(Work(f"{4 * n * n // KIB}", "predict", (n, n), 32) for n in SIDES),
    ),
    "LARGE_WEIGHT": Crossover(
        "KiB of W, predicting 256 rows",
        {"WHOLE_WEIGHT": ALWAYS, "LARGE_WEIGHT": NEVER},
        {"WHOLE_WEIGHT": ALWAYS, "LARGE_WEIGHT": ALWAYS},
        tuple(Work(f"{4 * n * n // KIB}", "predict", (n, n), 256) for n in SIDES),
    ),
    "MANY_ROWS": Crossover(
        "rows, predicting through 2048 x 2048",
        {"MANY_ROWS": NEVER},
        {"MANY_ROWS": ALWAYS},
        tuple(Work(f"{n}", "predict", (2048, 2048), n) for n in (8, 16, 32, 64, 128, 256)),
    ),
    "LARGE_DELTA": Crossover(
        "KiB of D, steps of 256 rows through layers as wide",
        {"LARGE_DELTA": NEVER},
        {"LARGE_DELTA": ALWAYS},
        tuple(Work(f"{n}", "step", (n, n, n), 256) for n in SIDES[3:]),
    ),
    "DOT_ROWS": Crossover(
        "rows, steps of 512-512-512",
        {"DOT_ROWS": NEVER},
        {"DOT_ROWS": ALWAYS},
        tuple(Work(f"{n}", "step", (512, 512, 512), n) for n in (2, 3, 4, 5, 6, 8, 12)),
    ),
    "DELTA_PANELS": Crossover(
        "rows, steps of 512-512-512",
        {"DELTA_PANELS": "8L"},
        {"DELTA_PANELS": "0L"},
        tuple(Work(f"{n}", "step", (512, 512, 512), n) for n in (8, 16, 24, 32, 48, 64, 96, 128)),
    ),
    "DELTA_WIDTH": Crossover(
        "columns of D, steps of 32 rows through 512-512-n",
        {"DELTA_WIDTH": NEVER},
        {"DELTA_WIDTH": ALWAYS},
        tuple(Work(f"{n}", "step", (512, 512, n), 32) for n in (32, 64, 128, 256, 512, 1024)),
    ),
    "LAID_OUT_WIDTH": Crossover(
        "columns of D, steps of 32 rows through 512-n",
        {"LAID_OUT_WIDTH": NEVER},
        {"LAID_OUT_WIDTH": ALWAYS},
        tuple(Work(f"{n}", "step", (512, n), 32) for n in (32, 64, 128, 256, 512, 1024)),
    ),
    "GIL_FLOPS": Crossover(
        "1000 operations, predicting one row through n x n",
        {"GIL_FLOPS": "1e18"},
        {"GIL_FLOPS": "0."},
        tuple(Work(f"{n * n // 500}", "predict", (n, n), 1) for n in SIDES),
    ),
    "TEAM_FLOPS": Crossover(
        "million operations, steps of n rows through 128-128-128 on two threads",
        {"TEAM_FLOPS": "1e18"},
        {"TEAM_FLOPS": "0."},
        tuple(
            Work(f"{6 * n * 2 * 128**2 // 10**6}", "step", (128, 128, 128), n, 2)
            for n in (16, 32, 64, 128, 256, 512)
        ),
    ),
    "TEAM_CALL_FLOPS": Crossover(
        "million operations, predicting n rows through 512-512 on two threads",
        {"TEAM_CALL_FLOPS": "1e18"},
        {"TEAM_CALL_FLOPS": "0.", "TEAM_FLOPS": "0."},
        tuple(
            Work(f"{2 * n * 512**2 // 10**6}", "predict", (512, 512), n, 2)
            for n in (16, 32, 64, 128, 256, 512, 1024)
        ),
    ),
}


def build(macros: dict[str, str], folder: Path) -> None:
    """Build the package in a folder of its own, with these macros set."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "*.pyd"))
        else:
            shutil.copy(source, folder)
    flags = " ".join(f'"-D{name}={value}"' for name, value in macros.items())
    made = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} {flags}".strip()},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"building with {flags} failed:\n{made.stderr[-2000:]}")


@contextmanager
def engine(folder: Path, n_threads: int) -> Iterator[Callable[[Work], float]]:
    """Start a process that times what it is asked to, with the package in that folder."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.crossovers", "--worker", str(n_threads)],
        cwd=folder,
        env={**os.environ, **threads.environment(n_threads), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def timer(work: Work) -> float:
            print(json.dumps(asdict(work)), file=process.stdin, flush=True)
            return float(process.stdout.readline())

        try:
            yield timer
        finally:
            process.kill()


def answer(n_threads: int) -> None:
    """Time one piece of work for each line of standard input: the seconds of a call or a step."""
    threads.bind(n_threads)
    import numpy as np

    import fastbp

    prepared: dict[str, Callable[[], float]] = {}

    def prepare(task: str, widths: list[int], rows: int, allowed: int) -> Callable[[], float]:
        layers = [fastbp.Dense(width, "relu") for width in widths[1:]]
        net = fastbp.Network(widths[0], layers, optimizer=fastbp.SGD(1e-6), seed=0)
        flops = 6.0 * net.parameters.size * rows
        steps = max(1, min(1000, int(SAMPLE * 5e10 / flops)))
        rng = np.random.default_rng(0)
        X = rng.normal(size=(rows * steps, widths[0])).astype(np.float32)
        Y = rng.normal(size=(rows * steps, widths[-1])).astype(np.float32)
        parts = [X[start : start + rows] for start in range(0, len(X), rows)]
        first = net.parameters.copy()

        def once() -> float:
            net.parameters[:] = first
            started = time.perf_counter()
            if task == "step":
                net.fit(X, Y, batch_size=rows, n_threads=allowed)
            else:
                for part in parts:
                    net.predict(part, n_threads=allowed)
            return (time.perf_counter() - started) / steps

        once()
        return once

    for line in sys.stdin:
        work: dict[str, Any] = json.loads(line)
        if line not in prepared:
            prepared.clear()
            prepared[line] = prepare(work["task"], work["widths"], work["rows"], work["threads"])
        print(prepared[line](), flush=True)


def compare(crossover: Crossover) -> list[tuple[str, Summary, Summary, Summary]]:
    """Measure one crossover: label, seconds before and after it, and their ratio, for each size."""
    n_threads = max(work.threads for work in crossover.works)
    lines = []
    with ExitStack() as stack:
        timers = []
        for macros in (crossover.before, crossover.after):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            build(macros, folder)
            timers.append(stack.enter_context(engine(folder, n_threads)))
        for work in crossover.works:
            pairs = []
            for turn in range(PAIRS):
                order = timers if turn % 2 else timers[::-1]
                spent = {timer: timer(work) for timer in order}
                pairs.append((spent[timers[1]], spent[timers[0]]))
            after, before = (summarize(side) for side in zip(*pairs, strict=True))
            lines.append((work.label, before, after, summarize(pair_ratios(pairs))))
    return lines


def table(name: str) -> str:
    """Measure a crossover, and write it down as Markdown."""
    crossover = CROSSOVERS[name]
    rows = [
        f"| {label} | {before.median * 1e6:.2f} | {after.median * 1e6:.2f} | {ratio.median:.2f} "
        f"({ratio.q1:.2f} to {ratio.q3:.2f}) |"
        for label, before, after, ratio in compare(crossover)
    ]
    head = f"| {crossover.meaning} | us before it | us after it | before over after |"
    return "\n".join([f"### {name}", "", head, "|---|---|---|---|", *rows, ""])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.crossovers",
        description="Build both sides of the engine's crossovers, and time them by turns.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CROSSOVERS))
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        answer(options.worker)
        return
    if unknown := set(options.names) - set(CROSSOVERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CROSSOVERS)}")
    for name in options.names or CROSSOVERS:
        print(table(name), flush=True)


if __name__ == "__main__":
    main()
