"""The standalone C header beside mlpfile's generated code: ``python -m benchmarks.standalone_c``.

Each network is written by `Network.export_c` and by ``mlpfile.codegen``, as C and as C++ on Eigen.
All of it is compiled by the same compiler with the same flags, each into a library of its own, with
a loop in C around it that calls it as often as it is told and reads the clock of the thread's
processor time, which stands still while another process has the core. Outputs are checked first;
then the sides are timed by turns. `Network.predict(x, out)`, called from Python, runs along:
a call of it costs the arithmetic and some tenths of a microsecond.

It needs a C and a C++ compiler, and ``eigenpip`` for the code on Eigen.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import subprocess
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import mlpfile
import numpy as np

from benchmarks.arithmetic import pair_ratios, summarize
from benchmarks.measure import no_garbage_collection
from benchmarks.peers import mlp_file, ours
from benchmarks.workloads import Array, Cell, Model, make_data, make_model

# mlpfile's own example is among them.
NETWORKS = ("tiny", "example", "small", "mnist")
PAIRS = 31
SAMPLE = 0.003  # seconds
FLAGS = ("-O3", "-march=native")

LOOP = """
#include <time.h>
{extern} double seconds(const float *x, float *out, long calls)
{{
    struct timespec before, after;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    for (long i = 0; i < calls; ++i) {{
        {predict}(x, out);
        __asm__ volatile("" : : "r"(x), "r"(out) : "memory"); /* each call counts */
    }}
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    return (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
}}
"""

Timer = Callable[[int], float]  # from a number of calls to seconds


def compiled(source: str, folder: Path, name: str, compiler: str, flags: list[str]) -> ctypes.CDLL:
    """Compile one source file into a library, and load it."""
    suffix = ".cpp" if compiler.endswith("++") else ".c"
    path, library = folder / f"{name}{suffix}", folder / f"{name}.so"
    path.write_text(source)
    subprocess.run(
        [compiler, *FLAGS, *flags, "-shared", "-fPIC", "-o", str(library), str(path)], check=True
    )
    loaded = ctypes.CDLL(str(library))
    loaded.seconds.restype = ctypes.c_double
    loaded.seconds.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
    return loaded


def generated(model: Model, folder: Path, *, eigen: bool) -> str:
    """Return what mlpfile generates."""
    with contextlib.redirect_stdout(io.StringIO()):  # it says where it writes to
        mlpfile.codegen(mlp_file.load(model), outdir=str(folder), eigen=eigen)
    return (folder / f"mlp.{'cpp' if eigen else 'c'}").read_text()


def sides(model: Model, x: Array, cc: str, cxx: str, folder: Path) -> dict[str, Timer]:
    """Compile every side, check that it computes the network, and return what times it."""
    net = ours.network(model, softmax=False)
    net.export_c(folder / "model.h")
    standalone = ["-std=gnu99"]
    libraries = {
        "header": compiled(
            '#include "model.h"' + LOOP.format(extern="", predict="model_predict"),
            folder, "header", cc, standalone,
        ),
        "mlpfile, C": compiled(
            generated(model, folder, eigen=False) + LOOP.format(extern="", predict="forward"),
            folder, "plain", cc, standalone,
        ),
    }
    try:
        import eigenpip
    except ImportError:
        print("eigenpip is not installed: mlpfile's code on Eigen is left out")
    else:
        libraries["mlpfile, Eigen"] = compiled(
            generated(model, folder, eigen=True)
            + LOOP.format(extern='extern "C"', predict="forward"),
            folder, "eigen", cxx,
            [f"-I{eigenpip.get_include()}", "-fno-exceptions", "-DEIGEN_NO_MALLOC", "-w"],
        )
    expected = net.predict(x)
    found: dict[str, Timer] = {}
    for name, library in libraries.items():
        out = np.full_like(expected, np.nan)
        library.seconds(x.ctypes.data, out.ctypes.data, 1)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)

        def timer(
            calls: int, library: ctypes.CDLL = library, out: Array = out
        ) -> float:
            return float(library.seconds(x.ctypes.data, out.ctypes.data, calls))

        found[name] = timer

    out, predict = expected.copy(), net.predict

    def from_python(calls: int) -> float:
        started = time.thread_time()
        for _ in repeat(None, calls):
            predict(x, out)
        return time.thread_time() - started

    found["predict, Python"] = from_python
    return found


def race(timers: dict[str, Timer]) -> dict[str, list[float]]:
    """Time all sides by turns: seconds of a call in each of the turns."""
    calls = {}
    for name, timer in timers.items():
        calls[name] = 10
        while (spent := timer(calls[name])) < SAMPLE:
            calls[name] = int(calls[name] * min(10, 1.2 * SAMPLE / max(spent, 1e-7))) + 1
    times: dict[str, list[float]] = {name: [] for name in timers}
    names = list(timers)
    with no_garbage_collection():
        for turn in range(PAIRS):
            for name in names if turn % 2 else names[::-1]:
                times[name].append(timers[name](calls[name]) / calls[name])
    return times


def report(network: str, zeros: float, cc: str, cxx: str) -> list[str]:
    """Measure one network: a line of the table for each side."""
    cell = Cell("latency", network, 1)
    model, x = make_model(cell, softmax=False), make_data(cell, 1)[0][0]
    if zeros:
        x[np.random.default_rng(3).random(len(x)) < zeros] = 0
    with tempfile.TemporaryDirectory() as folder:
        times = race(sides(model, x, cc, cxx, Path(folder)))
    header = times["header"]
    lines = []
    for name, spent in times.items():
        ratio = summarize(pair_ratios(list(zip(header, spent, strict=True))))
        lines.append(
            f"| {'-'.join(map(str, model.widths))} | {name} | "
            f"{summarize(spent).median * 1e6:.3f} | {ratio.median:.2f} "
            f"({ratio.q1:.2f} to {ratio.q3:.2f}) |"
        )
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.standalone_c",
        description="Time the standalone C header beside mlpfile's generated code.",
    )
    parser.add_argument("--cc", default="cc", help="the C compiler")
    parser.add_argument("--cxx", default="c++", help="the C++ compiler")
    parser.add_argument(
        "--zeros", type=float, default=0.0, help="the part of the inputs that is zero"
    )
    options = parser.parse_args()
    print(f"{options.cc} {' '.join(FLAGS)}, float32, one row")
    print("| network | side | us | time over the header's |\n|---|---|---|---|")
    for network in NETWORKS:
        print(*report(network, options.zeros, options.cc, options.cxx), sep="\n", flush=True)


if __name__ == "__main__":
    main()
