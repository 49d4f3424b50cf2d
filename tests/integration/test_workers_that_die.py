"""A worker process that dies among many short tasks: which of them had started, though their results had not left."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import actorfw
from actorfw.runtime import marks

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

TASKS = 60
KILLERS = (7, 8, 23, 41)


def no_file() -> int:
    raise OSError(errno.ENOSYS, "no such thing here")


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True, params=["noted", "not noted"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[actorfw.LocalCluster]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "not noted":
            patch.setattr(marks, "_file", no_file)
        async with actorfw.LocalCluster(nodes=0, num_cpus=2) as running:
            yield running


def note(path: str, line: str) -> None:
    """In one write, so that it is there whole however this process goes on."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def effect(path: str, number: int, killers: tuple[int, ...], attempts: int) -> int:
    """Short enough that many of these are ahead of their worker at a time."""
    attempt = actorfw.context().attempt
    note(path, str(number))
    if number in killers and attempt <= attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def effects(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


async def warm(task: Any, path: Path) -> None:
    """Let the pool learn how short these are, so that it sends them in batches."""
    for _ in range(3):
        await asyncio.gather(*(task.remote(str(path), -1, (), 0) for _ in range(TASKS)))


@pytest.mark.parametrize("turn", range(3))
async def test_a_task_without_retries_has_its_effects_once(tmp_path: Path, turn: int) -> None:
    task = actorfw.remote(effect).options(max_retries=0)
    await warm(task, tmp_path / "warm")
    path = tmp_path / "effects"
    refs = [task.remote(str(path), number, KILLERS, 1) for number in range(TASKS)]
    outcomes = await asyncio.gather(*refs, return_exceptions=True)
    seen = effects(path)
    assert {number: count for number, count in seen.items() if count > 1} == {}
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, actorfw.WorkerDiedError)
            assert outcome.ran is None
        else:
            assert outcome == number
            assert seen[number] == 1
    assert all(isinstance(outcomes[number], actorfw.WorkerDiedError) for number in KILLERS)


@pytest.mark.parametrize("turn", range(3))
async def test_attempts_are_counted_of_tasks_whose_results_were_lost(tmp_path: Path, turn: int) -> None:
    task = actorfw.remote(effect).options(max_retries=1)
    await warm(task, tmp_path / "warm")
    path = tmp_path / "effects"
    refs = [task.remote(str(path), number, KILLERS, 2) for number in range(TASKS)]
    outcomes = await asyncio.gather(*refs, return_exceptions=True)
    seen = effects(path)
    assert {number: count for number, count in seen.items() if count > 2} == {}
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, actorfw.WorkerDiedError)
            assert seen[number] == 2, "only who has spent both attempts fails"
        else:
            assert outcome == number
    assert all(isinstance(outcomes[number], actorfw.WorkerDiedError) for number in KILLERS)


@actorfw.remote(executor="process", max_restarts=-1, restart_backoff=0.0)
class Noting:
    def one(self, path: str, number: int, killers: tuple[int, ...]) -> int:
        note(path, str(number))
        if number in killers:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@actorfw.remote(executor="process", max_restarts=-1, restart_backoff=0.0, max_concurrency=2)
class NotingInThreads:
    def one(self, path: str, number: int, killers: tuple[int, ...]) -> int:
        note(path, str(number))
        if number in killers:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@actorfw.remote(executor="process", max_restarts=-1, restart_backoff=0.0)
class NotingOnALoop:
    async def one(self, path: str, number: int, killers: tuple[int, ...]) -> int:
        note(path, str(number))
        if number in killers:
            os.kill(os.getpid(), signal.SIGKILL)
        return number


@pytest.mark.parametrize("kind", [Noting, NotingInThreads, NotingOnALoop])
async def test_a_call_runs_on_one_incarnation_only(tmp_path: Path, kind: type) -> None:
    actor = kind.remote()  # type: ignore[attr-defined]
    path = tmp_path / "effects"
    refs = [actor.one.remote(str(path), number, KILLERS) for number in range(TASKS)]
    outcomes = await asyncio.gather(*refs, return_exceptions=True)
    seen = effects(path)
    assert {number: count for number, count in seen.items() if count > 1} == {}
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, actorfw.ActorUnavailableError)
        else:
            assert outcome == number
            assert seen[number] == 1
    assert all(isinstance(outcomes[number], actorfw.ActorUnavailableError) for number in KILLERS)
    assert isinstance(outcomes[-1], int), "those behind went to the next incarnation"
