"""What tasks and actors give and can't be sent: the same error, with the same path, wherever they run."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

import actorfw

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def node() -> AsyncIterator[actorfw.Node]:
    async with actorfw.init(num_cpus=1) as running:
        yield running


def bad() -> Any:
    return {"db": {"conn": threading.Lock()}}


def whole() -> Any:
    return [bad()]


def parts() -> Any:
    return 1, bad()


def items() -> Iterator[Any]:
    yield 1
    yield bad()


def sends_it() -> Iterator[Any]:
    yield 1
    actorfw.put(bad())


async def a_whole() -> Any:
    return [bad()]


async def a_parts() -> Any:
    return 1, bad()


async def a_items() -> AsyncIterator[Any]:
    yield 1
    yield bad()


async def a_sends_it() -> AsyncIterator[Any]:
    yield 1
    actorfw.put(bad())


@actorfw.remote
class Plain:
    def whole(self) -> Any:
        return whole()

    def parts(self) -> Any:
        return parts()

    def items(self) -> Iterator[Any]:
        yield from items()

    def sends_it(self) -> Iterator[Any]:
        yield from sends_it()


@actorfw.remote
class Async:
    async def whole(self) -> Any:
        return whole()

    async def parts(self) -> Any:
        return parts()

    async def items(self) -> AsyncIterator[Any]:
        async for item in a_items():
            yield item

    async def sends_it(self) -> AsyncIterator[Any]:
        async for item in a_sends_it():
            yield item


@actorfw.remote
class Interleaving(Async):  # type: ignore[misc,valid-type]
    @actorfw.method(interleave=True)
    async def beside(self) -> None: ...


class Calls:
    """The four calls, as tasks or of an actor."""

    def __init__(self, executor: str, of: Any) -> None:
        self.executor = executor
        self.of = of
        self.actor = of.options(executor=executor).remote() if of not in ("def", "async def") else None

    def call(self, name: str, **options: Any) -> Any:
        if self.actor is not None:
            return getattr(self.actor, name).options(**options).remote()
        fn = globals()[name if self.of == "def" else f"a_{name}"]
        return actorfw.remote(executor=self.executor, **options)(fn).remote()


@pytest.fixture(params=["process", "thread", "loop"])
def executor(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["def", "async def", Plain, Async, Interleaving], ids=str)
def calls(executor: str, request: pytest.FixtureRequest) -> Calls:
    return Calls(executor, request.param)


def check(error: actorfw.SerializationError, path: str) -> None:
    assert type(error) is actorfw.SerializationError
    assert error.path == path
    assert error.ran is True
    assert str(error).startswith(f"{path} (of type _thread.lock) can't be sent")


async def test_the_path_to_what_can_not_be_sent_is_the_same_everywhere(calls: Calls) -> None:
    with pytest.raises(actorfw.SerializationError) as caught:
        await calls.call("whole")
    check(caught.value, "result[0]['db']['conn']")
    for part in calls.call("parts", num_returns=2):
        with pytest.raises(actorfw.SerializationError) as caught:
            await part
        check(caught.value, "result[1]['db']['conn']")
    read: list[Any] = []
    with pytest.raises(actorfw.SerializationError) as caught:
        async for item in calls.call("items"):
            read.append(item)
    check(caught.value, "item['db']['conn']")
    assert read == [1]


async def test_the_same_error_raised_by_user_code_is_its_own(calls: Calls) -> None:
    with pytest.raises(actorfw.TaskError) as caught:
        async for _ in calls.call("sends_it"):
            pass
    assert type(caught.value) is actorfw.TaskError
    assert "SerializationError" in str(caught.value)


async def test_a_result_of_the_wrong_length_says_so_everywhere(calls: Calls) -> None:
    for part in calls.call("parts", num_returns=3):
        with pytest.raises(actorfw.TaskError, match=r"num_returns=3 and returned 2 values"):
            await part
