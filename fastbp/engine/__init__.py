"""The compiled core: imports nothing of the rest; only ``fastbp._dispatch`` comes in."""
