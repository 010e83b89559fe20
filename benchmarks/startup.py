"""Start-up: how long an import takes, and how much an installation weighs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.arithmetic import summarize
from benchmarks.cells import written

# What a user of each imports; NumPy is what fastbp cannot do without.
MODULES = {
    "numpy": "numpy",
    "fastbp": "fastbp",
    "scikit-learn": "sklearn.neural_network",
    "jax": "jax.numpy",
    "onnxruntime": "onnxruntime",
    "mlpfile": "mlpfile",
    "torch": "torch",
}
# Kinds of files of an editable installation that a wheel holds too.
IN_A_WHEEL = {".py", ".pyi", ".so", ".pyd", ".dylib", ".npz", ".txt", ".typed"}


def import_seconds(module: str, folder: str) -> float:
    """Return the time of one import in a new interpreter, whose own start does not count."""
    code = (
        "import time; started = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - started)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return float(made.stdout.split()[-1])


def is_installed(name: str) -> bool:
    """Whether the module can be imported, judged without importing it."""
    return importlib.util.find_spec(MODULES[name].partition(".")[0]) is not None


def import_times(rounds: int, deadline: float, tick: Callable[[str], None]) -> dict[str, Any]:
    """Measure every import by turns, and its ratio to NumPy's in the same round.

    Parameters
    ----------
    rounds : int
        A first round, which may compile and which fills the file cache, does not count.
    deadline : float
        As of `time.time`; no new round is begun after it.
    tick : callable
        Called with a name before each measurement.
    """
    times: dict[str, list[float]] = {name: [] for name in MODULES if is_installed(name)}
    with tempfile.TemporaryDirectory() as folder:
        for counts in [False] + [True] * rounds:
            if times["numpy"] and time.time() > deadline:
                break
            for name, measured in times.items():
                tick(name)
                try:
                    seconds = import_seconds(MODULES[name], folder)
                except (subprocess.CalledProcessError, ValueError):
                    continue  # found here but not elsewhere: fastbp in a clone, not installed
                if counts:
                    measured.append(seconds)
    return {
        name: {
            "seconds": written(summarize(measured)),
            "by_numpy": written(
                summarize([a / b for a, b in zip(measured, times["numpy"], strict=False)])
            ),
        }
        for name, measured in times.items()
        if measured
    }


def requirements(name: str) -> Iterator[str]:
    """Yield the distributions that one requires, without its extras."""
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def with_needs(name: str) -> set[str]:
    """Return a distribution and all that it needs, as far as it is installed."""
    found: set[str] = set()
    waiting = [str(canonicalize_name(name))]
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        try:
            waiting += requirements(each)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(each)
    return found


def is_editable(distribution: importlib.metadata.Distribution) -> bool:
    """Whether a distribution is a link to a source tree."""
    url = json.loads(distribution.read_text("direct_url.json") or "{}")
    return bool(url.get("dir_info", {}).get("editable"))


def installed_bytes(name: str) -> int:
    """Add up the files of one distribution, without what Python has compiled from them."""
    distribution = importlib.metadata.distribution(name)
    if is_editable(distribution):
        spec = importlib.util.find_spec(name)
        folders = (spec.submodule_search_locations if spec else None) or []
        paths = [path for folder in folders for path in Path(folder).rglob("*")]
        paths = [path for path in paths if path.suffix in IN_A_WHEEL]
    else:
        paths = [Path(str(file.locate())) for file in distribution.files or []]
        paths = [path for path in paths if path.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file())


def installed_sizes() -> dict[str, dict[str, int]]:
    """Return the bytes of each library alone, and with all that it needs."""
    return {
        name: {
            "alone": installed_bytes(name),
            "with_needs": sum(map(installed_bytes, with_needs(name))),
        }
        for name in MODULES
        if is_installed(name) and with_needs(name)
    }
