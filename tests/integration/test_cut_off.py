"""Ten nodes on as many machines, one of which loses its network; `nox -s faults` does it a hundred times."""

from __future__ import annotations

import pytest

from tests.soak.cut_off import LIMIT, members, one_run
from tests.soak.machines import switch, why_not

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

NODES = 10


@pytest.fixture(scope="module", autouse=True)
def machines_can_be_made() -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)


async def test_a_machine_without_a_network_is_known_dead_to_all_and_comes_back() -> None:
    with switch(NODES) as net:
        async with members(net, NODES) as machines:
            run = await one_run(net, machines, 3)
    print(f"measured: known dead to all after {run.dead:.2f} s, back in {run.back:.2f} s, late loops: {run.late}")
    # One run of a hundred may take longer, and this machine has other things to do.
    assert 3 < run.dead < 2 * LIMIT
