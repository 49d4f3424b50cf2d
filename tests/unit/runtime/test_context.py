"""Whose deadline it is that has passed, when a call fails because one of its own calls ran out of time."""

from __future__ import annotations

import pytest

from actorfw.runtime.context import milliseconds, overdue
from actorfw.values.errors import DeadlineExceededError

INNER = DeadlineExceededError("call door did not end within its timeout", ran=None)


@pytest.mark.parametrize(
    ("error", "deadline", "now", "its_own"),
    [
        (INNER, 10.0, 10.5, True),
        (INNER, 10.0, 9.9995, True),  # a timer that counts in milliseconds was early
        (INNER, 10.0, 9.9, False),  # the inner call had a shorter timeout of its own
        (INNER, None, 10.0, False),
        (TimeoutError("the user's own"), 10.0, 10.5, False),
    ],
)
def test_an_inherited_deadline_is_the_outer_calls_own(
    error: Exception, deadline: float | None, now: float, its_own: bool
) -> None:
    late = overdue("call outer", error, deadline, now)
    assert (late is not None) is its_own
    if late is not None:
        assert str(late) == "call outer did not end within its timeout"
        assert late.ran is None


@pytest.mark.parametrize(("left", "sent"), [(1.0, 1000), (0.0101, 11), (0.0, 1), (-3.0, 1)])
def test_what_is_left_is_rounded_up_and_never_nothing(left: float, sent: int) -> None:
    assert milliseconds(left) == sent
