"""How actors begin and end: hooks, stop, kill, exit, the last handle, the creator's node, and what calls hear of it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

import actorfw

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[actorfw.LocalCluster]:
    async with actorfw.LocalCluster(nodes=2, num_cpus=2) as running:
        yield running


Maker = Callable[..., Any]


@pytest_asyncio.fixture(
    loop_scope="module", params=["here", "there", "thread here", "thread there", "process here", "process there"]
)
async def make(cluster: actorfw.LocalCluster, request: pytest.FixtureRequest) -> Maker:
    executor, _, where = request.param.rpartition(" ")
    rows = await actorfw.nodes()
    node_id = next(row.id for row in rows if row.here == (where == "here"))
    placed: dict[str, Any] = {"scheduling": actorfw.NodeAffinity(node_id)}
    if executor:
        placed["executor"] = executor

    def make(actor_class: Any, *args: Any, **options: Any) -> Any:
        return actor_class.options(**{**placed, **options}).remote(*args)

    return make


@actorfw.remote
class Board:
    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.news = asyncio.Event()

    @actorfw.method(interleave=True)
    async def write(self, line: Any) -> None:
        self.lines.append(line)
        self.news.set()

    @actorfw.method(interleave=True)
    async def until(self, *wanted: Any) -> list[Any]:
        while not set(wanted) <= set(self.lines):
            self.news.clear()
            await self.news.wait()
        return list(self.lines)


@actorfw.remote
class Mortal:
    def __init__(self, board: Any, name: str = "m") -> None:
        self.board = board
        self.name = name

    async def on_start(self) -> None:
        await self.board.write(f"{self.name} started")

    async def on_stop(self, reason: str) -> None:
        await self.board.write(f"{self.name} {reason}")

    async def log(self, line: Any) -> Any:
        await self.board.write(line)
        return line

    async def hang(self) -> None:
        await self.board.write("hanging")
        await asyncio.Event().wait()

    @actorfw.method(interleave=True)
    async def hang_beside(self) -> None:
        await self.board.write("hanging beside")
        await asyncio.Event().wait()

    async def endless(self) -> AsyncIterator[int]:
        i = 0
        while True:
            yield i
            i += 1

    async def leave(self) -> None:
        actorfw.exit_actor()

    async def leave_slowly(self) -> None:
        try:
            actorfw.exit_actor()
        except Exception:  # user code lets it pass
            await self.board.write("caught")

    async def keep(self, thing: Any) -> None:
        self.kept = thing

    async def keep_myself(self) -> None:
        self.kept = actorfw.context().handle

    async def call_myself_later(self, line: Any) -> None:
        actorfw.context().handle.log.tell(line)

    async def token(self) -> tuple[int, str, str]:
        context = actorfw.context()
        return context.fencing_token, context.actor_id, context.node_id


class BrokenError(Exception):
    pass


@actorfw.remote
class Broken:
    def __init__(self, in_start: bool) -> None:
        if not in_start:
            raise BrokenError("in __init__")

    async def on_start(self) -> None:
        raise BrokenError("in on_start")

    async def call(self) -> None: ...


async def ask_for_ever(handle: Any) -> None:
    while True:
        await handle.log("?")


async def look_for_ever(name: str) -> None:
    while True:
        await actorfw.get_actor(name)


async def died(handle: Any) -> actorfw.ActorDiedError:
    """The error of an actor that is ending."""
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await ask_for_ever(handle)
    return caught.value


# -- the beginning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_start", [False, True])
async def test_what_init_raises_is_the_cause(make: Maker, in_start: bool) -> None:
    broken = make(Broken, in_start)
    for _ in range(2):
        with pytest.raises(actorfw.ActorDiedError, match="BrokenError") as caught:
            await broken.call()
        assert caught.value.reason == "crashed"
        assert caught.value.ran is False
        assert isinstance(caught.value.__cause__, BrokenError)
    assert (await actorfw.info(broken)).state == "ended"


async def test_wrong_constructor_arguments(cluster: actorfw.LocalCluster) -> None:
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await Broken.remote(1, 2, 3).call()
    assert isinstance(caught.value.__cause__, TypeError)


async def test_a_failed_constructor_argument(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    async def fail() -> None:
        raise BrokenError("an argument")

    with pytest.raises(actorfw.ActorDiedError) as caught:
        await Broken.remote(fail.remote()).call()
    assert isinstance(caught.value.__cause__, BrokenError)


async def test_context_inside_methods(make: Maker) -> None:
    m = make(Mortal, Board.remote())
    told = await actorfw.info(m)
    token, actor_id, node_id = await m.token()
    assert token >= 1
    assert actor_id == told.id
    assert node_id == told.node_id
    assert actorfw.context().actor_id == ""
    assert actorfw.context().node_id


# -- stop, kill, exit --------------------------------------------------------------------------------------------------


async def test_stop_finishes_what_was_accepted(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    refs = [m.log.remote(i) for i in range(20)]
    m.log.tell("told")
    await actorfw.stop(m)
    assert await asyncio.gather(*refs) == list(range(20))
    assert await board.until("m stopped") == ["m started", *range(20), "told", "m stopped"]
    error = await died(m)
    assert (error.reason, error.ran) == ("stopped", False)
    await actorfw.stop(m)  # twice is no error


async def test_stop_before_it_is_up(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    await actorfw.stop(m)
    assert await board.until("m stopped") == ["m started", "m stopped"]


async def test_stop_waits_for_arguments_of_what_was_accepted(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    slow = board.until.remote("open")
    late = m.log.remote(slow)
    stopping = actorfw.stop(m)
    await board.write("open")
    await stopping
    assert await late == ["m started", "open"] or "open" in await late


async def test_stop_kills_after_its_timeout(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    hanging = m.hang.remote()
    await board.until("hanging")
    await actorfw.stop(m, timeout=0.05)
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await hanging
    assert caught.value.reason == "killed"
    assert caught.value.ran is None


async def test_kill_ends_everything_now(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    stream = m.endless.remote()
    assert await anext(stream) == 0
    running = [m.hang.remote(), m.hang_beside.remote()]
    await board.until("hanging", "hanging beside")
    waiting = m.log.remote("never")
    actorfw.kill(m)
    for ref in running:
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await ref
        assert (caught.value.reason, caught.value.ran) == ("killed", None)
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await waiting
    assert caught.value.reason == "killed"
    with pytest.raises(actorfw.ActorDiedError):
        async for _ in stream:
            pass
    assert (await died(m)).reason == "killed"
    assert "m killed" not in await board.until("hanging")
    assert (await actorfw.info(m)).reason == "killed"


async def test_exit_actor_ends_it_from_inside(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    beside = m.hang_beside.remote()
    await board.until("hanging beside")
    leaving, behind = m.leave_slowly.remote(), m.log.remote("behind")
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await leaving
    assert caught.value.reason == "exited"
    assert caught.value.ran is True
    for ref in (behind, beside):
        with pytest.raises(actorfw.ActorDiedError) as caught:
            await ref
        assert caught.value.reason == "exited"
    assert (await died(m)).reason == "exited"
    assert "caught" not in await board.until("m exited")


async def test_exit_actor_outside_is_refused(cluster: actorfw.LocalCluster) -> None:
    with pytest.raises(actorfw.UsageError, match="no method"):
        actorfw.exit_actor()


async def test_an_actor_may_kill_and_stop_others(make: Maker) -> None:
    @actorfw.remote
    class Boss:
        async def end(self, other: Any, how: str) -> None:
            if how == "kill":
                actorfw.kill(other)
            else:
                await actorfw.stop(other)

    boss = make(Boss)
    for how, reason in (("kill", "killed"), ("stop", "stopped")):
        m = make(Mortal, Board.remote())
        await boss.end(m, how)
        assert (await died(m)).reason == reason


# -- the last handle ---------------------------------------------------------------------------------------------------


async def test_it_ends_with_its_last_handle(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    await m.log(1)
    copy = await board.write.remote(1) or m
    del m
    assert await copy.log(2) == 2
    del copy
    gc.collect()
    assert (await board.until("m released"))[-1] == "m released"


async def test_an_unanswered_call_holds_it(make: Maker) -> None:
    board = Board.remote()
    ref = make(Mortal, board).log.remote("called")
    gc.collect()
    assert await ref == "called"
    assert await board.until("m released") == ["m started", "called", "m released"]


async def test_a_tell_not_yet_received_holds_it(make: Maker) -> None:
    board = Board.remote()
    make(Mortal, board).log.tell("told")
    gc.collect()
    assert await board.until("m released") == ["m started", "told", "m released"]


async def test_a_tell_through_a_third_node_holds_it(make: Maker, cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    async def pass_on(m: Any) -> None:
        m.log.tell("told")

    board = Board.remote()
    rows = [row for row in await actorfw.nodes() if not row.here]
    sent = pass_on.options(scheduling=actorfw.NodeAffinity(rows[-1].id)).remote(make(Mortal, board))
    gc.collect()
    await sent
    del sent
    assert await board.until("m released") == ["m started", "told", "m released"]


async def test_a_tell_holds_one_that_has_no_place_yet(cluster: actorfw.LocalCluster) -> None:
    board = Board.remote()
    here = next(row.id for row in await actorfw.nodes() if row.here)
    full = {"num_cpus": 2, "scheduling": actorfw.NodeAffinity(here)}
    first = Mortal.options(**full).remote(board, "first")
    await first.log(1)
    Mortal.options(**full).remote(board, "second").log.tell("told")
    gc.collect()
    await actorfw.stop(first)
    assert (await board.until("second released"))[-3:] == ["second started", "told", "second released"]


async def test_handles_inside_others_keep_it(make: Maker) -> None:
    board = Board.remote()
    outer = make(Mortal, board, "outer")
    await outer.keep([make(Mortal, board, "inner")])
    gc.collect()
    assert "inner released" not in await board.until("inner started")
    await outer.log("still")
    await outer.keep(None)
    assert "inner released" in await board.until("inner released")
    ref = actorfw.put({"handle": make(Mortal, board, "stored")})
    gc.collect()
    await board.until("stored started")
    assert await (await ref)["handle"].log("in a ref") == "in a ref"
    del ref
    gc.collect()
    await board.until("stored released")


async def test_its_own_handle_does_not_hold_it(make: Maker) -> None:
    board = Board.remote()
    m = make(Mortal, board)
    await m.keep_myself()
    del m
    gc.collect()
    await board.until("m released")


async def test_a_tell_to_itself_holds_it(make: Maker) -> None:
    board = Board.remote()
    ref = make(Mortal, board).call_myself_later.remote("later")
    gc.collect()
    await ref
    del ref
    lines = await board.until("m released", "later")
    assert lines.index("later") < lines.index("m released")


async def test_a_named_actor_stays_without_handles(make: Maker) -> None:
    board = Board.remote()
    make(Mortal, board, "named", name="immortal")
    gc.collect()
    await board.until("named started")
    m = await actorfw.get_actor("immortal")
    assert await m.log("here") == "here"
    await actorfw.stop(m)
    await board.until("named stopped")


# -- nodes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["loop", "thread", "process"])
async def test_it_ends_with_its_creators_node(cluster: actorfw.LocalCluster, executor: str) -> None:
    @actorfw.remote
    class Maker:
        async def make(self, board: Any, node_id: str) -> Any:
            there = actorfw.NodeAffinity(node_id)
            return Mortal.options(executor=executor, scheduling=there, max_concurrency=2).remote(board, "orphan")

    board = Board.remote()
    await cluster.add_node()
    index, address = cluster.indices[-1], cluster.addresses[-1]
    rows = await actorfw.nodes()
    creator = next(row for row in rows if row.address == address)
    host = next(row for row in rows if not row.here and row is not creator)
    m = await Maker.options(scheduling=actorfw.NodeAffinity(creator.id)).remote().make(board, host.id)
    running = m.hang.remote()
    await board.until("hanging")
    await cluster.kill(index)
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await running
    assert caught.value.reason == "owner_died"
    await board.until("orphan owner_died")


async def test_it_ends_with_its_host(cluster: actorfw.LocalCluster) -> None:
    await cluster.add_node()
    index, address = cluster.indices[-1], cluster.addresses[-1]
    host = next(row for row in await actorfw.nodes() if row.address == address)
    board = Board.remote()
    m = Mortal.options(scheduling=actorfw.NodeAffinity(host.id), name="hosted away").remote(board)
    running = m.hang.remote()
    await board.until("hanging")
    await cluster.kill(index)
    with pytest.raises(actorfw.ActorDiedError) as caught:
        await running
    assert caught.value.reason == "node_died"
    assert caught.value.ran is None
    error = await died(m)
    assert (error.reason, error.ran) == ("node_died", False)
    with pytest.raises(actorfw.ActorNotFoundError):
        await look_for_ever("hosted away")


async def test_calls_of_a_node_that_dies_do_not_go_on(cluster: actorfw.LocalCluster) -> None:
    @actorfw.remote
    class Caller:
        async def call(self, m: Any) -> None:
            await m.hang()

    board = Board.remote()
    m = Mortal.remote(board)
    await cluster.add_node()
    index, address = cluster.indices[-1], cluster.addresses[-1]
    host = next(row for row in await actorfw.nodes() if row.address == address)
    caller = Caller.options(scheduling=actorfw.NodeAffinity(host.id)).remote()
    ref = caller.call.remote(m)
    await board.until("hanging")
    await cluster.kill(index)
    with pytest.raises(actorfw.ActorDiedError):
        await ref
    assert await m.log("free again") == "free again"
