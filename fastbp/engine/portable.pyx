"""The engine for plain C and BLAS, for any processor and compiler."""
include "engine.pyx"
