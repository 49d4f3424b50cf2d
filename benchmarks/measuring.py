"""The process that measures: runs one workload on given cores and writes its series to stdout, as one line of JSON.

Arguments: the workload, this process's core, its partner's, the repetitions, "all" or "limits", and the name of a rival
or "". `runner` starts it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import uvloop

from benchmarks.catalogue import WORKLOADS
from benchmarks.harness import measure
from benchmarks.machine import Cores, pin


def _main(name: str, near: str, far: str, repetitions: str, extent: str, against: str) -> None:
    cores = Cores(int(near), int(far))
    pin(cores.near)
    workload = WORKLOADS[name]
    entries = workload.limits if extent == "limits" else workload.limits + workload.subject
    if against:
        entries += (workload.rivals[against].entry,)
    series = uvloop.run(measure(entries, cores, int(repetitions)))
    sys.stdout.write(json.dumps([asdict(each) for each in series]) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
