"""The Savina programs and Skynet, next to nothing of each: both halves come to the right result on a real node.

The sizes that are measured, and the workloads that have none, are run by `nox -s bench`.
"""

from __future__ import annotations

import os
import secrets

import pytest

from benchmarks.harness import Workload, measure
from benchmarks.machine import Cores
from benchmarks.sizes import VARIABLE
from benchmarks.workloads.savina import WORKLOADS

pytestmark = pytest.mark.real


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
async def test_each_half_runs_and_checks_its_result(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "smallest")
    monkeypatch.setenv("ACTORFW_SECRET", secrets.token_hex(32))
    core = min(os.sched_getaffinity(0))
    series = await measure(workload.limits + workload.subject, Cores(core, core), repetitions=1)
    assert len(series) == 2
    for each in series:
        assert [sample > 0 for sample in each.samples] == [True]
    names = {each.name for each in series}
    assert all({claim.of, claim.against} <= names for claim in workload.claims)
