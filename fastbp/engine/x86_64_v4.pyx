"""The engine for AVX-512."""
include "engine.pyx"
