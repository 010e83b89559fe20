"""The one door to the compiled engine."""

from fastbp.engine import engine

__all__ = ["engine"]
