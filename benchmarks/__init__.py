"""Benchmarks of fastbp beside its peers, on the same work in the same run.

``python -m benchmarks`` in the root of a clone runs them; docs/benchmarks.md tells what is
measured, how each peer is configured and how to read the result.
"""
