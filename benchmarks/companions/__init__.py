"""The other processes of the benchmarks, each a module run with `python -m`; see `benchmarks.companion`."""
