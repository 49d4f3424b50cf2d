"""Counts of what is lent: what somebody can still read stays, and nothing stays that nobody can read."""

from __future__ import annotations

import gc
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from actorfw.io.sharedmem import SharedMemory
from actorfw.runtime.store.lodging import Lendable, Lends, Lent, Lodger
from actorfw.runtime.store.workers import WorkerLodging
from actorfw.values.errors import ObjectLostError
from actorfw.wire.payload import Place

if TYPE_CHECKING:
    from actorfw.runtime.store.store import Store

TOKEN = b"t" * 16


class Plain(Lendable):
    """A block of no arena."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number
        self.nbytes = 4096
        self.lends = None

    @property
    def place(self) -> Place:
        return TOKEN, self.number, self.number * 4096, 4096

    def view(self) -> memoryview:
        raise AssertionError("nobody reads it at the lender's")


class Taker:
    """Another process: what is on its way to it, what it holds, and what it reports."""

    def __init__(self, lends: Lends, key: str) -> None:
        self.lends = lends
        self.key = key
        self.coming: deque[Place] = deque()
        self.going: deque[list[tuple[tuple[bytes, int], int]]] = deque()
        self.held: list[Lent] = []
        self.roused = 0
        self.lodger = Lodger(self._rouse)

    def _rouse(self) -> None:
        self.roused += 1

    def tell(self, block: Plain) -> None:
        self.coming.append(self.lends.lend(self.key, block))

    def hear(self, *, keep: bool = True) -> None:
        if self.coming:
            lent = self.lodger.receive(self.coming.popleft())
            if keep:
                self.held.append(lent)

    def drop(self, at: int = 0) -> None:
        if self.held:
            del self.held[at % len(self.held)]

    def report(self) -> None:
        rows = list(self.lodger.reports())
        if rows:
            self.going.append(rows)

    def reported(self) -> None:
        if self.going:
            self.lends.returned(self.key, self.going.popleft())

    def quiet(self) -> None:
        while self.coming:
            self.hear()
        self.held.clear()
        self.report()
        while self.going:
            self.reported()

    def check(self) -> None:
        for lent in self.held:
            assert self.lends.find(self.key, lent.place[:2]).place == lent.place
        for place in self.coming:
            self.lends.find(self.key, place[:2])


ACTIONS = ("tell", "hear", "hear and drop", "drop", "report", "reported")


def runs(depth: int) -> Iterator[tuple[str, ...]]:
    """All orders of events that make sense: nothing arrives that was not sent."""

    def more(done: tuple[str, ...], coming: int, held: int, dead: int, going: int) -> Iterator[tuple[str, ...]]:
        yield done
        if len(done) == depth:
            return
        yield from more((*done, "tell"), coming + 1, held, dead, going)
        if coming:
            yield from more((*done, "hear"), coming - 1, held + 1, dead, going)
            yield from more((*done, "hear and drop"), coming - 1, held, dead + 1, going)
        if held:
            yield from more((*done, "drop"), coming, held - 1, dead + 1, going)
        if dead:
            yield from more((*done, "report"), coming, held, 0, going + 1)
        if going:
            yield from more((*done, "reported"), coming, held, dead, going - 1)

    return more((), 0, 0, 0, 0)


def test_every_order_of_gifts_and_reports() -> None:
    block = Plain(1)
    count = 0
    for run in runs(8):
        lends = Lends()
        taker = Taker(lends, "worker")
        for action in run:
            if action == "tell":
                taker.tell(block)
            elif action == "hear and drop":
                taker.hear(keep=False)
            else:
                getattr(taker, action)()
            lends.validate()
            taker.check()
        taker.quiet()
        lends.validate()
        assert not lends.lent, run
        assert not block.lends
        count += 1
    assert count > 2000


class Lending(RuleBasedStateMachine):
    """Several blocks and takers, of which any may die at any moment."""

    blocks: Bundle[Plain] = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.lends = Lends()
        self.keys = itertools.count()
        self.numbers = itertools.count(1)
        self.takers = [Taker(self.lends, f"taker {next(self.keys)}") for _ in range(2)]

    @rule(target=blocks)
    def make(self) -> Plain:
        return Plain(next(self.numbers))

    @rule(block=blocks, at=st.integers(0, 1))
    def tell(self, block: Plain, at: int) -> None:
        self.takers[at].tell(block)

    @rule(block=consumes(blocks), at=st.integers(0, 1))
    def tell_and_forget(self, block: Plain, at: int) -> None:
        self.takers[at].tell(block)

    @rule(at=st.integers(0, 1), keep=st.booleans())
    def hear(self, at: int, keep: bool) -> None:
        self.takers[at].hear(keep=keep)

    @rule(at=st.integers(0, 1), which=st.integers(0, 5))
    def drop(self, at: int, which: int) -> None:
        self.takers[at].drop(which)

    @rule(at=st.integers(0, 1))
    def report(self, at: int) -> None:
        self.takers[at].report()

    @rule(at=st.integers(0, 1))
    def reported(self, at: int) -> None:
        self.takers[at].reported()

    @rule(at=st.integers(0, 1))
    def die(self, at: int) -> None:
        self.lends.gone(self.takers[at].key)
        self.takers[at] = Taker(self.lends, f"taker {next(self.keys)}")

    @rule(at=st.integers(0, 1), block=blocks)
    def tell_and_take_back(self, at: int, block: Plain) -> None:
        before = dict(block.lends or {})
        self.lends.lend(self.takers[at].key, block)
        self.lends.returned(self.takers[at].key, [(block.place[:2], 1)])
        assert (block.lends or {}) == before

    @invariant()
    def agrees(self) -> None:
        self.lends.validate()
        for taker in self.takers:
            taker.check()

    def teardown(self) -> None:
        for taker in self.takers:
            taker.quiet()
        self.lends.validate()
        assert not self.lends.lent


Lending.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLending = Lending.TestCase


def test_one_object_for_a_block_however_often_it_comes() -> None:
    lodger = Lodger(lambda: None)
    first = lodger.receive((TOKEN, 1, 0, 10))
    assert lodger.receive((TOKEN, 1, 0, 10)) is first
    assert lodger.receive((TOKEN, 2, 4096, 10)) is not first
    del first
    assert sorted(lodger.reports()) == [((TOKEN, 1), 2), ((TOKEN, 2), 1)]
    assert not lodger.pending
    assert not len(lodger)


def test_views_and_what_is_made_of_them_keep_a_buffer() -> None:
    lodger = Lodger(lambda: None)
    lodger.memories[TOKEN] = memory = SharedMemory.anonymous(1 << 20)
    lent = lodger.receive((TOKEN, 1, 4096, 100))
    lent.fill(b"abc", 97)
    part = lent.view()[90:]
    del lent
    gc.collect()
    assert not lodger.pending
    assert part[-3:] == b"abc"
    assert part.readonly
    del part
    assert list(lodger.reports()) == [((TOKEN, 1), 1)]
    memory.close()


def test_what_is_lost_when_it_is_lent_is_lost_to_who_reads_it() -> None:
    class Damaged(Plain):
        __slots__ = ()

        @property
        def place(self) -> Place:
            raise ObjectLostError("its file is damaged")

    store = SimpleNamespace(lends=Lends())
    lodging = WorkerLodging(cast("Store", store), "worker")
    place = lodging.lend(Damaged(1))
    assert place is not None
    lodging.take_back(Damaged(1))
    store.lends.validate()
    lodger = Lodger(lambda: None)
    lent = lodger.receive(place)
    with pytest.raises(ObjectLostError, match="its file is damaged"):
        lent.view()
    del lent
    store.lends.returned("worker", lodger.reports())
    assert not store.lends.lent


def test_nothing_is_written_past_the_end() -> None:
    lodger = Lodger(lambda: None)
    lodger.memories[TOKEN] = memory = SharedMemory.anonymous(1 << 20)
    lent = lodger.receive((TOKEN, 1, 4096, 100))
    for data, at in ((b"x" * 101, 0), (b"x", 100), (b"x", -1)):
        with pytest.raises(ValueError, match="don't fit"):
            lent.fill(data, at)
    del lent
    memory.close()


def test_who_names_what_it_has_not_got_is_told_so() -> None:
    lends = Lends()
    block = Plain(3)
    lends.lend("a", block)
    with pytest.raises(LookupError, match="names block 3 of arena"):
        lends.find("b", (TOKEN, 3))
    lends.returned("b", [((TOKEN, 3), 1), ((TOKEN, 4), 1)])
    assert lends.find("a", (TOKEN, 3)) is block
    lends.gone("b")
    lends.gone("a")
    lends.validate()
    assert not lends.lent


def test_buffers_that_die_in_other_threads_are_all_reported() -> None:
    lodger = Lodger(lambda: None)
    told = 0
    counted: dict[int, int] = {}
    stop = threading.Event()
    handed: deque[Lent] = deque()

    def drops() -> None:
        while not stop.is_set() or handed:
            try:
                handed.popleft()
            except IndexError:
                pass

    threads = [threading.Thread(target=drops) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(20_000):
        handed.append(lodger.receive((TOKEN, i % 3, 0, 10)))
        told += 1
        if not i % 7:
            for (_, number), count in lodger.reports():
                counted[number] = counted.get(number, 0) + count
    stop.set()
    for thread in threads:
        thread.join()
    for (_, number), count in lodger.reports():
        counted[number] = counted.get(number, 0) + count
    assert sum(counted.values()) == told
    assert not len(lodger)
