"""Whole nodes under random work and random faults, judged by the oracles. `ACTORFW_SIM_SEEDS=2000` runs more seeds."""

from __future__ import annotations

import pytest

from tests.sim.workload import run_seed, seeds


@pytest.mark.parametrize("seed", seeds(200))
def test_no_oracle_objects(seed: int) -> None:
    run_seed(seed)


@pytest.mark.parametrize("seed", [1, 7, 13])
def test_a_seed_repeats_itself(seed: int) -> None:
    assert run_seed(seed) == run_seed(seed)


def test_seeds_differ() -> None:
    assert run_seed(2) != run_seed(3)
