"""Builds embed_cython.pyx: what a package of your own would do."""

import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastbp

# without it, prange is one thread
openmp = [] if sys.platform in ("darwin", "win32") else ["-fopenmp"]

setup(
    name="embed_cython",
    ext_modules=cythonize([
        Extension(
            "embed_cython", ["embed_cython.pyx"], include_dirs=[fastbp.get_include()],
            extra_compile_args=openmp, extra_link_args=openmp,
        )
    ]),
)
