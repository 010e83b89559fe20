"""The engine for AVX2 and FMA."""
include "engine.pyx"
