"""How the command line reads its options."""

from __future__ import annotations

import pytest

from actorfw.cli.options import Where, numbers, pairs, parse_size
from actorfw.values.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1073741824", 1 << 30),
        ("512MiB", 512 << 20),
        ("2GB", 2_000_000_000),
        ("1.5g", 1_500_000_000),
        ("64 KiB", 64 << 10),
        ("1tib", 1 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size("--memory", text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1 1", "1XB", "MiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory is .*512MiB"):
        parse_size("--memory", text)


def test_pairs_and_numbers() -> None:
    assert pairs("--label", ["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert pairs("--label", None) == {}
    for wrong in ("a", "=1"):
        with pytest.raises(UsageError, match="--label"):
            pairs("--label", [wrong])
    assert numbers("--resource", {"disk": "2.5"}) == {"disk": 2.5}
    with pytest.raises(UsageError, match="'disk=many'; the value must be a number"):
        numbers("--resource", {"disk": "many"})


def test_of_tls_all_or_nothing() -> None:
    assert Where().given() == {}
    with pytest.raises(UsageError, match="authority"):
        Where(tls_certificate="c", tls_key="k").given()
    tls = Where(tls_certificate="/c", tls_key="/k", tls_authority="/a").given()["tls"]
    assert (tls.certificate, tls.key, tls.authority) == ("/c", "/k", "/a")
