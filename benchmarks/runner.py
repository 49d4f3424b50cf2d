"""Runs one workload at one placement in a fresh process, and brings back what it measured."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys

from benchmarks.harness import BenchmarkError, Series, Workload
from benchmarks.machine import ROOT, Cores, Placement, clean_environment
from benchmarks.sizes import VARIABLE, Scale

__all__ = ["run"]

_PATIENCE_S = 2400.0


def run(
    workload: Workload,
    placement: Placement,
    repetitions: int,
    *,
    limits_only: bool,
    scale: Scale = Scale.FULL,
    against: str = "",
) -> list[Series]:
    """Measures in a fresh process, with this rival if the workload has it.

    Raises:
        BenchmarkError: the placement can't be had here, or the process failed; with the end of what it wrote.
    """
    cores = Cores.choose(placement)
    if cores is None:
        raise BenchmarkError(f"{placement}: needs Linux, and as many cores as that")
    command = [sys.executable, "-m", "benchmarks.measuring", workload.name, str(cores.near), str(cores.far)]
    command += [str(repetitions), "limits" if limits_only else "all", against]
    # A secret for this run: measuring leaves no file in the user's home.
    environment = {**clean_environment(), "ACTORFW_SECRET": secrets.token_hex(32), VARIABLE: scale}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=True
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"not done after {_PATIENCE_S:.0f} s; killed") from None
    except subprocess.CalledProcessError as failure:
        raise BenchmarkError(f"exit status {failure.returncode}:\n{failure.stderr[-3000:].strip()}") from None
    sys.stderr.write(done.stderr)  # a warning that it gave concerns the reader too
    return [Series(**each) for each in json.loads(done.stdout.splitlines()[-1])]
