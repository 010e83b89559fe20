"""The engine for NEON, which every 64-bit ARM has."""
include "engine.pyx"
