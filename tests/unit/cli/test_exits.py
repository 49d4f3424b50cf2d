"""What errors of a command become."""

from __future__ import annotations

import errno

import pytest

from actorfw.cli.exits import status_of
from actorfw.values.errors import AuthenticationError


def raising(error: BaseException) -> int:
    def work() -> None:
        raise error

    return status_of(work)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ("the node refused: the secrets differ", "--secret-file PATH"),
        ("the node refused: links are TLS here", "--tls-certificate"),
        ("the node does not take the certificate of this node: unknown ca", "--tls-certificate"),
    ],
)
def test_who_is_not_let_in_hears_what_to_give(error: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(AuthenticationError(error)) == 4
    assert hint in capsys.readouterr().err


def test_other_mistakes_of_the_system_are_not_hidden() -> None:
    with pytest.raises(OSError, match="away"):
        raising(OSError(errno.ENOENT, "away"))
    with pytest.raises(OSError, match="full"):
        raising(OSError(errno.ENOSPC, "full", "a file"))
