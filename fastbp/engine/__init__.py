"""The compiled core. Nothing here imports the rest of fastbp; only ``fastbp._dispatch`` comes in."""
