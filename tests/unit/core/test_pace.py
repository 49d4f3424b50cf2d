"""The window of large messages: what it becomes on paths of several kinds."""

from __future__ import annotations

from collections import deque

import pytest

from actorfw.core.pace import LEAST, MOST, Pace

PIECE = 256 * 1024


def over(rate: float, delay: float, seconds: float, pace: Pace | None = None, begin: float = 0.0) -> tuple[Pace, float]:
    """A path that takes `rate` bytes a second and has a round trip of `delay`; what it is busy with large messages."""
    pace = pace or Pace()
    now = begin
    free = begin  # when the path has taken what was sent
    acks: deque[tuple[float, int]] = deque()
    taken = 0
    while now < begin + seconds:
        while pace.under_way + PIECE <= pace.size:
            pace.sent(PIECE, now)
            free = max(free, now) + PIECE / rate
            acks.append((free + delay, PIECE))
        now, size = acks.popleft()
        pace.acked(size, now)
        taken += size
    for _, size in acks:
        pace.acked(size, now)
    return pace, taken / rate / seconds


@pytest.mark.parametrize(("rate", "delay"), [(1e9, 0.0001), (1.2e9, 0.001), (1e8, 0.01), (1e8, 0.03), (5e7, 0.06)])
def test_the_path_is_kept_busy(rate: float, delay: float) -> None:
    _, busy = over(rate, delay, 20.0)
    assert busy > 0.6


def test_near_by_it_stays_small() -> None:
    pace, _ = over(1e9, 0.0001, 5.0)
    assert pace.size <= 2 * LEAST


def test_far_away_it_grows_as_far_as_it_may() -> None:
    pace, _ = over(1e9, 0.1, 20.0)
    assert pace.size == MOST


def test_it_shrinks_when_the_path_gets_slow() -> None:
    pace, _ = over(1e9, 0.01, 10.0)
    grown = pace.size
    pace, _ = over(2e7, 0.01, 10.0, pace, 10.0)
    assert pace.size < grown / 2


def test_a_path_that_has_become_longer_is_learned() -> None:
    pace, _ = over(1e9, 0.0001, 5.0)
    pace, _ = over(1e9, 0.02, 60.0, pace, 5.0)
    assert pace.size > 2 * LEAST


def test_acks_for_nothing_do_nothing() -> None:
    pace = Pace()
    pace.acked(1000, 1.0)
    assert (pace.size, pace.under_way) == (LEAST, 0)
