"""The engine for SSE4.2."""
include "engine.pyx"
