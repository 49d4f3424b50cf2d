"""Where secrets come from, that bad ones are refused, and that they never show."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import stat
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from actorfw.core.handshake import Secret
from actorfw.io.secrets import Secrets, child_environment, hidden, load_secrets, make_secret_text, secret_path
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
    path.chmod(0o600)
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


@pytest.mark.parametrize("given", ["s" * 16, "abc" * 6, b"\0" * 32, ("0123456789abcdef", "12" * 8)])
def test_what_is_surely_not_random_is_refused(env: dict[str, str], given: Any) -> None:
    with pytest.raises(UsageError, match="not random"):
        load_secrets(given, environ=env)


def test_random_ones_are_never_refused() -> None:
    for _ in range(200):
        load_secrets((os.urandom(16), os.urandom(16).hex(), make_secret_text()), environ={})


@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:0",
        "10.0.0.5:7700",
        "[::]:7700",
        "myhost:1",
        "127.example.org:1",
        "localhost.de:1",
        "[::ffff:10.0.0.5]:1",
    ],
)
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
    assert make_secret_text() != make_secret_text()
    assert len(make_secret_text()) == 64


def test_a_file_that_others_can_write_is_refused_and_one_that_they_can_read_warned_of(
    env: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What an orchestrator mounts is often readable by all who are in the container, and nobody's to change."""
    path = tmp_path / "secret"
    path.write_text(GOOD)
    named = env | {"ACTORFW_SECRET_FILE": str(path)}
    for mode in (0o620, 0o602, 0o666):
        path.chmod(mode)
        with pytest.raises(UsageError, match="chmod 600"):
            load_secrets(environ=named)
    for mode, who in ((0o644, "all users"), (0o640, "its group"), (0o600, ""), (0o400, "")):
        path.chmod(mode)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "actorfw.peers"):
            assert load_secrets(environ=named) == (GOOD.encode(),)
        assert [who in record.getMessage() for record in caplog.records] == [True] * bool(who)


def test_a_mounted_file_of_root_s_is_not_complained_of(
    env: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "..data"
    real.write_text(GOOD)
    real.chmod(0o444)
    (tmp_path / "secret").symlink_to(real)  # as Kubernetes has it
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert load_secrets(environ=env | {"ACTORFW_SECRET_FILE": str(tmp_path / "secret")}) == (GOOD.encode(),)
    assert not caplog.records


def test_a_secret_can_t_be_pickled_by_accident() -> None:
    secrets = load_secrets((GOOD, OLD), environ={})
    for held in (secrets, secrets[0], {"deep": [secrets]}):
        for dumps in (pickle.dumps, cloudpickle.dumps):
            with pytest.raises(TypeError, match="stay"):
                dumps(held)

    def task() -> int:
        return len(secrets[0])

    with pytest.raises(TypeError, match="stay"):
        cloudpickle.dumps(task)
    assert copy.deepcopy(secrets[0]) is secrets[0]


def test_a_secret_shows_in_no_format() -> None:
    secret = Secret(GOOD.encode())
    shown = f"{secret} {secret!r} {secret!s:>40} {[secret]} { ({secret: 1}) }"
    assert GOOD not in shown
    assert secret == GOOD.encode()


def variables(error: BaseException) -> str:
    """What tools print that show the variables of each frame of a traceback."""
    shown: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            shown.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    return " ".join(shown)


@pytest.mark.parametrize("given", [(GOOD, "short"), ("s" * 16, GOOD), (GOOD,) * 9, (GOOD, 1)])
def test_tracebacks_with_variables_hold_no_secret(env: dict[str, str], tmp_path: Path, given: Any) -> None:
    path = tmp_path / "secret"
    path.write_text("\n".join(map(str, given)))
    path.chmod(0o600)
    for argument, environ in ((hidden(given), env), (None, env | {"ACTORFW_SECRET_FILE": str(path)})):
        with pytest.raises(UsageError) as caught:
            load_secrets(argument, environ=environ)
        shown = variables(caught.value)
        assert "where" in shown
        assert GOOD not in shown
        assert "s" * 16 not in shown


def test_processes_that_run_others_code_inherit_no_secret() -> None:
    assert child_environment({"ACTORFW_SECRET": GOOD, "ACTORFW_SECRET_FILE": "/p", "PATH": "/bin"}) == {
        "ACTORFW_SECRET_FILE": "/p",
        "PATH": "/bin",
    }


def test_without_a_home_the_nodes_that_find_each_other_share_one(tmp_path: Path) -> None:
    environ = {"HOME": "/proc/none"}
    folder = tmp_path / "actorfw"
    one, two = (load_secrets(environ=environ, folder=str(folder)) for _ in range(2))
    assert one == two
    assert (folder.stat().st_mode & 0o777, (folder / "secret").stat().st_mode & 0o777) == (0o700, 0o600)
    home = load_secrets(environ={"HOME": str(tmp_path)}, folder=str(folder))
    assert home != one
