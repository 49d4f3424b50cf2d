"""Benchmarks of actorfw: `python -m benchmarks`, from the root of the repository.

Each figure is measured beside what limits it (a raw socket, a bare task) or competes with it (a pool of the standard
library), in the same run. How and why: docs/explanation/benchmarks.md. Not part of the installed package.
"""
