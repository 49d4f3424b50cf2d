"""What a name may be."""

from __future__ import annotations

import pytest

from actorfw.api.nodeoptions import check_labels
from actorfw.values.errors import UsageError
from actorfw.values.names import LABELS, NAME_BYTES, check_name


@pytest.mark.parametrize("name", ["a", "room 7", "Zürich/лес", "x" * NAME_BYTES, "é" * (NAME_BYTES // 2)])
def test_names(name: str) -> None:
    check_name("name", name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "a string that is not empty"),
        (3, "a string that is not empty"),
        (None, "a string that is not empty"),
        ("a\nb", "control characters"),
        ("\x1b[2J", "control characters"),
        ("\u202eabc", "control characters"),
        ("\ud800", "control characters"),
        ("x" * (NAME_BYTES + 1), f"at most {NAME_BYTES} bytes"),
        ("é" * NAME_BYTES, f"at most {NAME_BYTES} bytes"),
        ("x" * 1_000_000, "(1000000 characters)"),
    ],
)
def test_what_is_no_name(name: object, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_name("the name of it", name)
    assert str(raised.value).startswith("the name of it is ")
    assert problem in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_labels() -> None:
    check_labels({"zone": "", "disk": "ssd"})
    with pytest.raises(UsageError, match=f"{LABELS} is the limit"):
        check_labels({str(number): "x" for number in range(LABELS + 1)})
    with pytest.raises(UsageError, match="the label 'a' is"):
        check_labels({"a": "x\n"})
