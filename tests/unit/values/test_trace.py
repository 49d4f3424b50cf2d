"""Which `traceparent` and `tracestate` headers are right, after the grammar of the W3C recommendation."""

from __future__ import annotations

import pytest

from actorfw.values.trace import trace_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("header", [PARENT, f"00-{TRACE}-{SPAN}-00", f" {PARENT}\t", f"00-{TRACE}-{SPAN}-ff"])
def test_a_right_parent_goes_on_as_it_is(header: str) -> None:
    assert trace_of(header) == (header.strip(), "")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        PARENT.upper(),
        PARENT + "-more",  # version 00 has no more
        PARENT + "\n",
        PARENT[:-1],
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1g",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    ],
)
def test_a_wrong_parent_is_none_whatever_its_state(header: str) -> None:
    assert trace_of(header, ["a=1"]) is None


def test_of_a_later_version_what_this_one_knows_goes_on() -> None:
    assert trace_of(f"cc-{TRACE}-{SPAN}-ff-what-the-future-holds", ["a=1"]) == (f"00-{TRACE}-{SPAN}-03", "a=1")
    assert trace_of(f"01-{TRACE}-{SPAN}-01") == (PARENT, "")


@pytest.mark.parametrize(
    ("headers", "state"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", "b=2"], "a=1,b=2"),  # several headers are one list
        (["a=1 ,\tb=2 , ,"], "a=1,b=2"),  # optional white space, empty members
        (["fw529a3039@dt=FfAxNzUwMTk"], "fw529a3039@dt=FfAxNzUwMTk"),
        (["0t@v=1,x_-*/=~!"], "0t@v=1,x_-*/=~!"),
        (["a=in ner"], "a=in ner"),
        (["a=1,a=2"], ""),  # the same key twice
        (["A=1"], ""),
        (["1a=1"], ""),
        (["a=1=2"], ""),
        (["a="], ""),
        (["a"], ""),
        (["a=\x7f"], ""),
        (["a=1,b=\u00e9"], ""),
        ([",".join(f"k{n}=1" for n in range(33))], ""),
    ],
)
def test_a_state_goes_on_if_all_of_it_is_right(headers: list[str], state: str) -> None:
    assert trace_of(PARENT, headers) == (PARENT, state)


def test_of_a_state_that_is_too_long_large_members_are_left_out_first_then_the_last_ones() -> None:
    small = [f"k{n}={'x' * 62}" for n in range(10)]
    large = f"large={'y' * 200}"
    found = trace_of(PARENT, [",".join([small[0], large, *small[1:]])])
    assert found is not None
    assert found[1].split(",") == small[:7]
    assert len(found[1]) <= 512
