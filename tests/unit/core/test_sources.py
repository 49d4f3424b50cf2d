"""The directory of one object: rules by example, and against random runs of a cluster."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorfw.core.sources import FAN, SLOW, STRIPES, Sources, limit

ME = b"owner"


def node(number: int) -> bytes:
    return b"node %d" % number


def owned(version: int = 0) -> Sources:
    sources = Sources(ME, 1000, version)
    assert sources.has(ME, version, 0.0) == []
    return sources


def test_the_owner_is_the_first_source() -> None:
    sources = owned()
    assert sources.ask(node(1), 0.0) == [("serve", node(1), (ME,))]
    assert sources.has(node(1), 0, 1.0) == []
    assert set(sources.nodes) == {ME, node(1)}
    assert sources.others == (node(1),)


def test_a_source_serves_few_at_a_time_and_the_next_get_a_new_one() -> None:
    sources = owned()
    for number in range(FAN):
        assert sources.ask(node(number), 0.0) == [("serve", node(number), (ME,))]
    assert sources.ask(node(7), 0.0) == []
    assert sources.ask(node(8), 0.0) == []
    assert sources.waiting == (node(7), node(8))
    served = sources.has(node(0), 0, 1.0)
    assert [(one[0], one[1]) for one in served] == [("serve", node(7)), ("serve", node(8))]
    assert {one[2] for one in served if one[0] == "serve"} == {(node(0),)}, "the owner has more to do"
    sources.validate()


def test_a_result_that_stayed_elsewhere_is_served_from_there_and_freed_when_the_owner_has_it() -> None:
    sources = Sources(ME, 1000, 1)
    assert sources.made(node(1), 1, 1000, 0.0) == []
    assert sources.ask(ME, 0.0) == [("serve", ME, (node(1),))]
    assert sources.has(ME, 1, 1.0) == [("free", node(1))]
    assert sources.nodes == (ME,)


def test_who_uses_what_it_made_keeps_it() -> None:
    sources = Sources(ME, 1000, 1)
    sources.made(node(1), 1, 1000, 0.0)
    assert sources.ask(node(1), 0.0) == [("serve", node(1), (node(1),))]
    sources.ask(ME, 0.0)
    assert sources.has(ME, 1, 1.0) == []
    assert set(sources.nodes) == {ME, node(1)}


def test_one_that_asks_alone_gets_several_sources() -> None:
    sources = owned()
    for number in range(4):
        sources.ask(node(number), 0.0)
        sources.has(node(number), 0, 0.0)
    [(verb, who, found)] = sources.ask(node(9), 1.0)
    assert (verb, who, len(found)) == ("serve", node(9), STRIPES)
    assert ME not in found
    sources.validate()


def test_another_version_is_of_no_use() -> None:
    sources = Sources(ME, 1000, 1)
    sources.made(node(1), 1, 1000, 0.0)
    assert sources.ask(node(2), 0.0) == [("serve", node(2), (node(1),))]
    assert sources.made(node(3), 2, 900, 1.0) == []
    assert sources.has(node(2), 1, 2.0) == []
    assert set(sources.nodes) == {node(3)}
    assert set(sources.concerned) == {node(1), node(2), node(3)}, "they may have the old one"
    assert sources.ask(node(2), 2.0) == [("serve", node(2), (node(3),))]
    assert (sources.size, sources.version) == (900, 2)


def test_it_is_lost_only_when_nobody_may_still_have_it() -> None:
    sources = Sources(ME, 1000, 1)
    sources.made(node(1), 1, 1000, 0.0)
    sources.ask(node(2), 0.0)
    sources.ask(node(3), 0.0)
    sources.ask(node(4), 0.0)
    assert sources.dead(node(1), 1.0) == [], "two are being served, and may have all of it"
    assert sources.ask(node(2), 2.0, lacking=[node(1)]) == []
    assert sources.ask(node(3), 2.0, lacking=[node(1)]) == [("lost",)]
    assert sources.made(node(5), 2, 1000, 3.0)[:2] == [
        ("serve", node(4), (node(5),)),
        ("serve", node(2), (node(5),)),
    ]


def test_the_owner_is_not_spent_on_those_who_keep_nothing_while_there_is_another() -> None:
    sources = owned()
    sources.ask(node(0), 0.0)
    sources.has(node(0), 0, 0.0)
    for _ in range(20):
        [(_, _, found)] = sources.ask(node(1), 0.0)
        assert found == (node(0),)
        sources.gave_up(node(1), 0.0)
    assert sources.given == 1
    sources.dead(node(0), 1.0)
    for _ in range(20):
        assert sources.ask(node(1), 1.0) == [("serve", node(1), (ME,))], "there is nobody else"
        sources.gave_up(node(1), 1.0)


def test_one_that_can_t_reach_a_source_gets_another() -> None:
    sources = owned()
    sources.ask(node(0), 0.0)
    sources.has(node(0), 0, 0.0)
    assert sources.ask(node(1), 0.0, away=[node(0)]) == [("serve", node(1), (ME,))]


def test_if_it_can_t_reach_any_it_is_to_try_again() -> None:
    sources = Sources(ME, 1000, 1)
    sources.made(node(0), 1, 1000, 0.0)
    assert sources.ask(node(1), 0.0, away=[node(0)]) == [("serve", node(1), (node(0),))]


def test_the_slow_do_not_block_the_others() -> None:
    sources = owned()
    for number in range(FAN):
        sources.ask(node(number), 0.0)
    sources.ask(node(8), 0.0)
    assert sources.due == SLOW
    assert sources.tick(SLOW / 2) == []
    assert sources.tick(SLOW) == [("serve", node(8), (ME,))]
    sources.validate()
    assert sources.has(node(0), 0, SLOW + 1) == []
    sources.validate()


def test_a_leaver_is_freed_when_another_one_has_it() -> None:
    sources = Sources(ME, 1000, 1)
    sources.made(node(1), 1, 1000, 0.0)
    assert sources.leaves(node(1), 0.0) == []
    assert sources.needs(node(1))
    assert sources.ask(ME, 0.0) == [("serve", ME, (node(1),))]
    assert sources.has(ME, 1, 1.0) == [("free", node(1))]


@pytest.mark.parametrize(("asked", "copies"), [(1, 2), (2, 4), (3, 6), (4, 6), (8, 8), (32, 12), (33, 14)])
def test_the_limit_is_twice_the_logarithm_and_two(asked: int, copies: int) -> None:
    assert limit(asked) == copies


class World:
    """Nodes that do as they are told, in any order, and die."""

    def __init__(self, seed: int, nodes: int) -> None:
        self.chance = random.Random(seed)
        self.sources = owned()
        self.nodes = [node(number) for number in range(nodes)]
        self.copies: set[bytes] = {ME}
        self.pulling: dict[bytes, tuple[bytes, ...]] = {}
        self.waiting: set[bytes] = set()
        self.dead: set[bytes] = set()
        self.now = 0.0
        self.sent = 0
        self.most = 0

    def told(self, instructions: list[tuple[object, ...]]) -> None:
        self.sources.validate()
        for instruction in instructions:
            if instruction[0] == "serve":
                _, who, found = instruction
                assert isinstance(who, bytes)
                assert isinstance(found, tuple)
                self.waiting.discard(who)
                assert who not in self.pulling
                self.pulling[who] = found
                self.sent += ME in found
            elif instruction[0] == "free":
                assert isinstance(instruction[1], bytes)
                assert self.copies - {instruction[1]}, "the last copy was freed"
                self.copies.discard(instruction[1])

    def step(self) -> None:
        self.now += self.chance.uniform(0, 1)
        idle = [one for one in self.nodes if one not in (*self.pulling, *self.waiting, *self.copies, *self.dead)]
        moves = []
        if idle:
            moves += ["ask"] * 3
        if self.pulling:
            moves += ["finish"] * 4 + ["give up"]
        if len(self.dead) < len(self.nodes) // 2:
            moves += ["die"]
        if len(self.copies) > 1:
            moves += ["drop"]
        moves += ["tick"]
        move = self.chance.choice(moves)
        if move == "ask":
            self.ask(self.chance.choice(idle))
        elif move == "finish":
            self.finish(self.chance.choice(list(self.pulling)))
        elif move == "give up":
            who = self.chance.choice(list(self.pulling))
            del self.pulling[who]
            self.told(list(self.sources.gave_up(who, self.now)))
        elif move == "die":
            who = self.chance.choice([one for one in self.nodes if one not in self.dead])
            self.dead.add(who)
            self.copies.discard(who)
            self.waiting.discard(who)
            self.pulling.pop(who, None)
            self.told(list(self.sources.dead(who, self.now)))
        elif move == "drop":
            self.copies.discard(self.chance.choice([one for one in self.copies if one != ME]))
        else:
            self.told(list(self.sources.tick(self.now)))

    def ask(self, who: bytes, lacking: tuple[bytes, ...] = ()) -> None:
        self.waiting.add(who)
        self.told(list(self.sources.ask(who, self.now, (), lacking)))

    def finish(self, who: bytes) -> None:
        lacking = tuple(one for one in self.pulling.pop(who) if one not in self.copies)
        if lacking:
            self.ask(who, lacking)
        else:
            self.copies.add(who)
            self.told(list(self.sources.has(who, 0, self.now)))

    def end(self) -> None:
        """Nothing happens to anybody any more: all who wait get it."""
        for _ in range(20 * len(self.nodes)):
            if not self.pulling:
                break
            self.finish(self.chance.choice(list(self.pulling)))
        assert not self.waiting
        assert not self.pulling


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20))
def test_whoever_asks_gets_it_whatever_happens(seed: int, nodes: int) -> None:
    world = World(seed, nodes)
    for _ in range(150):
        world.step()
    world.end()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 64))
def test_a_broadcast_costs_the_owner_few_copies(seed: int, nodes: int) -> None:
    """In whatever order they ask, and are done."""
    world = World(seed, nodes)
    left = list(world.nodes)
    world.chance.shuffle(left)
    while left or world.pulling:
        if left and (not world.pulling or world.chance.random() < 0.5):
            world.ask(left.pop())
        else:
            world.finish(world.chance.choice(list(world.pulling)))
    assert not world.waiting
    assert len(world.copies) == nodes + 1
    assert world.sent <= limit(nodes)
