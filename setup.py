"""Builds the compiled engine; everything else is declared in pyproject.toml.

Two environment variables serve the project's own tests, not its users:

``FASTBP_DEBUG=1``   bounds checks and C asserts on, optimisation down
``FASTBP_WERROR=1``  warnings of the C compiler are errors
"""

import os
import platform
import sys
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

debug = os.environ.get("FASTBP_DEBUG", "0") != "0"
warnings_are_errors = os.environ.get("FASTBP_WERROR", "0") != "0"

# What is built with other flags lies elsewhere, so that it never passes for the usual build.
build = "build/debug" if debug else "build/strict" if warnings_are_errors else "build"

# The engine is compiled once for each instruction set; fastbp/_dispatch.py picks one at import.
VARIANTS = {
    "x86_64": {
        "x86_64_v2": ["-march=x86-64-v2"],
        "x86_64_v3": ["-march=x86-64-v3"],
        "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    },
    "aarch64": {"neon": []},
}
machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
    platform.machine().lower(), platform.machine().lower()
)
gnu = sys.platform != "win32"

compile_args = (["-O1", "-g", "-UNDEBUG"] if debug else ["-O3"]) if gnu else []
if gnu:
    # A short loop that lies across two lines of the decoded-instruction cache may take twice its
    # time, and whether it does changes with any line of code before it.
    compile_args += ["-falign-loops=32"]
    # Nobody looks at the floating-point exception flags or at errno; loops over exp vectorise
    # then. No result changes: -ffast-math and its kin would change them, and stay out.
    compile_args += ["-fno-trapping-math", "-fno-math-errno"]
macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if not debug:
    macros.append(("CYTHON_WITHOUT_ASSERTIONS", "1"))
if warnings_are_errors:
    # What Cython itself generates has unused helpers and missing initialisers; all else is ours.
    compile_args += ["-Wall", "-Wextra", "-Werror"]
    compile_args += [f"-Wno-{name}" for name in (
        "unused-function", "unused-parameter", "missing-field-initializers", "cast-function-type",
        "sign-compare", "unused-variable",
    )]


def extension(name, args=(), defines=()):
    """Return one compiled module of the engine."""
    return Extension(
        f"fastbp.engine.{name}",
        [f"fastbp/engine/{name}.pyx"],
        include_dirs=[numpy.get_include(), "fastbp/engine", "fastbp/include"],
        depends=sorted(glob("fastbp/engine/*.h") + glob("fastbp/include/*.h")),
        define_macros=[*macros, *defines],
        extra_compile_args=[*compile_args, *args],
    )


class BuildBesideSources(build_ext):
    """Copies the compiled modules beside the sources, whatever is being built.

    ``python -m fastbp`` in the root of a clone imports the sources there, after a plain
    ``pip install .`` too.
    """

    def initialize_options(self):
        """Compile the variants side by side, in an editable build too."""
        super().initialize_options()
        self.parallel = os.cpu_count() or 1

    def run(self):
        """Build, then copy."""
        super().run()
        self.copy_extensions_to_source()


extensions = [
    extension("cpu"),
    extension("blas"),
    extension("portable", defines=[("FASTBP_PORTABLE", "1")]),
]
if gnu:
    extensions += [extension(name, args) for name, args in VARIANTS.get(machine, {}).items()]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=f"{build}/cython",
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": debug,
            "wraparound": False,
            "initializedcheck": debug,
            "cdivision": True,
        },
    ),
    cmdclass={"build_ext": BuildBesideSources},
    options={"build": {"build_base": build}},
)
