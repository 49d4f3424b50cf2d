"""Runs the simulation suite in several processes: `python -m tests.sim.shards [SEEDS [PROCESSES]]`.

The seeds of the whole nodes are shared out; each other file of this folder is one job. What fails is shown in full,
with the command that runs it again.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
SEEDED = "test_cluster_faults.py"
PARTS = 8
OTHERS = "40"  # seeds of the files that draw from seeds too
PATIENCE = "900"  # seconds for one test: the larger bounds take minutes where other work shares the cores


def run(job: tuple[str, dict[str, str]]) -> tuple[str, int, str, float]:
    """One pytest process: its title, exit status, output and seconds."""
    name, more = job
    began = time.monotonic()
    options = ["-q", "-p", "no:cacheprovider", f"--timeout={PATIENCE}"]
    command = [sys.executable, "-m", "pytest", *options, str(FOLDER / name)]
    env = os.environ | {"PYTHONHASHSEED": "0", "ACTORFW_MODEL": "full"} | more
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=FOLDER.parent.parent, check=False)
    title = " ".join((name, *(f"{key}={value}" for key, value in more.items())))
    return title, done.returncode, done.stdout + done.stderr, time.monotonic() - began


def main(seeds: str = "2000", processes: str = str(os.cpu_count() or 1)) -> int:
    """Run everything; returns the exit status."""
    jobs: list[tuple[str, dict[str, str]]] = [
        (SEEDED, {"ACTORFW_SIM_SEEDS": seeds, "ACTORFW_SIM_SHARD": f"{part}/{PARTS}"}) for part in range(PARTS)
    ]
    others = sorted(path.name for path in FOLDER.glob("test_*.py") if path.name != SEEDED)
    jobs += [(name, {"ACTORFW_SIM_SEEDS": OTHERS}) for name in others]
    failed = 0
    with ThreadPoolExecutor(int(processes)) as pool:
        for title, status, output, seconds in pool.map(run, jobs):
            last = output.strip().rpartition("\n")[2]
            print(f"{'ok' if status == 0 else 'FAILED'}  {title}  {seconds:.0f} s  {last}", flush=True)
            if status:
                failed += 1
                print(output, flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(jobs)} jobs, {failed} failed, {used.ru_utime + used.ru_stime:.0f} CPU seconds", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
