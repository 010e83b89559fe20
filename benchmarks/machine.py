"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastbp
from benchmarks.threads import available_cores

ALWAYS = ("fastbp", "numpy", "scipy")


def read_first_line(path: str) -> str | None:
    """Return the first line of a small file, or None where there is none."""
    with contextlib.suppress(OSError):
        return Path(path).read_text().splitlines()[0].strip()
    return None


def processor() -> str:
    """Return the processor's name as the system knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def caches() -> dict[str, str]:
    """Return the sizes of the first core's caches, where the system tells them."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level = read_first_line(f"{folder}/level")
        kind = read_first_line(f"{folder}/type")
        size = read_first_line(f"{folder}/size")
        if level and size and kind != "Instruction":
            found[f"L{level}"] = size
    return found


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed versions; what is not installed is left out."""
    found = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit() -> str | None:
    """Return the commit of the clone this runs in, with a plus sign if there are changes."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=10"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        return made.stdout.strip()
    return None


def engine() -> str | None:
    """Return the instruction set that fastbp's engine was compiled for, if it is installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            fastbp.show_config()
        lines = (line.split() for line in shown.getvalue().splitlines())
        return next((words[1] for words in lines if words[0] == "engine"), None)
    return None


def load() -> float | None:
    """Return the number of processes waiting for a core, averaged over a minute."""
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None


def describe(distributions: Iterable[str]) -> dict[str, Any]:
    """Describe the machine, the interpreter and the installed versions."""
    return {
        "processor": processor(),
        "architecture": platform.machine(),
        "cores": available_cores(),
        "caches": caches(),
        "system": f"{platform.system()} {platform.release()}",
        "governor": read_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": load(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": commit(),
        "engine": engine(),
        "versions": versions([*ALWAYS, *distributions]),
    }
