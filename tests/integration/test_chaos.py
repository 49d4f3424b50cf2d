"""Ten seconds of chaos on real processes; `nox -s soak` runs two minutes of it."""

from __future__ import annotations

import pytest

from tests.soak.chaos import soak

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]


async def test_every_call_is_accounted_for_and_nothing_is_left() -> None:
    report = await soak(10.0)
    print(f"measured: {report}")
    assert not report.wrong
    assert report.kills > 0
    assert sum(count for (_, end), count in report.ends.items() if end == "value") > 100
