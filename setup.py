"""Builds the compiled engine; everything else is declared in pyproject.toml.

Two environment variables serve the project's own tests, not its users:

``FASTBP_DEBUG=1``   bounds checks and C asserts on, optimisation down
``FASTBP_WERROR=1``  warnings of the C compiler are errors
"""

import os

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTBP_DEBUG", "0") != "0"
warnings_are_errors = os.environ.get("FASTBP_WERROR", "0") != "0"

compile_args = ["-O1", "-g", "-UNDEBUG"] if debug else ["-O3", "-march=x86-64-v4", "-mprefer-vector-width=512"]
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

modules = ["fastbp.engine.engine", "fastbp.engine.blas"]
extensions = [
    Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        include_dirs=[numpy.get_include()],
        define_macros=macros,
        extra_compile_args=compile_args,
    )
    for name in modules
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": debug,
            "wraparound": False,
            "initializedcheck": debug,
            "cdivision": True,
        },
    ),
    # `python -m fastbp` in the root of a clone imports the sources there, so that the compiled
    # modules must lie beside them after a plain `pip install .` too.
    options={"build_ext": {"inplace": True}},
)
