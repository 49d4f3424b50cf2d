"""One small conversation of two whole nodes, again and again, with the link broken at another place each time.

The first run notes where each frame ends, in both directions. Then the link is broken at each of these places, and
inside each frame, in several ways: whatever becomes of the link, what the program sees is what it saw undisturbed, and
what it did was done once.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

import actorfw
from actorfw.core.session import Instruction, Resend, Session
from actorfw.testing import SimCluster, run
from actorfw.testing.transport import Connection
from actorfw.wire.frames import HEADER_BYTES
from tests.sim.leftovers import leftovers

LATENCY = (0.002, 0.002)  # alike for all, so that both sides notice a broken link and dial at the same moment

done: list[str] = []
"""What the conversation did, one word for each effect."""


@actorfw.remote
class Desk:
    """An actor that is called in all ways there are."""

    def __init__(self, name: str) -> None:
        done.append(f"made {name}")
        self.other: Any = None
        self.total = 0

    async def add(self, k: int) -> int:
        done.append(f"add {k}")
        self.total += k
        return self.total

    async def fail(self) -> None:
        done.append("fail")
        raise ValueError("as asked")

    async def note(self, word: str) -> None:
        done.append(f"note {word}")

    async def count(self, upto: int) -> AsyncIterator[int]:
        done.append("count")
        for i in range(upto):
            yield i

    async def meet(self, other: Any) -> int:
        """Calls back to where the call came from."""
        done.append("meet")
        self.other = other
        return int(await other.add(10)) + 1

    async def open(self, box: list[Any]) -> str:
        done.append("open")
        return str(await box[0])

    async def lend(self) -> list[Any]:
        done.append("lend")
        return [actorfw.put("lent")]

    async def pair(self) -> tuple[int, int]:
        done.append("pair")
        return 1, 2

    async def wait(self) -> None:
        done.append("wait")
        try:
            await asyncio.sleep(1000)
        finally:
            done.append("waited")


@actorfw.remote(max_retries=0)
def double(x: int) -> int:
    done.append(f"double {x}")
    return 2 * x


@actorfw.remote(max_retries=0, num_cpus=0)
async def repeat(word: str, times: int) -> str:
    done.append(f"repeat {word}")
    return word * times


@actorfw.remote(max_retries=0)
def squares(n: int) -> Iterator[int]:
    done.append("squares")
    for i in range(n):
        yield i * i


@actorfw.remote(max_retries=0, num_cpus=0)
async def raises() -> None:
    done.append("raises")
    raise LookupError("as asked")


@actorfw.remote(max_retries=0, num_cpus=0)
async def sleeps() -> None:
    done.append("sleeps")
    try:
        await asyncio.sleep(1000)
    finally:
        done.append("slept")


async def seen(awaitable: Any) -> str:
    """A value or an error, as text."""
    try:
        return repr(await awaitable)
    except Exception as error:
        return f"{type(error).__name__} {error!s:.40} {getattr(error, 'ran', '')}"


async def until_done(word: str) -> None:
    while word not in done:
        await asyncio.sleep(0.05)


async def converse(cluster: SimCluster) -> list[str]:
    """All kinds of messages that a program causes; returns what it saw."""
    there = actorfw.NodeAffinity(cluster.nodes[1].id)
    here = actorfw.NodeAffinity(cluster.nodes[0].id)
    far: Any = Desk.options(scheduling=there).remote("far")
    near: Any = Desk.options(scheduling=here).remote("near")
    got: list[str] = []
    # One after another, so that most frames are about one thing.
    for awaitable in (
        far.add(1),
        far.fail(),
        far.note.tell("told"),
        far.meet(near),
        far.open([actorfw.put("x" * 3000)]),
        repeat.options(scheduling=there).remote("ab", 3),
        double.options(scheduling=there).remote(actorfw.put(4)),
        raises.options(scheduling=there).remote(),
    ):
        got.append(await seen(awaitable))
    got.append(repr([item async for item in far.count(3)]))
    got.append(repr([item async for item in squares.options(scheduling=there).remote(3)]))
    lent = await far.lend()
    got.append(await seen(lent[0]))
    del lent
    a, b = far.pair.options(num_returns=2).remote()
    got.append(await seen(a) + await seen(b))
    # And all at once: what is sent together, and what crosses what comes back.
    together = [far.add(100 + i) for i in range(4)]
    together += [repeat.options(scheduling=there).remote(str(i), 2) for i in range(2)]
    got += await asyncio.gather(*map(seen, together))
    together.clear()
    for word in ("wait", "sleeps"):
        ref = far.wait.remote() if word == "wait" else sleeps.options(scheduling=there).remote()
        await until_done(word)
        actorfw.cancel(ref)
        got.append(await seen(ref))
        await until_done({"wait": "waited", "sleeps": "slept"}[word])
    del a, b, ref
    await actorfw.stop(far)
    got.append(await seen(far.add(5)))
    return got


@dataclass
class Way:
    """One direction of the link: what passed, and where its frames end."""

    data: bytearray = field(default_factory=bytearray)
    open: bool = True

    def ends(self) -> list[int]:
        found, at = [], 0
        while at + HEADER_BYTES <= len(self.data):
            at += HEADER_BYTES + int.from_bytes(self.data[at : at + 3], "little")
            found.append(at)
        assert at == len(self.data), "the conversation did not begin with a frame"
        return found


@dataclass
class Outcome:
    got: list[str]
    done: Tally[str]
    ways: list[Way]
    cuts: int
    dialled: set[str]


VARIANTS = ("told", "reads on", "writes on")
"""Both sides are told that the link broke; or only the writer, while the reader has processed what came and answers
into nowhere; or only the reader, which has not processed what came last, while the writer goes on writing."""


def talk(src: int | None = None, at: int = 0, variant: str = "told", again: int = 0) -> Outcome:
    """Run it, with the link broken when `at` bytes of what `src` writes have arrived, and the next one after `again`
    bytes."""
    done.clear()

    async def main() -> Outcome:
        async with SimCluster(2, seed=1, latency=LATENCY) as cluster:
            await asyncio.sleep(0.1)
            network = cluster.network
            places = [node.place for node in cluster.nodes]
            (link,) = network.between(*places)
            dialled: set[str] = set()
            cuts = 0
            ways = [Way(), Way()]
            for way, place in zip(ways, places, strict=True):
                note_what_passes(link, place, way)
            if src is not None:
                told: dict[str, Any] = {}
                if variant != "told":
                    dialler_writes = link.ends[0].node == places[src]
                    told["notice"] = "dialler" if dialler_writes == (variant == "reads on") else "acceptor"
                connect = network.connect

                def cut(**_: Any) -> None:
                    nonlocal cuts
                    cuts += 1
                    if again:
                        network.cut_next(places[src], places[1 - src], again)
                    Connection.cut(link, deliver="none", **told)

                def connects(node: str, *args: Any) -> Any:
                    if cuts:
                        dialled.add(node)
                    return connect(node, *args)

                pipe = link.pipe(places[src])
                pipe.cut_at = pipe.passed + at
                link.cut = cut  # type: ignore[method-assign]
                network.connect = connects  # type: ignore[method-assign]
            async with asyncio.timeout(60):
                got = await converse(cluster)
            for way in ways:
                way.open = False
            for _ in range(3):  # what is let go of may hold something, and that something else
                await cluster.settle()
            said = leftovers(cluster)
            assert not said, "\n".join(said)
            return Outcome(got, Tally(done), ways, cuts, dialled)

    return run(main())


def note_what_passes(link: Connection, place: str, way: Way) -> None:
    pipe = link.pipe(place)
    put = pipe.put

    def noted(data: bytes) -> None:
        if way.open:
            way.data += data
        put(data)

    pipe.put = noted  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def usual() -> Outcome:
    """What happens undisturbed."""
    first, second = talk(), talk()
    assert first == second
    assert len(first.got) == 21
    assert max(first.done.values()) == 1
    assert min(len(way.ends()) for way in first.ways) >= 20
    return first


def check(usual: Outcome, src: int, at: int, variant: str, again: int = 0) -> Outcome:
    where = f"link cut after {at} bytes from n{src}, {variant}, again after {again}"
    try:
        outcome = talk(src, at, variant, again)
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error
    assert outcome.cuts == 1, where
    assert outcome.got == usual.got, where
    assert outcome.done == usual.done, where
    return outcome


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("src", [0, 1])
def test_a_link_cut_behind_every_frame(usual: Outcome, src: int, variant: str) -> None:
    at_once = 0
    for at in usual.ways[src].ends():
        outcome = check(usual, src, at, variant)
        at_once += len(outcome.dialled) == 2
    if variant == "told":
        assert at_once, "both sides never dialled at once"


@pytest.mark.parametrize("src", [0, 1])
def test_a_link_cut_inside_every_frame_and_the_next_one_soon_again(usual: Outcome, src: int) -> None:
    start = 0
    for i, end in enumerate(usual.ways[src].ends()):
        at = start + (end - start) * (1 + i % 5) // 6
        check(usual, src, max(at, start + 1), VARIANTS[i % 3], again=1 + i * 97 % 1500)
        start = end


STEP = 37 if os.environ.get("ACTORFW_MODEL") == "full" else 1009
"""Full: some 1,000 runs."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("src", [0, 1])
def test_a_link_cut_wherever_it_may_be(usual: Outcome, src: int, variant: str) -> None:
    for at in range(1, len(usual.ways[src].data), STEP):
        check(usual, src, at, variant)


def loses(monkeypatch: pytest.MonkeyPatch) -> None:
    adopt = Session._adopt

    def wrong(session: Session, *args: Any) -> list[Instruction]:
        return [i for i in adopt(session, *args) if not isinstance(i, Resend)]

    monkeypatch.setattr(Session, "_adopt", wrong)


def repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = Session.lost

    def wrong(session: Session, link: object, eof: str = "") -> list[Instruction]:
        if link is session.link and session.seen:
            session.seen -= 1  # it asks for the frame that it processed last once more
        return lost(session, link, eof)

    monkeypatch.setattr(Session, "lost", wrong)


@pytest.mark.parametrize("flaw", [loses, repeats])
def test_it_notices_a_session_that_loses_or_repeats(
    usual: Outcome, monkeypatch: pytest.MonkeyPatch, flaw: Callable[[pytest.MonkeyPatch], None]
) -> None:
    flaw(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError)):
        for at in usual.ways[0].ends()[::-4]:
            check(usual, 0, at, "told")
