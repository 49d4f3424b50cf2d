"""Where secrets come from, that bad ones are refused, and that they never show."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from actorfw.io.secrets import Secrets, load_secrets, make_secret, secret_path
from actorfw.values.errors import UsageError

GOOD = "correct horse battery"
OLD = "stapler stapler stapler"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.mark.parametrize("given", [GOOD, GOOD.encode(), (GOOD,), [GOOD.encode()]])
def test_the_argument_comes_first(env: dict[str, str], given: str | bytes | tuple[str]) -> None:
    env["ACTORFW_SECRET"] = OLD
    assert load_secrets(given, environ=env) == (GOOD.encode(),)


def test_new_and_old(env: dict[str, str]) -> None:
    both = (GOOD.encode(), OLD.encode())
    assert load_secrets((GOOD, OLD), environ=env) == both
    assert load_secrets(environ=env | {"ACTORFW_SECRET": f"{GOOD},{OLD}"}) == both


def test_a_file_named_by_the_environment(env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "both"
    path.write_text(f"{GOOD}\n{OLD}\n")
    assert load_secrets(environ=env | {"ACTORFW_SECRET_FILE": str(path)}) == (GOOD.encode(), OLD.encode())


@pytest.mark.parametrize("given", ["short", b"123456789012345", "", (), (GOOD, "short"), (GOOD,) * 9, [1]])
def test_unfit_secrets(env: dict[str, str], given: str) -> None:
    with pytest.raises(UsageError, match="secret") as caught:
        load_secrets(given, environ=env)
    assert GOOD not in str(caught.value)
    assert "short" not in str(caught.value)


def test_a_missing_file(env: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="ACTORFW_SECRET_FILE"):
        load_secrets(environ=env | {"ACTORFW_SECRET_FILE": "/nowhere/at/all"})


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "10.0.0.5:7700", "[::]:7700", "myhost:1"])
def test_listening_beyond_the_machine_needs_one(env: dict[str, str], listen: str) -> None:
    with pytest.raises(UsageError, match="needs a secret"):
        load_secrets(environ=env, listen=listen)
    assert load_secrets(GOOD, environ=env, listen=listen) == (GOOD.encode(),)


def test_the_user_s_own_file(env: dict[str, str]) -> None:
    made = load_secrets(environ=env)
    path = Path(secret_path(env))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["secret"]
    assert load_secrets(environ=env) == made
    assert len(made[0]) >= 32


def test_two_first_users_agree(env: dict[str, str]) -> None:
    count = 8
    barrier = threading.Barrier(count)
    found: list[Secrets] = []

    def first_use() -> None:
        barrier.wait()
        found.append(load_secrets(environ=env))

    threads = [threading.Thread(target=first_use) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    assert len(set(found)) == 1


def test_without_a_home_it_is_this_process_s_own(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    env = {"XDG_CONFIG_HOME": str(blocked)}
    assert load_secrets(environ=env) != load_secrets(environ=env)


def own_file(env: dict[str, str]) -> Path:
    load_secrets(environ=env)
    return Path(secret_path(env))


def test_a_file_that_others_can_read_is_refused(env: dict[str, str]) -> None:
    own_file(env).chmod(0o644)
    with pytest.raises(UsageError, match="0600"):
        load_secrets(environ=env)


def test_a_link_is_refused(env: dict[str, str], tmp_path: Path) -> None:
    path = own_file(env)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="can't be used"):
        load_secrets(environ=env)


def test_a_pipe_is_refused_and_not_waited_for(env: dict[str, str]) -> None:
    path = own_file(env)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(UsageError, match="plain file"):
        load_secrets(environ=env)


def test_another_owner_is_refused(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    own_file(env)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(UsageError, match="another user"):
        load_secrets(environ=env)


def test_an_emptied_file_is_refused(env: dict[str, str]) -> None:
    own_file(env).write_text("")
    with pytest.raises(UsageError, match="less than 16"):
        load_secrets(environ=env)


def test_secrets_don_t_show() -> None:
    secrets = load_secrets((GOOD, OLD), environ={})
    assert repr(secrets) == str(secrets) == "<2 secrets>"
    assert GOOD not in f"{secrets} {secrets!r}"


def test_made_secrets_differ() -> None:
    assert make_secret() != make_secret()
    assert len(make_secret()) == 64
